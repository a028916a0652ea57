//! Prometheus metrics. The names the Go program has are kept.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::register::add;
use crate::bgp;
use crate::model::BootTime;

type F64Gauge = Gauge<f64, std::sync::atomic::AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Lease {
    lease_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLease {
    node: String,
    lease_name: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Address {
    address: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verb {
    verb: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerbReason {
    verb: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: String,
    build: String,
    node: String,
}

/// All metrics of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    lease: Lease,
    node_lease: NodeLease,
    is_leader: Family<NodeLease, Gauge>,
    transitions: Family<Lease, Counter>,
    claim_remaining: Family<Lease, F64Gauge>,
    last_failover: Family<Lease, F64Gauge>,
    announcements: Family<Address, Counter>,
    conflicts: Family<Address, Counter>,
    repairs: Family<Address, Counter>,
    requests: Family<Verb, Counter>,
    errors: Family<VerbReason, Counter>,
    services: Gauge,
    /// Of DHCP.
    pub dhcp: crate::dhcp::metrics::Metrics,
    /// Of gateways.
    pub upnp: super::upnp::Counts,
    pub bgp: bgp::metrics::Metrics,
    claim_until: Arc<Mutex<Option<BootTime>>>,
}

impl Metrics {
    /// Metrics for this node's election on this Lease.
    pub fn new(node: &str, lease: &str) -> Self {
        let mut registry = Registry::with_prefix("kube_vip");
        let build = Family::<Build, Gauge>::default();
        let labels = Build {
            version: crate::VERSION.to_owned(),
            build: crate::BUILD.to_owned(),
            node: node.to_owned(),
        };
        build.get_or_create(&labels).set(1);
        registry.register("build_info", "Version and build of this process; always 1", build);
        let r = &mut registry;
        let metrics = Self {
            lease: Lease { lease_name: lease.to_owned() },
            node_lease: NodeLease { node: node.to_owned(), lease_name: lease.to_owned() },
            is_leader: add(r, "is_leader", "1 where this node holds the VIP"),
            transitions: add(r, "leader_election_transitions", "How often this node gained or lost the VIP"),
            claim_remaining: add(
                r,
                "claim_remaining_seconds",
                "For how long this node may still hold the VIP without another renewal",
            ),
            last_failover: add(
                r,
                "last_failover_seconds",
                "From the last sign of the former holder to this node's gain",
            ),
            announcements: add(r, "announcements", "Announcements sent"),
            conflicts: add(
                r,
                "address_conflicts",
                "Packets of other stations that claim one of our addresses",
            ),
            repairs: add(r, "address_repairs", "Addresses put back after somebody removed them"),
            requests: add(r, "api_requests", "Calls for the Lease that succeeded"),
            errors: add(r, "api_errors", "Calls for the Lease that failed"),
            services: add(r, "services", "Services that are looked after"),
            dhcp: crate::dhcp::metrics::Metrics::register(r),
            upnp: super::upnp::Counts::register(r),
            bgp: bgp::metrics::Metrics::register(r),
            claim_until: Arc::default(),
            registry: Registry::default(),
        };
        metrics.is_leader.get_or_create(&metrics.node_lease).set(0);
        metrics.transitions.get_or_create(&metrics.lease).inc_by(0);
        Self { registry, ..metrics }
    }

    /// In Prometheus' text format.
    pub fn encode(&self, now: BootTime) -> String {
        let until = *self.claim_until.lock().unwrap_or_else(PoisonError::into_inner);
        let remaining = until.map_or(Duration::ZERO, |until| until.since(now));
        self.claim_remaining.get_or_create(&self.lease).set(remaining.as_secs_f64());
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# metrics cannot be written: {error}\n"),
        }
    }

    pub(super) fn set_claim(&self, until: Option<BootTime>) {
        *self.claim_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    pub(super) fn gained(&self, gap: Option<Duration>) {
        self.is_leader.get_or_create(&self.node_lease).set(1);
        self.transitions.get_or_create(&self.lease).inc();
        if let Some(gap) = gap {
            self.last_failover.get_or_create(&self.lease).set(gap.as_secs_f64());
        }
    }

    pub(super) fn lost(&self) {
        self.is_leader.get_or_create(&self.node_lease).set(0);
        self.transitions.get_or_create(&self.lease).inc();
    }

    pub(super) fn announced(&self, address: IpAddr) {
        self.announcements.get_or_create(&label(address)).inc();
    }

    /// Of thousands of addresses that come and go only those that are here are told of.
    pub(super) fn forget(&self, address: IpAddr) {
        self.announcements.remove(&label(address));
        self.repairs.remove(&label(address));
    }

    pub(super) fn conflict(&self, address: IpAddr) {
        self.conflicts.get_or_create(&label(address)).inc();
    }

    pub(super) fn repaired(&self, address: IpAddr) {
        self.repairs.get_or_create(&label(address)).inc();
    }

    pub(super) fn services(&self, count: usize) {
        self.services.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn api_request(&self, verb: &'static str) {
        self.requests.get_or_create(&Verb { verb }).inc();
    }

    pub(super) fn api_error(&self, verb: &'static str, reason: &'static str) {
        self.errors.get_or_create(&VerbReason { verb, reason }).inc();
    }
}

fn label(address: IpAddr) -> Address {
    Address { address: address.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_the_go_program_has_are_there() {
        let metrics = Metrics::new("node-a", "plndr-cp-lock");
        metrics.gained(Some(Duration::from_millis(30)));
        metrics.announced("192.0.2.1".parse().unwrap());
        let text = metrics.encode(BootTime::default());
        for line in [
            "kube_vip_is_leader{node=\"node-a\",lease_name=\"plndr-cp-lock\"} 1",
            "kube_vip_leader_election_transitions_total{lease_name=\"plndr-cp-lock\"} 1",
            "kube_vip_announcements_total{address=\"192.0.2.1\"} 1",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.contains("kube_vip_build_info{version="), "{text}");
    }
}
