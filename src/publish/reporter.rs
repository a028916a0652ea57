//! Reports the Services of this node: metrics and `kube-vip status`.

use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::dhcp::status::LeaseStatus;
use crate::metrics::{add, count};

#[derive(Debug, Clone, Default)]
pub struct Metrics {
    services: Gauge,
}

impl Metrics {
    pub fn register(r: &mut Registry) -> Self {
        Self { services: add(r, "services", "Services of type LoadBalancer that this process manages") }
    }
}

/// The Services' part of `kube-vip status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServicesStatus {
    /// Managed Services.
    #[serde(default)]
    pub services: usize,
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

#[derive(Debug)]
pub struct Reporter {
    metrics: Metrics,
    status: watch::Sender<ServicesStatus>,
}

impl Reporter {
    pub fn new(metrics: Metrics) -> Arc<Self> {
        Arc::new(Self { metrics, status: watch::Sender::default() })
    }

    pub fn status(&self) -> watch::Receiver<ServicesStatus> {
        self.status.subscribe()
    }

    /// The number of managed Services.
    pub fn services(&self, services: usize) {
        self.metrics.services.set(count(services));
        self.status.send_modify(|status| status.services = services);
    }

    pub fn leases(&self, leases: Vec<LeaseStatus>) {
        self.status.send_modify(|status| status.leases = leases);
    }

    pub fn gateways(&self, lines: Vec<String>) {
        self.status.send_modify(|status| status.gateways = lines);
    }

    pub fn names(&self, lines: Vec<String>) {
        self.status.send_modify(|status| status.names = lines);
    }
}
