//! The main loop: reads the kernel, compares it with the desired state, and executes the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::desired::{DRAIN_TAIL, Inputs, desired};
use super::diff::{self, Action, Actual};
use super::interfaces::Interfaces;
use super::neighbours::{Detectors, lasting_conflicts};
use super::reporter::{HeldAddress, Reporter};
use crate::announce::schedule::{self, Schedule};
use crate::conflict::NeighborFrame;
use crate::election::elections::Input;
use crate::election::elector::SegmentRequest;
use crate::host::HostWatch;
use crate::model::AdvertisedRoutes;
use crate::model::HostStatus;
use crate::model::Role;
use crate::model::{BootTime, GroupId, IfIndex, Interface, PlacementError, Prefix, Roles, Vip, VipPlan};
use crate::net::clock::{self, Timer};
use crate::net::netlink::{Hold, NetlinkError, NetlinkWriter, Scope};
use crate::net::{nft, sysctl};
use crate::watch_ext;

/// The interval of reconciliation without an event.
const RESYNC: Duration = Duration::from_secs(30);
/// The delay before a failed action is repeated.
const RETRY: Duration = Duration::from_millis(200);
/// Reconciliation may use at most 1/SHARE of the time: with thousands of addresses each run is expensive.
const SHARE: u32 = 5;

/// How this host holds addresses.
#[derive(Debug, Clone)]
pub struct Options {
    /// The main interface's name: others may be better when it is down.
    pub interface: String,
    /// See [`Inputs::preserve`].
    pub preserve: bool,
    /// Do not probe for IPv6 addresses.
    pub skip_dad: bool,
    /// Global scope on `lo`.
    pub lo_global: bool,
    /// Time between announcements after the burst.
    pub refresh: Duration,
    /// Addresses are advertised as routes and not announced on their segment.
    pub quiet: bool,
    /// This process announces Services: routes are complete once they are listed.
    pub services: bool,
    /// See [`Inputs::aggregates`].
    pub aggregates: Vec<Prefix>,
    /// Groups whose addresses are listened for even while other hosts hold them.
    pub control_plane: Vec<GroupId>,
}

/// What flows into the loop and out of it.
#[derive(Debug)]
pub struct Channels {
    pub plan: watch::Receiver<Arc<VipPlan>>,
    /// The loop ends when the elections do.
    pub roles: watch::Receiver<Roles>,
    /// Requests of the elections.
    pub segment: mpsc::Receiver<(GroupId, SegmentRequest)>,
    pub elections: mpsc::Sender<Input>,
    /// Since when the main interface is down, if it is.
    pub interface_down: watch::Sender<Option<BootTime>>,
    /// The result of reconciliation.
    pub outcome: watch::Sender<HostStatus>,
    /// Routes to advertise.
    pub announced: watch::Sender<AdvertisedRoutes>,
}

/// The main loop and its memory.
#[derive(Debug)]
pub struct Driver {
    pub(super) options: Options,
    pub(super) channels: Channels,
    pub(super) reporter: Arc<Reporter>,
    pub(super) netlink: NetlinkWriter,
    host: HostWatch,
    pub(super) interfaces: Interfaces,
    /// The main interface, as last seen.
    interface: Option<Interface>,
    /// Where each group's addresses go on this host.
    pub(super) placed: BTreeMap<GroupId, BTreeSet<(IfIndex, Vip)>>,
    /// Whose an address is.
    pub(super) owners: BTreeMap<IpAddr, GroupId>,
    pub(super) schedule: Schedule,
    /// Detectors of groups whose election waits for the verdict.
    pub(super) probes: BTreeMap<GroupId, Detectors>,
    /// What the plan has to know besides the kernel's report.
    pub(super) memory: Actual,
    pub(super) succeeded: BTreeSet<IpAddr>,
    /// Detectors of addresses that are new to the cluster, or that another host announced while this host holds them.
    pub(super) detectors: Detectors,
    /// Hosts that announce addresses held here, each with the end of the report.
    pub(super) conflicts: BTreeMap<IpAddr, (String, BootTime)>,
    pub(super) blocked: BTreeMap<IpAddr, String>,
    published: bool,
    /// Reconciliation is due.
    pub(super) dirty: bool,
    /// Not before this moment.
    not_before: BootTime,
    /// When to reconcile again because an action failed.
    retry_at: Option<BootTime>,
    /// The error logged last, so that a lasting one is logged once.
    last_error: Option<String>,
}

