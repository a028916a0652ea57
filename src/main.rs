//! The `kube-vip` program: runs the command line's action.

use std::process::ExitCode;

use kube_vip::bgp::status::PeerStatus;
use kube_vip::cli::{self, Action, Cli, Kubeconfig, Manifest};
use kube_vip::config::{self, Config, Raw, ServiceElection, Sources, Values};
use kube_vip::host::HostState;
use kube_vip::host::observer::read_once;
use kube_vip::manifest::image::OWN_IMAGE;
use kube_vip::model::{ActualAddress, IfIndex, Tag, Vip};
use kube_vip::program::{Failure, environment, print, print_json, run_main, runtime};
use kube_vip::status::Status;
use kube_vip::telemetry::logging;
use kube_vip::telemetry::socket::{self, StatusRequest};
use kube_vip::{cleanup, daemon, doctor, kubeconfig, manifest};

fn main() -> ExitCode {
    run_main("kube-vip", || match cli::parse(std::env::args_os()) {
        Ok(cli) => run(cli),
        Err(line) => Err(Failure { lines: vec![line], code: 2 }),
    })
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.action {
        Action::Manager { dry_run } => runtime()?.block_on(manage(&cli.flags, dry_run)),
        Action::Config => {
            let raw = collect(&cli.flags)?;
            print(&config::show::yaml(&raw))
        }
        Action::Status { json } => status(StatusRequest::Status, json),
        Action::StatusBgp { json, routes } => status_bgp(json, routes),
        Action::Doctor { json, file } => runtime()?.block_on(examine(&cli.flags, json, file.as_deref())),
        Action::Cleanup { dry_run } => runtime()?.block_on(clean_up(dry_run)),
        Action::Drain => status(StatusRequest::Drain, false),
        Action::Undrain => status(StatusRequest::Undrain, false),
        Action::Manifest(wanted) => generate(&wanted, &cli.flags),
        Action::Kubeconfig(wanted) => create_kubeconfig(&wanted, &cli.flags),
        Action::Kubeadm { manifest, join } => {
            check_kubeadm(&cli.flags, join.as_deref())?;
            generate(&manifest, &cli.flags)
        }
        Action::Print(text) => print(&text),
    }
}

fn collect(flags: &[(String, String)]) -> Result<Raw, Failure> {
    let env = environment().into_iter().collect();
    let (raw, problems) = merge(Sources { flags: flags.to_vec(), env, ..Sources::default() });
    if problems.is_empty() { Ok(raw) } else { Err(Failure::all(&problems)) }
}

/// Reads the configuration file, and prints warnings.
fn merge(sources: Sources<'_>) -> (Raw, Vec<config::Problem>) {
    let read = |path: &str| std::fs::read_to_string(path);
    let (raw, problems, notes) = Raw::collect(&Sources { read_file: Some(&read), ..sources });
    for note in notes {
        eprintln!("kube-vip: warning: {note}");
    }
    (raw, problems)
}

async fn manage(flags: &[(String, String)], dry_run: bool) -> Result<(), Failure> {
    let raw = collect(flags)?;
    let config = validate(raw).await?;
    if dry_run {
        return print(&plan(&config));
    }
    logging::start(config.telemetry.level, config.telemetry.format);
    daemon::run(config).await.map_err(Failure::one)
}

async fn validate(raw: Raw) -> Result<Config, Failure> {
    let (host, _) = read_once().await.map_err(Failure::one)?;
    config::check(raw, Some(&host_facts(&host))).map_err(|problems| Failure::all(&problems))
}

fn host_facts(host: &HostState) -> config::HostFacts {
    let namespace = std::fs::read_to_string("/var/run/secrets/kubernetes.io/serviceaccount/namespace");
    config::HostFacts {
        hostname: hostname(),
        service_account_namespace: namespace
            .ok()
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty()),
        addresses: host
            .interfaces
            .iter()
            .map(|interface| (interface.name.clone(), own_addresses(interface.index, &host.addresses)))
            .collect(),
        gateways: host.gateways.clone(),
        interfaces: host.interfaces.iter().map(|interface| (interface.name.clone(), interface.up)).collect(),
    }
}

/// Prints what `doctor` finds; the exit code is that of the worst finding.
async fn examine(flags: &[(String, String)], json: bool, file: Option<&str>) -> Result<(), Failure> {
    let (sources, pod) = match file {
        Some(file) => of_manifest(file, flags)?,
        None => {
            let env = environment().into_iter().collect();
            (Sources { flags: flags.to_vec(), env, ..Sources::default() }, doctor::manifest::Given::default())
        }
    };
    let (raw, problems) = merge(sources);
    let (host, default_route) = read_once().await.map_err(Failure::one)?;
    let own = host_facts(&host);
    let service_account_namespace = pod.namespace.or(own.service_account_namespace);
    let facts = config::HostFacts { service_account_namespace, ..own };
    // What does not parse is given.
    let (checked, unknown) = match problems.is_empty() {
        true => (config::check(raw, Some(&facts)), pod.notes.as_slice()),
        false => (Err(problems), [].as_slice()),
    };
    let namespace = facts.service_account_namespace;
    let report = match checked {
        Ok(config) => {
            let doctor::manifest::Given { account, named_by_pod, .. } = pod;
            let context = doctor::driver::Context { namespace, account, named_by_pod, host, default_route };
            doctor::driver::examine(&config, &context).await
        }
        Err(problems) => doctor::Report::of_problems(&problems, unknown),
    };
    if json {
        print_json(&report)?
    } else {
        print(&report.to_text())?
    }
    match report.exit_code() {
        0 => Ok(()),
        code => Err(Failure { lines: Vec::new(), code }),
    }
}

