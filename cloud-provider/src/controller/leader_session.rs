//! One session of leadership, from the first list of all objects to the loss of the claim: pure.
//!
//! All state lives and dies with the session. A new leader lists all Services with a consistent read before it
//! allocates the first address, so that it sees what its predecessor wrote. The session owns the planner: each
//! decision sees the addresses that earlier decisions have taken, however many writes are in flight.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use kube_vip::cluster::watch::Change;
use kube_vip::cluster::write::WriteResult;
use kube_vip::dhcp::spec::{ClientStatus, LeaseKey};
use kube_vip::model::annotation::LOAD_BALANCER_IPS;
use kube_vip::model::node::NodeView;
use kube_vip::model::{Backoff, BootTime, ServiceKey, ServiceView};
use kube_vip::planner::reserved::Reserved;

use super::watches::{PoolsConfig, WatchEvent};
use crate::plan::{Action, Patch, Planner, ServiceEvent, WriteStatus};
use crate::pools::{Pools, Problem};

/// Pauses before a failed write is decided on again.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// Time from a change to the next report of pool usage.
const REPORT_DELAY: Duration = Duration::from_millis(500);

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "they pass by one at a time, and most are of the largest kind")]
pub enum Input {
    Watch(WatchEvent),
    Written {
        key: ServiceKey,
        /// The resource version that the write was decided on.
        version: String,
        result: WriteResult,
    },
    Leases(BTreeMap<LeaseKey, ClientStatus>),
    /// No more writes are started.
    Stop,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    Write {
        key: ServiceKey,
        patch: Patch,
    },
    ServiceEvent {
        key: ServiceKey,
        uid: String,
        event: ServiceEvent,
    },
    /// The ConfigMap was read, with so many pools and problems.
    PoolsRead {
        pools: usize,
        problems: usize,
    },
    /// The ConfigMap has these problems; `new` ones are not yet reported.
    Problems {
        uid: String,
        all: BTreeSet<Problem>,
        new: Vec<Problem>,
    },
    /// An address was written this long after its Service was first seen without one.
    Allocated(Duration),
    /// Pool usage may have changed.
    Report,
}

/// The latest state of the watched objects other than Services.
#[derive(Debug, Default)]
struct ClusterCache {
    services_listed: bool,
    pools: Option<PoolsConfig>,
    nodes: Option<BTreeMap<String, NodeView>>,
    namespaces: Option<BTreeSet<String>>,
    control_plane: Option<IpAddr>,
}

#[derive(Debug)]
pub struct LeaderSession {
    planner: Planner,
    cache: ClusterCache,
    max_writes: usize,
    in_flight: usize,
    stopping: bool,
    /// When Services whose write failed are decided on again.
    retries: BTreeSet<(BootTime, ServiceKey)>,
    backoffs: BTreeMap<ServiceKey, Backoff>,
    /// When each Service was first seen without an address.
    unallocated_since: BTreeMap<ServiceKey, BootTime>,
    /// Problems within the ConfigMap.
    config_problems: Vec<Problem>,
    reported_problems: BTreeSet<Problem>,
    report_at: Option<BootTime>,
    outputs: VecDeque<Output>,
}

impl LeaderSession {
    pub fn new(planner: Planner, max_writes: usize) -> Self {
        Self {
            planner,
            cache: ClusterCache::default(),
            max_writes,
            in_flight: 0,
            stopping: false,
            retries: BTreeSet::new(),
            backoffs: BTreeMap::new(),
            unallocated_since: BTreeMap::new(),
            config_problems: Vec::new(),
            reported_problems: BTreeSet::new(),
            report_at: None,
            outputs: VecDeque::new(),
        }
    }

    pub fn planner(&self) -> &Planner {
        &self.planner
    }

    /// The planner, to exchange leases with the DHCP clients.
    pub fn planner_mut(&mut self) -> &mut Planner {
        &mut self.planner
    }

