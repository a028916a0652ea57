//! Metrics of DHCP clients.

use std::collections::BTreeMap;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::fsm::ClientState;
use super::spec::{ClientStatus, LeaseKey};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabel {
    state: String,
}

#[derive(Debug, Clone, Default)]
pub struct Metrics {
    leases: Family<StateLabel, Gauge>,
    pub(super) sent: Counter,
    pub(super) granted: Counter,
    pub(super) renewed: Counter,
    pub(super) refused: Counter,
    pub(super) lost: Counter,
    pub(super) conflicts: Counter,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("dhcp_leases", "DHCP leases of this process by state", metrics.leases.clone());
        let counters = [
            ("dhcp_messages_sent", "Messages sent to DHCP servers", &metrics.sent),
            ("dhcp_leases_granted", "Leases that DHCP servers granted", &metrics.granted),
            ("dhcp_leases_renewed", "Leases that DHCP servers extended", &metrics.renewed),
            ("dhcp_refusals", "Requests that DHCP servers refused", &metrics.refused),
            ("dhcp_leases_lost", "Leases that expired, were refused, or were in conflict", &metrics.lost),
            (
                "dhcp_addresses_taken",
                "Addresses assigned by a DHCP server that another host had",
                &metrics.conflicts,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        metrics
    }

    pub(super) fn set_states(&self, clients: &BTreeMap<LeaseKey, ClientStatus>) {
        for state in ClientState::ALL {
            let count = clients.values().filter(|client| client.state == state).count();
            let label = StateLabel { state: state.to_string() };
            self.leases.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
