//! The daemon: starts everything in order, and stops it in order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::api::{Api, Environment};
use crate::config::{Config, ServiceElection, SubnetPrefix, Target};
use crate::desired::{Board, Group, LinkChoice, Place, Prefix};
use crate::health::driver::Report;
use crate::leader::driver::{Ask, Handles};
use crate::leader::elections::{self, Candidacy, Elections};
use crate::leader::elector::{DrainReason, Input};
use crate::leader::{self, Health, Settings, Standing};
use crate::model::hash::fnv1a;
use crate::model::{BootTime, LeaseName, Link, Vip};
use crate::net::clock;
use crate::net::netlink::{Netlink, NetlinkError};
use crate::reconcile::diff::ActualAddress;
use crate::reconcile::driver::{Outcome, left_over};
use crate::services::plan::{Mode, World};
use crate::services::select::Rules;
use crate::telemetry::events::{Reporter, label_value};
use crate::telemetry::http::{ListenError, listen};
use crate::telemetry::{Telemetry, pages, status};
use crate::{api, health, reconcile, resolve, services};

/// How long the whole exit may take.
const EXIT_PATIENCE: Duration = Duration::from_millis(4500);
/// How long the last Events and labels may take.
const FAREWELL_PATIENCE: Duration = Duration::from_millis(800);
/// A link that is down for this long counts as a failure of this host.
const LINK_PATIENCE: Duration = Duration::from_secs(1);
/// Candidates for each group of Services.
const CANDIDATES: usize = 3;
/// Events that wait to be written.
const EVENTS: usize = 4096;

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
    /// There is no link to put the VIP on.
    #[error("there is no default route, so set `vip_interface` to the link for the VIP; this host has: {0}")]
    NoLink(String),
    /// The health check cannot be made.
    #[error(transparent)]
    Check(#[from] health::driver::CheckError),
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
    link: Link,
    /// The addresses of this host when the process began.
    addresses: Vec<ActualAddress>,
    vips: watch::Receiver<BTreeSet<Vip>>,
    /// An operator wants this host to stay away.
    drained: watch::Receiver<bool>,
    stopping: watch::Receiver<bool>,
}

