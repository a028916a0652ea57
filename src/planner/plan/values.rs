//! What goes into the plan, and what comes out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::super::control_plane::ControlPlane;
use super::super::endpoints::Endpoints;
use super::super::leases::DhcpSpec;
use super::super::reserved::{Refusal, Reserved};
use super::super::select::Rules;
use crate::dhcp::wish::{Held, LeaseKey, Wish};
use crate::election::LeaseMetadata;
use crate::model::{
    AddressSpec, GroupId, GroupPlan, Holder, InterfaceSelector, LeaseName, Prefix, PrefixLength,
    RouteAttributes, ServiceKey, ServiceView, VipPlan,
};

/// What does not change while the process runs.
#[derive(Debug, Clone)]
pub struct PlanContext {
    /// This node.
    pub me: String,
    /// Which Services are looked after.
    pub rules: Rules,
    /// How they are elected.
    pub mode: Mode,
    /// Where this process holds the control plane's VIPs.
    pub control_plane: Option<ControlPlane>,
    /// Whether this process announces Services.
    pub services: bool,
    /// Where addresses go that say nothing.
    pub interface: InterfaceSelector,
    /// The interface that `auto` falls back to.
    pub main_interface: String,
    /// Prefix length for IPv4.
    pub v4: PrefixLength,
    /// Prefix length for IPv6.
    pub v6: PrefixLength,
    /// How routers are told of Services, where they are.
    pub routes: Option<RouteRules>,
}

/// How routes are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteRules {
    /// Addresses go on the interface as well.
    pub attach: bool,
    /// `spec.externalIPs` are announced, too.
    pub external_ips: bool,
    /// Networks that every node announces.
    pub networks: Vec<Prefix>,
    /// The cluster's own networks for Services are among them.
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
    /// A fixed number, Services spread over them by address.
    Groups {
        /// Their Leases are this one's name with a number.
        base: LeaseName,
        /// How many.
        count: usize,
        /// Candidates for each.
        most: usize,
    },
}

/// What was seen.
#[derive(Debug, Default)]
pub struct ClusterState {
    /// All Services.
    pub services: BTreeMap<ServiceKey, ServiceView>,
    /// What stands behind them.
    pub endpoints: Endpoints,
    /// Addresses that are not for Services.
    pub reserved: Reserved,
    /// The control plane's addresses, where this process holds them. See [`super::plan`].
    pub vips: BTreeSet<IpAddr>,
    /// Metadata of the control plane's Lease.
    pub control_plane_lease: LeaseMetadata,
    /// Services and their endpoints are listed.
    pub listed: bool,
    /// What names were resolved to.
    pub names: BTreeMap<String, Vec<IpAddr>>,
    /// Whom each Lease names that is not expired.
    pub holders: BTreeMap<LeaseName, Holder>,
    /// Addresses of ours that were on this host when the process began.
    pub left_over: BTreeSet<IpAddr>,
    /// The cluster's own networks for Services.
    pub service_cidrs: BTreeSet<Prefix>,
    /// What came of asking DHCP servers.
    pub leases: BTreeMap<LeaseKey, Held>,
}

impl ClusterState {
    /// A Service came or changed. News that is older than what is known is no news.
    pub fn apply(&mut self, key: ServiceKey, view: ServiceView) {
        if !self.services.get(&key).is_some_and(|known| view.is_older_than(known)) {
            self.services.insert(key, view);
        }
    }

    /// A write had this result. By then the Service may have changed again, or be gone.
    pub fn written(&mut self, key: ServiceKey, view: ServiceView) {
        if self.services.contains_key(&key) {
            self.apply(key, view);
        }
    }

    /// Whether this host still has all of these from an earlier process.
    pub(super) fn has_all(&self, places: &BTreeSet<AddressSpec>) -> bool {
        !places.is_empty() && places.iter().all(|place| self.left_over.contains(&place.address))
    }
}

/// What is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Every VIP group.
    pub groups: BTreeMap<GroupId, GroupPlan>,
    /// Every Service that is looked after.
    pub services: BTreeMap<ServiceKey, ServicePlan>,
    /// Names to look up.
    pub names: BTreeSet<String>,
    /// See [`VipPlan::unverified`](crate::model::VipPlan).
    pub unverified: BTreeSet<IpAddr>,
    /// What is asked of DHCP servers, by the node that has the election.
    pub leases: BTreeMap<LeaseKey, Wish>,
    /// Those whose address is somebody else's, each with whose.
    pub contested: BTreeMap<LeaseKey, String>,
}

/// How a Service that is looked after stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServicePlan {
    /// Its addresses that can be announced.
    pub addresses: Vec<IpAddr>,
    /// The VIP group of its addresses.
    pub group: Option<GroupId>,
    /// What routers are to be told of its addresses, where it says so.
    pub path: Option<Arc<RouteAttributes>>,
    /// What it asks of DHCP servers.
    pub asking: Option<DhcpSpec>,
    /// Whether this host could serve it.
    pub servable_here: bool,
    /// Whether any host could.
    pub has_endpoints: bool,
    /// What its user should know.
    pub issues: Vec<Issue>,
}

/// What a Service's user should know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Issue {
    /// An address is not announced.
    Refused(Refusal),
    /// An annotation cannot be followed.
    Annotation(String),
    /// There is no address from a DHCP server.
    Lease(String),
    /// A port of the network's gateway does not lead here.
    Gateway(String),
    /// The host that is to announce an address cannot.
    Obstacle(String),
    /// A station outside the cluster announces an address too.
    Conflict(String),
}

impl Plan {
    /// Takes the VIP groups out, for the elections and the main loop. `complete`: Services are listed.
    pub fn take_vip_plan(&mut self, complete: bool) -> VipPlan {
        let known = self.services.values().flat_map(|service| &service.addresses).copied().collect();
        VipPlan {
            groups: std::mem::take(&mut self.groups),
            unverified: std::mem::take(&mut self.unverified),
            known: Arc::new(known),
            complete,
        }
    }
}

impl Mode {
    /// The Lease of a group.
    pub(super) fn lease_of(base: &LeaseName, number: usize) -> LeaseName {
        LeaseName { namespace: base.namespace.clone(), name: format!("{}-{number}", base.name) }
    }

    /// The Lease by which a node says that it is there.
    pub(super) fn member_of(base: &LeaseName, node: &str) -> LeaseName {
        LeaseName { namespace: base.namespace.clone(), name: format!("{}{node}", Self::member_prefix(base)) }
    }

    pub(super) fn member_prefix(base: &LeaseName) -> String {
        format!("{}-member-", base.name)
    }
}
