//! The main loop: reads the kernel, compares it with the desired state, and executes the difference.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

pub use super::channels::{Channels, Options};
use super::desired::{Inputs, PlacedGroup, desired, next_change};
use super::diff::{self, Action, Actual};
use super::interfaces::Interfaces;
use super::moves::Moves;
use super::neighbours::Detectors;
use super::placement::{Placement, adopt, place};
use super::reporter::Reporter;
use crate::announce::schedule::{Schedule, Target};
use crate::conflict::NeighborFrame;
use crate::election::elector::SegmentRequest;
use crate::host::HostWatch;
use crate::model::{
    AdvertisedRoutes, BootTime, GroupId, IfIndex, Interface, LogOnChange, Role, Roles, Vip, VipPlan,
};
use crate::net::clock::{self, Timer};
use crate::net::netlink::NetlinkWriter;
use crate::net::nft;
use crate::watch_ext;

/// The interval of reconciliation without an event.
const RESYNC: Duration = Duration::from_secs(30);
/// The delay before a failed action is repeated.
pub(super) const RETRY: Duration = Duration::from_millis(200);
/// The longest pause between two runs: with thousands of addresses each run is expensive. Less than the hand-over window, in
/// which an address has to go once its successor has it.
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// The main loop and its state.
#[derive(Debug)]
pub struct Driver {
    pub(super) options: Options,
    pub(super) channels: Channels,
    pub(super) reporter: Arc<Reporter>,
    pub(super) netlink: NetlinkWriter,
    pub(super) host: HostWatch,
    pub(super) interfaces: Interfaces,
    /// The main interface, as last observed.
    pub(super) interface: Option<Interface>,
    pub(super) placement: Placement,
    pub(super) schedule: Schedule,
    /// Detectors of groups whose election waits for the verdict.
    pub(super) probes: BTreeMap<GroupId, Detectors>,
    /// Who answers for addresses of groups whose last probe found them in use, by hardware address.
    pub(super) answers: BTreeMap<GroupId, BTreeSet<(Target, Vec<u8>)>>,
    pub(super) actual: Actual,
    /// Addresses that a successor announced during a hand-over.
    pub(super) succeeded: BTreeSet<IpAddr>,
    /// Detectors of addresses that are new to the cluster, have moved, or were announced by another host while held here.
    pub(super) detectors: Detectors,
    pub(super) moves: Moves,
    /// Hosts that announce addresses held here, each with the end of the report.
    pub(super) conflicts: BTreeMap<IpAddr, (String, BootTime)>,
    pub(super) published: bool,
    /// Reconciliation is due.
    pub(super) dirty: bool,
    not_before: BootTime,
    /// When the desired state of the last reconciliation changes by itself.
    next_change: Option<BootTime>,
    /// When to reconcile again because an action failed.
    pub(super) retry_at: Option<BootTime>,
    pub(super) problem: LogOnChange,
    /// Why replies cannot be suppressed.
    pub(super) suppression: LogOnChange,
}

