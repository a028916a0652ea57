//! All elections of a process as one state machine: an elector for each Lease, an anycast elector for each group without
//! election.
//!
//! Requests in flight are limited. Claims that are about to end are renewed first, so that a host that wants a thousand
//! Leases at once keeps those that it has; free Leases are acquired before renewals that can wait. The requests of the
//! control plane never wait.
//!
//! Contract: ARCHITECTURE.md, "State machines".

mod leases;
mod schemes;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::Settings;
use super::anycast::{self, AnycastElector};
use super::deadlines::Deadlines;
use super::decide::ObservedLease;
use super::elector::{self, DrainReason, Elector, LeaseRequest, SegmentRequest};
use super::health::Report;
use super::holders::Holders;
use super::host_health::{self, HostHealth, InterfacePolicy};
use super::record::LeaseObject;
use super::scheme::{Gate, OtherSchemes, Permission, Scheme};
use super::watches::{Scope, Watches};
use crate::cluster::watch::Change;
use crate::model::hash::fnv1a;
use crate::model::{BootTime, Candidacy, CandidacyKind, Family, GroupId, Health, Holder, LeaseName, Role};

/// At shutdown the other Leases wait this long for the release of the heartbeat Lease: the remaining members share out
/// this node's groups once they know that it leaves.
const HEARTBEAT_RELEASE_WAIT: Duration = Duration::from_millis(250);
/// With an election for each Service the heartbeat Lease waits this long for the others: no claim outlasts a release, or the
/// attempt, for longer.
const SERVICES_RELEASE_WAIT: Duration = Duration::from_secs(2);
/// Requests in flight, apart from the control plane's.
const MAX_IN_FLIGHT: usize = 24;

/// What all elections have in common.
#[derive(Debug, Clone)]
pub struct Config {
    pub settings: Settings,
    pub interface: InterfacePolicy,
    /// See [`AnycastElector::new`].
    pub hand_over_time: Duration,
    /// None where Services are not elected.
    pub scheme: Option<Scheme>,
}

#[derive(Debug)]
pub enum Input {
    /// Every group, and whether this host is a candidate for it.
    Candidacies(BTreeMap<GroupId, Candidacy>),
    Elector(LeaseName, elector::Input),
    /// Leases that a watch shows.
    Leases(Scope, Change<(LeaseName, Box<LeaseObject>)>),
    /// Health of the local API server, probed by this family or by none in particular.
    Health(Option<Family>, Report),
    InterfaceDown(Option<BootTime>),
    /// Whether an operator drains this node.
    Drain(bool),
    /// Hand over everything and end.
    Stop,
}

#[derive(Debug)]
pub enum Output {
    /// Send a request; the response is an [`elector::Input::Response`].
    Request(LeaseName, LeaseRequest),
    /// Drop the request in flight for this Lease.
    Cancel(LeaseName),
    Segment(GroupId, SegmentRequest),
    /// Watch these Leases; list them again if they are watched already.
    Watch(Scope),
    /// End that watch.
    Unwatch(Scope),
    /// Watch this Lease alone.
    WatchLease(LeaseName),
    /// The watch of this Lease was behind: open it again.
    RestartWatch(LeaseName),
    /// Another process has this host's identity.
    DuplicateIdentity(LeaseName),
    /// Why this host takes over no Services: other nodes elect them by another scheme.
    SchemeProblem(Option<String>),
    /// This host's role in a group; none once it is no candidate any more.
    Role(GroupId, Option<Role>),
    Holders(BTreeMap<LeaseName, Holder>),
    /// Health of this host as the control plane's elections see it.
    Health(Health),
}

#[derive(Debug)]
struct Entry {
    elector: Elector,
    kind: CandidacyKind,
    wanted: bool,
    stopped: bool,
    role: Role,
}

#[derive(Debug)]
pub struct Elections {
    config: Config,
    now: BootTime,
    entries: BTreeMap<LeaseName, Entry>,
    /// Of the electors.
    deadlines: Deadlines,
    anycast: BTreeMap<GroupId, AnycastElector>,
    host: HostHealth,
    /// Health of the local API server as last reported.
    reports: BTreeMap<Option<Family>, Report>,
    holders: Holders,
    watches: Watches,
    /// Where there is a scheme.
    gate: Option<Gate>,
    others: OtherSchemes,
    /// As last reported.
    scheme_problem: Option<String>,
    requests: BTreeMap<LeaseName, LeaseRequest>,
    in_flight: BTreeSet<LeaseName>,
    drained: bool,
    stopping: Option<BootTime>,
    outputs: VecDeque<Output>,
}