type Parts = JoinSet<(Part, std::io::Result<()>)>;

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
    let link = choose_link(&config, &netlink).await?;
    let control_plane = control_plane(&config);
    let lease = control_plane.as_ref().map_or_else(|| services_lease(&config), LeaseName::to_string);
    let (telemetry, notices) = Telemetry::new(&config.node_name, &lease, config.mode.name());
    tracing::info!(version = crate::VERSION, build = crate::BUILD, "kube-vip.io");
    tracing::info!(
        namespace = config.election.namespace,
        Mode = config.mode.name(),
        node = config.node_name,
        link = link.name,
        "starting"
    );
    if let Some(address) = &config.telemetry.metrics {
        let telemetry = telemetry.clone();
        listen("prometheus_server", address, move |path| pages::metrics(&telemetry, path)).await?;
    }
    if let Some(port) = config.telemetry.health_port {
        let telemetry = telemetry.clone();
        let address = format!("[::]:{port}");
        listen("health_check_port", &address, move |path| pages::health(&telemetry, path)).await?;
    }

    let vips = resolve::fixed(&config.targets, config.prefixes);
    let addresses = netlink.addresses().await?;
    let api = Api::new(config.api.clone(), environment(&config, &vips, &addresses));
    let (vips_in, vips) = watch::channel(vips);
    let board = Arc::new(watch::Sender::new(Board::default()));
    let (asks, asks_out) = mpsc::channel(1024);
    let (commands, commands_out) = mpsc::channel(1024);
    let (link_in, link_down) = watch::channel(None);
    let (outcome_in, outcome) = watch::channel(Outcome::default());
    let drained = Arc::new(watch::Sender::new(false));
    let (stop, stopping) = watch::channel(false);
    let channels = reconcile::driver::Channels {
        board: board.subscribe(),
        asks: asks_out,
        commands,
        link_down: link_in,
        outcome: outcome_in,
    };
    let options = options(&config, &link, control_plane.clone());
    let reporter = reporter(&config, api.clone());
    let common = Common {
        config,
        api: api.clone(),
        telemetry: telemetry.clone(),
        board,
        asks,
        link,
        addresses,
        vips,
        drained: drained.subscribe(),
        stopping,
    };

    let mut parts = Parts::new();
    let mut routes = Routes::default();
    let (shared, shared_out) = watch::channel(BTreeSet::new());
    if let Some(lease) = &control_plane {
        routes.control_plane = Some((
            lease.clone(),
            common.start_control_plane(lease, shared_out, link_down.clone(), &mut parts)?,
        ));
    }
    if common.config.services.is_some() {
        routes.services =
            Some(common.start_services(control_plane.as_ref(), shared, outcome, link_down, &mut parts));
    }
    let (config, targets) = (common.config.clone(), common.config.targets.clone());
    // From here on only the elections and what feeds them can write to the board.
    drop(common);
    let reconciler = reconcile::driver::Driver::new(options, channels, telemetry.clone(), netlink, changes);
    let host = tokio::spawn(reconciler.run());
    tokio::spawn(routes.pass_on(commands_out));
    let socket = status::serve(telemetry.clone(), drained);
    parts.spawn(async move { (Part::Other("the status socket"), socket.await) });
    tokio::spawn(resolve::run(targets, config.prefixes, config.dns_mode, vips_in));
    tokio::spawn(api::peers::follow(api));
    let farewell = tokio::spawn(reporter.run(notices));

    let stopped = wait(&mut parts, &stop, &config, &telemetry).await;
    // The elections have ended: the host is cleaned up, then the last Events go out.
    parts.abort_all();
    while parts.join_next().await.is_some() {}
    let cleaned = timeout(EXIT_PATIENCE, host).await;
    telemetry.close();
    drop(timeout(FAREWELL_PATIENCE, farewell).await);
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

    /// The control plane's election, and all that feeds it.
    fn start_control_plane(
        &self,
        lease: &LeaseName,
        shared: watch::Receiver<BTreeSet<Place>>,
        link_down: watch::Receiver<Option<BootTime>>,
        parts: &mut Parts,
    ) -> Result<mpsc::Sender<Input>, ManagerError> {
        let vips: BTreeSet<IpAddr> = self.vips.borrow().iter().map(|vip| vip.address).collect();
        let (health_in, health_out) = watch::channel(Report::default());
        let (combined_in, combined) = watch::channel(Report::default());
        let (election, handles) = leader::driver::Driver::new(
            self.settings(true, left_over(&self.addresses, &vips)),
            lease.clone(),
            self.api.clone(),
            combined,
            self.telemetry.clone(),
        );
        let Handles { standing, commands, asks, probe_health } = handles;
        let prober =
            health::driver::Driver::new(&self.config.health, self.api.clone(), probe_health, health_in)?;
        parts.spawn(async move { (Part::Election("the election"), election.run().await) });
        // The board has the group before the main loop first looks at it.
        let layout = Layout {
            lease: lease.clone(),
            link: self.link.name.clone(),
            standing,
            vips: self.vips.clone(),
            shared,
        };
        layout.put_on(&self.board);
        parts.spawn(layout.keep_on(self.board.clone()));
        tokio::spawn(prober.run());
        tokio::spawn(judge(
            self.config.layer2.clone(),
            health_out,
            link_down,
            combined_in,
            commands.clone(),
            self.telemetry.clone(),
        ));
        tokio::spawn(forward_asks(lease.clone(), asks, self.asks.clone()));
        tokio::spawn(command(self.drained.clone(), self.stopping.clone(), commands.clone()));
        Ok(commands)
    }

    /// The elections for Services, and what plans them.
    fn start_services(
        &self,
        control_plane: Option<&LeaseName>,
        shared: watch::Sender<BTreeSet<Place>>,
        outcome: watch::Receiver<Outcome>,
        link_down: watch::Receiver<Option<BootTime>>,
        parts: &mut Parts,
    ) -> Option<mpsc::Sender<(LeaseName, Input)>> {
        let config = self.config.services.as_ref()?;
        let (candidacies_in, candidacies) = watch::channel(BTreeMap::<LeaseName, Candidacy>::new());
        let (holders_in, holders) = watch::channel(BTreeMap::new());
        let (commands, commands_out) = mpsc::channel(1024);
        let (drained_in, drained) = watch::channel(false);
        let channels = elections::Channels {
            candidacies,
            board: self.board.clone(),
            commands: commands_out,
            asks: self.asks.clone(),
            holders: holders_in,
            drained,
            stopping: self.stopping.clone(),
        };
        let observer = Arc::new(Muted(self.telemetry.clone()));
        let (elections, leases) =
            Elections::new(self.settings(false, false), self.api.clone(), observer, channels);
        parts.spawn(
            async move { (Part::Election("the elections for Services"), elections.run(leases).await) },
        );
        let (events, events_out) = mpsc::channel(EVENTS);
        let author = api::event::Author { component: "kube-vip", host: self.config.node_name.clone() };
        tokio::spawn(author.post_all(self.api.clone(), events_out));
        let ours = self.addresses.iter().filter(|address| address.tagged || address.deprecated);
        let driver = services::driver::Driver::new(
            self.api.clone(),
            world(&self.config, config, &self.link, control_plane),
            services::driver::Options {
                publish: config.publish,
                endpoints: config.endpoints,
                dns_mode: self.config.dns_mode,
                namespace: config.namespace.clone(),
            },
            services::driver::Channels {
                board: self.board.clone(),
                candidacies: candidacies_in,
                shared,
                outcome,
                holders,
                vips: self.vips.clone(),
                events,
            },
            self.telemetry.clone(),
            ours.map(|address| address.vip.address).collect(),
        );
        parts.spawn(async move { (Part::Other("the planning of Services"), driver.run().await) });
        let tolerate_down = self.config.layer2.tolerate_down;
        tokio::spawn(stay_away(self.drained.clone(), link_down, tolerate_down, drained_in));
        Some(commands)
    }
}