    /// Objects that have not been listed yet. Nothing is allocated before that.
    pub fn missing(&self) -> Vec<&'static str> {
        let parts = [
            (self.cache.services_listed, "Services"),
            (self.cache.pools.is_some(), "the ConfigMap"),
            (self.cache.nodes.is_some(), "Nodes"),
        ];
        parts.into_iter().filter(|(listed, _)| !listed).map(|(_, name)| name).collect()
    }

    /// Whether addresses are allocated: everything is listed, and the session does not stop.
    pub fn is_active(&self) -> bool {
        !self.stopping && self.missing().is_empty()
    }

    /// Whether every write that was started has its result.
    pub fn is_idle(&self) -> bool {
        self.in_flight == 0
    }

    pub fn handle_input(&mut self, now: BootTime, input: Input) {
        match input {
            Input::Watch(event) => self.handle_watch(now, event),
            Input::Written { key, version, result } => self.handle_written(now, &key, &version, result),
            Input::Leases(leases) => self.planner.set_leases(leases),
            Input::Stop => self.stopping = true,
        }
        self.report_at.get_or_insert(now + REPORT_DELAY);
    }

    pub fn handle_timeout(&mut self, now: BootTime) {
        while self.retries.first().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, key)) = self.retries.pop_first() {
                self.planner.enqueue(&key);
                self.report_at.get_or_insert(now + REPORT_DELAY);
            }
        }
        if self.report_at.is_some_and(|at| at <= now) {
            self.report_at = None;
            self.outputs.push_back(Output::Report);
        }
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let retry = self.retries.first().map(|(at, _)| *at);
        retry.into_iter().chain(self.report_at).min()
    }

    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() && self.in_flight < self.max_writes && self.is_active() {
            for action in self.planner.next_actions() {
                self.push(action);
            }
        }
        self.outputs.pop_front()
    }

    fn push(&mut self, action: Action) {
        self.outputs.push_back(match action {
            Action::Write { key, patch } => {
                self.in_flight += 1;
                Output::Write { key, patch }
            }
            Action::Event { key, uid, event } => Output::ServiceEvent { key, uid, event },
        });
    }

    fn handle_watch(&mut self, now: BootTime, event: WatchEvent) {
        match event {
            WatchEvent::Services(Change::Reset(all)) => {
                all.iter().for_each(|(key, view)| self.note_unallocated(now, key, view));
                // First, so that a Service keeps an address that its node's kubelet reports.
                self.update_reserved(all.iter().flat_map(|(_, view)| view.announced_in_status()).collect());
                self.planner.reset(all);
                self.cache.services_listed = true;
            }
            WatchEvent::Services(Change::Applied((key, view))) => {
                self.note_unallocated(now, &key, &view);
                self.planner.apply(key, view);
            }
            WatchEvent::Services(Change::Deleted((key, _))) => {
                self.planner.remove(&key);
                self.unallocated_since.remove(&key);
                self.backoffs.remove(&key);
            }
            WatchEvent::Pools(change) => self.set_pools(match change {
                Change::Reset(all) => all.into_iter().next().unwrap_or_default(),
                Change::Applied(config) => config,
                Change::Deleted(_) => PoolsConfig::default(),
            }),
            WatchEvent::Nodes(change) => {
                let nodes = self.cache.nodes.get_or_insert_default();
                match change {
                    Change::Reset(all) => {
                        *nodes = all.into_iter().map(|node| (node.name.clone(), node)).collect();
                    }
                    Change::Applied(node) => drop(nodes.insert(node.name.clone(), node)),
                    Change::Deleted(node) => drop(nodes.remove(&node.name)),
                }
                self.update_reserved(self.planner.announced());
            }
            WatchEvent::Namespaces(change) => {
                let namespaces = self.cache.namespaces.get_or_insert_default();
                match change {
                    Change::Reset(all) => *namespaces = all.into_iter().collect(),
                    Change::Applied(name) => drop(namespaces.insert(name)),
                    Change::Deleted(name) => drop(namespaces.remove(&name)),
                }
                self.update_problems();
            }
            WatchEvent::ClusterInfo(change) => {
                self.cache.control_plane = match change {
                    Change::Reset(all) => all.into_iter().next(),
                    Change::Applied(address) => Some(address),
                    Change::Deleted(_) => None,
                };
                self.update_reserved(self.planner.announced());
            }
        }
    }

    fn note_unallocated(&mut self, now: BootTime, key: &ServiceKey, view: &ServiceView) {
        if view.load_balancer && view.annotation(LOAD_BALANCER_IPS).is_none() {
            self.unallocated_since.entry(key.clone()).or_insert(now);
        }
    }

    fn update_reserved(&mut self, announced: BTreeSet<IpAddr>) {
        let nodes = self.cache.nodes.iter().flat_map(BTreeMap::values);
        let reserved = Reserved::new(nodes, self.cache.control_plane).announcing(announced);
        self.planner.set_reserved(reserved);
    }

    fn set_pools(&mut self, config: PoolsConfig) {
        let (pools, problems) = Pools::parse(&config.data, self.planner.pools());
        self.outputs.push_back(Output::PoolsRead { pools: pools.pools.len(), problems: problems.len() });
        self.planner.set_pools(pools);
        self.config_problems = problems;
        self.cache.pools = Some(config);
        self.update_problems();
    }

    fn update_problems(&mut self) {
        let Some(config) = &self.cache.pools else { return };
        let mut all: BTreeSet<Problem> = self.config_problems.iter().cloned().collect();
        if let Some(namespaces) = &self.cache.namespaces {
            all.extend(self.planner.pools().without_namespace(Some(namespaces)));
        }
        let new = all.difference(&self.reported_problems).cloned().collect();
        self.outputs.push_back(Output::Problems { uid: config.uid.clone(), all: all.clone(), new });
        self.reported_problems = all;
    }

    fn handle_written(&mut self, now: BootTime, key: &ServiceKey, version: &str, result: WriteResult) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let status = match result {
            WriteResult::Done(view) => {
                if let Some(since) = self.unallocated_since.remove(key) {
                    self.outputs.push_back(Output::Allocated(now.since(since)));
                }
                self.backoffs.remove(key);
                WriteStatus::Done(view)
            }
            WriteResult::Gone => WriteStatus::Gone,
            WriteResult::Conflict if self.planner.version(key).is_some_and(|known| known != version) => {
                // The version that the write conflicted with is known already.
                self.planner.enqueue(key);
                WriteStatus::Failed
            }
            result @ (WriteResult::Conflict | WriteResult::Refused(_) | WriteResult::Failed(_)) => {
                let backoff = self.backoffs.entry(key.clone());
                let backoff = backoff.or_insert(Backoff::new(BACKOFF_MIN, BACKOFF_MAX));
                self.retries.insert((now + backoff.next_pause(), key.clone()));
                match result {
                    WriteResult::Refused(why) => WriteStatus::Refused(why),
                    _ => WriteStatus::Failed,
                }
            }
        };
        if let Some(action) = self.planner.handle_written(key, status) {
            self.push(action);
        }
    }
}

