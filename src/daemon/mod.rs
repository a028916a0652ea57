//! The daemon: starts the components in order, connects them, and stops them in order.

mod bgp;
mod context;
mod report;
mod tasks;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cluster::event::EventRecorder;
use crate::cluster::{self, Api, Environment};
use crate::config::Config;
use crate::election::{self, health};
use crate::host::selection::main_interface;
use crate::host::{HostWatch, Observer};
use crate::model::{ActualAddress, AdvertisedRoutes, HostStatus, Interface, Roles, Vip, VipPlan};
use crate::net::https::ClientError;
use crate::net::netlink::{NetlinkError, NetlinkWriter};
use crate::net::thread;
use crate::planner::plan::PlanContext;
use crate::publish::node_labels::{self, NodeLabels, ServiceLabels};
use crate::status::routes_of_agents;
use crate::telemetry::{endpoints, http, socket};
use crate::{dhcp, mdns, planner, publish, reconcile, route_table, upnp};
use report::Report;
use tasks::{ELECTIONS, SHUTDOWN_TIMEOUT, TaskSet};

/// Limit for the main loop to remove the last addresses.
const EXIT_TIMEOUT: Duration = Duration::from_millis(4500);
/// Capacity of the queue of Events.
const EVENT_QUEUE: usize = 4096;

/// Why the daemon cannot run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error("netlink: {0}")]
    Netlink(#[from] NetlinkError),
    /// A timer, a socket or a signal handler.
    #[error("cannot create a required kernel resource: {0}")]
    Io(#[from] std::io::Error),
    #[error(
        "there is no default route, so set `vip_interface` to the interface for the VIP; this host has: {0}"
    )]
    NoInterface(String),
    #[error(transparent)]
    Check(#[from] health::driver::CheckError),
    #[error("bgp_provider_ca_path: {0}")]
    Provider(ClientError),
    /// A task that the others depend on.
    #[error("{0} ended: {1}")]
    Ended(&'static str, String),
}

/// What most components need.
struct Daemon {
    config: Config,
    api: Arc<Api>,
    report: Report,
    events: EventRecorder,
    /// The publisher's end of the label writer.
    labels: Option<watch::Sender<ServiceLabels>>,
    context: PlanContext,
    host: HostWatch,
    /// The addresses of this host when the process began.
    addresses: Vec<ActualAddress>,
    tasks: TaskSet,
}

/// What the planner is connected to.
struct Planned<'a> {
    vip_plan: watch::Sender<Arc<VipPlan>>,
    vips: watch::Sender<BTreeSet<Vip>>,
    host: watch::Receiver<HostStatus>,
    elections: &'a election::channels::Handles,
    dhcp: (dhcp::driver::Channels, dhcp::driver::Handles),
}

