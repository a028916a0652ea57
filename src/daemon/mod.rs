//! The daemon: starts everything in order, and stops it in order.

mod bgp;
mod control_plane;
mod dhcp;
mod every_node;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::cluster::{Api, Environment};
use crate::config::Config;
use crate::election::Settings;
use crate::election::driver::Ask;
use crate::election::elector::Input;
use crate::election::health;
use crate::model::AdvertisedRoutes;
use crate::model::hash::fnv1a;
use crate::model::{ActualAddress, Interface, LeaseName, Vip};
use crate::net::clock;
use crate::net::https::ClientError;
use crate::net::netlink::{Netlink, NetlinkError};
use crate::reconcile::desired::Board;
use crate::reconcile::host_status::HostStatus;
use crate::telemetry::events::{Reporter, label_value};
use crate::telemetry::http::{ListenError, listen};
use crate::telemetry::{Telemetry, endpoints, status};
use crate::{cluster, reconcile, resolve, route_table};

/// How long the whole exit may take.
const EXIT_PATIENCE: Duration = Duration::from_millis(4500);
/// How long the last Events and labels may take.
const FAREWELL_PATIENCE: Duration = Duration::from_millis(800);
/// An interface that is down for this long counts as a failure of this host.
const LINK_PATIENCE: Duration = Duration::from_secs(1);

