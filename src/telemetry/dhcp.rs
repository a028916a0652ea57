//! What is told of DHCP leases: metrics, and lines of `kube-vip status`.

use std::collections::BTreeMap;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};

use super::register::add;
use crate::dhcp::fsm::Stage;
use crate::dhcp::wish::{Held, LeaseKey};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabel {
    state: String,
}

/// What is counted of DHCP.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    leases: Family<StageLabel, Gauge>,
    /// Messages to servers.
    pub sent: Counter,
    /// Leases that were given.
    pub granted: Counter,
    /// Leases that were given more time.
    pub renewed: Counter,
    /// Refusals by servers.
    pub refused: Counter,
    /// Leases that ended, or were taken away.
    pub lost: Counter,
    /// Addresses that a station had.
    pub taken: Counter,
}

impl Counts {
    /// Counters that are shown in this registry.
    pub fn register(registry: &mut Registry) -> Self {
        let r = registry;
        Self {
            leases: add(r, "dhcp_leases", "DHCP leases of this process by state"),
            sent: add(r, "dhcp_messages_sent", "Messages to DHCP servers"),
            granted: add(r, "dhcp_leases_granted", "Leases that DHCP servers gave"),
            renewed: add(r, "dhcp_leases_renewed", "Leases that DHCP servers gave more time"),
            refused: add(r, "dhcp_refusals", "Refusals by DHCP servers"),
            lost: add(r, "dhcp_leases_lost", "Leases that ended or were taken away"),
            taken: add(r, "dhcp_addresses_taken", "Addresses that were offered and that a station had"),
        }
    }

    /// How all leases stand.
    pub fn show(&self, held: &BTreeMap<LeaseKey, Held>) {
        for stage in Stage::ALL {
            let count = held.values().filter(|held| held.stage == stage).count();
            let label = StageLabel { state: stage.to_string() };
            self.leases.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

/// A lease, as `kube-vip status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseStatus {
    /// What it is for: a Service, or the control plane.
    pub owner: String,
    /// IPv4 or IPv6.
    pub family: String,
    /// How far it is.
    pub state: String,
    /// The address, while it is good.
    pub address: Option<String>,
    /// Server and times.
    pub lease: Option<String>,
    /// What is in the way.
    pub trouble: Option<String>,
}

impl LeaseStatus {
    /// A lease of this owner.
    pub fn of(owner: &str, key: &LeaseKey, held: &Held) -> Self {
        Self {
            owner: owner.to_owned(),
            family: key.family.to_string(),
            state: held.stage.to_string(),
            address: held.address.map(|address| address.to_string()),
            lease: held.record.as_ref().map(ToString::to_string),
            trouble: held.trouble.clone(),
        }
    }

    /// In one line.
    pub fn line(&self) -> String {
        let Self { owner, family, state, .. } = self;
        let what = self.lease.as_ref().or(self.address.as_ref());
        let what = what.map(|what| format!(": {what}")).unwrap_or_default();
        let trouble = self.trouble.as_ref().map(|text| format!(" ({text})")).unwrap_or_default();
        format!("{owner} {family} {state}{what}{trouble}")
    }
}
