//! One term of leadership: from a fresh look at the cluster to the loss of the claim.
//!
//! Everything that is known lives and dies with the term. A new leader lists all Services with a consistent read
//! before it gives the first address, so that it sees whatever its predecessor wrote. One task owns the planner:
//! what is decided next finds taken what was decided before, however many writes are under way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use kube_vip::cluster::Api;
use kube_vip::cluster::watch::Change;
use kube_vip::cluster::write::{WriteResult, Writer};
use kube_vip::dhcp;
use kube_vip::dhcp::driver::{Command, Handles};
use kube_vip::model::node::NodeView;
use kube_vip::model::{BootTime, ServiceKey, ServiceView};
use kube_vip::net::clock;
use kube_vip::planner::reserved::Reserved;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::Claim;
use super::events::{Teller, Told};
use super::feed::{self, Config, Seen};
use crate::cli::Options;
use crate::plan::{Patch, Planner, Step, Written};
use crate::pools::{Pools, Problem};
use crate::telemetry::{Concern, Telemetry};

/// Pauses before a Service whose write failed is looked at again.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How often the metrics of the pools are computed anew, at most.
const REPORT: Duration = Duration::from_millis(500);

/// Rounds of questions after which a DHCP server that never answers is asked less often.
const ATTEMPTS: u32 = 3;

type Flight = Pin<Box<dyn Future<Output = (ServiceKey, Patch, WriteResult)> + Send>>;

/// What a term is made of.
pub struct Term {
    api: Arc<Api>,
    writer: Arc<Writer>,
    telemetry: Arc<Telemetry>,
    teller: Teller,
    config_map: (String, String),
    most_writes: usize,
    planner: Planner,
    known: Known,
    flights: FuturesUnordered<Flight>,
    /// To be looked at again, once that moment has come.
    retries: BTreeSet<(Instant, ServiceKey)>,
    /// Failed writes in a row.
    failures: BTreeMap<ServiceKey, u32>,
    /// Services without an address, since when.
    hungry: BTreeMap<ServiceKey, BootTime>,
    /// What users were told about the ConfigMap.
    problems: BTreeSet<Problem>,
    report_at: Option<Instant>,
    /// What asks DHCP servers, where this process does.
    dhcp: Option<Handles>,
    dhcp_interface: Option<String>,
}

/// What has been seen, apart from Services.
#[derive(Debug, Default)]
struct Known {
    services: bool,
    pools: Option<Config>,
    nodes: Option<BTreeMap<String, NodeView>>,
    namespaces: Option<BTreeSet<String>>,
    control_plane: Option<IpAddr>,
    /// What the ConfigMap alone is wrong in.
    problems: Vec<Problem>,
}

impl Known {
    /// Without these no address is given.
    fn missing(&self) -> Vec<&'static str> {
        let parts = [
            (self.services, "Services"),
            (self.pools.is_some(), "the ConfigMap"),
            (self.nodes.is_some(), "Nodes"),
        ];
        parts.into_iter().filter(|(known, _)| !known).map(|(_, name)| name).collect()
    }

    fn reserved(&self) -> Reserved {
        Reserved::new(self.nodes.iter().flat_map(BTreeMap::values), self.control_plane)
    }
}

impl Term {
    /// A term that has seen nothing yet.
    pub fn new(
        options: &Options,
        api: Arc<Api>,
        writer: Arc<Writer>,
        telemetry: Arc<Telemetry>,
        teller: Teller,
    ) -> Self {
        let mut planner = Planner::new(options.class.clone());
        if options.upnp {
            planner.open_ports();
        }
        Self {
            api,
            writer,
            telemetry,
            teller,
            config_map: options.config_map.clone(),
            most_writes: options.writes,
            planner,
            known: Known::default(),
            flights: FuturesUnordered::new(),
            retries: BTreeSet::new(),
            failures: BTreeMap::new(),
            hungry: BTreeMap::new(),
            problems: BTreeSet::new(),
            report_at: None,
            dhcp: None,
            dhcp_interface: options.dhcp_interface.clone(),
        }
    }

    /// Begin to ask DHCP servers, if that is wanted.
    fn start_dhcp(&mut self, tasks: &mut JoinSet<()>) {
        let Some(interface) = &self.dhcp_interface else { return };
        let (channels, handles) = dhcp::driver::channels();
        match dhcp::driver::Driver::start(channels, self.telemetry.dhcp.clone(), ATTEMPTS) {
            Ok(clients) => {
                self.planner.ask_on(interface);
                self.dhcp = Some(handles);
                tasks.spawn(async move {
                    if let Err(error) = clients.await {
                        tracing::error!("asking DHCP servers ended: {error}");
                    }
                });
            }
            Err(error) => tracing::error!("no DHCP server can be asked: {error}"),
        }
    }

