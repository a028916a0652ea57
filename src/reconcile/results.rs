//! What the main loop publishes: routes for the BGP speaker or the routing table, and the status of this host.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::driver::Driver;
use super::neighbours::taken;
use super::reporter::HeldAddress;
use crate::model::{HostStatus, Prefix, Routes, Vip};
use crate::watch_ext;

impl Driver {
    /// Withdraws what is not in `routes`.
    pub(super) fn withdraw(&self, routes: &Routes) {
        self.channels.announced.send_if_modified(|announced| {
            if announced.routes.keys().all(|prefix| routes.contains_key(prefix)) {
                return false;
            }
            let kept = announced.routes.iter().filter(|(prefix, _)| routes.contains_key(prefix));
            announced.routes = Arc::new(kept.map(|(prefix, path)| (*prefix, path.clone())).collect());
            true
        });
    }

    pub(super) fn conflicts_are_published(&self) -> bool {
        let known = self.conflicts.iter().map(|(address, (host, _))| (address, host));
        known.eq(&self.channels.outcome.borrow().conflicts)
    }

    /// Publishes the held addresses, and what blocks others.
    pub(super) fn publish(&mut self, foreign: &BTreeSet<Vip>) {
        self.published = true;
        let announcing = self.schedule.targets();
        let held = self.actual.fences.keys().map(|(interface, vip)| HeldAddress {
            address: vip.to_string(),
            interface: self.interfaces.name(*interface),
            announced: announcing.contains(&(*interface, vip.address)),
        });
        self.reporter.held(held.collect(), foreign);
        let mut blocked = self.placement.blocked.clone();
        for vip in foreign {
            blocked.insert(
                vip.address,
                format!("{} is configured on this host by another program", vip.address),
            );
        }
        let routes = self.channels.announced.borrow().routes.clone();
        let hosts = routes.keys().filter(|prefix| **prefix == Prefix::host(prefix.address));
        let held = announcing.into_iter().map(|(_, address)| address);
        let held = held.chain(hosts.map(|prefix| prefix.address)).collect();
        let conflicts = self.conflicts.iter().map(|(address, (text, _))| (*address, text.clone())).collect();
        let taken = taken(&self.detectors);
        watch_ext::set(&self.channels.outcome, HostStatus { held, blocked, conflicts, taken });
    }
}
