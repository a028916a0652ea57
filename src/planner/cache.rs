//! What is known of the cluster, from watches, DNS and the gateways.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::endpoints::Slice;
use super::plan::{ClusterState, Plan, PlanContext};
use super::reserved::Reserved;
use super::select::Rules;
use crate::cluster::watch::Change;
use crate::model::node::NodeView;
use crate::model::{ActualAddress, BootTime, Prefix, ServiceKey, ServiceView, Tag};
use crate::upnp::mapping::MappingKey;
use crate::upnp::status::GatewayStatus;

/// For what Services must not have, after Services and endpoints are listed.
const RESERVED_TIMEOUT: Duration = Duration::from_secs(10);
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

impl Published {
    const ALL: [Self; 2] = [Self::ClusterInfo, Self::Lease];
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
    cidrs_listed: bool,
    published: BTreeMap<Published, Vec<IpAddr>>,
    services_listed: bool,
    endpoints_listed: bool,
    /// Until then what Services must not have is waited for.
    reserved_until: Option<BootTime>,
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

    /// Applies an event. `plan` is the latest plan. Returns whether the next one may differ.
    pub fn apply(&mut self, now: BootTime, event: WatchEvent, context: &PlanContext, plan: &Plan) -> bool {
        let concerns_plan = self.concerns_plan(&event, &context.rules);
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
                self.cidrs_listed = true;
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
        self.update_listed(now) || concerns_plan
    }

    /// Most events of a cluster do not: endpoints of Services of other types, heartbeats of Nodes, renewals of the control
    /// plane's Lease.
    fn concerns_plan(&self, event: &WatchEvent, rules: &Rules) -> bool {
        let is_planned = |key: &ServiceKey, view: &ServiceView| {
            rules.covers(key, view) || rules.ignores(key, view) || !view.external_ips.is_empty()
        };
        let service = |key: &ServiceKey| self.state.services.get(key);
        match event {
            // Planned Services must not have the cluster IPs and announced addresses of others.
            WatchEvent::Services(Change::Applied((key, view))) => service(key).is_none_or(|before| {
                is_planned(key, before)
                    || is_planned(key, view)
                    || before.cluster_ips != view.cluster_ips
                    || before.status != view.status
            }),
            WatchEvent::Endpoints(Change::Applied(slice) | Change::Deleted(slice)) => {
                service(&slice.service).is_some_and(|view| is_planned(&slice.service, view))
            }
            WatchEvent::Nodes(Change::Applied(node)) => self.nodes.get(&node.name) != Some(node),
            WatchEvent::ControlPlane(object, Change::Applied(vips)) => {
                self.published.get(object) != Some(vips)
            }
            WatchEvent::Name(name, addresses) => {
                self.state.names.get(name).map_or(&[][..], Vec::as_slice) != addresses.as_slice()
            }
            _ => true,
        }
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
        // Before, a node's own address or the control plane's VIP could be announced; a role may lack the right to list Nodes.
        let until = *self.reserved_until.get_or_insert(now + RESERVED_TIMEOUT);
        let known =
            self.state.nodes_listed && self.cidrs_listed && self.published.len() == Published::ALL.len();
        self.state.listed = known || now >= until;
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
        let reserved = self.reserved_until.filter(|_| !self.state.listed);
        self.terminating.values().map(|it| it.until).chain(reserved).min()
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
mod tests;
