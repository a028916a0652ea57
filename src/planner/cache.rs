//! What is known of the cluster, from watches, DNS and the gateways.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::endpoints::Slice;
use super::plan::{ClusterState, Plan, PlanContext};
use super::reserved::Reserved;
use crate::cluster::watch::Change;
use crate::model::node::NodeView;
use crate::model::{ActualAddress, BootTime, Prefix, ServiceKey, ServiceView, Tag};
use crate::upnp::mapping::MappingKey;
use crate::upnp::status::GatewayStatus;

/// For Nodes, after Services and endpoints are listed.
const NODES_TIMEOUT: Duration = Duration::from_secs(10);
/// The address of a deleted Service stays this long, so that its port mappings can be closed from it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// An event of a watch or a DNS query.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, and most are of the largest kind")]
pub enum WatchEvent {
    Services(Change<(ServiceKey, ServiceView)>),
    Endpoints(Change<Slice>),
    Nodes(Change<NodeView>),
    /// The addresses of a DNS name; none if it is not resolved any more.
    Name(String, Vec<IpAddr>),
    /// ServiceCIDRs by name.
    Cidrs(Change<(String, Vec<Prefix>)>),
    /// The control plane's VIPs, from an object that names them.
    ControlPlane(Published, Change<Vec<IpAddr>>),
}

/// Objects that name the control plane's VIPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Published {
    /// kubeadm's `kube-public/cluster-info`.
    ClusterInfo,
    /// The control plane's Lease, with an annotation of its holder.
    Lease,
}

/// A deleted or deselected Service with open port mappings.
#[derive(Debug)]
struct Terminating {
    until: BootTime,
    mappings: Vec<MappingKey>,
    /// The version that is no longer selected; None if the Service is deleted.
    deselected: Option<ServiceView>,
}

/// The state of the cluster as the watches report it.
#[derive(Debug, Default)]
pub struct Cache {
    pub state: ClusterState,
    nodes: BTreeMap<String, NodeView>,
    cidrs: BTreeMap<String, Vec<Prefix>>,
    published: BTreeMap<Published, Vec<IpAddr>>,
    services_listed: bool,
    endpoints_listed: bool,
    /// Until then the Nodes are waited for.
    nodes_until: Option<BootTime>,
    terminating: BTreeMap<ServiceKey, Terminating>,
    gateways: GatewayStatus,
}

impl Cache {
    /// `addresses` are those of this host when the process began.
    pub fn new(addresses: &[ActualAddress]) -> Self {
        let of =
            |tag: Tag| addresses.iter().filter(move |it| it.tag == tag).map(|it| it.vip.address).collect();
        let state =
            ClusterState { left_over: of(Tag::Ours), untagged: of(Tag::None), ..ClusterState::default() };
        Self { state, ..Self::default() }
    }

    /// Applies an event. `plan` is the latest plan.
    pub fn apply(&mut self, now: BootTime, event: WatchEvent, context: &PlanContext, plan: &Plan) {
        match event {
            WatchEvent::Services(change) => {
                self.services_listed = true;
                self.apply_service(now, change, context, plan);
            }
            WatchEvent::Endpoints(change) => {
                self.endpoints_listed = true;
                match change {
                    Change::Reset(all) => self.state.endpoints.reset(all),
                    Change::Applied(slice) => self.state.endpoints.apply(slice),
                    Change::Deleted(slice) => self.state.endpoints.remove(&slice),
                }
            }
            WatchEvent::Nodes(change) => {
                let named = |node: NodeView| (node.name.clone(), node);
                apply_to(&mut self.nodes, change, named);
                self.state.nodes_listed = true;
                self.reserve();
                self.state.node_labels = self.nodes.get(&context.me).map(|node| node.provided.clone());
            }
            WatchEvent::Name(name, addresses) if addresses.is_empty() => {
                self.state.names.remove(&name);
            }
            WatchEvent::Name(name, addresses) => {
                self.state.names.insert(name, addresses);
            }
            WatchEvent::Cidrs(change) => {
                apply_to(&mut self.cidrs, change, |cidr| cidr);
                self.reserve();
            }
            WatchEvent::ControlPlane(object, change) => {
                let vips = match change {
                    Change::Reset(all) => all.into_iter().flatten().collect(),
                    Change::Applied(vips) => vips,
                    Change::Deleted(_) => Vec::new(),
                };
                self.published.insert(object, vips);
                self.reserve();
            }
        }
        self.update_listed(now);
    }

