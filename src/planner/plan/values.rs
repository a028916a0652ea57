//! Input and output of the plan.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::super::addresses::{Wanted, wanted};
use super::super::control_plane::ControlPlane;
use super::super::endpoints::Endpoints;
use super::super::leases::DhcpSpec;
use super::super::reserved::{Refusal, Reserved};
use super::super::select::Rules;
use crate::config::{Policy, Upnp};
use crate::dhcp::spec::{ClientSpec, ClientStatus, LeaseKey};
use crate::election::LeaseMetadata;
use crate::host::HostState;
use crate::model::annotation::VIP_HOST;
use crate::model::{
    AddressSpec, Family, GroupId, GroupPlan, Holder, HostUse, InterfaceSelector, LeaseName, Prefix,
    PrefixLength, RouteAttributes, ServiceKey, ServiceView, VipPlan,
};
use crate::upnp::mapping::PortMappings;

/// Input that does not change while the process runs.
#[derive(Debug, Clone)]
pub struct PlanContext {
    pub me: String,
    pub rules: Rules,
    pub mode: Mode,
    /// The heartbeat Lease of this node; none where its scheme has none.
    pub member: Option<LeaseName>,
    /// Where this process holds the control plane's VIPs.
    pub control_plane: Option<ControlPlane>,
    /// Whether this process announces Services.
    pub services: bool,
    /// Default interface of Services.
    pub interface: InterfaceSelector,
    /// Fallback of `auto`.
    pub main_interface: String,
    pub v4: PrefixLength,
    pub v6: PrefixLength,
    /// With BGP or the routing table.
    pub routes: Option<RouteRules>,
    /// Which Services have port mappings, and which ports.
    pub upnp: Upnp,
    /// What Services may ask for.
    pub policy: Policy,
    /// Addresses that this host needs, as of the start.
    pub host_uses: BTreeMap<IpAddr, HostUse>,
}

