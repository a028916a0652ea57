//! Routes received from a peer (Adj-RIB-In, RFC 4271 §3.2). Only `kube-vip status` reads them, so their number is limited.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::packet::{GracefulRestart, ReceivedUpdate};
use crate::model::{BootTime, Family, Prefix};

/// Bounds memory: routers may send a full table.
const MAX_ROUTES: usize = 2_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReceivedRoute {
    pub next_hop: Option<IpAddr>,
    /// Retained during the graceful restart of the peer (RFC 4724 §4.2).
    pub stale: bool,
}

#[derive(Debug, Default)]
pub struct RibIn {
    routes: BTreeMap<Prefix, ReceivedRoute>,
    /// The peer sent more than [`MAX_ROUTES`].
    truncated: bool,
    /// End of the restart time of the peer.
    stale_until: Option<BootTime>,
}

impl RibIn {
    pub fn handle_update(&mut self, update: &ReceivedUpdate) {
        for prefix in &update.unreach {
            self.routes.remove(prefix);
        }
        for prefix in &update.reach {
            if self.routes.len() >= MAX_ROUTES && !self.routes.contains_key(prefix) {
                self.truncated = true;
                continue;
            }
            self.routes.insert(*prefix, ReceivedRoute { next_hop: update.next_hop, stale: false });
        }
        if let Some(family) = update.end_of_rib {
            self.routes.retain(|prefix, route| !route.stale || prefix.family() != family);
        }
    }

    /// The session ended. With graceful restart the routes of its families become stale.
    pub fn session_down(&mut self, now: BootTime, restart: Option<&GracefulRestart>) {
        let Some(restart) = restart else { return *self = Self::default() };
        let retained = |family: Family| restart.families.iter().any(|one| one.family == family);
        self.routes.retain(|prefix, _| retained(prefix.family()));
        self.routes.values_mut().for_each(|route| route.stale = true);
        self.stale_until = Some(now + Duration::from_secs(restart.seconds.into()));
    }

    /// The session is established. Stale routes of families without the Forwarding State bit are removed, others at
    /// End-of-RIB (RFC 4724 §4.2).
    pub fn session_up(&mut self, restart: Option<&GracefulRestart>) {
        self.stale_until = None;
        let retained = |family: Family| {
            let mut families = restart.iter().flat_map(|restart| &restart.families);
            families.any(|one| one.family == family && one.forwarding)
        };
        self.routes.retain(|prefix, _| retained(prefix.family()));
    }

    /// Removes stale routes once the restart time is over.
    pub fn handle_timeout(&mut self, now: BootTime) {
        if self.stale_until.is_some_and(|until| now >= until) {
            *self = Self::default();
        }
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        self.stale_until
    }

    /// The routes, and whether some were not stored.
    pub fn routes(&self) -> (&BTreeMap<Prefix, ReceivedRoute>, bool) {
        (&self.routes, self.truncated)
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::RestartFamily;
    use super::*;

    fn update(reach: &[&str], unreach: &[&str], end: Option<Family>) -> ReceivedUpdate {
        let read = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        ReceivedUpdate {
            reach: read(reach),
            unreach: read(unreach),
            end_of_rib: end,
            ..ReceivedUpdate::default()
        }
    }

    fn restart(families: &[(Family, bool)]) -> GracefulRestart {
        let families = families.iter().map(|&(family, forwarding)| RestartFamily { family, forwarding });
        GracefulRestart { seconds: 120, families: families.collect(), ..GracefulRestart::default() }
    }

    fn listed(rib: &RibIn) -> Vec<(String, bool)> {
        rib.routes().0.iter().map(|(prefix, route)| (prefix.to_string(), route.stale)).collect()
    }

    #[test]
    fn stale_routes_last_until_end_of_rib_or_the_restart_time() {
        let at = |seconds| BootTime::from_boot(Duration::from_secs(seconds));
        let mut rib = RibIn::default();
        rib.handle_update(&update(&["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"], &[], None));
        rib.session_down(at(0), Some(&restart(&[(Family::V4, true)])));
        assert_eq!(listed(&rib), [("10.0.0.0/8".into(), true), ("192.0.2.0/24".into(), true)]);
        rib.session_up(Some(&restart(&[(Family::V4, true)])));
        rib.handle_update(&update(&["192.0.2.0/24"], &[], None));
        rib.handle_update(&update(&[], &[], Some(Family::V4)));
        assert_eq!(listed(&rib), [("192.0.2.0/24".into(), false)]);
        rib.session_down(at(10), Some(&restart(&[(Family::V4, true)])));
        rib.handle_timeout(at(129));
        assert_eq!(listed(&rib).len(), 1);
        rib.handle_timeout(at(130));
        assert_eq!(listed(&rib), []);
    }

    #[test]
    fn routes_without_graceful_restart_are_removed_at_once() {
        let mut rib = RibIn::default();
        rib.handle_update(&update(&["10.0.0.0/8"], &[], None));
        rib.session_down(BootTime::default(), Some(&restart(&[(Family::V4, true)])));
        rib.session_up(Some(&restart(&[(Family::V4, false)])));
        assert_eq!(listed(&rib), []);
        rib.handle_update(&update(&["10.0.0.0/8"], &[], None));
        rib.session_down(BootTime::default(), None);
        assert_eq!(listed(&rib), []);
    }

    #[test]
    fn the_number_of_routes_is_limited() {
        let mut rib = RibIn::default();
        for n in 0..3_000 {
            rib.handle_update(&update(&[&format!("10.{}.{}.0/24", n / 250, n % 250)], &[], None));
        }
        assert_eq!((rib.routes().0.len(), rib.routes().1), (MAX_ROUTES, true));
    }
}