enum Wake {
    Look,
    HostChanged,
    Frame(IfIndex, NeighborFrame),
    SocketFailed(IfIndex, std::io::Error),
    Segment(GroupId, SegmentRequest),
    Deadline,
    Closed,
}

impl Driver {
    /// A loop that has not begun.
    pub fn new(
        options: Options,
        channels: Channels,
        reporter: Arc<Reporter>,
        netlink: NetlinkWriter,
        host: HostWatch,
    ) -> Self {
        Self {
            schedule: Schedule::new(options.refresh),
            options,
            channels,
            reporter,
            netlink,
            host,
            interfaces: Interfaces::default(),
            interface: None,
            placed: BTreeMap::new(),
            owners: BTreeMap::new(),
            probes: BTreeMap::new(),
            memory: Actual::default(),
            succeeded: BTreeSet::new(),
            detectors: Detectors::new(),
            conflicts: BTreeMap::new(),
            blocked: BTreeMap::new(),
            published: false,
            dirty: true,
            not_before: BootTime::default(),
            retry_at: None,
            last_error: None,
        }
    }

    /// Run until the elections end; then remove what is still held.
    ///
    /// # Errors
    /// If the kernel gives us no timer.
    pub async fn run(mut self) -> std::io::Result<()> {
        let mut timer = Timer::new()?;
        // An earlier process may have been killed while it handed over.
        if let Err(error) = nft::clear() {
            tracing::debug!(%error, "the kernel's nftables cannot be used");
        }
        self.update_interfaces();
        let mut resync_at = clock::now() + RESYNC;
        loop {
            if self.dirty && clock::now() >= self.not_before {
                self.reconcile(None);
            }
            self.send_due_announcements();
            self.receive_before_verdicts().await;
            self.step_detectors();
            self.reporter.heartbeat(clock::now());
            let deadline = self.poll_timeout().min(resync_at);
            match self.wait(&mut timer, deadline).await {
                Wake::Look => self.dirty = true,
                Wake::HostChanged => self.update_interfaces(),
                Wake::Frame(interface, frame) => self.dirty |= self.handle_frame(interface, &frame),
                Wake::SocketFailed(interface, error) => {
                    self.report(&format!("a packet socket failed: {error}"));
                    self.interfaces.close(interface);
                    self.update_interfaces();
                    tokio::time::sleep(RETRY).await;
                }
                Wake::Segment(group, request) => self.handle_segment_request(group, request),
                Wake::Deadline => {
                    let now = clock::now();
                    if now >= resync_at {
                        resync_at = now + RESYNC;
                        self.update_interfaces();
                    }
                    self.dirty |= self.role_deadline().is_some_and(|at| now >= at)
                        || self.retry_at.is_some_and(|at| now >= at);
                }
                Wake::Closed => break,
            }
        }
        // An interface can go when its addresses have gone.
        for _ in 0..2 {
            self.reconcile(Some(Arc::new(VipPlan { complete: true, ..VipPlan::default() })));
        }
        Ok(())
    }

    async fn wait(&mut self, timer: &mut Timer, deadline: BootTime) -> Wake {
        let frame = self.interfaces.next_frame();
        tokio::select! {
            biased;
            changed = self.channels.roles.changed() => if changed.is_ok() { Wake::Look } else { Wake::Closed },
            Ok(()) = self.channels.plan.changed() => Wake::Look,
            changed = self.host.changed() => if changed.is_ok() { Wake::HostChanged } else { Wake::Closed },
            Some((group, request)) = self.channels.segment.recv() => Wake::Segment(group, request),
            () = timer.until(Some(deadline)) => Wake::Deadline,
            (interface, frame) = frame => match frame {
                Ok(frame) => Wake::Frame(interface, frame),
                Err(error) => Wake::SocketFailed(interface, error),
            },
        }
    }

    pub(super) fn role(&self, group: &GroupId) -> Role {
        self.channels.plan.borrow().role(group, &self.channels.roles.borrow()).clone()
    }

    /// When the roles by themselves change what is desired.
    fn role_deadline(&self) -> Option<BootTime> {
        let now = clock::now();
        let plan = self.channels.plan.borrow();
        let roles = self.channels.roles.borrow();
        let roles = plan.groups.keys().map(|group| plan.role(group, &roles));
        let deadlines = roles.filter_map(|role| match role {
            Role::Leader(claim) => Some(claim.valid_until),
            Role::HandingOver { until } if now + DRAIN_TAIL < *until => Some(*until - DRAIN_TAIL),
            Role::HandingOver { until } => Some(*until),
            Role::Follower { fence_until, .. } => *fence_until,
            Role::Starting => None,
        });
        deadlines.filter(|at| *at > now || !self.schedule.is_empty()).min()
    }