/// Why the daemon cannot run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// A port is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The kernel refuses to talk.
    #[error("netlink: {0}")]
    Netlink(#[from] NetlinkError),
    /// The kernel refuses a timer, a socket or a signal handler.
    #[error("the kernel refuses a resource that kube-vip cannot do without: {0}")]
    Io(#[from] std::io::Error),
    /// There is no interface to put the VIP on.
    #[error(
        "there is no default route, so set `vip_interface` to the interface for the VIP; this host has: {0}"
    )]
    NoLink(String),
    /// The health check cannot be made.
    #[error(transparent)]
    Check(#[from] health::driver::CheckError),
    /// The provider of BGP peers cannot be asked.
    #[error("bgp_provider_ca_path: {0}")]
    Provider(ClientError),
    /// A part that all depend on ended.
    #[error("{0} ended: {1}")]
    Ended(&'static str, String),
}

/// What the parts have in common.
struct Common {
    config: Config,
    api: Arc<Api>,
    telemetry: Arc<Telemetry>,
    /// What this host may have to hold. The main loop ends when nobody can write to it any more.
    board: Arc<watch::Sender<Board>>,
    /// What the elections ask of the segment.
    asks: mpsc::Sender<(LeaseName, Ask)>,
    interface: Interface,
    /// The addresses of this host when the process began.
    addresses: Vec<ActualAddress>,
    vips: watch::Receiver<BTreeSet<Vip>>,
    /// Where they are told of, once more is known.
    vips_in: watch::Sender<BTreeSet<Vip>>,
    /// An operator wants this host to stay away.
    drained: watch::Receiver<bool>,
    stopping: watch::Receiver<bool>,
}

/// Everything that runs until the end.
#[derive(Default)]
struct Parts {
    tasks: JoinSet<(Part, std::io::Result<()>)>,
    /// So many of them end when they have given up what they held.
    elections: usize,
    /// What has a last word when all of them have ended.
    farewells: Vec<JoinHandle<()>>,
}

impl Parts {
    /// Something that ends when it has given up what it held.
    fn election(
        &mut self,
        what: &'static str,
        run: impl Future<Output = std::io::Result<()>> + Send + 'static,
    ) {
        self.elections += 1;
        self.tasks.spawn(async move { (Part::Election(what), run.await) });
    }

    /// Something that never ends by itself.
    fn other(&mut self, what: &'static str, run: impl Future<Output = std::io::Result<()>> + Send + 'static) {
        self.tasks.spawn(async move { (Part::Other(what), run.await) });
    }
}

/// A part that all depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// An election: ends when it has given up what it held.
    Election(&'static str),
    /// Something that never ends by itself.
    Other(&'static str),
}

/// Run until SIGTERM or SIGINT.
///
/// # Errors
/// If something that cannot be retried fails. What is held is then left to the kernel's lifetimes.
pub async fn run(config: Config) -> Result<(), ManagerError> {
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    let (netlink, changes) = Netlink::open()?;
    let interface = choose_interface(&config, &netlink).await?;
    let control_plane = control_plane(&config);
    let lease = control_plane.as_ref().map_or_else(|| services_lease(&config), LeaseName::to_string);
    let (telemetry, notices) = Telemetry::new(&config.node_name, &lease, config.mode.name());
    if !config.elects() {
        telemetry.nobody_is_elected();
    }
    tracing::info!(version = crate::VERSION, build = crate::BUILD, "kube-vip.io");
    tracing::info!(
        namespace = config.election.namespace,
        Mode = config.mode.name(),
        node = config.node_name,
        interface = interface.name,
        "starting"
    );
    if let Some(address) = &config.telemetry.metrics {
        let telemetry = telemetry.clone();
        listen("prometheus_server", address, move |path| endpoints::metrics(&telemetry, path)).await?;
    }
    if let Some(port) = config.telemetry.health_port {
        let telemetry = telemetry.clone();
        let address = format!("[::]:{port}");
        listen("health_check_port", &address, move |path| endpoints::health(&telemetry, path)).await?;
    }

    let vips = resolve::fixed(&config.targets, config.prefixes);
    let addresses = netlink.addresses().await?;
    let api = Api::new(config.api.clone(), environment(&config, &vips, &addresses));
    let (vips_in, vips) = watch::channel(vips);
    let (routed_vips, interface_name) = (vips.clone(), interface.name.clone());
    let board = Arc::new(watch::Sender::new(Board::default()));
    let (asks, asks_out) = mpsc::channel(1024);
    let (commands, commands_out) = mpsc::channel(1024);
    let (interface_in, interface_down) = watch::channel(None);
    let (outcome_in, outcome) = watch::channel(HostStatus::default());
    let (announced_in, announced) = watch::channel(AdvertisedRoutes::default());
    let drained = Arc::new(watch::Sender::new(false));
    let (stop, stopping) = watch::channel(false);
    let channels = reconcile::driver::Channels {
        board: board.subscribe(),
        asks: asks_out,
        commands,
        interface_down: interface_in,
        outcome: outcome_in,
        announced: announced_in,
    };
    let options = options(&config, &interface, control_plane.clone());
    let reporter = reporter(&config, api.clone());
    let common = Common {
        config,
        api: api.clone(),
        telemetry: telemetry.clone(),
        board,
        asks,
        interface,
        addresses,
        vips,
        vips_in: vips_in.clone(),
        drained: drained.subscribe(),
        stopping,
    };

    let mut parts = Parts::default();
    let mut routes = Routes::default();
    let (shared, shared_out) = watch::channel(BTreeSet::new());
    if let Some(lease) = &control_plane {
        let commands = common.start_control_plane(lease, shared_out, interface_down.clone(), &mut parts)?;
        routes.control_plane = commands.map(|commands| (lease.clone(), commands));
    }
    routes.services =
        common.start_services(control_plane.as_ref(), shared, outcome, interface_down, &mut parts)?;
    let (config, targets) = (common.config.clone(), common.config.targets.clone());
    // From here on only the elections and what feeds them can write to the board.
    drop(common);
    let table = table(&config, &interface_name, announced.clone(), routed_vips)?;
    let speaker = config.bgp.as_ref().map(|bgp| bgp::start(&config, bgp, &api, announced, &telemetry));
    let speaker = speaker.transpose()?;
    let reconciler = reconcile::driver::Driver::new(options, channels, telemetry.clone(), netlink, changes);
    let host = tokio::spawn(reconciler.run());
    tokio::spawn(routes.pass_on(commands_out));
    let socket = status::serve(telemetry.clone(), drained);
    parts.other("the status socket", socket);
    if config.dhcp.control_plane.is_none() {
        tokio::spawn(resolve::run(targets, config.prefixes, config.dns_mode, vips_in));
    }
    let farewell_api = api.clone();
    tokio::spawn(cluster::peers::follow(api));
    let farewell = tokio::spawn(reporter.run(notices));

    let stopped = wait(&mut parts, &stop, &config, &telemetry).await;
    // The elections have ended: the host is cleaned up, then the last Events go out.
    parts.tasks.abort_all();
    while parts.tasks.join_next().await.is_some() {}
    let farewells = futures::future::join_all(parts.farewells.drain(..));
    drop(timeout(FAREWELL_PATIENCE, farewells).await);
    let cleaned = timeout(EXIT_PATIENCE, host).await;
    if let Some(speaker) = speaker {
        speaker.stop().await;
    }
    if let Some(table) = table {
        drop(timeout(FAREWELL_PATIENCE, table).await);
    }
    telemetry.close();
    let labels = async {
        if config.services.is_some() && config.telemetry.label_node {
            crate::publish::node_labels::clear(&farewell_api, &config.node_name).await;
        }
    };
    drop(timeout(FAREWELL_PATIENCE, futures::future::join(farewell, labels)).await);
    stopped?;
    match cleaned {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => Err(error.into()),
        Ok(Err(panic)) => Err(ManagerError::Ended("the main loop", panic.to_string())),
        Err(_) => Err(ManagerError::Ended("the main loop", "it did not finish in time".into())),
    }
}

impl Common {
    fn settings(&self, provisional: bool, resuming: bool) -> Settings {
        let election = &self.config.election;
        Settings {
            identity: self.config.node_name.clone(),
            lease_duration: election.lease_duration,
            renew_deadline: election.renew_deadline,
            retry_period: election.retry_period,
            annotations: if provisional { election.annotations.clone() } else { BTreeMap::new() },
            provisional,
            resuming,
            seed: fnv1a(self.config.node_name.as_bytes()),
        }
    }
}

/// The elections that the main loop talks to.
#[derive(Default)]
struct Routes {
    control_plane: Option<(LeaseName, mpsc::Sender<Input>)>,
    services: Option<mpsc::Sender<(LeaseName, Input)>>,
}

impl Routes {
    /// What does not fit into an election's queue is told again.
    async fn pass_on(self, mut commands: mpsc::Receiver<(LeaseName, Input)>) {
        while let Some((lease, input)) = commands.recv().await {
            match (&self.control_plane, &self.services) {
                (Some((name, election)), _) if *name == lease => drop(election.try_send(input)),
                (_, Some(elections)) => drop(elections.try_send((lease, input))),
                _ => {}
            }
        }
    }
}

/// Until a signal asks for the end and the elections have given up their Leases, or a part fails.
async fn wait(
    parts: &mut Parts,
    stop: &watch::Sender<bool>,
    config: &Config,
    telemetry: &Arc<Telemetry>,
) -> Result<(), ManagerError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut dump = signal(SignalKind::user_defined1())?;
    let mut stopping = false;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = dump.recv() => {
                print!("{}", crate::dump::text(config, &telemetry.status(clock::now())));
                continue;
            }
            ended = parts.tasks.join_next() => match ended {
                Some(Ok((Part::Election(_), Ok(())))) if stopping => {
                    parts.elections -= 1;
                    if parts.elections == 0 {
                        return Ok(());
                    }
                    continue;
                }
                Some(Ok((Part::Election(what) | Part::Other(what), Ok(())))) => {
                    return Err(ManagerError::Ended(what, "nobody asked it to".into()));
                }
                Some(Ok((Part::Election(what) | Part::Other(what), Err(error)))) => {
                    return Err(ManagerError::Ended(what, error.to_string()));
                }
                Some(Err(panic)) => return Err(ManagerError::Ended("a task", panic.to_string())),
                None => return Ok(()),
            }
        }
        if !stopping {
            tracing::info!("asked to stop");
            stopping = true;
            stop.send_replace(true);
        }
    }
}