enum Wake {
    PlanChanged,
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
        let actual = Actual::at_start(&host.borrow().addresses);
        Self {
            schedule: Schedule::new(options.refresh),
            options,
            channels,
            reporter,
            netlink,
            host,
            interfaces: Interfaces::default(),
            interface: None,
            placement: Placement::default(),
            probes: BTreeMap::new(),
            answers: BTreeMap::new(),
            actual,
            succeeded: BTreeSet::new(),
            detectors: Detectors::new(),
            moves: Moves::default(),
            conflicts: BTreeMap::new(),
            published: false,
            dirty: true,
            not_before: BootTime::default(),
            next_change: None,
            retry_at: None,
            problem: LogOnChange::default(),
            suppression: LogOnChange::default(),
        }
    }

    /// Run until the elections end; then remove what is still held.
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
                Wake::PlanChanged => self.dirty = true,
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
                    self.dirty |= [self.next_change, self.retry_at].into_iter().flatten().any(|at| now >= at);
                }
                Wake::Closed => break,
            }
        }
        // An interface can go when its addresses have gone; all clients keep their leases.
        self.channels.dhcp_links = watch::channel(BTreeSet::new()).1;
        for _ in 0..2 {
            self.reconcile(Some(Arc::new(VipPlan { complete: true, ..VipPlan::default() })));
        }
        Ok(())
    }

    async fn wait(&mut self, timer: &mut Timer, deadline: BootTime) -> Wake {
        let frame = self.interfaces.next_frame();
        tokio::select! {
            biased;
            changed = self.channels.roles.changed() => if changed.is_ok() { Wake::PlanChanged } else { Wake::Closed },
            Ok(()) = self.channels.plan.changed() => Wake::PlanChanged,
            Ok(()) = self.channels.dhcp_links.changed() => Wake::PlanChanged,
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

    fn poll_timeout(&self) -> BootTime {
        let detectors = self.probes.values().flatten().chain(&self.detectors);
        let detectors = detectors.filter_map(|(_, detector)| detector.poll_timeout()).min();
        let by_itself = [self.next_change, self.retry_at].into_iter().flatten().min();
        let reconcile = if self.dirty { Some(self.not_before) } else { by_itself };
        let all = [self.schedule.poll_timeout(), detectors, reconcile];
        all.into_iter().flatten().min().unwrap_or(clock::now() + RESYNC)
    }

    /// Compares the host with the plan and the roles, and applies the difference. `last` replaces the plan at the end.
    fn reconcile(&mut self, last: Option<Arc<VipPlan>>) {
        let began = clock::now();
        (self.next_change, self.retry_at) = (None, None);
        self.dirty = false;
        match self.netlink.addresses() {
            Ok(addresses) => self.actual.addresses = addresses,
            Err(error) => return self.failed(&error),
        }
        self.interfaces.update_link_local(&self.actual.addresses);
        let plan = last.unwrap_or_else(|| self.channels.plan.borrow_and_update().clone());
        let roles = self.channels.roles.borrow_and_update().clone();
        let applied = clock::now();
        self.place(&plan, &roles);
        self.moves.update(&plan, &roles);
        let leaving = plan.groups_with_roles(&roles).filter(|(.., role)| is_handing_over(role));
        let leaving: BTreeSet<IpAddr> =
            leaving.flat_map(|(_, group, _)| &group.addresses).map(|spec| spec.address).collect();
        self.succeeded.retain(|address| leaving.contains(address));
        self.actual.announcing = self.schedule.targets();
        let now = clock::now();
        self.next_change = next_change(&plan, &roles, now);
        let mut desired = desired(&self.inputs(&plan, &roles), now);
        if !self.options.quiet {
            self.admit(&mut desired, &plan.unverified);
        }
        // Routes are withdrawn before their addresses go, and advertised after they have come.
        self.withdraw(&desired.routes);
        let steps = diff::plan(&desired, &self.actual, now);
        let foreign: BTreeSet<Vip> = steps.foreign.iter().map(|(_, vip)| *vip).collect();
        let mut changed =
            steps.actions.iter().any(|action| !matches!(action, Action::Hold { missing: false, .. }));
        self.execute(steps.actions);
        // A route that is missing only because a role is not known yet is not withdrawn.
        let decided = plan.groups_with_roles(&roles).all(|(.., role)| *role != Role::Starting);
        let listed = plan.complete || !self.options.services;
        let complete = decided && listed;
        let mut decisive = self.options.control_plane.iter().chain(&self.options.decisive);
        let ready = listed && decisive.all(|group| *plan.role(group, &roles) != Role::Starting);
        let (routes, known) = (Arc::new(desired.routes), plan.known.clone());
        let advertised = AdvertisedRoutes { routes, known, decided, complete };
        changed |= watch_ext::set(&self.channels.announced, advertised);
        if changed
            || !foreign.is_empty()
            || !self.published
            || self.placement.blocked != self.channels.outcome.borrow().blocked
            || !self.conflicts_are_published()
        {
            self.publish(&foreign);
        }
        if ready {
            self.reporter.ready();
        }
        self.send_due_announcements();
        self.channels.applied.send_replace(applied);
        self.not_before = clock::now() + clock::pause_after(began, MAX_PAUSE);
    }

    /// Places the addresses of the plan, and creates and removes managed interfaces.
    fn place(&mut self, plan: &VipPlan, roles: &Roles) {
        let now = clock::now();
        self.conflicts.retain(|_, (_, until)| now < *until);
        self.remove_interfaces(plan, roles);
        self.placement = place(plan, roles, now, self.interfaces.all(), &self.actual.addresses);
        adopt(plan, &self.placement, &mut self.actual);
        let isolated = self.interfaces.all().iter().filter(|it| !it.up || !it.has_neighbours());
        self.actual.isolated = isolated.map(|interface| interface.index).collect();
        self.make_interfaces();
        let present: BTreeSet<IpAddr> =
            self.actual.addresses.iter().map(|address| address.vip.address).collect();
        self.actual.managed.retain(|address| present.contains(address));
        self.actual.managed.extend(self.placement.owners.keys().copied());
        if !self.options.quiet {
            self.open_interfaces();
        }
    }

    fn inputs(&self, plan: &VipPlan, roles: &Roles) -> Inputs {
        let groups = plan.groups_with_roles(roles);
        let placed = |(id, _, role): (&GroupId, _, &Role)| PlacedGroup {
            role: role.clone(),
            elected: matches!(id, GroupId::Lease(_)),
            addresses: self.placement.targets.get(id).cloned().unwrap_or_default(),
        };
        let routes = groups.clone().filter(|(_, group, _)| !group.routes.is_empty());
        Inputs {
            groups: groups.map(placed).collect(),
            routes: routes.map(|(_, group, role)| (role.clone(), group.routes.clone())).collect(),
            aggregates: self.options.aggregates.clone(),
            succeeded: self.succeeded.clone(),
            preserve: self.options.preserve,
            adopted_lifetime: self.options.adopted_lifetime,
            quiet: self.options.quiet,
        }
    }
}

fn is_handing_over(role: &Role) -> bool {
    matches!(role, Role::HandingOver { .. })
}