/// Removes what the Go program has left on this host, or prints it.
async fn clean_up(dry_run: bool) -> Result<(), Failure> {
    let (host, _) = read_once().await.map_err(Failure::one)?;
    let leftovers = cleanup::driver::find(&host).map_err(Failure::one)?;
    if cleanup::driver::has_legacy_rules() {
        eprintln!(
            "kube-vip: warning: tables of iptables-legacy are not examined: look for kube-vip in `iptables-legacy-save` and \
             `ip6tables-legacy-save`"
        );
    }
    for service in cleanup::driver::virtual_services(&host) {
        eprintln!(
            "kube-vip: warning: IPVS has a service that may be the Go program's: if it is, remove it with `ipvsadm \
             --delete-service {service}`"
        );
    }
    if leftovers.is_empty() {
        return print("nothing to remove\n");
    }
    let (done, leftovers, errors) = match dry_run {
        true => ("would remove", leftovers, Vec::new()),
        false => {
            let (removed, errors) = cleanup::driver::remove(leftovers);
            ("removed", removed, errors)
        }
    };
    print(&leftovers.to_string().lines().map(|line| format!("{done} {line}\n")).collect::<String>())?;
    match errors.as_slice() {
        [] => Ok(()),
        errors => Err(Failure { lines: errors.iter().map(ToString::to_string).collect(), code: 1 }),
    }
}

/// The settings in a manifest, which those of the command line precede; and what else is known of its pod.
fn of_manifest(
    file: &str,
    flags: &[(String, String)],
) -> Result<(Sources<'static>, doctor::manifest::Given), Failure> {
    let text = match file {
        "-" => std::io::read_to_string(std::io::stdin()),
        file => std::fs::read_to_string(file),
    };
    let failed = |why: String| Failure { lines: vec![format!("flag --filename: {file}: {why}")], code: 2 };
    let given = text.map_err(|error| error.to_string()).and_then(|text| doctor::manifest::read(&text));
    let given = given.map_err(failed)?;
    for note in &given.notes {
        eprintln!("kube-vip: warning: {file}: not examined: {note}");
    }
    let arguments = std::iter::once("kube-vip").chain(given.arguments.iter().map(String::as_str));
    let cli = cli::parse(arguments.map(Into::into)).map_err(failed)?;
    let kubeconfig = given.kubeconfig.iter().map(|path| ("k8sConfigPath".to_owned(), path.clone()));
    let sources = Sources {
        flags: cli.flags.into_iter().chain(kubeconfig).collect(),
        env: given.env.clone(),
        overrides: flags.to_vec(),
        read_file: None,
    };
    Ok((sources, given))
}

fn hostname() -> String {
    nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned()
}

/// The addresses of an interface, without those that an earlier process of ours has left there.
fn own_addresses(interface: IfIndex, addresses: &[ActualAddress]) -> Vec<Vip> {
    let own = addresses
        .iter()
        .filter(|address| address.interface == interface && address.tag == Tag::None && !address.deprecated);
    own.map(|address| address.vip).collect()
}

/// What `manager --dry-run` prints.
fn plan(config: &Config) -> String {
    let list = |items: Vec<String>| items.join(", ");
    let (mode, election) = (config.mode, &config.election);
    let mut text = format!("The configuration is valid. Node: {}.\n", config.node_name);
    if !config.targets.is_empty() {
        let from = match config.elects_control_plane() {
            true => format!(
                "the holder of the Lease {} (lease duration {} s, renew deadline {} s, retry period {} s)",
                election.lease,
                election.lease_duration.as_secs(),
                election.renew_deadline.as_secs(),
                election.retry_period.as_secs(),
            ),
            false => "every node whose local API server is healthy".to_owned(),
        };
        let targets = list(config.targets.iter().map(ToString::to_string).collect());
        let interface = config.interface.as_deref().unwrap_or("the default route's interface");
        text.push_str(&format!(
            "Control plane: {targets} on {interface}, announced by {mode} from {from}.\n"
        ));
    }
    if let Some(services) = &config.services {
        let from = match services.election {
            ServiceElection::EveryNode => "every node that can serve them".to_owned(),
            ServiceElection::Global => format!("the holder of the Lease {}", services.lease),
            ServiceElection::PerService => "the holder of each Service's Lease".to_owned(),
            ServiceElection::Groups(count) => format!("the holders of {count} Leases"),
        };
        text.push_str(&format!("Services: announced by {mode} from {from}.\n"));
    }
    if let Some(bgp) = &config.bgp {
        let mut peers: Vec<String> = bgp.peers.iter().map(ToString::to_string).collect();
        peers
            .extend(bgp.annotations.iter().map(|prefix| format!("those of the node annotations {prefix}/…")));
        peers.extend(bgp.provider.iter().map(|provider| format!("those of {}", provider.url)));
        text.push_str(&format!("BGP: AS {}, peers {}.\n", bgp.local_as, list(peers)));
    }
    for note in &config.notes {
        text.push_str(&format!("Note: {note}.\n"));
    }
    text
}

