//! Differential test of the BGP codec against netgauze: encoded messages survive a round trip through netgauze, and what
//! netgauze accepts is accepted here.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kube_vip::bgp::packet::{
    Attributes, Capability, GracefulRestart, Message, Negotiated, Notification, Open, Origin, Reach,
    RestartFamily, Segment, Update, decode, keepalive, refresh_message,
};
use kube_vip::model::{Family, Prefix};
use netgauze_bgp_pkt::BgpMessage;
use netgauze_bgp_pkt::wire::deserializer::BgpParsingContext;
use netgauze_parse_utils::WritablePdu;
use netgauze_parse_utils::reader::SliceReader;
use netgauze_parse_utils::traits::ParseFromWithOneInput;
use proptest::prelude::*;

const NEGOTIATED: Negotiated = Negotiated { four_octets: true, internal: true };

fn netgauze_decode(bytes: &[u8]) -> Result<BgpMessage, String> {
    let mut context = BgpParsingContext::new(true, HashMap::new(), HashMap::new(), false, false, true, true);
    BgpMessage::parse(&mut SliceReader::new(bytes), &mut context).map_err(|error| format!("{error:?}"))
}

/// Decoded and encoded by netgauze.
fn netgauze_round_trip(bytes: &[u8]) -> Vec<u8> {
    let message = netgauze_decode(bytes).unwrap_or_else(|error| panic!("{error}: {bytes:02x?}"));
    let mut written = Vec::new();
    message.write(&mut written).unwrap();
    written
}

fn ours(bytes: &[u8]) -> Message {
    let (message, length) = decode(bytes, NEGOTIATED).unwrap().unwrap();
    assert_eq!(length, bytes.len());
    message
}

fn address(family: Family) -> impl Strategy<Value = IpAddr> {
    // Unicast only: netgauze skips multicast prefixes.
    any::<u128>().prop_map(move |number| match family {
        Family::V4 => Ipv4Addr::from_bits(0x4000_0000 | (number as u32 >> 2)).into(),
        Family::V6 => Ipv6Addr::from_bits(0x2 << 124 | number >> 4).into(),
    })
}

fn family() -> impl Strategy<Value = Family> {
    prop_oneof![Just(Family::V4), Just(Family::V6)]
}

fn prefixes(family: Family) -> impl Strategy<Value = Vec<Prefix>> {
    let prefix =
        (address(family), 0..=family.bits()).prop_map(|(address, length)| Prefix::new(address, length));
    prop::collection::vec(prefix, 1..40)
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let path = prop::collection::vec(1..=u32::MAX, 0..5).prop_map(|members| match members.len() {
        0 => Vec::new(),
        _ => vec![Segment { ordered: true, members }],
    });
    let origin = prop_oneof![Just(Origin::Igp), Just(Origin::Egp), Just(Origin::Incomplete)];
    (
        origin,
        path,
        any::<Option<u32>>(),
        any::<Option<u32>>(),
        prop::collection::vec(any::<u32>(), 0..80),
        prop::collection::vec(any::<[u32; 3]>(), 0..30),
    )
        .prop_map(|(origin, as_path, med, local_pref, communities, large_communities)| Attributes {
            origin,
            as_path,
            med,
            local_pref,
            communities,
            large_communities,
        })
}

fn reach_of(family: Family) -> impl Strategy<Value = Reach> {
    let parts = (prefixes(family), attributes(), address(family));
    parts.prop_map(|(prefixes, attributes, next_hop)| Reach { next_hop, attributes, prefixes })
}

fn reach() -> impl Strategy<Value = Reach> {
    family().prop_flat_map(reach_of)
}