    /// Say what is asked of DHCP servers, and what is not needed any more.
    fn ask(&mut self) {
        let Some(handles) = &self.dhcp else { return };
        for (key, why) in self.planner.take_contested() {
            handles.commands.try_send(Command::Conflict(key, why)).ok();
        }
        let wishes = self.planner.wishes();
        handles.wishes.send_if_modified(|before| {
            for gone in before.keys().filter(|key| !wishes.contains_key(key)) {
                handles.commands.try_send(Command::Release(gone.clone())).ok();
            }
            let changed = *before != wishes;
            *before = wishes;
            changed
        });
    }

    /// Give addresses until the claim is lost, or `stopping`: then what is under way is awaited first.
    pub async fn run(mut self, claim: &mut Claim, stopping: &mut watch::Receiver<bool>) {
        let (seen_in, mut seen) = mpsc::channel(256);
        let mut watches = feed::start(&self.api, &self.config_map, &seen_in);
        self.start_dhcp(&mut watches);
        self.telemetry.leading(self.known.missing());
        loop {
            if !claim.is_valid() {
                break;
            }
            let stopped = *stopping.borrow_and_update();
            if stopped && self.flights.is_empty() {
                break;
            }
            if !stopped && self.known.missing().is_empty() {
                self.start_writes();
                self.ask();
                // What turned out to be wrong with that is told.
                self.start_writes();
            }
            let leases = async {
                match &mut self.dhcp {
                    Some(handles) => handles.held.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            let retry = self.retries.first().map(|(at, _)| *at);
            let due = retry.into_iter().chain(self.report_at).min();
            tokio::select! {
                biased;
                () = claim.changed() => {}
                _ = stopping.changed(), if !stopped => {}
                Some((key, patch, outcome)) = self.flights.next() => self.landed(key, &patch, outcome),
                Some(change) = seen.recv() => {
                    self.see(change);
                    // Whatever else has been seen by now is taken along before anything is decided.
                    while let Ok(change) = seen.try_recv() {
                        self.see(change);
                    }
                    self.telemetry.leading(self.known.missing());
                }
                changed = leases => if changed {
                    self.take_leases();
                } else {
                    // Whoever comes next asks again.
                    self.dhcp = None;
                },
                () = wait_until(due) => self.on_time(),
            }
        }
        self.telemetry.following();
    }

    fn take_leases(&mut self) {
        if let Some(handles) = &mut self.dhcp {
            let held = handles.held.borrow_and_update().clone();
            self.planner.set_leases(held);
            self.report_soon();
        }
    }

    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Services(Change::Reset(all)) => {
                all.iter().for_each(|(key, view)| self.watch_hunger(key, view));
                self.planner.reset(all);
                self.known.services = true;
            }
            Seen::Services(Change::Applied((key, view))) => {
                self.watch_hunger(&key, &view);
                self.planner.apply(key, view);
            }
            Seen::Services(Change::Deleted((key, _))) => {
                self.planner.remove(&key);
                self.hungry.remove(&key);
                self.failures.remove(&key);
            }
            Seen::Pools(change) => self.set_pools(match change {
                Change::Reset(all) => all.into_iter().next().unwrap_or_default(),
                Change::Applied(config) => config,
                Change::Deleted(_) => Config::default(),
            }),
            Seen::Nodes(change) => {
                let nodes = self.known.nodes.get_or_insert_default();
                match change {
                    Change::Reset(all) => {
                        *nodes = all.into_iter().map(|node| (node.name.clone(), node)).collect()
                    }
                    Change::Applied(node) => drop(nodes.insert(node.name.clone(), node)),
                    Change::Deleted(node) => drop(nodes.remove(&node.name)),
                }
                self.planner.set_reserved(self.known.reserved());
            }
            Seen::Namespaces(change) => {
                let namespaces = self.known.namespaces.get_or_insert_default();
                match change {
                    Change::Reset(all) => *namespaces = all.into_iter().collect(),
                    Change::Applied(name) => drop(namespaces.insert(name)),
                    Change::Deleted(name) => drop(namespaces.remove(&name)),
                }
                self.tell_problems();
            }
            Seen::ClusterInfo(change) => {
                self.known.control_plane = match change {
                    Change::Reset(all) => all.into_iter().next(),
                    Change::Applied(address) => Some(address),
                    Change::Deleted(_) => None,
                };
                self.planner.set_reserved(self.known.reserved());
            }
        }
        self.report_soon();
    }