    fn reserve(&mut self) {
        let published = self.published.values().flatten().copied();
        let service_cidrs = self.cidrs.values().flatten().copied().collect();
        self.state.reserved = Reserved { service_cidrs, ..Reserved::new(self.nodes.values(), published) };
    }

    /// What is wrong with this node's name if no Node has it. `own` are the addresses of this host.
    pub fn node_problem(&self, me: &str, own: &BTreeSet<IpAddr>) -> Option<String> {
        // Without any, the cluster's first node is not registered yet, or this process may not list them.
        if self.nodes.is_empty() || self.nodes.contains_key(me) {
            return None;
        }
        let here = self.nodes.values().find(|node| !node.own.is_disjoint(own));
        let which = match here {
            Some(node) => format!("Node {0} has this host's address: set vip_nodename to {0}", node.name),
            None => "and none has an address of this host: set vip_nodename to the name of this host's Node"
                .into(),
        };
        Some(format!(
            "no Node is named {me}, {which}; until then this node announces no Service with externalTrafficPolicy Local"
        ))
    }

    /// Returns whether everything is known only now.
    fn update_listed(&mut self, now: BootTime) -> bool {
        if self.state.listed || !self.services_listed || !self.endpoints_listed {
            return false;
        }
        // Without the Nodes a node's own address could be announced; a role may lack the right to list them.
        let until = *self.nodes_until.get_or_insert(now + NODES_TIMEOUT);
        self.state.listed = self.state.nodes_listed || now >= until;
        self.state.listed
    }

    fn apply_service(
        &mut self,
        now: BootTime,
        change: Change<(ServiceKey, ServiceView)>,
        context: &PlanContext,
        plan: &Plan,
    ) {
        match change {
            Change::Reset(all) => {
                let services = all.into_iter().map(|(key, view)| (key, Arc::new(view))).collect();
                let before = std::mem::replace(&mut self.state.services, services);
                for (key, known) in before {
                    let new = self.state.services.get(&key).cloned();
                    if !self.replace(now, &key, new.as_deref(), context, plan) {
                        self.state.services.insert(key, known);
                    }
                }
            }
            Change::Applied((key, view)) => {
                if self.replace(now, &key, Some(&view), context, plan) {
                    self.state.apply(key, view);
                }
            }
            Change::Deleted((key, _)) => {
                if self.replace(now, &key, None, context, plan) {
                    self.state.services.remove(&key);
                }
            }
        }
        self.state.terminating = self.terminating.keys().cloned().collect();
    }

    /// Whether a Service may be replaced by this version, or by none. Without its port mappings it is terminating first.
    fn replace(
        &mut self,
        now: BootTime,
        key: &ServiceKey,
        new: Option<&ServiceView>,
        context: &PlanContext,
        plan: &Plan,
    ) -> bool {
        if new.is_some_and(|view| context.rules.covers(key, view)) {
            self.terminating.remove(key);
            return true;
        }
        // The finalizer of a deleted Service is removed before the Service is.
        if let Some(terminating) = self.terminating.get_mut(key) {
            terminating.deselected = new.cloned();
            return false;
        }
        let mappings = plan.mappings.services.get(key).into_iter().flatten();
        let mappings: Vec<MappingKey> = mappings.map(|mapping| mapping.key.clone()).collect();
        let open = mappings.iter().any(|key| self.gateways.may_be_open(key));
        // Otherwise two elections would hold a shared address: this Service's and that of the other.
        let open = open && !self.shares_an_address(plan, key);
        if open {
            let (until, deselected) = (now + CLOSE_TIMEOUT, new.cloned());
            self.terminating.insert(key.clone(), Terminating { until, mappings, deselected });
        }
        !open
    }

