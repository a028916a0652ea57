//! Metrics of gateways and port mappings.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::status::GatewayStatus;
use crate::metrics::{add, count};

#[derive(Debug, Clone, Default)]
pub struct Metrics {
    gateways: Gauge,
    open: Gauge,
    failing: Gauge,
    /// Mappings added or renewed.
    pub opened: Counter,
    /// Mappings deleted.
    pub closed: Counter,
    /// Requests that failed.
    pub errors: Counter,
}

impl Metrics {
    pub fn register(r: &mut Registry) -> Self {
        Self {
            gateways: add(r, "upnp_gateways", "Gateways found"),
            open: add(r, "upnp_ports_open", "Port mappings of gateways that lead to Services"),
            failing: add(r, "upnp_ports_failing", "Port mappings of Services that no gateway has"),
            opened: add(r, "upnp_requests_opened", "Requests that added or renewed a port mapping"),
            closed: add(r, "upnp_requests_closed", "Requests that deleted a port mapping"),
            errors: add(r, "upnp_errors", "Requests to gateways that failed"),
        }
    }

    pub fn update(&self, status: &GatewayStatus) {
        let open = status.ports.keys().filter(|key| status.is_open(key)).count();
        self.gateways.set(count(status.gateways.len()));
        self.open.set(count(open));
        self.failing.set(count(status.ports.len() - open));
    }
}
