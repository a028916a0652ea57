//! Metrics of DHCP clients.

use std::collections::BTreeMap;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::fsm::ClientState;
use super::spec::{ClientStatus, LeaseKey};
use crate::metrics::{add, count};

#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// By the label `state`.
    leases: Family<[(&'static str, &'static str); 1], Gauge>,
    pub(super) sent: Counter,
    pub(super) granted: Counter,
    pub(super) renewed: Counter,
    pub(super) refused: Counter,
    pub(super) lost: Counter,
    pub(super) conflicts: Counter,
}

impl Metrics {
    pub fn register(r: &mut Registry) -> Self {
        Self {
            leases: add(r, "dhcp_leases", "DHCP leases of this process by state"),
            sent: add(r, "dhcp_messages_sent", "Messages sent to DHCP servers"),
            granted: add(r, "dhcp_leases_granted", "Leases that DHCP servers granted"),
            renewed: add(r, "dhcp_leases_renewed", "Leases that DHCP servers extended"),
            refused: add(r, "dhcp_refusals", "Requests that DHCP servers refused"),
            lost: add(r, "dhcp_leases_lost", "Leases that expired, were refused, or were in conflict"),
            conflicts: add(
                r,
                "dhcp_addresses_taken",
                "Addresses assigned by a DHCP server that another host had",
            ),
        }
    }

    pub(super) fn set_states(&self, clients: &BTreeMap<LeaseKey, ClientStatus>) {
        for (state, name) in ClientState::ALL {
            let clients = clients.values().filter(|client| client.state == state).count();
            self.leases.get_or_create(&[("state", name)]).set(count(clients));
        }
    }
}
