//! Reports the addresses of this host: log lines, metrics, Events and `kube-vip status`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::metrics::Metrics;
use super::neighbours::proxy_remedy;
use crate::cluster::event::EventRecorder;
use crate::model::interface::hardware_text;
use crate::model::{BootTime, Vip};
use crate::net::clock;

/// The host's part of `kube-vip status`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AddressStatus {
    pub addresses: Vec<HeldAddress>,
    /// What keeps this node from announcing the VIP.
    pub blocked_by: Option<String>,
    /// The host was compared with a plan of all Services, and with this host's role in the reported election.
    pub reconciled: bool,
    /// The last iteration of the main loop.
    #[serde(skip)]
    pub heartbeat: BootTime,
}

/// An address on an interface of this host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldAddress {
    /// With its prefix length.
    pub address: String,
    pub interface: String,
    pub announced: bool,
}

/// The observer of the main loop.
#[derive(Debug)]
pub struct Reporter {
    metrics: Metrics,
    events: EventRecorder,
    status: watch::Sender<AddressStatus>,
}

impl Reporter {
    pub fn new(metrics: Metrics, events: EventRecorder) -> Arc<Self> {
        let status =
            watch::Sender::new(AddressStatus { heartbeat: clock::now(), ..AddressStatus::default() });
        Arc::new(Self { metrics, events, status })
    }

    pub fn status(&self) -> watch::Receiver<AddressStatus> {
        self.status.subscribe()
    }

    /// The main loop completed an iteration.
    pub fn heartbeat(&self, now: BootTime) {
        self.status.send_modify(|status| status.heartbeat = now);
    }

    /// `repaired`: another program had removed the address.
    pub fn address_added(&self, vip: Vip, interface: &str, repaired: bool) {
        if repaired {
            self.metrics.repaired(vip.address);
            tracing::warn!(address = %vip, interface, "restored the address: another program had removed it");
        } else {
            tracing::info!(address = %vip, interface, "added the address");
        }
    }

    pub fn address_removed(&self, vip: Vip, interface: &str) {
        self.metrics.forget(vip.address);
        tracing::info!(address = %vip, interface, "removed the address");
    }

    pub fn announced(&self, address: IpAddr) {
        self.metrics.announced(address);
        tracing::debug!(%address, "announced");
    }

    /// Another host announces an address that this host holds.
    pub fn conflict(&self, address: IpAddr, mac: &[u8], defended: bool) {
        self.metrics.conflict(address);
        if defended {
            let mac = hardware_text(mac);
            tracing::warn!(%address, mac, "another host announces our address; announcing it again");
            self.record_conflict(address, &mac);
        }
    }

    /// A host outside the cluster has the address of a Service. An Event on the Service reports it.
    pub fn occupied(&self, address: IpAddr, mac: &[u8]) {
        self.metrics.conflict(address);
        tracing::debug!(%address, mac = hardware_text(mac), "another host has the address");
    }

    /// Another host answered a probe for an address that this node is about to take.
    pub fn taken(&self, address: IpAddr, mac: &[u8]) {
        let mac = hardware_text(mac);
        self.metrics.conflict(address);
        let remedy = format!("remove the address from that host; if {}", proxy_remedy(address));
        if self.block(format!("address {address} is in use by {mac}: {remedy}")) {
            tracing::warn!(
                %address,
                mac,
                "another host answers for the address that this node is to take; waiting: {remedy}"
            );
            self.record_conflict(address, &mac);
        }
    }

    /// The addresses that this host holds, and VIPs that another program has configured here.
    pub fn held(&self, held: Vec<HeldAddress>, foreign: &BTreeSet<Vip>) {
        if let Some(vip) = foreign.first() {
            let text = format!(
                "{vip} is configured on this host by another program: remove it, or choose another VIP"
            );
            if self.block(text.clone()) {
                tracing::error!("{text}");
            }
        }
        self.status.send_modify(|status| {
            if foreign.is_empty() && !held.is_empty() {
                status.blocked_by = None;
            }
            status.addresses = held;
        });
    }

    /// The host was reconciled with all that has to be known first.
    pub fn ready(&self) {
        self.status.send_if_modified(|status| !std::mem::replace(&mut status.reconciled, true));
    }

    /// Returns whether this is new.
    fn block(&self, reason: String) -> bool {
        self.status.send_if_modified(|status| {
            let changed = status.blocked_by.as_ref() != Some(&reason);
            status.blocked_by = Some(reason);
            changed
        })
    }

    fn record_conflict(&self, address: IpAddr, mac: &str) {
        let message = format!(
            "{mac} claims {address}, which kube-vip manages: find that host and remove the address from it"
        );
        self.events.record_on_node(true, "VIPConflict", message);
    }
}
