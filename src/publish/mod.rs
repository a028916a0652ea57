//! What this node publishes about the Services that it announces.
//!
//! ```text
//! Plan (planner), HostStatus (reconcile), ─► driver ─┬─► status, writes ─► cluster
//! GatewayStatus, PublishedNames, leases              ├─► not_announced, events, node_labels ─► cluster
//!                                                    ├─► port_mappings ─► upnp
//!                                                    ├─► names ─► mdns
//!                                                    └─► report ─► metrics, `kube-vip status`
//! ```

pub mod driver;
mod events;
mod leases;
mod names;
pub mod node_labels;
mod not_announced;
mod overwrites;
mod port_mappings;
pub mod report;
pub mod status;
mod writes;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::cluster::event::{Event, service_reference};
use crate::config::UpnpPolicy;
use crate::election::reporter::RefusedLeases;
use crate::mdns::records::PublishedNames;
use crate::model::{GroupId, HostStatus, ServiceKey};
use crate::planner::plan::{Plan, ServicePlan};
use crate::upnp::status::GatewayStatus;

#[derive(Debug, Clone, Default)]
pub struct Options {
    pub me: String,
    /// Write status and annotations.
    pub write_status: bool,
    /// Publish a name of every Service by mDNS.
    pub names: bool,
    /// The control plane's name by mDNS, which no Service may have.
    pub reserved_name: Option<String>,
    pub upnp: UpnpPolicy,
    /// Add external addresses of gateways to the status.
    pub upnp_status: bool,
    /// Services are announced.
    pub services: bool,
    /// Addresses are advertised to BGP peers.
    pub bgp: bool,
    /// The control plane's groups.
    pub control_plane: BTreeSet<GroupId>,
    /// The group of all Services, where these have one election.
    pub common: Option<GroupId>,
}

/// What is published from: the latest of each.
#[derive(Debug, Default)]
struct Sources {
    options: Options,
    plan: Arc<Plan>,
    host: HostStatus,
    gateways: GatewayStatus,
    names: PublishedNames,
    refused: RefusedLeases,
    /// A session with a BGP peer is established.
    has_session: bool,
}

impl Sources {
    /// The addresses of a Service that this node has.
    fn held(&self, service: &ServicePlan) -> impl Iterator<Item = IpAddr> {
        service.served().filter(|address| self.host.held.contains(address))
    }

    fn event(&self, key: &ServiceKey, warning: bool, reason: &'static str, message: String) -> Event {
        let uid = self.plan.services.get(key).map(|service| service.view.uid.clone());
        Event { about: service_reference(key, uid), warning, reason, message, shared: false }
    }
}