/// Where the control plane's addresses go.
struct Layout {
    lease: LeaseName,
    link: String,
    standing: watch::Receiver<Standing>,
    vips: watch::Receiver<BTreeSet<Vip>>,
    /// Addresses of Services that go with them.
    shared: watch::Receiver<BTreeSet<Place>>,
}

impl Layout {
    fn put_on(&self, board: &watch::Sender<Board>) {
        let place = |vip: &Vip| Place {
            address: vip.address,
            prefix: Prefix::Fixed(vip.prefix),
            link: LinkChoice::Named(self.link.clone()),
        };
        let mut places = self.shared.borrow().clone();
        places.extend(self.vips.borrow().iter().map(place));
        let group = Group { standing: self.standing.borrow().clone(), places };
        board.send_if_modified(|board| {
            board.groups.insert(self.lease.clone(), group.clone()).as_ref() != Some(&group)
        });
    }

    /// Until the election ends.
    async fn keep_on(mut self, board: Arc<watch::Sender<Board>>) -> (Part, std::io::Result<()>) {
        loop {
            self.standing.borrow_and_update();
            self.vips.borrow_and_update();
            self.shared.borrow_and_update();
            self.put_on(&board);
            tokio::select! {
                changed = self.standing.changed() => if changed.is_err() {
                    return (Part::Election("the layout of the control plane"), Ok(()));
                },
                Ok(()) = self.vips.changed() => {}
                Ok(()) = self.shared.changed() => {}
            }
        }
    }
}

/// The elections that the main loop talks to.
#[derive(Default)]
struct Routes {
    control_plane: Option<(LeaseName, mpsc::Sender<Input>)>,
    services: Option<Option<mpsc::Sender<(LeaseName, Input)>>>,
}

impl Routes {
    /// What does not fit into an election's queue is told again.
    async fn pass_on(self, mut commands: mpsc::Receiver<(LeaseName, Input)>) {
        while let Some((lease, input)) = commands.recv().await {
            match (&self.control_plane, &self.services) {
                (Some((name, election)), _) if *name == lease => drop(election.try_send(input)),
                (_, Some(Some(elections))) => drop(elections.try_send((lease, input))),
                _ => {}
            }
        }
    }
}