    /// Whether this host holds an address of a Service for another one, too, that still exists.
    fn shares_an_address(&self, plan: &Plan, key: &ServiceKey) -> bool {
        let Some(service) = plan.services.get(key) else { return false };
        let exists = |other: &ServiceKey| {
            self.state.services.contains_key(other) && !self.terminating.contains_key(other)
        };
        let others = plan.services.iter().filter(|(other, _)| *other != key && exists(other));
        let mut addresses =
            others.filter(|(_, other)| other.servable_here).flat_map(|(_, other)| &other.addresses);
        addresses.any(|address| service.addresses.contains(address))
    }

    /// The gateways' state has changed. Returns whether a Service was released.
    pub fn apply_gateways(&mut self, now: BootTime, gateways: GatewayStatus) -> bool {
        self.gateways = gateways;
        self.handle_timeout(now)
    }

    /// Releases terminating Services whose mappings are closed, or after five seconds. Returns whether there were any.
    pub fn handle_timeout(&mut self, now: BootTime) -> bool {
        let gateways = &self.gateways;
        let released = self.terminating.extract_if(.., |_, it| {
            now >= it.until || !it.mappings.iter().any(|key| gateways.may_be_open(key))
        });
        let released: Vec<(ServiceKey, Terminating)> = released.collect();
        for (key, Terminating { deselected, .. }) in &released {
            self.state.terminating.remove(key);
            match deselected {
                // Whatever its version: after the restore of a backup it may be a smaller one.
                Some(view) => drop(self.state.services.insert(key.clone(), Arc::new(view.clone()))),
                None => drop(self.state.services.remove(key)),
            }
        }
        self.update_listed(now) || !released.is_empty()
    }

    /// When [`Self::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let nodes = self.nodes_until.filter(|_| !self.state.listed);
        self.terminating.values().map(|it| it.until).chain(nodes).min()
    }
}

