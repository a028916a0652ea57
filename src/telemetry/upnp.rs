//! What is told of gateways: metrics, and lines of `kube-vip status`.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::register::add;
use crate::upnp::status::GatewayStatus;

/// What is counted of gateways.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    gateways: Gauge,
    open: Gauge,
    failing: Gauge,
    /// Ports that were opened, or renewed.
    pub opened: Counter,
    /// Ports that were closed.
    pub closed: Counter,
    /// Requests that failed.
    pub errors: Counter,
}

impl Counts {
    /// Counters that are shown in this registry.
    pub fn register(registry: &mut Registry) -> Self {
        let r = registry;
        Self {
            gateways: add(r, "upnp_gateways", "Gateways that were found"),
            open: add(r, "upnp_ports_open", "Ports of gateways that lead to Services"),
            failing: add(
                r,
                "upnp_ports_failing",
                "Ports of gateways that should lead to Services and do not",
            ),
            opened: add(r, "upnp_requests_opened", "Requests that opened or renewed a port"),
            closed: add(r, "upnp_requests_closed", "Requests that closed a port"),
            errors: add(r, "upnp_errors", "Requests to gateways that failed"),
        }
    }

    /// How it goes.
    pub fn show(&self, outcome: &GatewayStatus) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let open = outcome.ports.keys().filter(|key| outcome.is_open(key)).count();
        self.gateways.set(number(outcome.gateways.len()));
        self.open.set(number(open));
        self.failing.set(number(outcome.ports.len() - open));
    }
}

/// Gateways with their addresses outside, what is open there, and what is in the way.
pub fn lines(outcome: &GatewayStatus) -> Vec<String> {
    let mut lines: Vec<String> = outcome.trouble.iter().cloned().collect();
    for (gateway, outside) in &outcome.gateways {
        let outside = outside.map(|address| format!(", outside {address}")).unwrap_or_default();
        lines.push(format!("{gateway}{outside}"));
    }
    for (key, gateways) in &outcome.ports {
        let port = format!("port {}/{} for {}", key.external, key.protocol, key.address);
        lines.extend(gateways.iter().map(|(gateway, result)| match result {
            Ok(()) => format!("{gateway}: {port} is open"),
            Err(why) => format!("{gateway}: {port} is not open: {why}"),
        }));
    }
    lines
}
