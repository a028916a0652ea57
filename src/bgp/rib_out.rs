//! Routes advertised to a peer (Adj-RIB-Out, RFC 4271 §3.2), and the difference to the desired routes.
//!
//! There is no queue of changes: a slow peer gets the latest state of each prefix.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use super::fsm::Session;
use super::packet::{self, Attributes, GRACEFUL_SHUTDOWN, Reach, Segment, Update};
use crate::model::{Family, PerFamily, Prefix, RouteAttributes, Routes};

/// Upper limit of prefixes in one UPDATE.
const BATCH: usize = 1000;

/// Export policy for one peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Export {
    pub local_as: u32,
    /// Next hops by family of the route. Families without one are not advertised.
    pub next_hops: PerFamily<Option<IpAddr>>,
    /// Used where a route has no value of its own; communities are merged.
    pub defaults: RouteAttributes,
}

#[derive(Debug, Default)]
pub struct RibOut {
    session: Option<(Session, Export)>,
    desired: Arc<Routes>,
    /// `desired` contains all routes: End-of-RIB may be sent.
    complete: bool,
    sent: BTreeMap<Prefix, Arc<RouteAttributes>>,
    /// Prefixes to advertise or withdraw.
    pending: BTreeSet<Prefix>,
    /// Families whose End-of-RIB was not sent yet (RFC 4724 §2).
    pending_eor: Vec<Family>,
    /// Families being refreshed (RFC 7313).
    refreshing: BTreeSet<Family>,
    /// Beginning-of-RR messages to send.
    refresh_markers: VecDeque<Vec<u8>>,
}

impl RibOut {
    /// The session is established: all routes are pending.
    pub fn session_up(&mut self, session: Session, export: Export) {
        self.session_down();
        self.pending_eor.clone_from(&session.families);
        self.session = Some((session, export));
        self.pending = self.desired.keys().filter(|prefix| self.can_advertise(**prefix)).copied().collect();
    }

    pub fn session_down(&mut self) {
        let (desired, complete) = (self.desired.clone(), self.complete);
        *self = Self { desired, complete, ..Self::default() };
    }

    /// Replaces the desired routes. `complete`: there are no others, so End-of-RIB may be sent.
    pub fn set_desired(&mut self, routes: Arc<Routes>, complete: bool) {
        self.desired = routes;
        self.complete = complete;
        if self.session.is_none() {
            return;
        }
        let withdrawn = self.sent.keys().filter(|prefix| !self.desired.contains_key(prefix));
        let changed = self.desired.iter().filter(|(prefix, path)| {
            let sent = self.sent.get(prefix);
            sent.is_none_or(|sent| !Arc::ptr_eq(sent, path) && sent != *path)
        });
        let changed = changed.map(|(prefix, _)| prefix).filter(|prefix| self.can_advertise(**prefix));
        let pending: BTreeSet<Prefix> = withdrawn.chain(changed).copied().collect();
        self.pending.retain(|prefix| self.sent.contains_key(prefix));
        self.pending.extend(pending);
    }

    /// ROUTE-REFRESH of the peer (RFC 2918).
    pub fn refresh(&mut self, family: Family) {
        let Some((session, _)) = &self.session else { return };
        if session.enhanced_refresh && self.refreshing.insert(family) {
            self.refresh_markers.push_back(packet::refresh_message(family, 1));
        }
        self.pending.extend(self.sent.keys().filter(|prefix| prefix.family() == family));
    }

    pub fn sent(&self) -> impl ExactSizeIterator<Item = &Prefix> {
        self.sent.keys()
    }

    pub fn is_synchronized(&self) -> bool {
        self.session.is_none() || self.pending.is_empty()
    }

