//! From the state of the cluster to what is written to Services: pure, and the only place that chooses addresses.
//!
//! `request` reads what a Service requests, `decide` decides on one Service, with `leases` for addresses from DHCP
//! servers, `patch` is one write, `reason` is why a Service waits. The [`Planner`] has all Services and the queue of
//! those to decide on.

pub mod decide;
pub mod leases;
pub mod patch;
pub mod reason;
pub mod request;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kube_vip::dhcp::spec::{ClientSpec, ClientStatus, LeaseKey};
use kube_vip::model::service::FamilyPolicy;
use kube_vip::model::{Family, ServiceKey, ServiceView};
use kube_vip::planner::reserved::Reserved;

use crate::ipam::{Ipam, Sharing};
use crate::pools::Pools;
use decide::{Allocator, sharing};
pub use decide::{Class, Decision};
use leases::DhcpState;
pub use patch::Patch;
pub use reason::Reason;
use request::{Request, mentioned, request};

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ServiceState {
    /// Not decided on yet, or not managed by this provider.
    #[default]
    Unmanaged,
    /// With these addresses or names.
    Allocated(Vec<String>),
    Waiting(Reason),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write this patch, and pass the result to [`Planner::handle_written`].
    Write { key: ServiceKey, patch: Patch },
    /// Post an Event on the Service.
    Event { key: ServiceKey, uid: String, event: ServiceEvent },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceEvent {
    Allocated(Vec<String>),
    AllocatedWithNote(String),
    Failed(Reason),
    /// The provider does not manage the Service any more.
    Released,
}

impl ServiceEvent {
    /// Whether the Event waits for the write to succeed.
    fn follows_write(&self) -> bool {
        matches!(self, Self::Allocated(_) | Self::Released)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteStatus {
    /// The Service as it is after the write.
    Done(Box<ServiceView>),
    /// In conflict with another write, or of unknown result.
    Failed,
    /// Rejected: why.
    Refused(String),
    /// The Service does not exist any more.
    Gone,
}

#[derive(Debug, Default)]
struct ServiceEntry {
    view: ServiceView,
    /// A write is in flight; its Event, if it has one.
    in_flight: Option<Option<ServiceEvent>>,
    /// A write may or may not have been carried out. The next resource version decides.
    unconfirmed: bool,
    /// The view is the response to a write: the watch may not have shown it yet.
    written: bool,
    state: ServiceState,
    last_event: Option<ServiceEvent>,
    /// Families with an address from a DHCP server.
    dhcp_families: BTreeSet<Family>,
}

#[derive(Debug, Default)]
pub struct Planner {
    class: Class,
    upnp: bool,
    pools: Pools,
    ipam: Ipam,
    services: BTreeMap<ServiceKey, ServiceEntry>,
    /// Services to decide on, oldest first.
    queue: BTreeSet<(i64, ServiceKey)>,
    /// Services to decide on when an address is released, oldest first.
    waiting: BTreeSet<(i64, ServiceKey)>,
    releases_seen: u64,
    dhcp: Option<DhcpState>,
    lease_conflicts: Vec<(LeaseKey, String)>,
}

impl Planner {
    pub fn new(class: Class) -> Self {
        Self { class, ..Self::default() }
    }

    /// Delegates the port mappings of Services that request them to the announcing node.
    pub fn enable_upnp(&mut self) {
        self.upnp = true;
    }

    /// This process runs the DHCP clients, on this interface. Without `any_hardware_address` Services have generated ones only.
    pub fn enable_dhcp(&mut self, interface: &str, any_hardware_address: bool) {
        let interface = interface.to_owned();
        self.dhcp = Some(DhcpState { interface, any_hardware_address, ..DhcpState::default() });
    }

    /// Replaces the state of all leases.
    pub fn set_leases(&mut self, leases: BTreeMap<LeaseKey, ClientStatus>) {
        let Some(dhcp) = &mut self.dhcp else { return };
        let before = std::mem::replace(&mut dhcp.leases, leases);
        let changed = |key: &LeaseKey| before.get(key) != dhcp.leases.get(key);
        let affected = self.services.iter().filter(|(_, entry)| {
            let mut keys = leases::keys(&entry.view, &entry.dhcp_families);
            keys.any(|key| changed(&key))
        });
        self.queue.extend(affected.map(|(key, entry)| (entry.view.created, key.clone())));
    }

    /// The leases to request from DHCP servers. Services whose annotations turn out to be invalid are enqueued.
    pub fn lease_requests(&mut self) -> BTreeMap<LeaseKey, ClientSpec> {
        let Some(dhcp) = &mut self.dhcp else { return BTreeMap::new() };
        let services = self.services.iter().filter(|(_, entry)| !entry.dhcp_families.is_empty());
        let (requests, changed) =
            dhcp.requests(services.map(|(key, entry)| (key, &entry.view, &entry.dhcp_families)));
        self.queue.extend(changed);
        requests
    }

    /// Leases with an address that another owner has, each with the reason, since the last call.
    pub fn take_lease_conflicts(&mut self) -> Vec<(LeaseKey, String)> {
        std::mem::take(&mut self.lease_conflicts)
    }

    pub fn set_pools(&mut self, pools: Pools) {
        let sharing_changed =
            self.services.keys().any(|key| self.pools.shares(&key.namespace) != pools.shares(&key.namespace));
        self.pools = pools;
        self.ipam.set_pools(&self.pools);
        // A pool may have a second family now.
        let affected = self
            .services
            .iter()
            .filter(|(_, entry)| sharing_changed || entry.view.family_policy == FamilyPolicy::PreferDual);
        self.queue.extend(affected.map(|(key, entry)| (entry.view.created, key.clone())));
    }

    /// Addresses that kube-vip announces.
    pub fn announced(&self) -> BTreeSet<IpAddr> {
        self.services.values().flat_map(|entry| entry.view.announced_in_status()).collect()
    }

    pub fn set_reserved(&mut self, reserved: Reserved) {
        self.ipam.set_reserved(reserved);
    }

    /// Replaces all Services.
    ///
    /// Existing addresses are kept: all of them are entered before a new one is allocated. Of two Services with the
    /// same address the older one keeps it.
    pub fn reset(&mut self, services: impl IntoIterator<Item = (ServiceKey, ServiceView)>) {
        let all: BTreeMap<ServiceKey, ServiceView> = services.into_iter().collect();
        let gone: Vec<ServiceKey> =
            self.services.keys().filter(|key| !all.contains_key(key)).cloned().collect();
        gone.iter().for_each(|key| self.remove(key));
        let mut by_age: Vec<(ServiceKey, ServiceView)> = all.into_iter().collect();
        by_age.sort_by_key(|(_, view)| view.created);
        for (key, view) in by_age {
            // A list may be older than the response to a write. Otherwise it counts, whatever its version: after the restore
            // of a backup it may be a smaller one.
            let written = self.services.get_mut(&key).is_some_and(|entry| std::mem::take(&mut entry.written));
            if written { self.apply(key, view) } else { self.replace(key, view) }
        }
    }

    /// Adds or updates a Service. A view that is older than the known one is ignored.
    pub fn apply(&mut self, key: ServiceKey, view: ServiceView) {
        let before = self.services.get(&key);
        if before.is_some_and(|entry| entry.view.uid == view.uid && view.is_older_than(&entry.view)) {
            return;
        }
        self.replace(key, view);
    }

    fn replace(&mut self, key: ServiceKey, view: ServiceView) {
        if self.services.get(&key).is_some_and(|entry| entry.view.uid != view.uid) {
            // Deleted and created again between two events.
            self.remove(&key);
        }
        if !self.services.contains_key(&key) {
            self.enter(&key, &view);
        }
        self.queue.insert((view.created, key.clone()));
        let entry = self.services.entry(key).or_default();
        // A write is bound to its resource version: with the next one it was carried out, or never will be.
        entry.unconfirmed &= entry.view.resource_version == view.resource_version;
        entry.written = false;
        entry.view = view;
    }

    pub fn remove(&mut self, key: &ServiceKey) {
        if let Some(entry) = self.services.remove(key) {
            self.queue.remove(&(entry.view.created, key.clone()));
            self.waiting.remove(&(entry.view.created, key.clone()));
            self.ipam.hold(key, &[], &Sharing::default());
        }
    }

    /// Holds the addresses that a new Service already has, before any other address is allocated.
    fn enter(&mut self, key: &ServiceKey, view: &ServiceView) {
        if !view.load_balancer {
            return;
        }
        if !self.class.covers(view) {
            self.ipam.hold(key, &mentioned(view), &Sharing::default());
            return;
        }
        let sharing = sharing(&self.pools, key, view);
        let existing = match request(view) {
            Request::Any(before) => before,
            Request::Fixed { text, .. } => {
                text.split(',').filter_map(|text| text.trim().parse().ok()).collect()
            }
        };
        let free = |address: &IpAddr| self.ipam.is_available(*address, key, &sharing);
        let existing: Vec<IpAddr> = existing.into_iter().filter(free).collect();
        self.ipam.hold(key, &existing, &sharing);
    }

    /// Queues a decision on a Service.
    pub fn enqueue(&mut self, key: &ServiceKey) {
        if let Some(entry) = self.services.get(key) {
            self.queue.insert((entry.view.created, key.clone()));
        }
    }

    /// The next actions, for at most one Service; empty when no Service needs any.
    pub fn next_actions(&mut self) -> Vec<Action> {
        loop {
            if self.ipam.releases() != self.releases_seen {
                self.releases_seen = self.ipam.releases();
                self.queue.append(&mut self.waiting.clone());
            }
            let Some((_, key)) = self.queue.pop_first() else { return Vec::new() };
            let actions = self.reconcile(&key);
            if !actions.is_empty() {
                return actions;
            }
        }
    }

    fn reconcile(&mut self, key: &ServiceKey) -> Vec<Action> {
        let Some(entry) = self.services.get_mut(key) else { return Vec::new() };
        if entry.in_flight.is_some() {
            // The result of the write enqueues the Service again.
            return Vec::new();
        }
        let mut allocator = Allocator {
            pools: &self.pools,
            ipam: &mut self.ipam,
            class: &self.class,
            upnp: self.upnp,
            unconfirmed: entry.unconfirmed,
            dhcp: self.dhcp.as_ref(),
            dhcp_families: BTreeSet::new(),
            lease_conflicts: Vec::new(),
        };
        let decision = allocator.decide(key, &entry.view);
        self.lease_conflicts.extend(allocator.lease_conflicts);
        entry.dhcp_families = allocator.dhcp_families;
        let slot = (entry.view.created, key.clone());
        if matches!(decision, Decision::Wait { .. } | Decision::Allocate { incomplete: true, .. }) {
            self.waiting.insert(slot);
        } else {
            self.waiting.remove(&slot);
        }
        entry.take_decision(key, decision)
    }

    /// Takes the result of a write. Returns the Event that waited for it.
    pub fn handle_written(&mut self, key: &ServiceKey, status: WriteStatus) -> Option<Action> {
        let entry = self.services.get_mut(key)?;
        let event = entry.in_flight.take().flatten();
        match status {
            WriteStatus::Gone => {
                self.remove(key);
                None
            }
            WriteStatus::Failed => {
                entry.unconfirmed = true;
                None
            }
            WriteStatus::Refused(why) => {
                entry.unconfirmed = true;
                entry.post(key, ServiceEvent::Failed(Reason::Write(why)))
            }
            WriteStatus::Done(view) => {
                let action = event.and_then(|event| entry.post(key, event));
                let version = view.resource_version.clone();
                let known = entry.view.resource_version == version;
                self.apply(key.clone(), *view);
                if let Some(entry) = self.services.get_mut(key) {
                    entry.written = !known && entry.view.resource_version == version;
                }
                // A newer view that arrived in the meantime is decided on now.
                self.enqueue(key);
                action
            }
        }
    }

    pub fn state(&self, key: &ServiceKey) -> Option<&ServiceState> {
        self.services.get(key).map(|entry| &entry.state)
    }

    pub fn states(&self) -> impl Iterator<Item = (&ServiceKey, &ServiceState)> {
        self.services.iter().map(|(key, entry)| (key, &entry.state))
    }

    /// The latest known resource version of a Service.
    pub fn version(&self, key: &ServiceKey) -> Option<&str> {
        self.services.get(key).map(|entry| entry.view.resource_version.as_str())
    }

    pub fn pools(&self) -> &Pools {
        &self.pools
    }

    pub fn ipam(&self) -> &Ipam {
        &self.ipam
    }
}

impl ServiceEntry {
    /// Takes the state from a decision, and returns the write and the Event that follow from it.
    fn take_decision(&mut self, key: &ServiceKey, decision: Decision) -> Vec<Action> {
        let (state, event, patch) = match decision {
            Decision::Ignore => (ServiceState::Unmanaged, None, None),
            Decision::Release(patch) => (ServiceState::Unmanaged, Some(ServiceEvent::Released), Some(patch)),
            Decision::Wait { reason, patch } => {
                (ServiceState::Waiting(reason.clone()), Some(ServiceEvent::Failed(reason)), Some(patch))
            }
            Decision::Allocate { addresses, patch, note, .. } => {
                let event = note.map(ServiceEvent::AllocatedWithNote);
                let event = event.unwrap_or_else(|| ServiceEvent::Allocated(addresses.clone()));
                (ServiceState::Allocated(addresses), Some(event), Some(patch))
            }
        };
        let waited = matches!(self.state, ServiceState::Waiting(_));
        self.state = state;
        let after_write = event.as_ref().is_some_and(ServiceEvent::follows_write);
        let mut actions = Vec::new();
        if let Some(patch) = patch.filter(|patch| !patch.is_empty()) {
            let empty = ServiceEvent::Allocated(Vec::new());
            self.in_flight = Some(event.clone().filter(|event| after_write && *event != empty));
            actions.push(Action::Write { key: key.clone(), patch });
            if after_write {
                return actions;
            }
        } else if after_write && !waited {
            // An earlier process has written it and posted the Event.
            self.last_event = event;
            return actions;
        }
        actions.extend(event.and_then(|event| self.post(key, event)));
        actions
    }

    /// The Event, unless it was the last one.
    fn post(&mut self, key: &ServiceKey, event: ServiceEvent) -> Option<Action> {
        if self.last_event.as_ref() == Some(&event) {
            return None;
        }
        self.last_event = Some(event.clone());
        Some(Action::Event { key: key.clone(), uid: self.view.uid.clone(), event })
    }
}
