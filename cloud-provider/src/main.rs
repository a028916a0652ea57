//! The `kube-vip-cloud-provider` program.

use std::process::ExitCode;

use kube_vip::manifest::image::OWN_IMAGE;
use kube_vip::program::{Failure, environment, print, print_json, run_main, runtime};
use kube_vip::telemetry::logging;
use kube_vip_cloud_provider::cli::{self, Cli, Command, UsageError};
use kube_vip_cloud_provider::{controller, inspect, manifest};

fn main() -> ExitCode {
    run_main("kube-vip-cloud-provider", || match cli::parse(std::env::args_os(), &environment()) {
        Ok(cli) => run(cli),
        Err(UsageError::Help(text)) => print(&text),
        Err(UsageError::Invalid(lines, code)) => Err(Failure { lines, code }),
    })
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { command, options, given, warnings } = cli;
    if command != Command::Run {
        warnings.iter().for_each(|warning| eprintln!("kube-vip-cloud-provider: warning: {warning}"));
    }
    if let (Command::Run | Command::Pools { .. }, Some(path)) = (&command, &options.kubeconfig)
        && !std::path::Path::new(path).exists()
    {
        return Err(Failure::one(format!("flag --kubeconfig: {path} does not exist")));
    }
    match command {
        Command::Run => {
            logging::start(options.log_level, options.log_format);
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            runtime()?.block_on(controller::run(options)).map_err(Failure::one)
        }
        Command::Pools { json } => {
            let overview = runtime()?.block_on(inspect::cluster(&options)).map_err(Failure::one)?;
            if json {
                return print_json(&overview);
            }
            print(&overview.to_text())
        }
        Command::Check { file } => {
            let (overview, fatal) = inspect::file(&file).map_err(Failure::one)?;
            print(&overview.to_text())?;
            if fatal { Err(Failure::one(format!("{file}: a pool in it is invalid"))) } else { Ok(()) }
        }
        Command::Manifest { image } => {
            let own_image = environment().remove(OWN_IMAGE);
            let rendered = manifest::render(image.as_deref(), own_image.as_deref(), &options, &given);
            let (text, unnamed) = rendered.map_err(Failure::one)?;
            unnamed.iter().for_each(|warning| eprintln!("kube-vip-cloud-provider: warning: {warning}"));
            print(&text)
        }
        Command::Version => {
            print(&format!("Version:  {}\nBuild:    {}\n", kube_vip::VERSION, kube_vip::BUILD))
        }
    }
}