    fn poll_timeout(&self) -> BootTime {
        let detectors = self.probes.values().flatten().chain(&self.detectors);
        let detectors = detectors.filter_map(|(_, detector)| detector.poll_timeout()).min();
        let look = self.dirty.then_some(self.not_before);
        let all = [self.schedule.poll_timeout(), detectors, self.role_deadline(), self.retry_at, look];
        all.into_iter().flatten().min().unwrap_or(clock::now() + RESYNC)
    }

    /// Compares the host with the plan and the roles, and applies the difference. `last` replaces the plan at the end.
    fn reconcile(&mut self, last: Option<Arc<VipPlan>>) {
        let began = clock::now();
        self.retry_at = None;
        self.dirty = false;
        match self.netlink.addresses() {
            Ok(addresses) => self.memory.addresses = addresses,
            Err(error) => return self.failed(&error),
        }
        self.interfaces.learn(&self.memory.addresses);
        let plan = last.unwrap_or_else(|| self.channels.plan.borrow_and_update().clone());
        let roles = self.channels.roles.borrow_and_update().clone();
        self.place(&plan, &roles);
        let leaving = plan.groups.iter().filter(|(group, _)| is_handing_over(plan.role(group, &roles)));
        let leaving: BTreeSet<IpAddr> =
            leaving.flat_map(|(_, group)| &group.addresses).map(|spec| spec.address).collect();
        self.succeeded.retain(|address| leaving.contains(address));
        self.memory.announcing = self.schedule.targets();
        let now = clock::now();
        let mut desired = desired(&self.inputs(&plan, &roles), now);
        if !self.options.quiet {
            self.admit(&mut desired, &plan.unverified);
        }
        // Routes are withdrawn before their addresses go, and advertised after they have come.
        self.withdraw(&desired.routes);
        let steps = diff::plan(&desired, &self.memory, now);
        let foreign: BTreeSet<Vip> = steps.foreign.iter().map(|(_, vip)| *vip).collect();
        let mut changed =
            steps.actions.iter().any(|action| !matches!(action, Action::Hold { missing: false, .. }));
        self.perform(steps.actions);
        // A route that is missing only because a role is not known yet is not withdrawn.
        let decided = plan.groups.keys().all(|group| *plan.role(group, &roles) != Role::Starting);
        let complete = decided && (plan.complete || !self.options.services);
        changed |= self.advertise(desired.routes, plan.known.clone(), complete);
        if changed
            || !foreign.is_empty()
            || !self.published
            || self.blocked != self.channels.outcome.borrow().blocked
            || self.conflicts.len() != self.channels.outcome.borrow().conflicts.len()
        {
            self.publish(&foreign);
        }
        self.send_due_announcements();
        let took = clock::now().since(began);
        self.not_before = if self.owners.len() > 1 { clock::now() + took * (SHARE - 1) } else { began };
    }

    fn inputs(&self, plan: &VipPlan, roles: &Roles) -> Inputs {
        let groups = plan.groups.iter().map(|(group, of_group)| (group, plan.role(group, roles), of_group));
        let placed = |group| self.placed.get(group).cloned().unwrap_or_default();
        let routes = groups.clone().filter(|(.., of_group)| !of_group.routes.is_empty());
        Inputs {
            groups: groups.map(|(group, role, _)| (role.clone(), placed(group))).collect(),
            routes: routes.map(|(_, role, of_group)| (role.clone(), of_group.routes.clone())).collect(),
            aggregates: self.options.aggregates.clone(),
            succeeded: self.succeeded.clone(),
            preserve: self.options.preserve,
            quiet: self.options.quiet,
        }
    }

