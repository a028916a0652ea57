//! `cargo xtask …`: the project's commands.

mod bench;
mod crates;
mod demo;
mod deny;
mod dist;
mod fuzz;
mod generate;
mod image;
mod kubeadm;
mod licences;
mod pack;
mod setup;
mod sh;
mod test;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask setup                 install what the others need: packages, etcd and kube-apiserver
cargo xtask demo [--keep]         three hosts, a VIP, a Service, the death of a host; --keep leaves them up
cargo xtask demo home             the same behind a home router: DHCP, UPnP, and names by mDNS
cargo xtask demo kubeadm          real kubeadm, kubelet and containerd on three hosts, with kube-vip's images: --keep,
                                  --lease 15/10/2 (5/3/1)
cargo xtask image                 container images of both programs, in target/image: --name REGISTRY/PATH,
                                  --arch amd64,arm64
cargo xtask dist                  the files of a release, in target/dist: programs, images, charts, manifests,
                                  bills of materials, licences; --name and --arch as above
cargo xtask test                  every check of the project
cargo xtask test kubeadm [NAME]   clusters of kubeadm, from init to the reboot of all hosts: 1.36, 1.33, dual-stack
cargo xtask test arm64            the programs for another architecture, and the unit tests that need no kernel, by qemu
cargo xtask sim --seeds N         the simulation of the election, N times
cargo xtask sim --seed N          one run of it, with its story
cargo xtask bench failover        every fault, measured by a client: --runs N (10), --only FAULT,
                                  --json FILE, --subject kube-vip|keepalived
cargo xtask bench services        addresses for Services: --only WORK, --json FILE, --provider PROGRAM for
                                  another cloud provider
cargo xtask bench bgp             routes, by FRR and BIRD: --only change|loss|server|scale|idle, --json FILE
cargo xtask bench dhcp            addresses from DHCP servers, and names: --only one|burst|many|names,
                                  --json FILE
cargo xtask bench plan            what a plan of up to 50,000 Services costs: --only groups|per-service,
                                  --json FILE
cargo xtask deny                  licences, sources, versions and advisories of dependencies, by cargo-deny
cargo xtask fuzz [SECONDS]        every fuzz target, for so many seconds each
cargo xtask manifests             write manifests/, the schemas of the charts and tests/charts anew
cargo xtask docs                  write the references in docs/ anew
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["setup"] => setup::all(),
        ["demo"] => demo::run(false),
        ["demo", "--keep"] => demo::run(true),
        ["demo", "home"] => demo::home::run(),
        ["demo", "kubeadm", rest @ ..] => kubeadm::demo(rest),
        ["test"] => test::all(),
        ["test", "kubeadm"] => kubeadm::test(None),
        ["test", "kubeadm", name] => kubeadm::test(Some(name)),
        ["test", name @ ("amd64" | "arm64")] => name.parse().and_then(image::emulate::run),
        ["sim", "--seeds", seeds] => test::simulate("SIM_SEEDS", seeds),
        ["sim", "--seed", seed] => test::simulate("SIM_SEED", seed),
        ["deny"] => deny::check(),
        ["fuzz"] => fuzz::all(60),
        ["fuzz", seconds] => {
            seconds.parse().map_err(|_| format!("{seconds} is no number of seconds")).and_then(fuzz::all)
        }
        ["bench", "failover", rest @ ..] => {
            bench::failover::Options::parse(rest).and_then(|options| bench::failover::run_all(&options))
        }
        ["bench", "bgp", rest @ ..] => {
            bench::services::Options::parse(rest).and_then(|options| bench::bgp::run_all(&options))
        }
        ["bench", "dhcp", rest @ ..] => {
            bench::services::Options::parse(rest).and_then(|options| bench::dhcp::run_all(&options))
        }
        ["bench", "plan", rest @ ..] => {
            bench::services::Options::parse(rest).and_then(|options| bench::plan::run_all(&options))
        }
        ["bench", "services", rest @ ..] => {
            bench::services::Options::parse(rest).and_then(|options| bench::services::run_all(&options))
        }
        ["image", rest @ ..] => {
            image::Options::parse(rest).and_then(|options| image::run(&options)).map(drop)
        }
        ["dist", rest @ ..] => image::Options::parse(rest).and_then(|options| dist::run(&options)),
        ["manifests"] => generate::manifests(),
        ["docs"] => generate::reference(),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => Err(format!("there is no `cargo xtask {}`\n{HELP}", args.join(" "))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}
