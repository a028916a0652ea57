//! Metrics of the control plane's election.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use super::observer::FailureReason;
use crate::metrics::add;
use crate::model::BootTime;
use crate::net::clock;

/// Names and values, in the order of the Go program.
type Labels<const N: usize, V = &'static str> = [(&'static str, V); N];

/// Metrics of one node's election on one Lease.
#[derive(Debug)]
pub struct Metrics {
    lease: Labels<1, String>,
    node_lease: Labels<2, String>,
    is_leader: Family<Labels<2, String>, Gauge>,
    transitions: Family<Labels<1, String>, Counter>,
    last_failover: Family<Labels<1, String>, Gauge<f64, std::sync::atomic::AtomicU64>>,
    requests: Family<Labels<1>, Counter>,
    errors: Family<Labels<2>, Counter>,
    claim: Arc<ClaimRemaining>,
}

impl Metrics {
    pub fn register(r: &mut Registry, node: &str, lease: &str) -> Self {
        let [node, lease] = [("node", node.to_owned()), ("lease_name", lease.to_owned())];
        let (lease, node_lease) = ([lease.clone()], [node, lease]);
        let claim = Arc::new(ClaimRemaining { lease: lease.clone(), valid_until: Mutex::default() });
        r.register_collector(Box::new(claim.clone()));
        let metrics = Self {
            is_leader: add(r, "is_leader", "1 where this node holds the VIP"),
            transitions: add(r, "leader_election_transitions", "Times this node gained or lost the VIP"),
            last_failover: add(
                r,
                "last_failover_seconds",
                "Time from the last renewal by the previous holder to this node's gain",
            ),
            requests: add(r, "api_requests", "Requests for the Lease that succeeded"),
            errors: add(r, "api_errors", "Requests for the Lease that failed"),
            node_lease,
            lease,
            claim,
        };
        metrics.is_leader.get_or_create(&metrics.node_lease).set(0);
        metrics.transitions.get_or_create(&metrics.lease).inc_by(0);
        metrics
    }

    pub(super) fn set_claim(&self, valid_until: Option<BootTime>) {
        *self.claim.valid_until.lock().unwrap_or_else(PoisonError::into_inner) = valid_until;
    }

    pub(super) fn gained(&self, failover: Option<Duration>) {
        self.is_leader.get_or_create(&self.node_lease).set(1);
        self.transitions.get_or_create(&self.lease).inc();
        if let Some(failover) = failover {
            self.last_failover.get_or_create(&self.lease).set(failover.as_secs_f64());
        }
    }

    pub(super) fn lost(&self) {
        self.is_leader.get_or_create(&self.node_lease).set(0);
        self.transitions.get_or_create(&self.lease).inc();
    }

    pub(super) fn request(&self, verb: &'static str) {
        self.requests.get_or_create(&[("verb", verb)]).inc();
    }

    pub(super) fn error(&self, verb: &'static str, reason: FailureReason) {
        self.errors.get_or_create(&[("verb", verb), ("reason", reason.label())]).inc();
    }
}

/// Computed when it is scraped.
#[derive(Debug)]
struct ClaimRemaining {
    lease: Labels<1, String>,
    valid_until: Mutex<Option<BootTime>>,
}

impl Collector for ClaimRemaining {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let until = *self.valid_until.lock().unwrap_or_else(PoisonError::into_inner);
        let remaining = until.map_or(Duration::ZERO, |until| until.since(clock::now()));
        let mut encoder = encoder.encode_descriptor(
            "claim_remaining_seconds",
            "Time this node may hold the VIP without another renewal",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(remaining.as_secs_f64()).encode(encoder.encode_family(&self.lease)?)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn metrics_have_the_names_of_the_go_program() {
        let mut registry = Registry::with_prefix("kube_vip");
        let metrics = Metrics::register(&mut registry, "node-a", "plndr-cp-lock");
        metrics.gained(Some(Duration::from_millis(30)));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "kube_vip_is_leader{node=\"node-a\",lease_name=\"plndr-cp-lock\"} 1",
            "kube_vip_leader_election_transitions_total{lease_name=\"plndr-cp-lock\"} 1",
            "kube_vip_claim_remaining_seconds{lease_name=\"plndr-cp-lock\"} 0.0",
            "kube_vip_last_failover_seconds{lease_name=\"plndr-cp-lock\"} 0.03",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