    /// Resolves the interface of every address in the plan, and creates and removes managed interfaces.
    fn place(&mut self, plan: &VipPlan, roles: &Roles) {
        let now = clock::now();
        let mut missing = BTreeMap::new();
        self.placed.clear();
        self.owners.clear();
        self.blocked.clear();
        self.conflicts.retain(|_, (_, until)| now < *until);
        self.remove_interfaces(plan, roles);
        for (name, group) in &plan.groups {
            let leads = plan.role(name, roles).claim(now).is_some();
            for spec in &group.addresses {
                match spec.resolve(self.interfaces.all(), &self.memory.addresses) {
                    Ok(target) => drop(self.placed.entry(name.clone()).or_default().insert(target)),
                    Err(error) if !leads => drop(error),
                    Err(PlacementError::NotCreated { interface, parent }) => {
                        missing.insert(interface, (parent, Some(spec.address)));
                    }
                    Err(error) => drop(self.blocked.insert(spec.address, error.to_string())),
                }
                self.owners.insert(spec.address, name.clone());
            }
            for interface in group.interfaces.iter().filter(|_| leads) {
                let named = |name: &str| self.interfaces.all().iter().find(|found| found.name == name);
                if let (None, Some(parent)) = (named(&interface.name()), named(interface.parent())) {
                    missing.entry(interface.clone()).or_insert((parent.index, None));
                }
            }
        }
        self.make_interfaces(missing);
        let present: BTreeSet<IpAddr> =
            self.memory.addresses.iter().map(|address| address.vip.address).collect();
        self.memory.managed.retain(|address| present.contains(address));
        self.memory.managed.extend(self.owners.keys().copied());
        if !self.options.quiet {
            self.open_interfaces();
        }
    }

    fn open_interfaces(&mut self) {
        let mut opened = BTreeSet::new();
        let mut failure = None;
        for (name, targets) in &self.placed {
            let listen = self.options.control_plane.contains(name);
            for (interface, vip) in targets {
                match self.interfaces.carry(*interface, vip.address, listen) {
                    Ok(fresh) => opened.extend(fresh.then_some(*interface)),
                    Err(error) => failure = Some(error),
                }
            }
        }
        let side = |interface: &&Interface| {
            opened.contains(&interface.index) && interface.name != self.options.interface
        };
        for interface in
            self.interfaces.all().iter().filter(side).filter(|interface| interface.has_neighbours())
        {
            if interface.reverse_path.max(sysctl::reverse_path_for_all()) == 1 {
                tracing::warn!(
                    interface = interface.name,
                    "reverse path filtering is strict: packets of clients that this host answers by another interface are \
                     dropped; set net.ipv4.conf.{}.rp_filter to 2",
                    interface.name
                );
            }
        }
        if !opened.is_empty() {
            self.schedule.handle_input(clock::now(), schedule::Input::Restart);
        }
        if let Some(error) = failure {
            self.retry_at = Some(clock::now() + RETRY);
            self.report(&error.to_string());
        }
    }