    /// The next messages to send: those of one UPDATE, a refresh marker or End-of-RIB.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Vec<u8>> {
        if let Some(marker) = self.refresh_markers.pop_front() {
            return Some(marker);
        }
        if let Some(update) = self.next_update() {
            let (session, _) = self.session.as_ref()?;
            let messages = update.encode(session.negotiated);
            return Some(match update {
                Update::Reach(reach) if messages.is_empty() => self.withdraw(&reach.prefixes)?,
                _ => messages.concat(),
            });
        }
        if let Some(family) = self.refreshing.pop_first() {
            return Some(packet::refresh_message(family, 2));
        }
        // RFC 4724 §4.1: a restarted speaker sends End-of-RIB once all routes are known, and the peer drops stale ones.
        let family = if self.complete { self.pending_eor.pop()? } else { return None };
        let (session, _) = self.session.as_ref()?;
        Some(Update::EndOfRib(family).encode(session.negotiated).concat())
    }

    /// Routes that fit no message. An earlier advertisement of theirs must not stay.
    fn withdraw(&mut self, prefixes: &[Prefix]) -> Option<Vec<u8>> {
        let (session, _) = self.session.as_ref()?;
        for prefix in prefixes {
            self.sent.remove(prefix);
        }
        let gone = Update::Unreach(prefixes.first()?.family(), prefixes.to_vec());
        Some(gone.encode(session.negotiated).concat())
    }

    fn can_advertise(&self, prefix: Prefix) -> bool {
        self.session.as_ref().is_some_and(|(session, export)| {
            session.families.contains(&prefix.family()) && export.next_hops[prefix.family()].is_some()
        })
    }

    fn next_update(&mut self) -> Option<Update> {
        let first = *self.pending.first()?;
        let family = first.family();
        let path = self.desired.get(&first).cloned();
        let same = |prefix: &&Prefix| prefix.family() == family && self.desired.get(prefix) == path.as_ref();
        let prefixes: Vec<Prefix> = self.pending.iter().take(BATCH).filter(same).copied().collect();
        for prefix in &prefixes {
            self.pending.remove(prefix);
            match &path {
                Some(path) => drop(self.sent.insert(*prefix, path.clone())),
                None => drop(self.sent.remove(prefix)),
            }
        }
        let (session, export) = self.session.as_ref()?;
        Some(match path {
            None => Update::Unreach(family, prefixes),
            Some(path) => Update::Reach(Reach {
                next_hop: export.next_hops[family]?,
                attributes: export.attributes(&path, session.negotiated.internal),
                prefixes,
            }),
        })
    }
}

impl Export {
    /// Export policy of a session. Its local address is the next hop for its own family, and for IPv4 as well with
    /// extended next hops (RFC 8950); configured next hops come first.
    pub fn new(
        local_as: u32,
        local: IpAddr,
        configured: &PerFamily<Option<IpAddr>>,
        session: &Session,
        defaults: RouteAttributes,
    ) -> Self {
        let next_hop = |family: Family| {
            let own = family == Family::of(local) || (family == Family::V4 && session.extended_next_hop);
            configured[family].or(own.then_some(local))
        };
        let next_hops = PerFamily { v4: next_hop(Family::V4), v6: next_hop(Family::V6) };
        Self { local_as, next_hops, defaults }
    }

    fn attributes(&self, path: &RouteAttributes, internal: bool) -> Attributes {
        let defaults = &self.defaults;
        let draining: &[u32] = if path.draining { &[GRACEFUL_SHUTDOWN] } else { &[] };
        // RFC 8326 §4.1: the community is sent with LOCAL_PREF 0 to internal peers.
        let local_pref = if path.draining { Some(0) } else { path.local_pref.or(defaults.local_pref) };
        let prepend = path.prepend.or(defaults.prepend).unwrap_or(0);
        let times = usize::from(!internal) + usize::from(prepend);
        let ours = Segment { ordered: true, members: vec![self.local_as; times] };
        Attributes {
            as_path: if times > 0 { vec![ours] } else { Vec::new() },
            med: path.med.or(defaults.med),
            local_pref: local_pref.filter(|_| internal),
            communities: union(&[&defaults.communities, &path.communities, draining]),
            large_communities: union(&[&defaults.large_communities, &path.large_communities]),
            ..Attributes::default()
        }
    }
}

