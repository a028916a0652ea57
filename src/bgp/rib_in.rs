//! What a peer told us (Adj-RIB-In). Nothing is done with it but to show it, so that it may be cut short.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::packet::{GracefulRestart, Received};
use crate::model::{BootTime, Family, Prefix};

/// As many routes are remembered; a router may well send a million.
const MOST: usize = 2_000;

/// A route as the peer sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Learnt {
    /// Where the peer sends packets for it.
    pub next_hop: Option<IpAddr>,
    /// The session that it came by is over, and the peer has promised to be back (RFC 4724 §4.2).
    pub stale: bool,
}

/// Routes of one peer.
#[derive(Debug, Default)]
pub struct RibIn {
    routes: BTreeMap<Prefix, Learnt>,
    /// There were more than are remembered.
    truncated: bool,
    /// When the peer has to be back.
    stale_until: Option<BootTime>,
}

impl RibIn {
    /// Routes came.
    pub fn learn(&mut self, update: &Received) {
        for prefix in &update.unreach {
            self.routes.remove(prefix);
        }
        for prefix in &update.reach {
            if self.routes.len() >= MOST && !self.routes.contains_key(prefix) {
                self.truncated = true;
                continue;
            }
            self.routes.insert(*prefix, Learnt { next_hop: update.next_hop, stale: false });
        }
        if let Some(family) = update.end_of_rib {
            self.routes.retain(|prefix, route| !route.stale || prefix.family() != family);
        }
    }

    /// The session is over. A peer that promised to be back keeps its routes for a while.
    pub fn end(&mut self, now: BootTime, promise: Option<&GracefulRestart>) {
        let Some(promise) = promise else { return *self = Self::default() };
        let kept = |family: Family| promise.families.iter().any(|one| one.family == family);
        self.routes.retain(|prefix, _| kept(prefix.family()));
        self.routes.values_mut().for_each(|route| route.stale = true);
        self.stale_until = Some(now + Duration::from_secs(promise.seconds.into()));
    }

    /// The peer is back: it has until the end of its routes to bring those that it still has. Families that it does
    /// not say it kept are gone (RFC 4724 §4.2).
    pub fn begin(&mut self, promise: Option<&GracefulRestart>) {
        self.stale_until = None;
        let kept = |family: Family| {
            promise.is_some_and(|promise| {
                promise.families.iter().any(|one| one.family == family && one.forwarding)
            })
        };
        self.routes.retain(|prefix, _| kept(prefix.family()));
    }

    /// Drop what the peer has not come back for.
    pub fn handle_timeout(&mut self, now: BootTime) {
        if self.stale_until.is_some_and(|until| now >= until) {
            *self = Self::default();
        }
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<BootTime> {
        self.stale_until
    }

    /// What is known, and whether there is more.
    pub fn routes(&self) -> (&BTreeMap<Prefix, Learnt>, bool) {
        (&self.routes, self.truncated)
    }
}

#[cfg(test)]
mod tests {
    use super::super::packet::RestartFamily;
    use super::*;

    fn update(reach: &[&str], unreach: &[&str], end: Option<Family>) -> Received {
        let read = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Received { reach: read(reach), unreach: read(unreach), end_of_rib: end, ..Received::default() }
    }

    fn promise(families: &[(Family, bool)]) -> GracefulRestart {
        let families = families.iter().map(|&(family, forwarding)| RestartFamily { family, forwarding });
        GracefulRestart { seconds: 120, families: families.collect(), ..GracefulRestart::default() }
    }

    fn shown(rib: &RibIn) -> Vec<(String, bool)> {
        rib.routes().0.iter().map(|(prefix, route)| (prefix.to_string(), route.stale)).collect()
    }

    #[test]
    fn a_peer_that_promised_to_be_back_keeps_its_routes_until_it_has_sent_all() {
        let at = |seconds| BootTime::from_boot(Duration::from_secs(seconds));
        let mut rib = RibIn::default();
        rib.learn(&update(&["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"], &[], None));
        rib.end(at(0), Some(&promise(&[(Family::V4, true)])));
        assert_eq!(shown(&rib), [("10.0.0.0/8".into(), true), ("192.0.2.0/24".into(), true)]);
        rib.begin(Some(&promise(&[(Family::V4, true)])));
        rib.learn(&update(&["192.0.2.0/24"], &[], None));
        rib.learn(&update(&[], &[], Some(Family::V4)));
        assert_eq!(shown(&rib), [("192.0.2.0/24".into(), false)]);
        rib.end(at(10), Some(&promise(&[(Family::V4, true)])));
        rib.handle_timeout(at(129));
        assert_eq!(shown(&rib).len(), 1);
        rib.handle_timeout(at(130));
        assert_eq!(shown(&rib), []);
    }

    #[test]
    fn without_a_promise_or_what_it_did_not_keep_goes_at_once() {
        let mut rib = RibIn::default();
        rib.learn(&update(&["10.0.0.0/8"], &[], None));
        rib.end(BootTime::default(), Some(&promise(&[(Family::V4, true)])));
        rib.begin(Some(&promise(&[(Family::V4, false)])));
        assert_eq!(shown(&rib), []);
        rib.learn(&update(&["10.0.0.0/8"], &[], None));
        rib.end(BootTime::default(), None);
        assert_eq!(shown(&rib), []);
    }

    #[test]
    fn a_flood_is_cut_short() {
        let mut rib = RibIn::default();
        for n in 0..3_000 {
            rib.learn(&update(&[&format!("10.{}.{}.0/24", n / 250, n % 250)], &[], None));
        }
        assert_eq!((rib.routes().0.len(), rib.routes().1), (MOST, true));
    }
}