fn generate(wanted: &Manifest, flags: &[(String, String)]) -> Result<(), Failure> {
    let raw = collect(flags)?;
    let own_image = environment().remove(OWN_IMAGE);
    let rendered = manifest::render(wanted, own_image.as_deref(), &raw);
    let (text, notes) = rendered.map_err(|problems| Failure::all(&problems))?;
    for note in notes {
        eprintln!("kube-vip: warning: {note}");
    }
    print(&text)
}

/// Prints or writes the kubeconfig; what is to be known of it is printed on stderr.
fn create_kubeconfig(wanted: &Kubeconfig, flags: &[(String, String)]) -> Result<(), Failure> {
    let values = Values::read(collect(flags)?).map_err(|problems| Failure::all(&problems))?;
    let node = values.node_name.clone().unwrap_or_else(hostname).to_lowercase();
    let identity = kubeconfig::Identity { node, group: wanted.group.clone() };
    let file = wanted.output.as_deref();
    file.map_or(Ok(()), |file| kubeconfig::file::check(file, &identity)).map_err(Failure::one)?;
    let source = config::Api {
        kubeconfig: values.kubeconfig,
        address: values.kubernetes_addr,
        detect: false,
        port: values.port,
        names: config::api::AGENT,
    };
    let issuing = kubeconfig::driver::issue(&source, &identity, wanted.days);
    let issued = runtime()?.block_on(issuing).map_err(Failure::one)?;
    match file {
        Some(file) => kubeconfig::file::write(file, &issued.kubeconfig).map_err(Failure::one)?,
        None => print(&issued.kubeconfig)?,
    }
    let written = file.map(|file| format!("wrote {file}: ")).unwrap_or_default();
    eprintln!("kube-vip: {written}{identity}, valid until {}", issued.expires);
    if !issued.authorized {
        let group = &wanted.group;
        eprintln!(
            "kube-vip: warning: group {group} has no rights yet: run `kube-vip manifest rbac --group {group}` with the settings \
             of the pods (such as --controlplane --arp), and apply its output with kubectl once for the cluster"
        );
    }
    Ok(())
}

/// The checks of `kubeadm init` and `join`.
fn check_kubeadm(flags: &[(String, String)], join: Option<&str>) -> Result<(), Failure> {
    let raw = collect(flags)?;
    let mut lines = Vec::new();
    if raw.text(config::Key::Interface).is_empty() {
        lines.push("no interface is given: set --interface (or vip_interface)".to_owned());
    }
    if raw.text(config::Key::Address).is_empty() && raw.text(config::Key::VipAddress).is_empty() {
        lines.push("no address is given: set --address (or the variable address)".to_owned());
    }
    if let Some(path) = join
        && !std::path::Path::new(path).exists()
    {
        lines.push(format!("flag --config: {path} does not exist; run `kubeadm join` first"));
    }
    if lines.is_empty() { Ok(()) } else { Err(Failure { lines, code: 1 }) }
}

fn request(request: StatusRequest) -> Result<Vec<Status>, Failure> {
    let replies = runtime()?.block_on(socket::request(request)).map_err(Failure::one)?;
    let replies: Vec<String> = replies.into_iter().flatten().collect();
    if replies.is_empty() {
        let line = "no kube-vip process replies on this host: check that its pod runs on this node, and run this as root in the \
             host's network namespace";
        return Err(Failure::one(line));
    }
    replies.iter().map(|reply| socket::parse(reply).map_err(Failure::one)).collect()
}

fn status_bgp(json: bool, routes: bool) -> Result<(), Failure> {
    let replies = request(if routes { StatusRequest::BgpRoutes } else { StatusRequest::Status })?;
    let peers: Vec<PeerStatus> = replies.into_iter().flat_map(|status| status.peers.into_values()).collect();
    if json {
        return print_json(&peers);
    }
    if peers.is_empty() {
        return print("no BGP peers on this node\n");
    }
    print(&peers.iter().map(|peer| format!("{}\n", peer.to_text())).collect::<String>())
}

fn status(command: StatusRequest, json: bool) -> Result<(), Failure> {
    let replies = request(command)?;
    if json {
        return print_json(&replies);
    }
    let texts: Vec<String> = replies.iter().map(Status::to_text).collect();
    print(&texts.join("\n"))
}