/// Start what keeps the routing table, in that mode. It ends when nothing is announced any more.
fn table(
    config: &Config,
    main: &str,
    announced: watch::Receiver<AdvertisedRoutes>,
    vips: watch::Receiver<BTreeSet<Vip>>,
) -> std::io::Result<Option<JoinHandle<()>>> {
    let Some(table) = config.table.clone() else { return Ok(None) };
    let named = config.services.as_ref().and_then(|services| services.interface.clone());
    let services = named.filter(|name| name != "auto").unwrap_or_else(|| main.to_owned());
    let interfaces = route_table::driver::Interfaces { main: main.to_owned(), services };
    // The kernel answers one question at a time on a connection: this one must not be in the main loop's way.
    let driver = route_table::driver::Driver::new(table, interfaces, announced, vips, Netlink::connect()?);
    Ok(Some(tokio::spawn(driver.run())))
}

/// The interface for the VIP: the configured one, else the default route's.
async fn choose_interface(config: &Config, netlink: &Netlink) -> Result<Interface, ManagerError> {
    let interfaces = netlink.interfaces().await?;
    let for_services = || {
        let services = config.services.as_ref()?.interface.clone();
        services.filter(|name| config.targets.is_empty() && name != "auto")
    };
    let found = match config.interface.clone().or_else(for_services) {
        Some(name) => interfaces.iter().find(|interface| interface.name == name),
        None => {
            let index = netlink.default_route_interface().await?;
            interfaces.iter().find(|interface| Some(interface.index) == index)
        }
    };
    let names = || interfaces.iter().map(|interface| interface.name.as_str()).collect::<Vec<_>>().join(", ");
    found.cloned().ok_or_else(|| ManagerError::NoLink(names()))
}