#[cfg(test)]
impl PlanContext {
    /// One election for each Service, and no control plane.
    pub(in crate::planner) fn example() -> Self {
        use crate::config::{Namespaces, UpnpPolicy};
        use crate::model::PrefixLength;

        Self {
            me: "node-1".into(),
            rules: Rules { on_demand: true, ..Rules::default() },
            mode: Mode::PerService,
            member: None,
            control_plane: None,
            services: true,
            interface: InterfaceSelector::Named("eth0".into()),
            main_interface: "eth0".into(),
            v4: PrefixLength::Fixed(32),
            v6: PrefixLength::Fixed(128),
            routes: None,
            upnp: Upnp { policy: UpnpPolicy::Always, ports: vec![1..=65535], status: true },
            policy: Policy { infrastructure: Namespaces::All, ..Policy::default() },
            host_uses: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRules {
    /// Configure addresses on the interface as well.
    pub attach: bool,
    /// Advertise `spec.externalIPs`.
    pub external_ips: bool,
    /// Prefixes that every node advertises.
    pub networks: Vec<Prefix>,
    /// Advertise the cluster's ServiceCIDRs.
    pub service_cidrs: bool,
}

/// How Services are elected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// One election for all.
    Global(LeaseName),
    /// One for each Service.
    PerService,
    /// None: every node announces all Services that it can serve.
    EveryNode,
    /// A fixed number of groups.
    Groups {
        /// Leases have this name and a number.
        base: LeaseName,
        count: usize,
        /// Candidates for each group.
        most: usize,
    },
}

/// State of the cluster.
#[derive(Debug, Default)]
pub struct ClusterState {
    pub services: BTreeMap<ServiceKey, Arc<ServiceView>>,
    /// Deleted or deselected Services whose addresses stay until their port mappings are closed.
    pub terminating: BTreeSet<ServiceKey>,
    pub endpoints: Endpoints,
    /// Addresses that Services must not have.
    pub reserved: Reserved,
    /// The control plane's addresses, where this process holds them. See [`super::plan`].
    pub vips: BTreeSet<IpAddr>,
    /// Metadata of the control plane's Lease.
    pub control_plane_lease: LeaseMetadata,
    /// Services and their endpoints are listed.
    pub listed: bool,
    pub nodes_listed: bool,
    /// Addresses by DNS name.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// Holders of unexpired Leases.
    pub holders: BTreeMap<LeaseName, Holder>,
    /// Tagged addresses of an earlier process on this host.
    pub left_over: BTreeSet<IpAddr>,
    /// Addresses without a tag that this host had when the process began.
    pub untagged: BTreeSet<IpAddr>,
    /// State of DHCP leases.
    pub leases: BTreeMap<LeaseKey, ClientStatus>,
    /// The addresses that nodes have announced, by the status of all Services. See [`Self::note_services`].
    pub announced_in_status: BTreeSet<IpAddr>,
    /// Labels for Services on this node's Node object; None before it is known.
    pub node_labels: Option<BTreeMap<String, String>>,
}

impl ClusterState {
    /// Applies a version of a Service unless a newer one is known.
    pub fn apply(&mut self, key: ServiceKey, view: ServiceView) {
        if !self.services.get(&key).is_some_and(|known| view.is_older_than(known)) {
            self.services.insert(key, Arc::new(view));
        }
    }

    /// Notes the cluster IPs, and the addresses that kube-vip announces: those in the status of Services and in the plan
    /// before, and those that this host still has from an earlier process.
    pub fn note_services(&mut self, rules: &Rules, before: &Plan) {
        // An address that its Service does not ask for any more is not announced.
        let covered =
            self.services.iter().filter(|(key, view)| rules.covers(key, view)).map(|(_, view)| view);
        let announced = covered.filter(|view| !view.status.is_empty()).flat_map(|view| {
            let asked = wanted(view);
            let fixed = asked.iter().all(|wanted| matches!(wanted, Wanted::Ip(ip) if !ip.is_unspecified()));
            let asks = move |address: &IpAddr| !fixed || asked.contains(&Wanted::Ip(*address));
            view.announced_in_status().filter(asks)
        });
        let mut announced: BTreeSet<IpAddr> = announced.collect();
        self.reserved.announced_in_status.clone_from(&announced);
        self.announced_in_status =
            self.services.values().flat_map(|view| view.announced_in_status()).collect();
        announced.extend(&self.left_over);
        // Without the Nodes a node's own address may have been planned.
        if before.nodes_listed {
            announced.extend(before.services.values().flat_map(|service| &service.addresses));
        }
        self.reserved.announced = announced;
        self.reserved.cluster = self.services.values().flat_map(|view| &view.cluster_ips).copied().collect();
    }

    /// Notes the addresses that this host needs: `fixed` ones, those of other programs, and those of API servers. Returns
    /// whether they have changed.
    pub fn note_host(
        &mut self,
        fixed: &BTreeMap<IpAddr, HostUse>,
        host: &HostState,
        api_servers: BTreeSet<IpAddr>,
    ) -> bool {
        let own = host.foreign_addresses().map(|address| (address, HostUse::Own));
        let gateways = host.gateways.iter().map(|address| (*address, HostUse::Gateway));
        let servers = api_servers.into_iter().map(|address| (address, HostUse::ApiServer));
        let fixed = fixed.iter().map(|(address, usage)| (*address, *usage));
        // An address of several uses has the last one.
        let uses = own.chain(fixed).chain(gateways).chain(servers).collect();
        std::mem::replace(&mut self.reserved.host_uses, uses) != self.reserved.host_uses
    }

    /// The control plane's VIPs, and untagged addresses of this host that kube-vip has announced: those in the status of a
    /// Service, which its author cannot write.
    pub(super) fn adoptable(&self) -> BTreeSet<IpAddr> {
        let announced = self.services.values().flat_map(|view| view.announced_in_status());
        let left = announced.filter(|address| self.untagged.contains(address));
        left.chain(self.vips.iter().copied()).collect()
    }

    /// Whether this host still has all of these from an earlier process, but for those that no node has announced yet, where
    /// there are others. See [`Plan::adoptable`].
    pub(super) fn has_all(&self, specs: &BTreeSet<AddressSpec>, adoptable: &BTreeSet<IpAddr>) -> bool {
        let has = |address| self.left_over.contains(address) || adoptable.contains(address);
        let is_new = |spec: &&AddressSpec| !self.announced_in_status.contains(&spec.address);
        let (new, announced): (Vec<_>, Vec<_>) = specs.iter().partition(is_new);
        let needed = if announced.is_empty() { new } else { announced };
        !needed.is_empty() && needed.iter().all(|spec| has(&spec.address))
    }
}

/// The plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Every VIP group.
    pub groups: BTreeMap<GroupId, GroupPlan>,
    /// Every selected Service.
    pub services: BTreeMap<ServiceKey, ServicePlan>,
    /// Services that an annotation excludes.
    pub ignored: BTreeSet<ServiceKey>,
    /// The Nodes were known.
    pub nodes_listed: bool,
    /// Problems with external addresses, by Service and its UID: Services of any type may have such addresses.
    pub external: BTreeMap<(ServiceKey, String), BTreeSet<Issue>>,
    /// DNS names to resolve.
    pub names: BTreeSet<String>,
    /// See [`VipPlan::unverified`](crate::model::VipPlan).
    pub unverified: BTreeSet<IpAddr>,
    /// See [`VipPlan::leased`](crate::model::VipPlan).
    pub leased: BTreeMap<IpAddr, [u8; 6]>,
    /// See [`VipPlan::adoptable`](crate::model::VipPlan).
    pub adoptable: BTreeSet<IpAddr>,
    /// DHCP leases to obtain, by the leader of their group.
    pub leases: BTreeMap<LeaseKey, ClientSpec>,
    /// Leases whose address is owned by another Service, node or the control plane, with that owner.
    pub lease_conflicts: BTreeMap<LeaseKey, String>,
    /// Desired port mappings.
    pub mappings: PortMappings,
    /// See [`ClusterState::node_labels`].
    pub node_labels: Option<BTreeMap<String, String>>,
    /// What is wrong with this node's name.
    pub node_problem: Option<String>,
}

/// The plan of a Service.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// The Service as it was planned.
    pub view: Arc<ServiceView>,
    /// It is deleted or deselected, and keeps its addresses until its port mappings are closed.
    pub terminating: bool,
    /// Acceptable addresses.
    pub addresses: Vec<IpAddr>,
    /// The VIP group of its addresses.
    pub group: Option<GroupId>,
    /// Route attributes of its annotations.
    pub attributes: Option<Arc<RouteAttributes>>,
    /// DHCP parameters, if it requests a lease.
    pub dhcp: Option<DhcpSpec>,
    /// Annotations with its DHCP leases, where this node obtained them; an inner None removes one.
    pub lease_annotations: BTreeMap<&'static str, Option<String>>,
    /// It asks for addresses that this host does not know yet, or that other hosts may know differently: of a lease, of a
    /// DNS name.
    pub unresolved: bool,
    /// The family of addresses that lead nowhere, where the other family has endpoints.
    pub unserved: Option<Family>,
    /// This node can serve it.
    pub servable_here: bool,
    /// Any node can serve it.
    pub has_endpoints: bool,
    /// Some EndpointSlice belongs to it, with ready endpoints or without.
    pub has_slices: bool,
    /// Where only nodes with an endpoint can serve it, and its leader has none, or it has no leader and this node has none: the
    /// first of those nodes by name.
    pub serving_nodes: Vec<String>,
    /// The leader of its group, where a Lease names one.
    pub leader: Option<Leader>,
    /// This node reports its problems as Events: one node does, as far as nodes know of each other.
    pub reports_here: bool,
    pub issues: Vec<Issue>,
}