#[cfg(test)]
mod tests {
    use kube_vip::model::Family;

    use super::*;
    use crate::plan::Class;

    const WEB: &str = "web";

    fn key() -> ServiceKey {
        ServiceKey { namespace: "default".into(), name: WEB.into() }
    }

    fn service(version: &str) -> ServiceView {
        ServiceView {
            load_balancer: true,
            families: vec![Family::V4],
            resource_version: version.into(),
            ..ServiceView::default()
        }
    }

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    fn watched() -> [WatchEvent; 3] {
        let data = [("range-global".to_owned(), "192.0.2.1-192.0.2.9".to_owned())].into();
        [
            WatchEvent::Services(Change::Reset(vec![(key(), service("1"))])),
            WatchEvent::Pools(Change::Reset(vec![PoolsConfig { uid: "u".into(), data }])),
            WatchEvent::Nodes(Change::Reset(Vec::new())),
        ]
    }

    fn session() -> LeaderSession {
        LeaderSession::new(Planner::new(Class::Unnamed), 1)
    }

    fn ready() -> LeaderSession {
        let mut session = session();
        watched().into_iter().for_each(|event| session.handle_input(at(0), Input::Watch(event)));
        session
    }

    /// The patches among all outputs that are due.
    fn writes(session: &mut LeaderSession) -> Vec<Patch> {
        let outputs = std::iter::from_fn(|| session.poll_output());
        let patch = |output| if let Output::Write { patch, .. } = output { Some(patch) } else { None };
        outputs.filter_map(patch).collect()
    }

    fn written(session: &mut LeaderSession, millis: u64, result: WriteResult) {
        session.handle_input(at(millis), Input::Written { key: key(), version: "1".into(), result });
    }