/// The control plane's Lease, where there is a VIP for it.
fn control_plane(config: &Config) -> Option<LeaseName> {
    let election = &config.election;
    let lease = LeaseName { namespace: election.namespace.clone(), name: election.name.clone() };
    (!config.targets.is_empty()).then_some(lease)
}

fn services_lease(config: &Config) -> String {
    config
        .services
        .as_ref()
        .map(|services| services.lease.clone())
        .map_or_else(String::new, |(namespace, name)| LeaseName { namespace, name }.to_string())
}

fn environment(config: &Config, vips: &BTreeSet<Vip>, addresses: &[ActualAddress]) -> Environment {
    Environment {
        home: std::env::var_os("HOME").map(Into::into),
        in_cluster: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|host| !host.is_empty()),
        control_plane: !config.targets.is_empty(),
        vips: vips.iter().map(|vip| vip.address).collect(),
        own: addresses.iter().map(|address| address.vip.address).collect(),
    }
}

fn options(
    config: &Config,
    interface: &Interface,
    control_plane: Option<LeaseName>,
) -> reconcile::driver::Options {
    reconcile::driver::Options {
        interface: interface.name.clone(),
        preserve: config.layer2.preserve,
        skip_dad: config.layer2.skip_dad,
        lo_global: config.layer2.lo_global,
        refresh: config.layer2.announce_every.unwrap_or(crate::announce::schedule::REFRESH),
        quiet: config.is_routed(),
        services: config.services.is_some(),
        aggregates: config.bgp.as_ref().map(|bgp| bgp.extras.aggregates.clone()).unwrap_or_default(),
        control_plane,
    }
}

fn reporter(config: &Config, api: Arc<Api>) -> Reporter {
    let addresses: Vec<IpAddr> =
        resolve::fixed(&config.targets, config.prefixes).iter().map(|vip| vip.address).collect();
    Reporter {
        api,
        node: config.node_name.clone(),
        vips: config.targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        label: config.telemetry.label_node.then(|| label_value(&addresses)),
    }
}