/// The node that leads a Service's group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leader {
    pub node: String,
    /// It can serve the Service.
    pub serves: bool,
}

impl ServicePlan {
    /// The families of its addresses; both while it has none.
    pub(in crate::planner) fn families(&self) -> BTreeSet<Family> {
        let families: BTreeSet<Family> = self.addresses.iter().map(|address| Family::of(*address)).collect();
        if families.is_empty() { Family::BOTH.into() } else { families }
    }

    /// Whether it has endpoints, but none on the node that would have to announce it: its leader or, without one, this node.
    pub fn misses_endpoint(&self) -> bool {
        let serves = self.leader.as_ref().map_or(self.servable_here, |leader| leader.serves);
        self.has_endpoints && !serves
    }

    /// The addresses that lead to endpoints, if it has any.
    pub fn served(&self) -> impl Iterator<Item = IpAddr> {
        let served = |address: &IpAddr| self.unserved != Some(Family::of(*address));
        self.addresses.iter().copied().filter(served)
    }

    /// The same refusal of many addresses is one problem.
    pub(in crate::planner) fn refuse(&mut self, refusal: Refusal) {
        let issue = Issue::Refused(refusal);
        if !self.issues.contains(&issue) {
            self.issues.push(issue);
        }
    }

    /// Why it may not have what it asks for.
    pub fn refusals(&self) -> impl Iterator<Item = &Refusal> {
        self.issues.iter().filter_map(|issue| match issue {
            Issue::Refused(refusal) => Some(refusal),
            _ => None,
        })
    }

    /// Why it has no address, although it asks for one.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.refusals().next().filter(|_| self.addresses.is_empty())
    }

    /// A leased address is lost with its lease, not with the last endpoint.
    pub fn lost_lease(&self) -> bool {
        self.addresses.is_empty() && self.issues.iter().any(|issue| matches!(issue, Issue::Lease(_)))
    }
}

/// A problem to report to a Service's owner.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Issue {
    Refused(Refusal),
    Annotation(String),
    Lease(String),
    /// A port mapping failed.
    Gateway(String),
    /// The Service's name, or a port of it, is not published by mDNS.
    Name(String),
    /// A node reports an announced address as its own.
    Reported {
        address: IpAddr,
        node: String,
    },
    /// The leader cannot announce an address.
    Blocked(String),
    /// A host outside the cluster announces an address.
    Conflict(String),
    /// No node announces an address of the Service, and no other problem explains that.
    NotAnnounced(String),
}

impl Plan {
    /// Takes the VIP groups out, for the elections and the main loop of node `me`. `complete`: Services are listed.
    pub fn take_vip_plan(&mut self, me: &str, complete: bool) -> VipPlan {
        let known = self.services.values().flat_map(|service| &service.addresses).copied().collect();
        let announced = self.services.values().filter_map(|service| {
            let host = service.view.annotation(VIP_HOST)?;
            Some(service.view.announced_in_status().map(|address| (address, host.to_owned())))
        });
        let hosts = announced.flatten().filter(|(_, host)| host != me).collect();
        VipPlan {
            hosts,
            groups: std::mem::take(&mut self.groups),
            unverified: std::mem::take(&mut self.unverified),
            leased: std::mem::take(&mut self.leased),
            known: Arc::new(known),
            adoptable: std::mem::take(&mut self.adoptable),
            complete,
        }
    }
}

impl Mode {
    pub(super) fn lease_of(base: &LeaseName, number: usize) -> LeaseName {
        LeaseName { namespace: base.namespace.clone(), name: format!("{}-{number}", base.name) }
    }
}
