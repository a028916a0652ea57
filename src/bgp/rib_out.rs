//! What a peer is to know, and what of it was sent (Adj-RIB-Out, RFC 4271 §3.2).
//!
//! There is no queue of changes: the latest routes win, however slow the peer is.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::fsm::Session;
use super::packet::{self, Attributes, NextHop, Reach, Segment, Update, WellKnown};
use crate::model::{Family, PerFamily, Prefix, RouteAttributes, Routes};

/// How many prefixes are looked at for one UPDATE.
const AT_ONCE: usize = 1000;
/// LOCAL_PREF where nothing is said (as routers have it).
const USUAL_PREFERENCE: u32 = 100;

/// What is added to every route for one peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Export {
    /// Our AS.
    pub local_as: u32,
    /// Where packets are to go, by the family of the route. Without one there are no routes of that family.
    pub next_hops: PerFamily<Option<NextHop>>,
    /// What a route does not say of itself; communities are added to its own.
    pub defaults: RouteAttributes,
}

/// What one peer is told.
#[derive(Debug, Default)]
pub struct RibOut {
    /// Without one, nothing is sent.
    session: Option<(Session, Export)>,
    desired: Arc<Routes>,
    /// All routes are known: what is not among them is not there.
    complete: bool,
    sent: BTreeMap<Prefix, Arc<RouteAttributes>>,
    /// What the peer has to be told about.
    pending: BTreeSet<Prefix>,
    /// Families of which the peer still has to hear that it has got all (RFC 4724 §2).
    unfinished: Vec<Family>,
    /// Families that the peer asked for again, with marks (RFC 7313).
    repeating: BTreeSet<Family>,
    marks: VecDeque<Vec<u8>>,
}

impl RibOut {
    /// A session has begun: the peer knows nothing.
    pub fn begin(&mut self, session: Session, export: Export) {
        self.end();
        self.unfinished.clone_from(&session.families);
        self.session = Some((session, export));
        self.pending = self.desired.keys().filter(|prefix| self.speaks(**prefix)).copied().collect();
    }

    /// The session is over.
    pub fn end(&mut self) {
        let (desired, complete) = (self.desired.clone(), self.complete);
        *self = Self { desired, complete, ..Self::default() };
    }

    /// These are the routes now. `complete`: nothing else is wanted.
    pub fn desire(&mut self, routes: Arc<Routes>, complete: bool) {
        self.desired = routes;
        self.complete = complete;
        if self.session.is_none() {
            return;
        }
        let gone = self.sent.keys().filter(|prefix| !self.desired.contains_key(prefix));
        let new = self.desired.iter().filter(|(prefix, path)| {
            let sent = self.sent.get(prefix);
            sent.is_none_or(|sent| !Arc::ptr_eq(sent, path) && sent != *path)
        });
        let new = new.map(|(prefix, _)| prefix).filter(|prefix| self.speaks(**prefix));
        let pending: BTreeSet<Prefix> = gone.chain(new).copied().collect();
        self.pending.retain(|prefix| self.sent.contains_key(prefix));
        self.pending.extend(pending);
    }

    /// The peer wants a family again.
    pub fn refresh(&mut self, family: Family) {
        let Some((session, _)) = &self.session else { return };
        if session.marks && self.repeating.insert(family) {
            self.marks.push_back(packet::refresh_message(family, 1));
        }
        self.pending.extend(self.sent.keys().filter(|prefix| prefix.family() == family));
    }

    /// Routes that the peer has been told of.
    pub fn sent(&self) -> impl ExactSizeIterator<Item = &Prefix> {
        self.sent.keys()
    }

    /// The peer knows everything.
    pub fn is_done(&self) -> bool {
        self.session.is_none() || self.pending.is_empty()
    }

    /// The next bytes for the peer: one UPDATE, or as many as its routes need.
    pub fn poll(&mut self) -> Option<Vec<u8>> {
        if let Some(mark) = self.marks.pop_front() {
            return Some(mark);
        }
        if let Some(update) = self.next() {
            let (session, _) = self.session.as_ref()?;
            return Some(update.encode(session.agreed).concat());
        }
        if let Some(family) = self.repeating.pop_first() {
            return Some(packet::refresh_message(family, 2));
        }
        // Whoever restarted says so when it knows everything: what the peer still has from before then goes.
        let family = if self.complete { self.unfinished.pop()? } else { return None };
        let (session, _) = self.session.as_ref()?;
        Some(Update::EndOfRib(family).encode(session.agreed).concat())
    }