/// An observer that tells of calls, not of each of many elections.
struct Muted(Arc<Telemetry>);

impl leader::driver::Observer for Muted {
    fn election(&self, _: &leader::decide::Seen, _: &Standing, _: BootTime) {}

    fn standing_changed(&self, _: &Standing, _: &Standing, _: &leader::decide::Seen, _: BootTime) {}

    fn no_access(&self, why: &str) {
        self.0.no_access(why);
    }

    fn call_failed(&self, verb: &'static str, server: &str, answer: &leader::elector::Answer, why: &str) {
        self.0.call_failed(verb, server, answer, why);
    }

    fn call_succeeded(&self, verb: &'static str) {
        self.0.call_succeeded(verb);
    }
}

async fn forward_asks(lease: LeaseName, mut asks: mpsc::Receiver<Ask>, to: mpsc::Sender<(LeaseName, Ask)>) {
    while let Some(ask) = asks.recv().await {
        to.try_send((lease.clone(), ask)).ok();
    }
}

/// Tell the control plane's election what an operator wants.
async fn command(
    mut drained: watch::Receiver<bool>,
    mut stopping: watch::Receiver<bool>,
    commands: mpsc::Sender<Input>,
) {
    let mut known = false;
    loop {
        if *stopping.borrow_and_update() {
            // The queue is only closed when the election has ended.
            commands.send(Input::Stop).await.ok();
            return;
        }
        let wanted = *drained.borrow_and_update();
        if wanted != known {
            known = wanted;
            let reason = DrainReason::Operator;
            let input = if wanted { Input::Drain(reason) } else { Input::Undrain(reason) };
            if commands.send(input).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = drained.changed() => if changed.is_err() { return },
            changed = stopping.changed() => if changed.is_err() { return },
        }
    }
}