/// What ends after the elections, in this order.
struct Hosts {
    reconcile: JoinHandle<std::io::Result<()>>,
    speaker: Option<bgp::Running>,
    table: Option<JoinHandle<()>>,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// If a component fails that cannot be retried. Addresses are then left to the kernel's lifetimes.
pub async fn run(config: Config) -> Result<(), DaemonError> {
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    let netlink = NetlinkWriter::open(config.tags())?;
    let observer = Observer::start(Some(&netlink), config.tags()).await?;
    let host = observer.subscribe();
    let interface = choose_interface(&config, &observer).await?;
    let addresses = host.borrow().addresses.clone();
    let context = context::plan(&config, &interface, &addresses);
    let (events, event_writer) = cluster::event::recorder("kube-vip", &config.node_name, EVENT_QUEUE);
    let roles = watch::Sender::default();
    let api = Api::new(config.api.clone(), Environment::of(&config, &addresses));
    let report = Report::new(&config, &api, &events, &roles);
    tracing::info!(version = crate::VERSION, build = crate::BUILD, "kube-vip.io");
    tracing::info!(
        namespace = config.election.lease.namespace,
        Mode = config.mode,
        node = config.node_name,
        interface = interface.name,
        "starting"
    );
    serve_http(&config, &report);
    let closing = watch::Sender::new(false);
    let closed = closed(closing.subscribe());
    let event_writer = tokio::spawn(event_writer.run(api.clone(), closed));
    let (labels, tasks) = (None, TaskSet::default());
    let mut daemon =
        Daemon { config, api: api.clone(), report, events, labels, context, host, addresses, tasks };
    let stop = watch::Sender::new(false);
    let label_writer = daemon.label_writer(closing.subscribe());
    let hosts = daemon.start(&stop, netlink, roles)?;
    tokio::spawn(observer.run());
    let label_writer = label_writer.map(|writer| tokio::spawn(writer.run()));
    tokio::spawn(cluster::peers::watch(api));
    let stopped = daemon.tasks.wait(&stop, &daemon.config, &daemon.report).await;
    let cleaned = daemon.shut_down(hosts).await;
    closing.send_replace(true);
    let writers = futures::future::join_all(label_writer.into_iter().chain([event_writer]));
    drop(timeout(SHUTDOWN_TIMEOUT, writers).await);
    cleaned.and(stopped)
}

/// Resolves when the process has ended its work.
async fn closed(mut closing: watch::Receiver<bool>) {
    closing.wait_for(|closing| *closing).await.ok();
}

fn serve_http(config: &Config, report: &Report) {
    if let Some(address) = config.telemetry.metrics.clone() {
        let (ports, report) = (report.ports.clone(), report.clone());
        let pages = move |path: &str| endpoints::metrics(path, || report.metrics());
        tokio::spawn(http::serve("prometheus_server", address, ports, pages));
    }
    if let Some(port) = config.telemetry.health_port {
        let (ports, sources) = (report.ports.clone(), report.sources.clone());
        let pages =
            move |path: &str| endpoints::health(path, || sources.check_live(), || sources.check_ready());
        tokio::spawn(http::serve("health_check_port", format!("[::]:{port}"), ports, pages));
    }
}

impl Daemon {
    /// Starts everything. The first plan exists before anything reads it: the control plane's VIPs depend on no API server.
    /// The elections alone write `roles`: the main loop ends with them.
    fn start(
        &mut self,
        stop: &watch::Sender<bool>,
        netlink: NetlinkWriter,
        roles: watch::Sender<Roles>,
    ) -> Result<Hosts, DaemonError> {
        let drained = &self.report.drained;
        let (first, vips) = planner::first_plan(&self.context);
        let (plan, vips) = (watch::Sender::new(Arc::new(first)), watch::Sender::new(vips));
        let (outcome_in, outcome) = watch::channel(HostStatus::default());
        let (announced_in, announced) = watch::channel(AdvertisedRoutes::default());
        let (channels, elections) =
            election::channels::channels(plan.subscribe(), roles, drained.subscribe(), stop.subscribe());
        let table = self.start_table(announced.clone(), vips.subscribe())?;
        let first_plan = plan.subscribe();
        let dhcp = dhcp::driver::channels();
        let dhcp_links = dhcp.1.links.clone();
        self.start_planner(Planned { vip_plan: plan, vips, host: outcome, elections: &elections, dhcp })?;
        let reconciled = reconcile::driver::Channels {
            plan: first_plan,
            roles: elections.roles.clone(),
            dhcp_links,
            segment: elections.segment,
            elections: elections.inputs.clone(),
            interface_down: elections.interface_down,
            applied: elections.applied,
            outcome: outcome_in,
            announced: announced_in,
        };
        let options = context::reconcile_options(&self.config, &self.context);
        let reporter = self.report.host.clone();
        let reconciler =
            reconcile::driver::Driver::new(options, reconciled, reporter, netlink, self.host.clone());
        self.start_elections(channels, &elections.inputs, &elections.probe_health)?;
        let config = &self.config;
        let speaker = match &config.bgp {
            Some(bgp) => {
                Some(bgp::start(config, bgp, &self.api, announced, self.host.clone(), &self.report)?)
            }
            None => None,
        };
        let reconcile = tokio::spawn(reconciler.run());
        tokio::spawn(socket::serve(self.report.responder()));
        Ok(Hosts { reconcile, speaker, table })
    }

    /// The elections, and the probes of the local API server where the control plane depends on it: on a thread of their
    /// own, so that no plan, no burst of announcements and no list of thousands of objects delays a renewal.
    fn start_elections(
        &mut self,
        channels: election::channels::Channels,
        inputs: &mpsc::Sender<election::elections::Input>,
        active: &watch::Receiver<bool>,
    ) -> Result<(), DaemonError> {
        let (thread, api) = (thread::start("elections")?, self.api.with_own_connections());
        let _entered = thread.enter();
        let families = self.context.control_plane.iter().flat_map(|_| self.config.probed_families());
        for family in families {
            let (check, active, inputs) = (&self.config.health, active.clone(), inputs.clone());
            let prober = health::driver::Driver::new(check, family, api.clone(), active, inputs)?;
            thread.spawn(prober.run());
        }
        let config = context::elections(&self.config);
        let driver = election::driver::Driver::new(config, api, self.report.election.clone(), channels)
            .reporting(self.config.reported_lease());
        self.tasks.spawn(&thread, ELECTIONS, driver.run());
        Ok(())
    }