/// Sorted, without duplicates.
fn union<T: Copy + Ord>(lists: &[&[T]]) -> Vec<T> {
    lists.iter().copied().flatten().copied().collect::<BTreeSet<T>>().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::packet::{Message, Negotiated, decode};
    use super::*;
    use crate::model::route::MAX_COMMUNITIES;

    fn session(families: &[Family]) -> Session {
        Session {
            asn: 65_001,
            identifier: "192.0.2.254".parse().unwrap(),
            negotiated: Negotiated { four_octets: true, internal: false },
            families: families.to_vec(),
            extended_next_hop: false,
            enhanced_refresh: true,
            hold: Some(Duration::from_secs(9)),
            keepalive: Some(Duration::from_secs(3)),
            restart: None,
        }
    }

    fn export() -> Export {
        let hop = |text: &str| text.parse().ok();
        let next_hops = PerFamily { v4: hop("192.0.2.1"), v6: hop("2001:db8::1") };
        Export { local_as: 65_000, next_hops, defaults: RouteAttributes::default() }
    }

    fn routes(texts: &[&str]) -> Arc<Routes> {
        let path = Arc::new(RouteAttributes::default());
        Arc::new(texts.iter().map(|text| (text.parse().unwrap(), path.clone())).collect())
    }

    /// A peer that applies the messages of a [`RibOut`].
    #[derive(Default)]
    struct FakePeer {
        routes: BTreeMap<Prefix, Attributes>,
        updates: usize,
        ends: Vec<Family>,
        markers: Vec<u8>,
    }

    impl FakePeer {
        fn receive_all(&mut self, rib: &mut RibOut) {
            while let Some(bytes) = rib.poll_output() {
                let mut rest = bytes.as_slice();
                while let Some((message, length)) =
                    decode(rest, Negotiated { four_octets: true, internal: false }).unwrap()
                {
                    rest = &rest[length..];
                    match message {
                        Message::Refresh { kind, .. } => self.markers.push(kind),
                        Message::Update(update) => {
                            assert!(update.malformed.is_empty());
                            self.updates += 1;
                            self.ends.extend(update.end_of_rib);
                            update.unreach.iter().for_each(|prefix| drop(self.routes.remove(prefix)));
                            let attributes = update.attributes.clone();
                            self.routes
                                .extend(update.reach.into_iter().map(|prefix| (prefix, attributes.clone())));
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        }

        fn prefixes(&self) -> Vec<String> {
            self.routes.keys().map(ToString::to_string).collect()
        }
    }

    #[test]
    fn only_changed_routes_are_sent() {
        let (mut rib, mut peer) = (RibOut::default(), FakePeer::default());
        rib.set_desired(routes(&["192.0.2.10/32", "2001:db8::a/128"]), false);
        assert_eq!(rib.poll_output(), None);
        rib.session_up(session(&Family::BOTH), export());
        peer.receive_all(&mut rib);
        assert_eq!(
            (peer.prefixes(), peer.updates),
            (vec!["192.0.2.10/32".into(), "2001:db8::a/128".into()], 2)
        );
        assert_eq!(peer.ends, []);
        rib.set_desired(routes(&["192.0.2.10/32", "192.0.2.11/32"]), true);
        peer.receive_all(&mut rib);
        assert_eq!(peer.prefixes(), ["192.0.2.10/32", "192.0.2.11/32"]);
        // One advertisement, one withdrawal, and End-of-RIB of both families.
        assert_eq!((peer.updates, peer.ends.len()), (6, 2));
        rib.set_desired(routes(&["192.0.2.10/32", "192.0.2.11/32"]), true);
        peer.receive_all(&mut rib);
        assert_eq!(peer.updates, 6);
    }

    #[test]
    fn a_route_removed_before_it_was_sent_is_never_sent() {
        let (mut rib, mut peer) = (RibOut::default(), FakePeer::default());
        rib.session_up(session(&Family::BOTH), export());
        rib.set_desired(routes(&["192.0.2.10/32"]), false);
        rib.set_desired(routes(&[]), false);
        peer.receive_all(&mut rib);
        assert_eq!(peer.updates, 0);
    }

    #[test]
    fn families_that_were_not_negotiated_or_lack_a_next_hop_are_not_advertised() {
        for (families, hop, expected) in [
            (&[Family::V4][..], true, &["192.0.2.10/32"][..]),
            (&[Family::V4, Family::V6], false, &["192.0.2.10/32"]),
            (&[Family::V6], true, &["2001:db8::a/128"]),
        ] {
            let mut export = export();
            if !hop {
                export.next_hops.v6 = None;
            }
            let (mut rib, mut peer) = (RibOut::default(), FakePeer::default());
            rib.session_up(session(families), export);
            rib.set_desired(routes(&["192.0.2.10/32", "2001:db8::a/128"]), false);
            peer.receive_all(&mut rib);
            assert_eq!(peer.prefixes(), expected);
        }
    }

    #[test]
    fn a_refresh_resends_a_family_between_markers() {
        let (mut rib, mut peer) = (RibOut::default(), FakePeer::default());
        rib.session_up(session(&Family::BOTH), export());
        rib.set_desired(routes(&["192.0.2.10/32", "192.0.2.11/32", "2001:db8::a/128"]), true);
        peer.receive_all(&mut rib);
        let before = peer.updates;
        peer.routes.clear();
        rib.refresh(Family::V4);
        peer.receive_all(&mut rib);
        assert_eq!((peer.prefixes().len(), peer.updates - before, peer.markers), (2, 1, vec![1, 2]));
    }

    #[test]
    fn route_attributes_override_and_extend_the_defaults() {
        let path = RouteAttributes {
            communities: vec![7],
            med: Some(5),
            prepend: Some(2),
            ..RouteAttributes::default()
        };
        let defaults = RouteAttributes {
            communities: vec![9, 7],
            med: Some(1),
            local_pref: Some(200),
            ..RouteAttributes::default()
        };
        let export = Export { defaults, ..export() };
        let outside = export.attributes(&path, false);
        assert_eq!(
            (outside.communities.as_slice(), outside.med, outside.local_pref),
            (&[7, 9][..], Some(5), None)
        );
        assert_eq!(outside.as_path[0].members, [65_000, 65_000, 65_000]);
        let inside = export.attributes(&path, true);
        assert_eq!((inside.local_pref, inside.as_path[0].members.len()), (Some(200), 2));
        let draining =
            export.attributes(&RouteAttributes { draining: true, ..RouteAttributes::default() }, true);
        assert_eq!((draining.local_pref, draining.as_path.len()), (Some(0), 0));
        assert!(draining.communities.contains(&0xffff_0000));
    }

    /// RFC 4271 §9.2. One such UPDATE ends the session, with all other routes.
    #[test]
    fn a_route_whose_attributes_fill_a_message_is_not_advertised() {
        let (mut rib, mut peer) = (RibOut::default(), FakePeer::default());
        rib.session_up(session(&[Family::V4]), export());
        let with = |count| {
            let path = RouteAttributes { communities: (0..count).collect(), ..RouteAttributes::default() };
            let mut all = (*routes(&["192.0.2.10/32"])).clone();
            all.insert("192.0.2.11/32".parse().unwrap(), Arc::new(path));
            Arc::new(all)
        };
        rib.set_desired(with(64), true);
        peer.receive_all(&mut rib);
        assert_eq!(peer.prefixes(), ["192.0.2.10/32", "192.0.2.11/32"]);
        rib.set_desired(with(1_020), true);
        peer.receive_all(&mut rib);
        assert_eq!(peer.prefixes(), ["192.0.2.10/32"]);
        assert_eq!(rib.sent().len(), 1);
    }

    #[test]
    fn ten_thousand_routes_need_few_messages_and_one_change_needs_one() {
        let all: Vec<String> = (0..10_000).map(|n| format!("10.{}.{}.1/32", n / 250, n % 250)).collect();
        let texts: Vec<&str> = all.iter().map(String::as_str).collect();
        let (mut rib, mut peer) = (RibOut::default(), FakePeer::default());
        rib.session_up(session(&[Family::V4]), export());
        rib.set_desired(routes(&texts), false);
        peer.receive_all(&mut rib);
        assert_eq!(peer.routes.len(), 10_000);
        assert!(peer.updates < 30, "{}", peer.updates);
        let before = peer.updates;
        rib.set_desired(routes(&texts[1..]), false);
        peer.receive_all(&mut rib);
        assert_eq!((peer.routes.len(), peer.updates - before), (9_999, 1));
    }

    fn attributes() -> impl Strategy<Value = RouteAttributes> {
        let communities = prop::collection::vec(any::<u32>(), 0..=MAX_COMMUNITIES);
        let large = prop::collection::vec(any::<[u32; 3]>(), 0..=MAX_COMMUNITIES);
        let numbers =
            (any::<Option<u32>>(), any::<Option<u32>>(), prop::option::of(0..=32_u8), any::<bool>());
        (communities, large, numbers).prop_map(|(communities, large_communities, numbers)| {
            let (local_pref, med, prepend, draining) = numbers;
            RouteAttributes { communities, large_communities, local_pref, med, prepend, draining }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn attributes_within_the_limits_fit_a_message(path in attributes(), defaults in attributes(), internal: bool, v6: bool) {
            let export = Export { defaults, ..export() };
            let negotiated = Negotiated { four_octets: true, internal };
            let prefixes = (0..2_000_u128).map(|n| match v6 {
                true => Prefix::host(std::net::Ipv6Addr::from(n).into()),
                false => Prefix::host(std::net::Ipv4Addr::from(n as u32).into()),
            }).collect();
            let next_hop = "2001:db8::1".parse().unwrap();
            let messages = Update::Reach(Reach { next_hop, attributes: export.attributes(&path, internal), prefixes }).encode(negotiated);
            prop_assert!(!messages.is_empty());
            for message in messages {
                prop_assert!(message.len() <= packet::MAX_LENGTH, "{}", message.len());
                prop_assert!(decode(&message, negotiated).unwrap().is_some());
            }
        }

        #[test]
        fn the_peer_converges_to_the_desired_routes(steps in prop::collection::vec((0..4_u8, 0..64_u32, 0..3_u32), 1..60)) {
            let (mut rib, mut peer) = (RibOut::default(), FakePeer::default());
            let mut wanted = Routes::new();
            rib.session_up(session(&Family::BOTH), export());
            for (step, bits, med) in steps {
                match step {
                    0 => {
                        wanted = (0..6).filter(|bit| bits & (1 << bit) != 0).map(|bit| {
                            let path = RouteAttributes { med: Some(med + bit % 2), ..RouteAttributes::default() };
                            (format!("10.0.0.{bit}/32").parse().unwrap(), Arc::new(path))
                        }).collect();
                        rib.set_desired(Arc::new(wanted.clone()), false);
                    }
                    1 => peer.receive_all(&mut rib),
                    2 => rib.refresh(Family::V4),
                    _ => {
                        rib.session_up(session(&Family::BOTH), export());
                        peer = FakePeer::default();
                    }
                }
            }
            peer.receive_all(&mut rib);
            let learnt: BTreeMap<Prefix, Option<u32>> = peer.routes.iter().map(|(prefix, route)| (*prefix, route.med)).collect();
            let expected = wanted.iter().map(|(prefix, path)| (*prefix, path.med)).collect();
            prop_assert_eq!(learnt, expected);
            prop_assert!(rib.is_synchronized());
        }
    }
}