/// Whether Services are to be left to others: an operator says so, or the main link is down.
async fn stay_away(
    mut drained: watch::Receiver<bool>,
    mut link_down: watch::Receiver<Option<BootTime>>,
    tolerate_down: bool,
    away: watch::Sender<bool>,
) {
    loop {
        let wanted = *drained.borrow_and_update();
        let down_for = (*link_down.borrow_and_update()).map(|since| clock::now().since(since));
        let cut_off = !tolerate_down && down_for.is_some_and(|down| down >= LINK_PATIENCE);
        away.send_if_modified(|before| std::mem::replace(before, wanted || cut_off) != (wanted || cut_off));
        let due = async {
            match down_for {
                Some(down) if down < LINK_PATIENCE => tokio::time::sleep(LINK_PATIENCE - down).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = drained.changed() => if changed.is_err() { return },
            changed = link_down.changed() => if changed.is_err() { return },
            () = due => {}
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
    let mut elections = usize::from(!config.targets.is_empty()) * 2 + usize::from(config.services.is_some());
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = dump.recv() => {
                print!("{}", crate::dump::text(config, &telemetry.status(clock::now())));
                continue;
            }
            ended = parts.join_next() => match ended {
                Some(Ok((Part::Election(_), Ok(())))) if stopping => {
                    elections -= 1;
                    if elections == 0 {
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

/// The link for the VIP: the configured one, else the default route's.
async fn choose_link(config: &Config, netlink: &Netlink) -> Result<Link, ManagerError> {
    let links = netlink.links().await?;
    let for_services = || {
        let services = config.services.as_ref()?.interface.clone();
        services.filter(|name| config.targets.is_empty() && name != "auto")
    };
    let found = match config.interface.clone().or_else(for_services) {
        Some(name) => links.iter().find(|link| link.name == name),
        None => {
            let index = netlink.default_route_link().await?;
            links.iter().find(|link| Some(link.index) == index)
        }
    };
    let names = || links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ");
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

/// What the planning of Services is based on.
fn world(
    config: &Config,
    services: &crate::config::Services,
    link: &Link,
    control_plane: Option<&LeaseName>,
) -> World {
    let (namespace, name) = services.lease.clone();
    let lease = LeaseName { namespace, name };
    let prefix = |prefix: SubnetPrefix| match prefix {
        SubnetPrefix::Fixed(length) => Prefix::Fixed(length),
        SubnetPrefix::Auto => Prefix::OfSubnet,
    };
    World {
        me: config.node_name.clone(),
        rules: Rules {
            namespace: services.namespace.clone(),
            class: services.class.clone(),
            on_demand: services.on_demand,
        },
        mode: match services.election {
            ServiceElection::Global => Mode::Global(lease),
            ServiceElection::PerService => Mode::PerService,
            ServiceElection::Groups(count) => Mode::Groups { base: lease, count, most: CANDIDATES },
        },
        control_plane: control_plane.cloned(),
        link: match services.interface.as_deref() {
            Some("auto") => LinkChoice::OfSubnet(link.name.clone()),
            Some(name) => LinkChoice::Named(name.to_owned()),
            None => LinkChoice::Named(link.name.clone()),
        },
        main_link: link.name.clone(),
        v4: prefix(services.prefixes.0),
        v6: prefix(services.prefixes.1),
    }
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

fn options(config: &Config, link: &Link, control_plane: Option<LeaseName>) -> reconcile::driver::Options {
    reconcile::driver::Options {
        link: link.name.clone(),
        preserve: config.layer2.preserve,
        skip_dad: config.layer2.skip_dad,
        lo_global: config.layer2.lo_global,
        refresh: config.layer2.announce_every.unwrap_or(crate::announce::schedule::REFRESH),
        control_plane,
    }
}

fn reporter(config: &Config, api: Arc<Api>) -> Reporter {
    let shown = |target: &Target| match target {
        Target::Ip(address) => address.to_string(),
        Target::Name(name) => name.clone(),
    };
    let addresses: Vec<IpAddr> =
        resolve::fixed(&config.targets, config.prefixes).iter().map(|vip| vip.address).collect();
    Reporter {
        api,
        node: config.node_name.clone(),
        vips: config.targets.iter().map(shown).collect::<Vec<_>>().join(", "),
        label: config.telemetry.label_node.then(|| label_value(&addresses)),
    }
}

/// Brings the API server's health and the link's state together, for the election.
async fn judge(
    layer2: crate::config::Layer2,
    mut health: watch::Receiver<Report>,
    mut link_down: watch::Receiver<Option<BootTime>>,
    combined: watch::Sender<Report>,
    commands: mpsc::Sender<Input>,
    telemetry: Arc<Telemetry>,
) {
    let mut given_up = false;
    loop {
        let report = *health.borrow_and_update();
        let down_for = (*link_down.borrow_and_update()).map(|since| clock::now().since(since));
        let cut_off = !layer2.tolerate_down && down_for.is_some_and(|down| down >= LINK_PATIENCE);
        let local = if cut_off { Health::Failing } else { report.local };
        telemetry.health(local);
        // Whoever has no link cannot ask the others; that they are better is a safe guess.
        let new = Report { local, peer_serving: report.peer_serving || cut_off };
        combined.send_if_modified(|before| std::mem::replace(before, new) != new);
        let give_up = layer2
            .give_up_when_down_for
            .is_some_and(|patience| down_for.is_some_and(|down| down >= patience));
        if give_up != given_up {
            given_up = give_up;
            let command = if give_up {
                Input::Drain(DrainReason::LinkDown)
            } else {
                Input::Undrain(DrainReason::LinkDown)
            };
            if commands.send(command).await.is_err() {
                return;
            }
        }
        let tick = async {
            match down_for {
                Some(_) => tokio::time::sleep(Duration::from_millis(250)).await,
                None => std::future::pending().await,
            }
        };
        let alive = tokio::select! {
            changed = health.changed() => changed.is_ok(),
            changed = link_down.changed() => changed.is_ok(),
            () = tick => true,
        };
        if !alive {
            return;
        }
    }
}