    /// Whether routes of this prefix's family can be sent.
    fn speaks(&self, prefix: Prefix) -> bool {
        self.session.as_ref().is_some_and(|(session, export)| {
            session.families.contains(&prefix.family()) && export.next_hops[prefix.family()].is_some()
        })
    }

    fn next(&mut self) -> Option<Update> {
        let first = *self.pending.first()?;
        let family = first.family();
        let path = self.desired.get(&first).cloned();
        let same = |prefix: &&Prefix| prefix.family() == family && self.desired.get(prefix) == path.as_ref();
        let prefixes: Vec<Prefix> = self.pending.iter().take(AT_ONCE).filter(same).copied().collect();
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
                attributes: export.attributes(&path, session.agreed.internal),
                prefixes,
            }),
        })
    }
}

impl Export {
    /// What stands in an UPDATE for a route with this path.
    fn attributes(&self, path: &RouteAttributes, internal: bool) -> Attributes {
        let defaults = &self.defaults;
        let mut communities = [defaults.communities.as_slice(), &path.communities].concat();
        if path.draining {
            communities.push(WellKnown::GracefulShutdown.number());
        }
        communities.sort_unstable();
        communities.dedup();
        let mut large_communities = [defaults.large_communities.as_slice(), &path.large_communities].concat();
        large_communities.sort_unstable();
        large_communities.dedup();
        // RFC 8326 §4.1: within the AS the community comes with the least preference.
        let preference = match path.draining {
            true => 0,
            false => path.local_pref.or(defaults.local_pref).unwrap_or(USUAL_PREFERENCE),
        };
        let more = path.prepend.or(defaults.prepend).unwrap_or(0);
        let times = usize::from(!internal) + usize::from(more);
        let ours = Segment { ordered: true, members: vec![self.local_as; times] };
        Attributes {
            as_path: if times > 0 { vec![ours] } else { Vec::new() },
            med: path.med.or(defaults.med),
            local_pref: internal.then_some(preference),
            communities,
            large_communities,
            ..Attributes::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::super::packet::{Agreed, Message, decode};
    use super::*;

    fn session(families: &[Family]) -> Session {
        Session {
            asn: 65_001,
            identifier: "192.0.2.254".parse().unwrap(),
            agreed: Agreed { four_octets: true, internal: false },
            families: families.to_vec(),
            extended_next_hop: false,
            marks: true,
            hold: Some(Duration::from_secs(9)),
            keepalive: Some(Duration::from_secs(3)),
            restart: None,
        }
    }

    fn export() -> Export {
        let hop = |text: &str| Some(NextHop { address: text.parse().unwrap(), link_local: None });
        let next_hops = PerFamily { v4: hop("192.0.2.1"), v6: hop("2001:db8::1") };
        Export { local_as: 65_000, next_hops, defaults: RouteAttributes::default() }
    }

    fn routes(texts: &[&str]) -> Arc<Routes> {
        let path = Arc::new(RouteAttributes::default());
        Arc::new(texts.iter().map(|text| (text.parse().unwrap(), path.clone())).collect())
    }

    /// What a peer has learnt from these bytes.
    #[derive(Default)]
    struct Learnt {
        routes: BTreeMap<Prefix, Attributes>,
        updates: usize,
        ends: Vec<Family>,
        marks: Vec<u8>,
    }

    impl Learnt {
        fn learn(&mut self, rib: &mut RibOut) {
            while let Some(bytes) = rib.poll() {
                let mut rest = bytes.as_slice();
                while let Some((message, length)) =
                    decode(rest, Agreed { four_octets: true, internal: false }).unwrap()
                {
                    rest = &rest[length..];
                    match message {
                        Message::Refresh { kind, .. } => self.marks.push(kind),
                        Message::Update(update) => {
                            assert!(update.faults.is_empty());
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
    fn routes_come_and_go_and_only_what_changed_is_sent() {
        let (mut rib, mut peer) = (RibOut::default(), Learnt::default());
        rib.desire(routes(&["192.0.2.10/32", "2001:db8::a/128"]), false);
        assert_eq!(rib.poll(), None);
        rib.begin(session(&Family::BOTH), export());
        peer.learn(&mut rib);
        assert_eq!(
            (peer.prefixes(), peer.updates),
            (vec!["192.0.2.10/32".into(), "2001:db8::a/128".into()], 2)
        );
        assert_eq!(peer.ends, []);
        rib.desire(routes(&["192.0.2.10/32", "192.0.2.11/32"]), true);
        peer.learn(&mut rib);
        assert_eq!(peer.prefixes(), ["192.0.2.10/32", "192.0.2.11/32"]);
        // One more, one less, and that this was all, once for each family.
        assert_eq!((peer.updates, peer.ends.len()), (6, 2));
        rib.desire(routes(&["192.0.2.10/32", "192.0.2.11/32"]), true);
        peer.learn(&mut rib);
        assert_eq!(peer.updates, 6);
    }

    #[test]
    fn what_came_and_went_before_it_was_sent_is_never_sent() {
        let (mut rib, mut peer) = (RibOut::default(), Learnt::default());
        rib.begin(session(&Family::BOTH), export());
        rib.desire(routes(&["192.0.2.10/32"]), false);
        rib.desire(routes(&[]), false);
        peer.learn(&mut rib);
        assert_eq!(peer.updates, 0);
    }

    #[test]
    fn families_that_the_peer_does_not_speak_or_that_have_no_next_hop_are_left_out() {
        for (families, hop, expected) in [
            (&[Family::V4][..], true, &["192.0.2.10/32"][..]),
            (&[Family::V4, Family::V6], false, &["192.0.2.10/32"]),
            (&[Family::V6], true, &["2001:db8::a/128"]),
        ] {
            let mut export = export();
            if !hop {
                export.next_hops.v6 = None;
            }
            let (mut rib, mut peer) = (RibOut::default(), Learnt::default());
            rib.begin(session(families), export);
            rib.desire(routes(&["192.0.2.10/32", "2001:db8::a/128"]), false);
            peer.learn(&mut rib);
            assert_eq!(peer.prefixes(), expected);
        }
    }

    #[test]
    fn a_refresh_sends_a_family_again_between_its_marks() {
        let (mut rib, mut peer) = (RibOut::default(), Learnt::default());
        rib.begin(session(&Family::BOTH), export());
        rib.desire(routes(&["192.0.2.10/32", "192.0.2.11/32", "2001:db8::a/128"]), true);
        peer.learn(&mut rib);
        let before = peer.updates;
        peer.routes.clear();
        rib.refresh(Family::V4);
        peer.learn(&mut rib);
        assert_eq!((peer.prefixes().len(), peer.updates - before, peer.marks), (2, 1, vec![1, 2]));
    }

    #[test]
    fn what_stands_in_an_update() {
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

    #[test]
    fn ten_thousand_routes_need_few_messages_and_one_change_needs_one() {
        let all: Vec<String> = (0..10_000).map(|n| format!("10.{}.{}.1/32", n / 250, n % 250)).collect();
        let texts: Vec<&str> = all.iter().map(String::as_str).collect();
        let (mut rib, mut peer) = (RibOut::default(), Learnt::default());
        rib.begin(session(&[Family::V4]), export());
        rib.desire(routes(&texts), false);
        peer.learn(&mut rib);
        assert_eq!(peer.routes.len(), 10_000);
        assert!(peer.updates < 30, "{}", peer.updates);
        let before = peer.updates;
        rib.desire(routes(&texts[1..]), false);
        peer.learn(&mut rib);
        assert_eq!((peer.routes.len(), peer.updates - before), (9_999, 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever happens in whatever order, in the end the peer knows what it is to know.
        #[test]
        fn the_peer_ends_up_with_what_is_desired(steps in prop::collection::vec((0..4_u8, 0..64_u32, 0..3_u32), 1..60)) {
            let (mut rib, mut peer) = (RibOut::default(), Learnt::default());
            let mut wanted = Routes::new();
            rib.begin(session(&Family::BOTH), export());
            for (step, bits, med) in steps {
                match step {
                    0 => {
                        wanted = (0..6).filter(|bit| bits & (1 << bit) != 0).map(|bit| {
                            let path = RouteAttributes { med: Some(med + bit % 2), ..RouteAttributes::default() };
                            (format!("10.0.0.{bit}/32").parse().unwrap(), Arc::new(path))
                        }).collect();
                        rib.desire(Arc::new(wanted.clone()), false);
                    }
                    1 => peer.learn(&mut rib),
                    2 => rib.refresh(Family::V4),
                    _ => {
                        rib.begin(session(&Family::BOTH), export());
                        peer = Learnt::default();
                    }
                }
            }
            peer.learn(&mut rib);
            let learnt: BTreeMap<Prefix, Option<u32>> = peer.routes.iter().map(|(prefix, route)| (*prefix, route.med)).collect();
            let expected = wanted.iter().map(|(prefix, path)| (*prefix, path.med)).collect();
            prop_assert_eq!(learnt, expected);
            prop_assert!(rib.is_done());
        }
    }
}