    #[test]
    fn nothing_is_written_until_everything_is_listed() {
        for absent in 0..3 {
            let mut session = session();
            for (index, event) in watched().into_iter().enumerate() {
                if index != absent {
                    session.handle_input(at(0), Input::Watch(event));
                }
            }
            assert_eq!(session.missing().len(), 1);
            assert!(writes(&mut session).is_empty());
        }
        assert_eq!(writes(&mut ready()).len(), 1);
    }

    #[test]
    fn a_stopping_session_starts_no_writes() {
        let mut session = ready();
        session.handle_input(at(0), Input::Stop);
        assert!(writes(&mut session).is_empty());
        assert!(session.is_idle());
    }

    #[test]
    fn writes_in_flight_are_limited() {
        let mut session = ready();
        let second = ServiceKey { name: "web-2".into(), ..key() };
        let event = WatchEvent::Services(Change::Applied((second, service("2"))));
        session.handle_input(at(0), Input::Watch(event));
        assert_eq!(writes(&mut session).len(), 1);
        assert!(!session.is_idle());
        written(&mut session, 1, WriteResult::Gone);
        assert_eq!(writes(&mut session).len(), 1);
    }

    #[test]
    fn failed_writes_back_off_and_conflicts_with_a_known_version_do_not() {
        let mut session = ready();
        let mut now = 0;
        for pause in [100, 200, 400] {
            assert_eq!(writes(&mut session).len(), 1);
            written(&mut session, now, WriteResult::Failed("no answer".into()));
            assert!(writes(&mut session).is_empty());
            now += pause;
            session.handle_timeout(at(now - 1));
            assert!(writes(&mut session).is_empty());
            session.handle_timeout(at(now));
        }
        assert_eq!(writes(&mut session).len(), 1);
        let event = WatchEvent::Services(Change::Applied((key(), service("2"))));
        session.handle_input(at(now), Input::Watch(event));
        written(&mut session, now, WriteResult::Conflict);
        let again = writes(&mut session);
        assert_eq!(again.iter().map(|patch| patch.resource_version.as_str()).collect::<Vec<_>>(), ["2"]);
    }

    /// Otherwise the Service waits for its address without a reason.
    #[test]
    fn a_write_that_the_api_server_refuses_is_reported_once() {
        let mut session = ready();
        let (mut events, mut now) = (Vec::new(), 0);
        for why in ["denied by a policy", "denied by a policy", "forbidden"] {
            assert_eq!(writes(&mut session).len(), 1);
            written(&mut session, now, WriteResult::Refused(why.into()));
            events.extend(std::iter::from_fn(|| session.poll_output()).filter_map(|output| match output {
                Output::ServiceEvent { event: ServiceEvent::Failed(reason), .. } => Some(reason.to_string()),
                _ => None,
            }));
            now += 1000;
            session.handle_timeout(at(now));
        }
        let [policy, forbidden] = &events[..] else { panic!("{events:?}") };
        assert!(
            policy.starts_with("the API server refuses to change the Service: denied by a policy; apply")
        );
        assert!(forbidden.contains("forbidden"), "{forbidden}");
    }

    #[test]
    fn the_time_to_an_address_and_new_problems_are_reported_once() {
        let mut session = ready();
        let _written_to = writes(&mut session);
        let mut view = service("2");
        view.annotations.insert(LOAD_BALANCER_IPS.into(), "192.0.2.1".into());
        written(&mut session, 70, WriteResult::Done(Box::new(view)));
        let outputs: Vec<Output> = std::iter::from_fn(|| session.poll_output()).collect();
        assert!(outputs.contains(&Output::Allocated(Duration::from_millis(70))), "{outputs:?}");
        let data = [("range-nowhere".to_owned(), "192.0.2.7".to_owned())].into();
        let pools = WatchEvent::Pools(Change::Applied(PoolsConfig { uid: "u".into(), data }));
        session.handle_input(at(80), Input::Watch(pools));
        for _ in 0..2 {
            let namespaces = WatchEvent::Namespaces(Change::Reset(vec!["default".into()]));
            session.handle_input(at(80), Input::Watch(namespaces));
        }
        let outputs: Vec<Output> = std::iter::from_fn(|| session.poll_output()).collect();
        let new = outputs.iter().filter_map(|output| match output {
            Output::Problems { new, .. } => Some(new.len()),
            _ => None,
        });
        assert_eq!(new.collect::<Vec<_>>(), [0, 1, 0], "{outputs:?}");
    }
}