impl Elections {
    pub fn new(config: Config) -> Self {
        Self {
            host: HostHealth::new(config.interface),
            gate: config.scheme.as_ref().map(|_| Gate::new(config.settings.lease_duration)),
            others: OtherSchemes::default(),
            scheme_problem: None,
            config,
            now: BootTime::default(),
            entries: BTreeMap::new(),
            deadlines: Deadlines::default(),
            anycast: BTreeMap::new(),
            reports: BTreeMap::new(),
            holders: Holders::default(),
            watches: Watches::default(),
            requests: BTreeMap::new(),
            in_flight: BTreeSet::new(),
            drained: false,
            stopping: None,
            outputs: VecDeque::new(),
        }
    }

    /// What the elector of this Lease has observed.
    pub fn observed(&self, lease: &LeaseName) -> Option<&ObservedLease> {
        self.entries.get(lease).map(|entry| entry.elector.observed())
    }

    pub fn kind(&self, lease: &LeaseName) -> Option<CandidacyKind> {
        self.entries.get(lease).map(|entry| entry.kind)
    }

    /// This host's strongest role in the control plane's groups without election.
    pub fn anycast_control_plane(&self) -> Option<&Role> {
        let groups = self.anycast.iter().filter(|(group, _)| matches!(group, GroupId::ControlPlane(_)));
        groups.map(|(_, elector)| elector.role()).max_by_key(|role| match role {
            Role::Leader(_) => 3,
            Role::HandingOver { .. } => 2,
            Role::Starting => 1,
            Role::Follower { .. } => 0,
        })
    }

    /// The best health of the local API server by any family.
    pub fn api_server_health(&self) -> Health {
        self.reports.values().map(|report| report.local).max().unwrap_or_default()
    }

    /// Whether a stop is complete: every Lease is released, every route withdrawn.
    pub fn is_stopped(&self, now: BootTime) -> bool {
        self.stopping.is_some()
            && self.entries.values().all(|entry| entry.elector.is_stopped(now))
            && self.anycast.values().all(AnycastElector::is_stopped)
    }

    pub fn handle_input(&mut self, now: BootTime, input: Input) {
        self.now = now;
        match input {
            Input::Candidacies(candidacies) => self.set_candidacies(candidacies),
            Input::Elector(lease, input) => {
                if let elector::Input::Response { response, .. } = &input {
                    self.in_flight.remove(&lease);
                    self.observe_response(&lease, response);
                }
                self.input(&lease, input);
            }
            Input::Leases(scope, change) => self.leases_changed(&scope, change),
            Input::Health(family, report) => self.health_changed(family, report),
            Input::InterfaceDown(since) => self.host_input(host_health::Input::InterfaceDown(since)),
            Input::Drain(drained) => self.set_drained(drained),
            Input::Stop => {
                self.stopping.get_or_insert(now);
                for elector in self.anycast.values_mut() {
                    elector.handle_input(now, anycast::Input::Stop);
                }
                self.publish_anycast();
            }
        }
        self.step_gate();
        self.drain_heartbeat();
        self.stop_in_order();
    }

