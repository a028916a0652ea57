//! The `kube-vip-cloud-provider` program: read what was typed, do it, say how it went.

use std::io::Write;
use std::process::ExitCode;

use kube_vip::telemetry::logging;
use kube_vip_cloud_provider::cli::{self, Cli, Command, Usage};
use kube_vip_cloud_provider::{controller, inspect, manifest};

/// What went wrong, one line each, and the exit code.
struct Failure {
    lines: Vec<String>,
    code: u8,
}

impl Failure {
    fn one(error: impl std::fmt::Display) -> Self {
        Self { lines: vec![error.to_string()], code: 1 }
    }
}

fn main() -> ExitCode {
    // Two TLS providers in one process panic at the first connection: choose before anything connects.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        eprintln!("kube-vip-cloud-provider: another TLS provider is installed already");
        return ExitCode::FAILURE;
    }
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let outcome = match cli::parse(std::env::args_os(), &env) {
        Ok(cli) => run(cli),
        Err(Usage::Text(text)) => print(&text),
        Err(Usage::Wrong(lines, code)) => Err(Failure { lines, code }),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            for line in failure.lines {
                eprintln!("kube-vip-cloud-provider: {line}");
            }
            ExitCode::from(failure.code)
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { command, options, notes } = cli;
    match command {
        Command::Run => {
            logging::start(options.log_level, options.log_format);
            notes.iter().for_each(|note| tracing::warn!("{note}"));
            if let Some(path) = &options.kubeconfig
                && !std::path::Path::new(path).exists()
            {
                return Err(Failure::one(format!("flag --kubeconfig: {path} does not exist")));
            }
            runtime()?.block_on(controller::run(options)).map_err(Failure::one)
        }
        Command::Pools { json } => {
            let overview = runtime()?.block_on(inspect::cluster(&options)).map_err(Failure::one)?;
            if json {
                let text = serde_json::to_string_pretty(&overview).map_err(Failure::one)?;
                return print(&format!("{text}\n"));
            }
            print(&overview.to_text())
        }
        Command::Check { file } => {
            let (overview, fatal) = inspect::file(&file).map_err(Failure::one)?;
            print(&overview.to_text())?;
            if fatal { Err(Failure::one(format!("{file}: a pool in it cannot be used"))) } else { Ok(()) }
        }
        Command::Manifest { image } => print(&manifest::render(&image).map_err(Failure::one)?),
        Command::Version => {
            print(&format!("Version:  {}\nBuild:    {}\n", kube_vip::VERSION, kube_vip::BUILD))
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::one)
}

/// Write to stdout; a reader that went away is no error.
fn print(text: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::one(error)),
        _ => Ok(()),
    }
}
