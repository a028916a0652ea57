//! Metrics of elections.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::observer::FailureReason;
use crate::metrics::add;
use crate::model::{BootTime, GroupId, Role, Roles};
use crate::net::clock;

/// Names and values, in the order of the Go program.
type Labels<const N: usize, V = &'static str> = [(&'static str, V); N];

/// Metrics of this node's elections. Transitions and failovers are those of the reported election.
#[derive(Debug)]
pub struct Metrics {
    lease: Labels<1, String>,
    transitions: Family<Labels<1, String>, Counter>,
    last_failover: Family<Labels<1, String>, Gauge<f64, std::sync::atomic::AtomicU64>>,
    requests: Family<Labels<1>, Counter>,
    errors: Family<Labels<2>, Counter>,
    leadership: Arc<Leadership>,
}

impl Metrics {
    /// `reported` is the Lease of the control plane, or of all Services; it has series from the start.
    pub fn register(
        r: &mut Registry,
        node: &str,
        reported: Option<String>,
        roles: watch::Receiver<Roles>,
    ) -> Self {
        let lease = [("lease_name", reported.clone().unwrap_or_default())];
        let state = Mutex::default();
        let leadership =
            Arc::new(Leadership { node: node.to_owned(), reported: reported.clone(), state, roles });
        r.register_collector(Box::new(leadership.clone()));
        let metrics = Self {
            transitions: add(r, "leader_election_transitions", "Times this node gained or lost the VIP"),
            last_failover: add(
                r,
                "last_failover_seconds",
                "Time from the last renewal by the previous holder to this node's gain",
            ),
            requests: add(r, "api_requests", "Requests for the Lease that succeeded"),
            errors: add(r, "api_errors", "Requests for the Lease that failed"),
            lease,
            leadership,
        };
        if reported.is_some() {
            metrics.transitions.get_or_create(&metrics.lease).inc_by(0);
        }
        metrics
    }

    pub(super) fn set_claim(&self, valid_until: Option<BootTime>) {
        self.leadership.lock().valid_until = valid_until;
    }

    pub(super) fn gained(&self, failover: Option<Duration>) {
        self.leadership.lock().leads = true;
        self.transitions.get_or_create(&self.lease).inc();
        if let Some(failover) = failover {
            self.last_failover.get_or_create(&self.lease).set(failover.as_secs_f64());
        }
    }

    pub(super) fn lost(&self) {
        self.leadership.lock().leads = false;
        self.transitions.get_or_create(&self.lease).inc();
    }

    pub(super) fn request(&self, verb: &'static str) {
        self.requests.get_or_create(&[("verb", verb)]).inc();
    }

    pub(super) fn error(&self, verb: &'static str, reason: FailureReason) {
        self.errors.get_or_create(&[("verb", verb), ("reason", reason.label())]).inc();
    }
}

/// Gauges of all elections, computed when they are scraped.
#[derive(Debug)]
struct Leadership {
    node: String,
    reported: Option<String>,
    state: Mutex<Reported>,
    roles: watch::Receiver<Roles>,
}

/// The reported election.
#[derive(Debug, Default)]
struct Reported {
    leads: bool,
    valid_until: Option<BootTime>,
}

impl Leadership {
    fn lock(&self) -> MutexGuard<'_, Reported> {
        // Any value is valid: a panic elsewhere cannot break it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each Lease, with whether this node leads and the end of its claim.
    fn elections(&self) -> Vec<(String, bool, Option<BootTime>)> {
        let now = clock::now();
        let mut all: Vec<_> = self
            .reported
            .iter()
            .map(|lease| {
                let state = self.lock();
                (lease.clone(), state.leads, state.valid_until)
            })
            .collect();
        for (group, role) in &*self.roles.borrow() {
            let GroupId::Lease(lease) = group else { continue };
            let lease = lease.to_string();
            if Some(&lease) != self.reported.as_ref() {
                let claim = role.claim(now);
                let leads = claim.is_some() || matches!(role, Role::HandingOver { .. });
                all.push((lease, leads, claim.map(|claim| claim.valid_until)));
            }
        }
        all
    }
}

impl Collector for Leadership {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (elections, now) = (self.elections(), clock::now());
        let help = "1 where this node is the leader of the election on a Lease";
        let mut gauge = encoder.encode_descriptor("is_leader", help, None, MetricType::Gauge)?;
        for (lease, leads, _) in &elections {
            let labels = [("node", self.node.as_str()), ("lease_name", lease.as_str())];
            ConstGauge::new(i64::from(*leads)).encode(gauge.encode_family(&labels)?)?;
        }
        let help = "Time this node may hold the addresses of a Lease without another renewal";
        let mut gauge =
            encoder.encode_descriptor("claim_remaining_seconds", help, None, MetricType::Gauge)?;
        for (lease, _, valid_until) in &elections {
            let remaining = valid_until.map_or(Duration::ZERO, |until| until.since(now));
            let labels = [("lease_name", lease.as_str())];
            ConstGauge::new(remaining.as_secs_f64()).encode(gauge.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::model::LeaseName;

    #[test]
    fn metrics_have_the_names_of_the_go_program() {
        let mut registry = Registry::with_prefix("kube_vip");
        let services = LeaseName { namespace: "shop".into(), name: "kubevip-web".into() };
        let roles = [(GroupId::from(services), Role::FOLLOWER), (GroupId::EveryNode, Role::FOLLOWER)];
        let (_, roles) = watch::channel(roles.into());
        let metrics = Metrics::register(&mut registry, "node-a", Some("plndr-cp-lock".into()), roles);
        metrics.gained(Some(Duration::from_millis(30)));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "kube_vip_is_leader{node=\"node-a\",lease_name=\"plndr-cp-lock\"} 1",
            "kube_vip_is_leader{node=\"node-a\",lease_name=\"shop/kubevip-web\"} 0",
            "kube_vip_leader_election_transitions_total{lease_name=\"plndr-cp-lock\"} 1",
            "kube_vip_claim_remaining_seconds{lease_name=\"plndr-cp-lock\"} 0.0",
            "kube_vip_last_failover_seconds{lease_name=\"plndr-cp-lock\"} 0.03",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