fn capability() -> impl Strategy<Value = Capability> {
    let families = prop::collection::vec((family(), any::<bool>()), 0..3).prop_map(|families| {
        families.into_iter().map(|(family, forwarding)| RestartFamily { family, forwarding }).collect()
    });
    let restart = (any::<bool>(), 0..4096_u16, families).prop_map(|(restarting, seconds, families)| {
        Capability::GracefulRestart(GracefulRestart { restarting, seconds, families })
    });
    prop_oneof![
        family().prop_map(Capability::Family),
        Just(Capability::Refresh),
        Just(Capability::EnhancedRefresh),
        Just(Capability::ExtendedNextHop),
        restart,
    ]
}

fn open() -> impl Strategy<Value = Open> {
    let hold = prop_oneof![Just(0_u16), 3..=u16::MAX];
    (1..=u32::MAX, hold, 0x0100_0000..0xdfff_ffff_u32, prop::collection::vec(capability(), 0..6)).prop_map(
        |(asn, hold_time, identifier, mut capabilities)| {
            capabilities.push(Capability::FourOctets(asn));
            Open { asn, hold_time, identifier: Ipv4Addr::from_bits(identifier), capabilities }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn opens_round_trip(open in open()) {
        let bytes = open.encode();
        prop_assert_eq!(ours(&bytes), Message::Open(open));
        let written = netgauze_round_trip(&bytes);
        // netgauze may put each capability into its own parameter.
        prop_assert_eq!(ours(&written), ours(&bytes));
    }

    #[test]
    fn advertisements_round_trip(reach in reach()) {
        for bytes in Update::Reach(reach.clone()).encode(NEGOTIATED) {
            prop_assert_eq!(netgauze_round_trip(&bytes), bytes.clone());
            let Message::Update(read) = ours(&bytes) else { panic!("not an UPDATE") };
            // LOCAL_PREF is always sent to internal peers.
            let local_pref = reach.attributes.local_pref.or(Some(100));
            prop_assert_eq!(&read.attributes, &Attributes { local_pref, ..reach.attributes.clone() });
            prop_assert_eq!(read.next_hop, Some(reach.next_hop));
            prop_assert!(read.malformed.is_empty() && read.unreach.is_empty());
        }
    }

    #[test]
    fn withdrawals_round_trip((family, prefixes) in family().prop_flat_map(|family| (Just(family), prefixes(family)))) {
        for bytes in Update::Unreach(family, prefixes.clone()).encode(NEGOTIATED) {
            prop_assert_eq!(netgauze_round_trip(&bytes), bytes.clone());
            let Message::Update(read) = ours(&bytes) else { panic!("not an UPDATE") };
            prop_assert_eq!(&read.unreach, &prefixes);
        }
    }

    /// Randomly changed bytes: an UPDATE that netgauze accepts does not reset the session here. Without MP_REACH_NLRI:
    /// netgauze ignores an invalid next hop length, for which RFC 7606 §7.11 requires a session reset.
    #[test]
    fn updates_that_netgauze_accepts_do_not_reset_the_session(reach in reach_of(Family::V4), changes in prop::collection::vec((23..200_usize, any::<u8>()), 0..4)) {
        let mut bytes = Update::Reach(reach).encode(NEGOTIATED).remove(0);
        for (at, byte) in changes {
            let at = at % bytes.len();
            if at >= 19 {
                bytes[at] = byte;
            }
        }
        if netgauze_decode(&bytes).is_ok() {
            prop_assert!(decode(&bytes, NEGOTIATED).is_ok(), "{:?} {:02x?}", decode(&bytes, NEGOTIATED), bytes);
        }
    }
}

#[test]
fn messages_without_routes_round_trip() {
    let messages = [
        keepalive(),
        refresh_message(Family::V6, 0),
        Notification::shutdown("maintenance").encode(),
        Notification::HOLD_TIMER_EXPIRED.encode(),
        Update::EndOfRib(Family::V4).encode(NEGOTIATED).concat(),
        Update::EndOfRib(Family::V6).encode(NEGOTIATED).concat(),
    ];
    for bytes in messages {
        assert_eq!(netgauze_round_trip(&bytes), bytes);
    }
}
