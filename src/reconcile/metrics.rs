//! Metrics of the addresses of this host.

use std::net::IpAddr;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use crate::metrics::add;

/// The label `address`.
type Label = [(&'static str, String); 1];

/// Counters by address.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    announcements: Family<Label, Counter>,
    conflicts: Family<Label, Counter>,
    repairs: Family<Label, Counter>,
}

impl Metrics {
    pub fn register(r: &mut Registry) -> Self {
        Self {
            announcements: add(r, "announcements", "Gratuitous ARPs and unsolicited NAs sent"),
            conflicts: add(r, "address_conflicts", "Packets of other hosts that claim an address of ours"),
            repairs: add(r, "address_repairs", "Addresses restored after another program removed them"),
        }
    }

    pub(super) fn announced(&self, address: IpAddr) {
        self.announcements.get_or_create(&label(address)).inc();
    }

    pub(super) fn conflict(&self, address: IpAddr) {
        self.conflicts.get_or_create(&label(address)).inc();
    }

    pub(super) fn repaired(&self, address: IpAddr) {
        self.repairs.get_or_create(&label(address)).inc();
    }

    /// Bounds the number of series: an address that left this host has none, except for its conflicts.
    pub(super) fn forget(&self, address: IpAddr) {
        self.announcements.remove(&label(address));
        self.repairs.remove(&label(address));
    }
}

fn label(address: IpAddr) -> Label {
    [("address", address.to_string())]
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;

    #[test]
    fn an_address_that_is_gone_keeps_only_its_conflicts() {
        let mut registry = Registry::with_prefix("kube_vip");
        let metrics = Metrics::register(&mut registry);
        let address = [192, 0, 2, 1].into();
        metrics.announced(address);
        metrics.conflict(address);
        let text = || {
            let mut text = String::new();
            encode(&mut text, &registry).unwrap();
            text
        };
        assert!(text().contains("kube_vip_announcements_total{address=\"192.0.2.1\"} 1"), "{}", text());
        metrics.forget(address);
        assert!(!text().contains("announcements_total{"), "{}", text());
        assert!(text().contains("kube_vip_address_conflicts_total{address=\"192.0.2.1\"} 1"), "{}", text());
    }
}