    fn set_pools(&mut self, config: Config) {
        let (pools, problems) = Pools::parse(&config.data, self.planner.pools());
        tracing::info!(pools = pools.pools.len(), problems = problems.len(), "read the ConfigMap");
        self.planner.set_pools(pools);
        self.known.problems = problems;
        self.known.pools = Some(config);
        self.tell_problems();
    }

    /// Tell what is wrong with the ConfigMap, once each.
    fn tell_problems(&mut self) {
        let Some(config) = &self.known.pools else { return };
        let mut problems: BTreeSet<Problem> = self.known.problems.iter().cloned().collect();
        if let Some(namespaces) = &self.known.namespaces {
            problems.extend(self.planner.pools().without_namespace(namespaces));
        }
        for problem in problems.difference(&self.problems) {
            tracing::warn!("{}/{}: {problem}", self.config_map.0, self.config_map.1);
            self.teller.tell(Told::problem(&self.config_map, &config.uid, problem));
        }
        self.telemetry.problems(problems.iter());
        self.problems = problems;
    }

    fn watch_hunger(&mut self, key: &ServiceKey, view: &ServiceView) {
        use kube_vip::model::annotation::LOAD_BALANCER_IPS;
        if view.load_balancer && view.annotation(LOAD_BALANCER_IPS).is_none() {
            self.hungry.entry(key.clone()).or_insert_with(clock::now);
        }
    }

    fn start_writes(&mut self) {
        while self.flights.len() < self.most_writes {
            let steps = self.planner.next_steps();
            if steps.is_empty() {
                return;
            }
            steps.into_iter().for_each(|step| self.carry_out(step));
        }
    }

    fn carry_out(&mut self, step: Step) {
        match step {
            Step::Tell { key, uid, news } => {
                tracing::debug!(service = %key, ?news, "told");
                self.teller.tell(Told::service(&key, &uid, &news));
            }
            Step::Write { key, patch } => {
                let (api, writer) = (self.api.clone(), self.writer.clone());
                self.flights.push(Box::pin(async move {
                    let outcome = writer.write(&api, &key, &patch.to_json()).await;
                    (key, patch, outcome)
                }));
            }
        }
        self.report_soon();
    }

    fn landed(&mut self, key: ServiceKey, patch: &Patch, outcome: WriteResult) {
        let (result, written) = match outcome {
            WriteResult::Done(view) => {
                tracing::debug!(service = %key, ?patch, "written");
                if let Some(since) = self.hungry.remove(&key) {
                    self.telemetry.allocated(clock::now().since(since));
                }
                self.failures.remove(&key);
                ("done", Written::Done(view))
            }
            WriteResult::Gone => ("gone", Written::Gone),
            WriteResult::Conflict => {
                // The version that was in the way is known already, or about to be.
                if self.planner.version(&key).is_some_and(|version| version != patch.resource_version) {
                    self.planner.look_at(&key);
                } else {
                    self.retry(&key);
                }
                ("conflict", Written::Failed)
            }
            WriteResult::Refused(why) => {
                self.telemetry.trouble(
                    Concern::Writes,
                    format!("the API server refuses a write to Service {key}: {why}"),
                );
                self.retry(&key);
                ("refused", Written::Failed)
            }
            WriteResult::Failed(why) => {
                self.telemetry.trouble(Concern::Writes, format!("a write to Service {key} failed: {why}"));
                self.retry(&key);
                ("failed", Written::Failed)
            }
        };
        self.telemetry.written(result);
        if let Some(step) = self.planner.written(&key, written) {
            self.carry_out(step);
        }
        self.report_soon();
    }

    fn retry(&mut self, key: &ServiceKey) {
        let failures = self.failures.entry(key.clone()).or_default();
        let pause = SHORTEST_PAUSE.saturating_mul(1 << (*failures).min(10)).min(LONGEST_PAUSE);
        *failures += 1;
        self.retries.insert((Instant::now() + pause, key.clone()));
    }

    fn report_soon(&mut self) {
        self.report_at.get_or_insert_with(|| Instant::now() + REPORT);
    }

    fn on_time(&mut self) {
        let now = Instant::now();
        while self.retries.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.retries.pop_first() {
                self.planner.look_at(&key);
            }
        }
        if self.report_at.is_some_and(|at| at <= now) {
            self.report_at = None;
            self.telemetry.pools(&self.planner);
        }
    }
}

async fn wait_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