    /// The planner on a thread of its own, since its work grows with the cluster; what publishes its plan, and the protocols that
    /// both talk to.
    fn start_planner(&mut self, planned: Planned<'_>) -> std::io::Result<()> {
        let Planned { vip_plan, vips, host, elections, dhcp: (dhcp_channels, dhcp) } = planned;
        let (thread, api) = (thread::start("planner")?, self.api.with_own_connections());
        let (config, report) = (&self.config, &self.report);
        let main = self.context.main_interface.clone();
        if config.services.is_some() || config.dhcp.control_plane.is_some() {
            let (attempts, skip_probes) = (config.dhcp.attempts, config.layer2.skip_probes.clone());
            let (host, metrics) = (self.host.clone(), report.dhcp_metrics.clone());
            tokio::spawn(dhcp::driver::Driver::start(dhcp_channels, host, metrics, attempts, skip_probes));
        }
        let (responder, records, names) = mdns::driver::Driver::new(&main, self.host.clone());
        self.tasks.spawn_last(responder.run());
        let (mapper, mappings, gateways) =
            upnp::driver::Driver::new(&main, self.host.clone(), report.upnp_metrics.clone());
        tokio::spawn(mapper.run());
        let plan = watch::Sender::default();
        let publisher = publish::driver::Driver::new(
            self.api.clone(),
            self.context.control_plane.clone(),
            context::publish_options(config, &self.context),
            publish::driver::Channels {
                plan: plan.subscribe(),
                host,
                roles: elections.roles.clone(),
                vips: vips.subscribe(),
                leases: dhcp.status.clone(),
                refused: report.election.refused(),
                peers: report.bgp.subscribe(),
                dhcp: dhcp.commands.clone(),
                gateways: (mappings, gateways.clone()),
                mdns: (records, names),
                events: self.events.clone(),
                labels: self.labels.take(),
            },
            report.services.clone(),
        );
        self.tasks.spawn(&Handle::current(), "the publisher", publisher.run());
        let planner = planner::driver::Driver::new(
            api,
            self.context.clone(),
            context::planner_options(config),
            planner::driver::Channels {
                vip_plan,
                plan,
                vips,
                roles: elections.roles.clone(),
                lease: elections.lease.clone(),
                elections: elections.inputs.clone(),
                holders: elections.holders.clone(),
                dhcp,
                gateways,
            },
            self.host.clone(),
            &self.addresses,
        );
        self.tasks.spawn(&thread, "the planner", planner.run());
        Ok(())
    }

    /// The writer of this node's labels, where nodes are labelled.
    fn label_writer(&mut self, closing: watch::Receiver<bool>) -> Option<NodeLabels> {
        if !self.config.telemetry.label_node {
            return None;
        }
        let services = self.config.services.as_ref().map(|_| watch::channel(ServiceLabels::default()));
        let (labels, services) = services.unzip();
        let election = self.report.election.status();
        let channels = node_labels::Channels { election, services, closing };
        let vips = self.config.fixed_vips();
        let vips: Vec<IpAddr> = vips.iter().map(|vip| vip.address).collect();
        self.labels = labels;
        Some(NodeLabels::new(self.api.clone(), &self.config.node_name, &vips, channels))
    }

    /// The routes of the kernel's routing table, in that mode.
    fn start_table(
        &self,
        announced: watch::Receiver<AdvertisedRoutes>,
        vips: watch::Receiver<BTreeSet<Vip>>,
    ) -> std::io::Result<Option<JoinHandle<()>>> {
        let Some(table) = self.config.table.clone() else { return Ok(None) };
        let main = self.context.main_interface.clone();
        let named = self.config.services.as_ref().and_then(|services| services.interface.clone());
        let services = named.filter(|name| name != "auto").unwrap_or_else(|| main.clone());
        let interfaces = route_table::driver::Interfaces { main, services };
        let channels = route_table::driver::Channels {
            advertised: announced,
            vips,
            host: self.host.clone(),
            status: self.report.table.clone(),
            agents: Box::new(|| Box::pin(routes_of_agents())),
        };
        let driver = route_table::driver::Driver::new(table, interfaces, channels)?;
        Ok(Some(tokio::spawn(driver.run())))
    }

    /// The elections have ended: the host is cleaned up.
    async fn shut_down(self, hosts: Hosts) -> Result<(), DaemonError> {
        self.tasks.shut_down().await;
        let cleaned = timeout(EXIT_TIMEOUT, hosts.reconcile).await;
        if let Some(speaker) = hosts.speaker {
            speaker.stop().await;
        }
        if let Some(table) = hosts.table {
            drop(timeout(SHUTDOWN_TIMEOUT, table).await);
        }
        match cleaned {
            Ok(Ok(Ok(()))) => Ok(()),
            Ok(Ok(Err(error))) => Err(error.into()),
            Ok(Err(panic)) => Err(DaemonError::Ended("the main loop", panic.to_string())),
            Err(_) => Err(DaemonError::Ended("the main loop", "it did not finish in time".into())),
        }
    }
}

/// The interface for the VIP: the configured one, else the default route's.
async fn choose_interface(config: &Config, observer: &Observer) -> Result<Interface, DaemonError> {
    let default_route = observer.default_route_interface().await?;
    let host = observer.subscribe().borrow().clone();
    let found = main_interface(config, &host, default_route).cloned();
    found.ok_or_else(|| DaemonError::NoInterface(host.interface_names()))
}