    pub fn handle_timeout(&mut self, now: BootTime) {
        self.now = now;
        if self.holders.next_change().is_some_and(|at| at <= now) {
            self.publish_holders();
        }
        self.host.handle_timeout(now);
        self.apply_host_health();
        for elector in self.anycast.values_mut() {
            elector.handle_timeout(now);
        }
        self.publish_anycast();
        for lease in self.deadlines.due(now) {
            if let Some(entry) = self.entries.get_mut(&lease) {
                entry.elector.handle_timeout(now);
            }
            self.advance(&lease);
        }
        self.step_gate();
        self.drain_heartbeat();
        self.stop_in_order();
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let anycast = self.anycast.values().filter_map(AnycastElector::poll_timeout);
        let waits = [HEARTBEAT_RELEASE_WAIT, SERVICES_RELEASE_WAIT];
        let turn = self
            .stopping
            .and_then(|since| waits.map(|wait| since + wait).into_iter().find(|at| *at > self.now));
        let gate = self.gate.as_ref().filter(|_| self.stopping.is_none()).and_then(Gate::poll_timeout);
        let rest = [self.deadlines.first(), self.holders.next_change(), self.host.poll_timeout(), gate, turn];
        anycast.chain(rest.into_iter().flatten()).min()
    }

    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front().or_else(|| self.next_request())
    }

    fn set_candidacies(&mut self, candidacies: BTreeMap<GroupId, Candidacy>) {
        let mut wanted = BTreeMap::new();
        for (group, candidacy) in candidacies {
            match group {
                GroupId::Lease(lease) => drop(wanted.insert(lease, candidacy)),
                GroupId::ControlPlane(_) | GroupId::EveryNode => self.enter_anycast(group),
            }
        }
        self.watch_leases(&wanted);
        let is_wanted = |lease: &LeaseName| wanted.get(lease).is_some_and(|candidacy| candidacy.eligible);
        let gone: Vec<LeaseName> = self.entries.keys().filter(|lease| !is_wanted(lease)).cloned().collect();
        for lease in gone {
            if let Some(entry) = self.entries.get_mut(&lease) {
                entry.wanted = false;
            }
            self.input(&lease, elector::Input::Drain(DrainReason::NotEligible));
        }
        for (lease, candidacy) in wanted.into_iter().filter(|(_, candidacy)| candidacy.eligible) {
            match self.entries.get_mut(&lease) {
                Some(entry) => {
                    entry.wanted = true;
                    entry.elector.set_delay(candidacy.delay);
                    self.input(&lease, elector::Input::Undrain(DrainReason::NotEligible));
                }
                None => self.enter(lease, candidacy),
            }
        }
    }

    fn enter_anycast(&mut self, group: GroupId) {
        if self.anycast.contains_key(&group) {
            return;
        }
        let health = match group {
            GroupId::ControlPlane(family) => {
                Some(self.reports.get(&family).copied().unwrap_or_default().local)
            }
            GroupId::EveryNode | GroupId::Lease(_) => None,
        };
        let mut elector = AnycastElector::new(health, self.config.hand_over_time, self.now);
        elector.handle_input(self.now, anycast::Input::Drain(self.drained));
        if self.stopping.is_some() {
            elector.handle_input(self.now, anycast::Input::Stop);
        }
        self.anycast.insert(group, elector);
        self.publish_anycast();
    }

    fn enter(&mut self, lease: LeaseName, candidacy: Candidacy) {
        let control_plane = candidacy.kind == CandidacyKind::ControlPlane;
        let common = &self.config.settings;
        let scheme = self.config.scheme.as_ref().filter(|_| !candidacy.kind.is_primary());
        let settings = Settings {
            seed: common.seed ^ fnv1a(lease.to_string().as_bytes()),
            annotations: match control_plane {
                true => common.annotations.clone(),
                false => scheme.map(Scheme::annotation).into_iter().collect(),
            },
            provisional: control_plane,
            resuming: candidacy.resuming,
            ..common.clone()
        };
        let mut elector = Elector::new(settings);
        elector.set_delay(candidacy.delay);
        let role = elector.role(self.now);
        let entry = Entry { elector, kind: candidacy.kind, wanted: true, stopped: false, role };
        let primary = entry.kind.is_primary();
        self.entries.insert(lease.clone(), entry);
        self.apply_gate(&lease);
        if self.drained {
            self.input(&lease, elector::Input::Drain(DrainReason::Operator));
        }
        if control_plane {
            let report = self.reports.get(&None).copied().unwrap_or_default();
            self.input(&lease, elector::Input::Health(report));
        } else if self.host.services_drained() && !primary {
            self.input(&lease, elector::Input::Drain(DrainReason::InterfaceDown));
        }
        if primary {
            self.outputs.push_back(Output::WatchLease(lease.clone()));
        } else if let Some(scope) = self.watches.of(&lease) {
            let known = self.holders.lease(&lease).cloned();
            if scope.is_complete() || known.as_ref().is_some_and(LeaseObject::is_labelled) {
                self.input(&lease, elector::Input::Watching(true));
            }
            // What is not known here is read.
            if let Some(object) = known {
                self.input(&lease, elector::Input::Watched(Box::new(object)));
            }
        }
        self.publish(&lease);
    }

    fn set_drained(&mut self, drained: bool) {
        self.drained = drained;
        for lease in self.leases_where(|_| true) {
            self.drain(&lease, DrainReason::Operator, drained);
        }
        for elector in self.anycast.values_mut() {
            elector.handle_input(self.now, anycast::Input::Drain(drained));
        }
        self.publish_anycast();
    }

    fn drain(&mut self, lease: &LeaseName, reason: DrainReason, drained: bool) {
        if drained && self.kind(lease) == Some(CandidacyKind::Heartbeat) && self.needs_heartbeat() {
            return;
        }
        self.input(
            lease,
            if drained { elector::Input::Drain(reason) } else { elector::Input::Undrain(reason) },
        );
    }

    /// Drains a heartbeat that was needed when the reason arose.
    fn drain_heartbeat(&mut self) {
        let member = self.config.scheme.as_ref().and_then(|scheme| scheme.member.as_ref());
        let leads = |entry: &Entry| matches!(entry.role, Role::Leader(_));
        let Some(member) = member.filter(|member| self.entries.get(*member).is_some_and(leads)).cloned()
        else {
            return;
        };
        let waiting = self.gate.as_ref().is_some_and(|gate| gate.permission() == Permission::Waiting);
        let reasons = [
            (DrainReason::Operator, self.drained),
            (DrainReason::InterfaceDown, self.host.services_drained()),
            (DrainReason::OtherScheme, waiting),
        ];
        for reason in reasons.into_iter().filter(|(_, drained)| *drained).map(|(reason, _)| reason) {
            self.drain(&member, reason, true);
        }
    }

    /// The heartbeat Lease is released first, see [`HEARTBEAT_RELEASE_WAIT`]; with an election for each Service last.
    fn stop_in_order(&mut self) {
        let Some(since) = self.stopping else { return };
        let mut heartbeats = self.entries.values().filter(|entry| entry.kind == CandidacyKind::Heartbeat);
        let services_may_stop = self.config.scheme.as_ref().is_some_and(Scheme::is_shown_by_heartbeat_alone)
            || self.now >= since + HEARTBEAT_RELEASE_WAIT
            || heartbeats.all(|entry| entry.elector.is_idle());
        let heartbeat_may_stop = self.now >= since + SERVICES_RELEASE_WAIT || !self.needs_heartbeat();
        let may_stop = |kind| match kind {
            CandidacyKind::Services => services_may_stop,
            CandidacyKind::Heartbeat => heartbeat_may_stop,
            CandidacyKind::ControlPlane | CandidacyKind::Controller => true,
        };
        for lease in self.leases_where(|entry| !entry.stopped && may_stop(entry.kind)) {
            if let Some(entry) = self.entries.get_mut(&lease) {
                entry.stopped = true;
            }
            self.input(&lease, elector::Input::Stop);
        }
    }

    fn health_changed(&mut self, family: Option<Family>, report: Report) {
        self.reports.insert(family, report);
        if let Some(elector) = self.anycast.get_mut(&GroupId::ControlPlane(family)) {
            elector.handle_input(self.now, anycast::Input::Health(report.local));
            self.publish_anycast();
            self.outputs.push_back(Output::Health(self.api_server_health()));
        } else {
            self.host_input(host_health::Input::ApiServer(report));
            self.outputs.push_back(Output::Health(self.host.health()));
        }
    }

    fn host_input(&mut self, input: host_health::Input) {
        self.host.handle_input(self.now, input);
        self.apply_host_health();
    }

    fn apply_host_health(&mut self) {
        while let Some(output) = self.host.poll_output() {
            match output {
                host_health::Output::Health(report) => {
                    for lease in self.leases_where(|entry| entry.kind == CandidacyKind::ControlPlane) {
                        self.input(&lease, elector::Input::Health(report));
                    }
                    self.outputs.push_back(Output::Health(report.local));
                }
                host_health::Output::DrainControlPlane(drained) => {
                    for lease in self.leases_where(|entry| entry.kind == CandidacyKind::ControlPlane) {
                        self.drain(&lease, DrainReason::InterfaceDown, drained);
                    }
                }
                host_health::Output::DrainServices(drained) => {
                    for lease in self.leases_where(|entry| !entry.kind.is_primary()) {
                        self.drain(&lease, DrainReason::InterfaceDown, drained);
                    }
                }
            }
        }
    }

    fn publish_holders(&mut self) {
        self.compare_schemes();
        let holders = self.holders.current(&self.config.settings, self.now);
        self.outputs.push_back(Output::Holders(holders));
    }

    fn publish_anycast(&mut self) {
        for (group, elector) in &mut self.anycast {
            if let Some(role) = elector.poll_output() {
                self.outputs.push_back(Output::Role(group.clone(), Some(role)));
            }
        }
    }

    fn leases_where(&self, is_due: impl Fn(&Entry) -> bool) -> Vec<LeaseName> {
        let due = self.entries.iter().filter(|(_, entry)| is_due(entry));
        due.map(|(lease, _)| lease.clone()).collect()
    }

    fn input(&mut self, lease: &LeaseName, input: elector::Input) {
        let Some(entry) = self.entries.get_mut(lease) else { return };
        entry.elector.handle_input(self.now, input);
        self.advance(lease);
    }

    fn advance(&mut self, lease: &LeaseName) {
        let Some(entry) = self.entries.get_mut(lease) else { return };
        let kind = entry.kind;
        let mut unclaimed = false;
        while let Some(output) = entry.elector.poll_output() {
            match output {
                // No address depends on the election of a controller.
                elector::Output::Segment(request) if kind == CandidacyKind::Controller => {
                    unclaimed |= request == SegmentRequest::Probe;
                }
                elector::Output::Request(request) => drop(self.requests.insert(lease.clone(), request)),
                elector::Output::Cancel => {
                    self.requests.remove(lease);
                    if self.in_flight.remove(lease) {
                        self.outputs.push_back(Output::Cancel(lease.clone()));
                    }
                }
                elector::Output::Segment(request) => {
                    self.outputs.push_back(Output::Segment(lease.clone().into(), request));
                }
                elector::Output::RestartWatch if kind.is_primary() => {
                    self.outputs.push_back(Output::RestartWatch(lease.clone()));
                }
                elector::Output::DuplicateIdentity => {
                    self.outputs.push_back(Output::DuplicateIdentity(lease.clone()));
                }
                // A watch of many Leases serves others, too.
                elector::Output::RestartWatch => {}
            }
        }
        if unclaimed {
            return self.input(lease, elector::Input::Probed { taken: false });
        }
        self.publish(lease);
    }

    fn publish(&mut self, lease: &LeaseName) {
        let Some(entry) = self.entries.get_mut(lease) else { return };
        let role = entry.elector.role(self.now);
        let over = !entry.wanted
            && matches!(role, Role::Follower { .. } | Role::Starting)
            && entry.elector.is_idle();
        if std::mem::replace(&mut entry.role, role.clone()) != role || entry.kind.is_primary() {
            self.outputs.push_back(Output::Role(lease.clone().into(), Some(role)));
        }
        let deadline = if over { None } else { entry.elector.poll_timeout() };
        self.deadlines.set(lease, deadline);
        if over {
            self.entries.remove(lease);
            self.outputs.push_back(Output::Role(lease.clone().into(), None));
        }
    }

    /// The most urgent request, if there is room for it.
    fn next_request(&mut self) -> Option<Output> {
        let soon = self.now + self.config.settings.renew_deadline / 2;
        let lease = self.requests.keys().min_by_key(|lease| urgency(self.entries.get(*lease), soon))?.clone();
        let first = self.entries.get(&lease).is_some_and(|entry| entry.kind.is_primary());
        if !first && self.in_flight.len() >= MAX_IN_FLIGHT {
            return None;
        }
        let request = self.requests.remove(&lease)?;
        self.in_flight.insert(lease.clone());
        Some(Output::Request(lease, request))
    }
}

/// The purpose of a request, most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    ControlPlane,
    /// A claim that ends soon, or a release that a successor waits for.
    Keep,
    /// A free Lease.
    Acquire,
    /// A claim that is valid for a while.
    Renew,
}

/// The order of requests: the least first. Claims that end by `soon` must be renewed at once.
fn urgency(entry: Option<&Entry>, soon: BootTime) -> (Purpose, BootTime) {
    let Some(entry) = entry else { return (Purpose::Acquire, BootTime::default()) };
    if entry.kind.is_primary() {
        return (Purpose::ControlPlane, BootTime::default());
    }
    match &entry.role {
        Role::HandingOver { until } => (Purpose::Keep, *until),
        Role::Leader(claim) if claim.valid_until <= soon => (Purpose::Keep, claim.valid_until),
        Role::Leader(claim) => (Purpose::Renew, claim.valid_until),
        Role::Follower { .. } | Role::Starting => (Purpose::Acquire, BootTime::default()),
    }
}