/// Applies a change to a map of objects.
fn apply_to<T, V>(objects: &mut BTreeMap<String, V>, change: Change<T>, named: impl Fn(T) -> (String, V)) {
    match change {
        Change::Reset(all) => *objects = all.into_iter().map(named).collect(),
        Change::Applied(object) => objects.extend([named(object)]),
        Change::Deleted(object) => drop(objects.remove(&named(object).0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::fsm::ClientState;
    use crate::dhcp::spec::ClientStatus;
    use crate::model::Family;
    use crate::model::annotation::{DHCP_LEASE, FORWARD_UPNP, LOAD_BALANCER_IPS};
    use crate::model::service::Protocol;
    use crate::planner::leases;
    use crate::planner::plan::plan;

    const ADDRESS: &str = "192.0.2.1";

    fn context() -> PlanContext {
        PlanContext::example()
    }

    fn at(milliseconds: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(milliseconds))
    }

    fn key() -> ServiceKey {
        ServiceKey { namespace: "lab".into(), name: "web".into() }
    }

    fn view(load_balancer: bool) -> ServiceView {
        let annotations = [(LOAD_BALANCER_IPS, ADDRESS), (FORWARD_UPNP, "true")];
        ServiceView {
            load_balancer,
            annotations: annotations.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            ports: vec![(Protocol::Tcp, 80)],
            ..ServiceView::default()
        }
    }

    /// Gateways with the Service's mapping, or without any.
    fn gateways(open: bool) -> GatewayStatus {
        let key = MappingKey { address: ADDRESS.parse().unwrap(), protocol: Protocol::Tcp, external: 80 };
        let gateway: IpAddr = [192, 0, 2, 254].into();
        let ports = open.then(|| (key, [(gateway, Ok(()))].into())).into_iter().collect();
        GatewayStatus { ports, ..GatewayStatus::default() }
    }

    /// A cache with one Service, and its plan.
    fn listed(open: bool) -> (Cache, Plan) {
        let mut cache = Cache::new(&[]);
        let none = Plan::default();
        let services = WatchEvent::Services(Change::Reset(vec![(key(), view(true))]));
        let endpoints = WatchEvent::Endpoints(Change::Reset(Vec::new()));
        for event in [services, endpoints, WatchEvent::Nodes(Change::Reset(Vec::new()))] {
            assert!(!cache.state.listed);
            cache.apply(at(0), event, &context(), &none);
        }
        assert_eq!(cache.poll_timeout(), None);
        cache.apply_gateways(at(0), gateways(open));
        let plan = plan(&context(), &cache.state);
        assert!(cache.state.listed && plan.mappings.services.contains_key(&key()));
        (cache, plan)
    }

    #[test]
    fn vips_of_another_process_are_reserved_as_long_as_an_object_names_them() {
        let mut cache = Cache::new(&[]);
        let vip: IpAddr = ADDRESS.parse().unwrap();
        let mut apply = |event| {
            cache.apply(at(0), event, &context(), &Plan::default());
            cache.state.reserved.control_plane.contains(&vip)
        };
        let named = |object| WatchEvent::ControlPlane(object, Change::Reset(vec![vec![vip]]));
        assert!(apply(named(Published::ClusterInfo)) && apply(named(Published::Lease)));
        // A change of the Nodes or of one of the objects keeps the other's.
        assert!(apply(WatchEvent::Nodes(Change::Reset(Vec::new()))));
        assert!(apply(WatchEvent::ControlPlane(Published::Lease, Change::Applied(Vec::new()))));
        assert!(!apply(WatchEvent::ControlPlane(Published::ClusterInfo, Change::Deleted(vec![vip]))));
    }

    fn delete(cache: &mut Cache, plan: &Plan) {
        let deleted = WatchEvent::Services(Change::Deleted((key(), view(true))));
        cache.apply(at(0), deleted, &context(), plan);
    }

    #[test]
    fn each_resolved_name_is_known_at_once_and_the_others_stay() {
        let (mut cache, none) = (Cache::new(&[]), Plan::default());
        let mut names = |name: &str, addresses: &[IpAddr]| {
            cache.apply(at(0), WatchEvent::Name(name.into(), addresses.to_vec()), &context(), &none);
            cache.state.names.keys().cloned().collect::<Vec<_>>()
        };
        let address: IpAddr = ADDRESS.parse().unwrap();
        assert_eq!(names("a.example", &[address]), ["a.example"]);
        assert_eq!(names("b.example", &[address]), ["a.example", "b.example"]);
        assert_eq!(names("a.example", &[]), ["b.example"]);
    }

    #[test]
    fn a_deleted_service_without_open_mappings_is_forgotten() {
        let (mut cache, plan) = listed(false);
        delete(&mut cache, &plan);
        assert!(cache.state.services.is_empty());
        assert_eq!(cache.poll_timeout(), None);
    }

    #[test]
    fn a_deleted_service_whose_address_another_has_is_forgotten_at_once() {
        let (mut cache, _) = listed(true);
        let other = ServiceKey { namespace: "lab".into(), name: "other".into() };
        let added = WatchEvent::Services(Change::Applied((other.clone(), view(true))));
        cache.apply(at(0), added, &context(), &Plan::default());
        let plan = plan(&context(), &cache.state);
        delete(&mut cache, &plan);
        assert_eq!(cache.state.services.keys().collect::<Vec<_>>(), [&other]);
        assert!(cache.state.terminating.is_empty());
        // Of two that are deleted before the next plan the last one keeps the address.
        let deleted = WatchEvent::Services(Change::Deleted((other.clone(), view(true))));
        cache.apply(at(0), deleted, &context(), &plan);
        assert_eq!(cache.state.terminating, [other].into());
    }

    /// A Role of one namespace cannot grant the right to list Nodes.
    #[test]
    fn nodes_are_waited_for_and_not_for_ever() {
        let (mut cache, none) = (Cache::new(&[]), Plan::default());
        cache.apply(at(0), WatchEvent::Services(Change::Reset(Vec::new())), &context(), &none);
        cache.apply(at(1), WatchEvent::Endpoints(Change::Reset(Vec::new())), &context(), &none);
        assert!(!cache.handle_timeout(at(10_000)) && !cache.state.listed);
        assert_eq!(cache.poll_timeout(), Some(at(10_001)));
        assert!(cache.handle_timeout(at(10_001)) && cache.state.listed);
        assert_eq!(cache.poll_timeout(), None);
    }

    #[test]
    fn a_node_name_that_no_node_has_is_a_problem() {
        let node = |name: &str, address: &str| NodeView {
            name: name.into(),
            own: [address.parse().unwrap()].into(),
            ..NodeView::default()
        };
        let nodes = [node("n1", "192.0.2.2"), node("n2", "192.0.2.3")];
        let own: BTreeSet<IpAddr> = ["192.0.2.2", "fd00::2"].map(|address| address.parse().unwrap()).into();
        for (nodes, me, named) in [
            (&nodes[..], "n1.example.com", Some("Node n1 has this host's address: set vip_nodename to n1;")),
            (&nodes[..], "n1", None),
            (&nodes[1..], "n1", Some("and none has an address of this host")),
            (&[], "n1.example.com", None),
        ] {
            let (mut cache, none) = (Cache::new(&[]), Plan::default());
            cache.apply(at(0), WatchEvent::Nodes(Change::Reset(nodes.to_vec())), &context(), &none);
            let found = cache.node_problem(me, &own);
            assert_eq!(found.is_some(), named.is_some(), "{me}: {found:?}");
            let begins = format!("no Node is named {me}, ");
            assert!(found.is_none_or(|text| text.starts_with(&begins) && text.contains(named.unwrap())));
        }
    }

    #[test]
    fn a_deleted_service_keeps_its_address_until_its_mappings_are_closed() {
        let (mut cache, before) = listed(true);
        delete(&mut cache, &before);
        // The EndpointSlices of a deleted Service are deleted, too.
        cache.apply(at(0), WatchEvent::Endpoints(Change::Reset(Vec::new())), &context(), &before);
        let after = plan(&context(), &cache.state);
        assert_eq!(after.services[&key()].addresses, before.services[&key()].addresses);
        assert!(after.services[&key()].servable_here);
        assert!(after.mappings.services.is_empty());
        // The gateway still has it, then it has not.
        assert!(!cache.apply_gateways(at(1), gateways(true)));
        assert!(cache.apply_gateways(at(2), gateways(false)));
        assert!(cache.state.services.is_empty() && cache.state.terminating.is_empty());
        assert_eq!(cache.poll_timeout(), None);
    }

    #[test]
    fn a_gateway_that_does_not_close_a_mapping_delays_the_end_of_a_service_only_so_long() {
        let (mut cache, plan) = listed(true);
        delete(&mut cache, &plan);
        assert_eq!(cache.poll_timeout(), Some(at(5000)));
        assert!(!cache.handle_timeout(at(4999)));
        assert!(cache.handle_timeout(at(5000)));
        assert!(cache.state.services.is_empty());
        assert!(!cache.handle_timeout(at(5000)));
    }

    #[test]
    fn a_deselected_service_is_replaced_by_its_new_version_once_its_mappings_are_closed() {
        let (mut cache, plan) = listed(true);
        let changed = WatchEvent::Services(Change::Applied((key(), view(false))));
        cache.apply(at(0), changed, &context(), &plan);
        assert!(cache.state.services[&key()].load_balancer);
        cache.apply_gateways(at(1), gateways(false));
        assert!(!cache.state.services[&key()].load_balancer);
    }

    /// The store is restored from a backup: what is listed then counts, and what follows it.
    #[test]
    fn a_new_list_replaces_versions_that_were_greater() {
        let versioned = |load_balancer, version: u64| {
            (key(), ServiceView { resource_version: version.to_string(), ..view(load_balancer) })
        };
        let known = |cache: &Cache| cache.state.services[&key()].resource_version.clone();
        for open in [false, true] {
            let (mut cache, plan) = listed(open);
            let apply = |cache: &mut Cache, change| {
                cache.apply(at(0), WatchEvent::Services(change), &context(), &plan);
            };
            apply(&mut cache, Change::Applied(versioned(true, 1000)));
            apply(&mut cache, Change::Reset(vec![versioned(true, 500)]));
            assert_eq!(known(&cache), "500");
            apply(&mut cache, Change::Applied(versioned(true, 501)));
            assert_eq!(known(&cache), "501");
            // In the backup it was of another type. With open port mappings it terminates first.
            apply(&mut cache, Change::Reset(vec![versioned(false, 400)]));
            cache.handle_timeout(at(5000));
            assert_eq!(known(&cache), "400");
        }
    }

    #[test]
    fn a_terminating_service_that_loses_its_finalizer_still_waits_for_its_mappings() {
        let (mut cache, before) = listed(true);
        let changed = |load_balancer| WatchEvent::Services(Change::Applied((key(), view(load_balancer))));
        cache.apply(at(0), changed(false), &context(), &before);
        let after = plan(&context(), &cache.state);
        cache.apply(at(1), changed(false), &context(), &after);
        assert!(cache.state.services[&key()].load_balancer);
        delete(&mut cache, &after);
        assert!(cache.state.services.contains_key(&key()));
        assert!(cache.apply_gateways(at(2), gateways(false)));
        assert!(cache.state.services.is_empty(), "no earlier version comes back");
    }

    #[test]
    fn a_new_list_without_a_service_closes_its_mappings_first() {
        let (mut cache, before) = listed(true);
        for _ in 0..2 {
            cache.apply(at(0), WatchEvent::Services(Change::Reset(Vec::new())), &context(), &before);
            assert!(cache.state.terminating.contains(&key()));
            assert!(cache.state.services.contains_key(&key()));
        }
        assert!(cache.apply_gateways(at(2), gateways(false)));
        assert!(cache.state.services.is_empty());
    }

    #[test]
    fn a_service_that_is_created_again_does_not_terminate() {
        let (mut cache, plan) = listed(true);
        delete(&mut cache, &plan);
        cache.apply(at(1), WatchEvent::Services(Change::Applied((key(), view(true)))), &context(), &plan);
        assert!(!cache.handle_timeout(at(5000)));
        assert!(cache.state.terminating.is_empty() && cache.state.services.contains_key(&key()));
    }

    #[test]
    fn a_lease_is_annotated_only_by_the_node_whose_client_is_known() {
        let (mut cache, _) = listed(false);
        let mut leased = view(true);
        leased.annotations.insert(LOAD_BALANCER_IPS.into(), "0.0.0.0".into());
        cache.state.apply(key(), leased.clone());
        // Another node's lease is not removed before this node's clients have started.
        let planned =
            |state: &ClusterState| plan(&context(), state).services[&key()].lease_annotations.clone();
        assert!(planned(&cache.state).is_empty());
        let status =
            |state| ClientStatus { address: None, saved: None, state, probed: false, last_error: None };
        let lease = leases::key(&leased, Family::V4);
        cache.state.leases.insert(lease.clone(), status(ClientState::Standby));
        assert!(planned(&cache.state).is_empty());
        cache.state.leases.insert(lease, status(ClientState::Selecting));
        assert_eq!(planned(&cache.state), [(DHCP_LEASE, None)].into());
    }
}
