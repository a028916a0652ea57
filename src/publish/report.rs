//! The Services of this node in metrics and `kube-vip status`.

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::dhcp::status::LeaseStatus;
use crate::metrics::add;

#[derive(Debug, Clone, Default)]
pub struct Report {
    pub status: watch::Sender<ServicesStatus>,
    pub(super) managed: Gauge,
}

impl Report {
    pub fn register(r: &mut Registry) -> Self {
        let managed = add(r, "services", "Services of type LoadBalancer that this process manages");
        Self { managed, ..Self::default() }
    }
}

/// The Services' part of `kube-vip status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicesStatus {
    /// Managed Services.
    #[serde(default)]
    pub services: usize,
    /// This process announces none.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// Services without an announced address, each with the reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub not_announced: Vec<String>,
    /// What is wrong with this node's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_problem: Option<String>,
    /// DHCP leases of Services and of the control plane.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leases: Vec<LeaseStatus>,
    /// Gateways and their port mappings, one a line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    /// Names published by mDNS, one a line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
}