    /// Carry out the steps, kind by kind: the plan has them in this order, and those of one kind go side by side.
    fn perform(&mut self, actions: Vec<Action>) {
        let now = clock::now();
        let (mut silences, mut removals, mut unsilences) = (Vec::new(), Vec::new(), Vec::new());
        let (mut holds, mut announcements) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Withdraw { interface, address } => {
                    self.schedule.handle_input(now, schedule::Input::Stop((interface, address)));
                }
                Action::Suppress { address, .. } => silences.push(address),
                Action::Remove { interface, vip } => removals.push((interface, vip)),
                Action::Unsuppress { address } => unsilences.push(address),
                Action::Hold { interface, vip, seconds, until, missing } => {
                    let hold = Hold { interface, vip, seconds, scope: self.scope(interface) };
                    holds.push((hold, until, missing));
                }
                Action::Announce { interface, address } => announcements.push((interface, address)),
            }
        }
        if let Err(error) = nft::suppress_replies(&silences) {
            tracing::debug!(%error, "the kernel cannot be kept from answering");
        }
        self.memory.suppressed.extend(silences);
        self.remove(&removals);
        if let Err(error) = nft::restore_replies(&unsilences) {
            tracing::debug!(%error, "the kernel cannot be told to answer");
        }
        self.memory.suppressed.retain(|address| !unsilences.contains(address));
        self.hold(holds);
        let now = clock::now();
        for target in announcements {
            self.schedule.handle_input(now, schedule::Input::Start(target));
        }
    }

    fn remove(&mut self, removals: &[(IfIndex, Vip)]) {
        for ((interface, vip), outcome) in removals.iter().zip(self.netlink.remove(removals)) {
            match outcome {
                Ok(()) => {
                    self.memory.fences.remove(&(*interface, *vip));
                    self.reporter.address_removed(*vip, &self.interfaces.name(*interface));
                }
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Put addresses on interfaces, each with the moment at which the kernel drops it, and whether it was missing.
    fn hold(&mut self, holds: Vec<(Hold, BootTime, bool)>) {
        let requests: Vec<Hold> = holds.iter().map(|(hold, ..)| *hold).collect();
        for ((hold, until, missing), outcome) in holds.into_iter().zip(self.netlink.hold(&requests)) {
            match outcome {
                Ok(()) => {
                    let before = self.memory.fences.insert((hold.interface, hold.vip), until);
                    if missing {
                        let repaired = before.is_some_and(|before| clock::now() < before);
                        self.reporter.address_added(
                            hold.vip,
                            &self.interfaces.name(hold.interface),
                            repaired,
                        );
                    }
                }
                Err(error) => self.failed(&error),
            }
        }
    }

    fn scope(&self, interface: IfIndex) -> Scope {
        let host = !self.options.lo_global && self.interfaces.name(interface) == "lo";
        if host { Scope::Host } else { Scope::Global }
    }

    pub(super) fn failed(&mut self, error: &NetlinkError) {
        self.retry_at = Some(clock::now() + RETRY);
        self.report(&error.to_string());
    }

    fn report(&mut self, error: &str) {
        if self.last_error.as_deref() != Some(error) {
            tracing::error!("{error}; trying again");
            self.last_error = Some(error.to_owned());
        }
    }

    /// Publishes the held addresses, and what blocks others.
    fn publish(&mut self, foreign: &BTreeSet<Vip>) {
        self.published = true;
        let announcing = self.schedule.targets();
        let held = self.memory.fences.keys().map(|(interface, vip)| HeldAddress {
            address: vip.to_string(),
            interface: self.interfaces.name(*interface),
            announced: announcing.contains(&(*interface, vip.address)),
        });
        self.reporter.held(held.collect(), foreign);
        let mut blocked = self.blocked.clone();
        for vip in foreign {
            blocked.insert(
                vip.address,
                format!("{} is configured on this host by another program", vip.address),
            );
        }
        let routes = self.channels.announced.borrow().routes.clone();
        let hosts = routes.keys().filter(|prefix| **prefix == Prefix::host(prefix.address));
        let held = announcing.into_iter().map(|(_, address)| address);
        let held = held.chain(hosts.map(|prefix| prefix.address)).collect();
        let conflicts = self.conflicts.iter().map(|(address, (text, _))| (*address, text.clone())).collect();
        let taken = lasting_conflicts(&self.detectors).map(|((_, address), _)| address).collect();
        let outcome = HostStatus { held, blocked, conflicts, taken };
        watch_ext::set(&self.channels.outcome, outcome);
    }

    fn send_due_announcements(&mut self) {
        let now = clock::now();
        self.schedule.handle_timeout(now);
        while let Some((interface, address)) = self.schedule.poll_output() {
            // The claim is checked where it is used: a process that was stopped for a while wakes up right here.
            let owner = self.owners.get(&address);
            if owner.is_some_and(|group| self.role(group).claim(now).is_some()) {
                self.announce(interface, address);
            }
        }
    }

    pub(super) fn announce(&mut self, interface: IfIndex, address: IpAddr) {
        match self.interfaces.announce(interface, address) {
            Ok(()) => {
                self.reporter.announced(address);
                self.last_error = None;
            }
            Err(error) => {
                let text =
                    format!("cannot announce {address} on {}: {error}", self.interfaces.name(interface));
                self.report(&text);
            }
        }
    }

    fn update_interfaces(&mut self) {
        self.dirty = true;
        let interfaces = self.host.borrow_and_update().interfaces.clone();
        self.interfaces.set(interfaces);
        let now = clock::now();
        let found = self.interfaces.by_name(&self.options.interface);
        self.log_interface_change(found.as_ref());
        let came_up = found.as_ref().is_some_and(|interface| interface.up)
            && self.channels.interface_down.borrow().is_some();
        let down = found.as_ref().is_none_or(|interface| !interface.up);
        self.channels.interface_down.send_if_modified(|since| {
            let before = *since;
            *since = if down { before.or(Some(now)) } else { None };
            before != *since
        });
        if came_up {
            self.schedule.handle_input(now, schedule::Input::Restart);
        }
        self.interface = found;
    }

    fn log_interface_change(&self, found: Option<&Interface>) {
        match (&self.interface, found) {
            (Some(old), Some(new)) if old.up != new.up => {
                tracing::warn!(interface = new.name, up = new.up, "the interface changed its state");
            }
            (Some(old), None) => tracing::error!(interface = old.name, "the interface is gone"),
            (None, Some(new)) => tracing::info!(interface = new.name, up = new.up, "using the interface"),
            _ => {}
        }
    }
}

fn is_handing_over(role: &Role) -> bool {
    matches!(role, Role::HandingOver { .. })
}
