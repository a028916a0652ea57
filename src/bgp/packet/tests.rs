//! Encoding and decoding against literal bytes.

use std::net::IpAddr;

use super::*;
use crate::model::Prefix;
use crate::testing::hex;

fn whole(kind: u8, body: &str) -> Vec<u8> {
    frame(kind, &hex(body))
}

const FOUR: Negotiated = Negotiated { four_octets: true, internal: false };

fn read(bytes: &[u8]) -> Result<Message, Notification> {
    decode(bytes, FOUR).map(|message| message.expect("a whole message").0)
}

fn prefix(text: &str) -> Prefix {
    let (address, length) = text.split_once('/').unwrap();
    Prefix { address: address.parse().unwrap(), length: length.parse().unwrap() }
}

fn open() -> Open {
    Open {
        asn: 4_200_000_001,
        hold_time: 9,
        identifier: "192.0.2.1".parse().unwrap(),
        capabilities: vec![
            Capability::Family(Family::V4),
            Capability::Family(Family::V6),
            Capability::Refresh,
            Capability::ExtendedNextHop,
            Capability::GracefulRestart(GracefulRestart {
                restarting: true,
                seconds: 120,
                families: vec![RestartFamily { family: Family::V4, forwarding: true }],
            }),
            Capability::FourOctets(4_200_000_001),
            Capability::EnhancedRefresh,
        ],
    }
}

#[test]
fn an_open_encodes_and_decodes() {
    let body = "04 5ba0 0009 c0000201 28 02 26 \
                01 04 0001 00 01  01 04 0002 00 01  02 00  05 06 0001 0001 0002 \
                40 06 8078 0001 01 80  41 04 fa56ea01  46 00";
    assert_eq!(open().encode(), whole(1, body));
    assert_eq!(read(&whole(1, body)), Ok(Message::Open(open())));
}

#[test]
fn an_open_with_extended_parameters() {
    let other = Capability::Other { code: 200, value: vec![7; 250] };
    let long = Open { capabilities: vec![Capability::FourOctets(1), other], asn: 1, ..open() };
    let bytes = long.encode();
    // RFC 9072: Non-Extended OP Length and Type.
    assert_eq!(&bytes[28..30], [255, 255]);
    assert_eq!(read(&bytes), Ok(Message::Open(long)));
}

#[test]
fn malformed_opens_name_their_subcode() {
    let wrong = |body: &str| read(&whole(1, body)).unwrap_err();
    for (body, expected) in [
        ("03 0001 0009 c0000201 00", Notification::bad_version()),
        ("04 0001 0001 c0000201 00", Notification::BAD_HOLD_TIME),
        ("04 0001 0002 c0000201 00", Notification::BAD_HOLD_TIME),
        ("04 0001 0009 00000000 00", Notification::BAD_IDENTIFIER),
        ("04 0000 0009 c0000201 00", Notification::BAD_PEER_AS),
        ("04 0001 0009 c0000201 03 01 01 00", Notification::BAD_PARAMETER),
        ("04 0001 0009 c0000201 05 02 01 00", Notification::MALFORMED_OPEN),
        ("04 0001 0009 c0000201 04 02 02 41 04", Notification::MALFORMED_OPEN),
        ("04 0001 0009 c0000201 00 00", Notification::MALFORMED_OPEN),
    ] {
        assert_eq!(wrong(body), expected, "{body}");
    }
}

#[test]
fn headers() {
    assert_eq!(read(&keepalive()), Ok(Message::Keepalive));
    assert_eq!(decode(&keepalive()[..18], FOUR), Ok(None));
    assert_eq!(decode(&[0xff; 10], FOUR), Ok(None));
    assert_eq!(decode(b"GET / HTTP", FOUR), Err(Notification::NOT_SYNCHRONIZED));
    assert_eq!(read(&whole(9, "")), Err(Notification::bad_type(9)));
    assert_eq!(read(&whole(4, "00")), Err(Notification::bad_length(20)));
    let giant = [&[0xff; 16][..], &[0xff, 0xff, 2]].concat();
    assert_eq!(read(&giant), Err(Notification::bad_length(65535)));
    let refresh = Message::Refresh { family: Some(Family::V6), kind: 1 };
    assert_eq!(read(&whole(5, "0002 01 01")), Ok(refresh));
}

fn received(body: &str) -> ReceivedUpdate {
    match read(&whole(2, body)) {
        Ok(Message::Update(received)) => *received,
        other => panic!("{other:?}"),
    }
}

#[test]
fn ipv4_routes_encode_and_decode() {
    let attributes = Attributes {
        as_path: vec![Segment { ordered: true, members: vec![65001, 4_200_000_001] }],
        med: Some(10),
        communities: vec![GRACEFUL_SHUTDOWN],
        large_communities: vec![[1, 2, 3]],
        ..Attributes::default()
    };
    let next_hop: IpAddr = "192.0.2.9".parse().unwrap();
    let prefixes = vec![prefix("198.51.100.7/32"), prefix("10.0.0.0/8")];
    let reach = Reach { next_hop, attributes: attributes.clone(), prefixes: prefixes.clone() };
    let body = "0000 0035 40 01 01 00  40 02 0a 02 02 0000fde9 fa56ea01  40 03 04 c0000209  80 04 04 0000000a \
                c0 08 04 ffff0000  c0 20 0c 00000001 00000002 00000003  20 c6336407  08 0a";
    assert_eq!(Update::Reach(reach).encode(FOUR), [whole(2, body)]);
    let found = received(body);
    assert_eq!((found.reach, found.attributes), (prefixes.clone(), attributes));
    assert_eq!(found.next_hop, Some(next_hop));
    let gone = whole(2, "0007 20 c6336407 08 0a 0000");
    assert_eq!(Update::Unreach(Family::V4, prefixes.clone()).encode(FOUR), std::slice::from_ref(&gone));
    assert_eq!(received("0007 20 c6336407 08 0a 0000").unreach, prefixes);
}

#[test]
fn ipv6_routes_and_ipv4_routes_with_ipv6_next_hops() {
    let next_hop: IpAddr = "2001:db8::1".parse().unwrap();
    for (prefixes, family) in [
        (vec![prefix("2001:db8:1::7/128"), prefix("2001:db8::/32")], 2),
        (vec![prefix("198.51.100.7/32")], 1),
    ] {
        let reach = Reach { next_hop, attributes: Attributes::default(), prefixes: prefixes.clone() };
        let [bytes] = &Update::Reach(reach).encode(FOUR)[..] else { panic!("one message") };
        // MP_REACH_NLRI is first (RFC 7606 §5.1).
        assert_eq!((bytes[23], bytes[24], bytes[27], bytes[29]), (0x80, 14, family, 16));
        let Ok(Message::Update(found)) = read(bytes) else { panic!("an UPDATE") };
        assert_eq!((found.reach, found.next_hop), (prefixes, Some(next_hop)));
    }
    // A next hop with a link-local address (RFC 2545 §3).
    let hops = "20010db8000000000000000000000001 fe800000000000000000000000000001";
    let found = received(&format!("0000 002d 80 0e 2a 0002 01 20 {hops} 00 20 20010db8"));
    assert_eq!(found.next_hop, Some(next_hop));
    let gone = vec![prefix("2001:db8::/32")];
    let [bytes] = &Update::Unreach(Family::V6, gone.clone()).encode(FOUR)[..] else { panic!("one message") };
    let Ok(Message::Update(found)) = read(bytes) else { panic!("an UPDATE") };
    assert_eq!((found.unreach, found.end_of_rib), (gone, None));
}

#[test]
fn end_of_rib_of_both_families() {
    for (family, body) in [(Family::V4, "0000 0000"), (Family::V6, "0000 0006 80 0f 03 0002 01")] {
        assert_eq!(Update::EndOfRib(family).encode(FOUR), [whole(2, body)]);
        assert_eq!(received(body).end_of_rib, Some(family));
    }
}

#[test]
fn messages_stay_within_the_maximum_length() {
    let prefixes: Vec<Prefix> = (0..5000_u32)
        .map(|number| Prefix { address: std::net::Ipv4Addr::from_bits(number).into(), length: 32 })
        .collect();
    let next_hop: IpAddr = "192.0.2.9".parse().unwrap();
    let reach =
        Update::Reach(Reach { next_hop, attributes: Attributes::default(), prefixes: prefixes.clone() });
    for (update, gone) in [(reach, false), (Update::Unreach(Family::V4, prefixes.clone()), true)] {
        let messages = update.encode(FOUR);
        assert!(messages.len() < 10 && messages.iter().all(|bytes| bytes.len() <= MAX_LENGTH));
        let mut found = Vec::new();
        for bytes in messages {
            let Ok(Message::Update(part)) = read(&bytes) else { panic!("an UPDATE") };
            found.extend(if gone { part.unreach } else { part.reach });
        }
        assert_eq!(found, prefixes);
    }
}

#[test]
fn malformed_attributes_withdraw_the_routes() {
    let origin = "40 01 01 00";
    let path = "40 02 00";
    let hop = "40 03 04 c0000209";
    let route = "20 c6336407";
    // Attributes, and whether the route is advertised or withdrawn.
    for (attributes, advertised) in [
        (format!("{origin} {path} {hop}"), true),
        (format!("{origin} {path}"), false),
        (format!("40 01 01 09 {path} {hop}"), false),
        (format!("{origin} 40 02 03 02 01 00 {hop}"), false),
        (format!("{origin} {path} 40 03 03 c00002"), false),
        (format!("{origin} {path} {hop} c0 08 03 000000"), false),
        // LOCAL_PREF of an external peer: attribute discard.
        (format!("{origin} {path} {hop} 40 05 01 00"), true),
        (format!("{origin} {path} {hop} c0 07 01 00"), true),
        // Unrecognized optional attributes are ignored.
        (format!("{origin} {path} {hop} c0 63 01 00"), true),
        (format!("{origin} {path} {hop} 40 63 01 00"), false),
        // Duplicate attribute.
        (format!("{origin} {path} {hop} 40 01 01 09"), true),
        // The attribute list ends within an attribute.
        (format!("{origin} {path} {hop} c0 08 04"), false),
    ] {
        let length = hex(&attributes).len();
        let found = received(&format!("0000 {length:04x} {attributes} {route}"));
        let route = vec![prefix("198.51.100.7/32")];
        let expected = if advertised { (route, vec![]) } else { (vec![], route) };
        assert_eq!((found.reach, found.unreach), expected, "{attributes}");
    }
    let wrong = |body: &str| read(&whole(2, body)).unwrap_err();
    assert_eq!(wrong("0000 0009 00"), Notification::MALFORMED_ATTRIBUTES);
    assert_eq!(wrong("0000 0000 21 c633640700"), Notification::BAD_NETWORK_FIELD);
    assert_eq!(wrong("0001 20 0000"), Notification::BAD_NETWORK_FIELD);
    let twice = "80 0e 05 0002 01 00 00 80 0e 05 0002 01 00 00";
    assert_eq!(wrong(&format!("0000 0010 {twice}")), Notification::MALFORMED_ATTRIBUTES);
}

#[test]
fn a_stray_octet_in_a_path_does_not_loop() {
    let found = received("0000 000f 40 01 01 00 40 02 03 02 00 01 40 03 02 c000 20 c6336407");
    assert_eq!((found.reach.len(), found.unreach.len()), (0, 1));
}

#[test]
fn notifications_encode_and_describe_their_reason() {
    let shutdown = Notification::shutdown("node is drained");
    assert_eq!(shutdown.encode(), whole(3, "06 02 0f 6e6f64652069732064726169 6e6564"));
    assert_eq!(shutdown.to_string(), "administrative shutdown (6/2): node is drained");
    let Ok(Message::Notification(found)) = read(&shutdown.encode()) else { panic!("a NOTIFICATION") };
    assert_eq!(found, shutdown);
    assert_eq!(Notification::HOLD_TIMER_EXPIRED.to_string(), "hold timer expired (4/0)");
    let long = Notification::shutdown(&"ä".repeat(200));
    assert_eq!(usize::from(long.data[0]), 254);
    let with_escape = Notification { code: 6, subcode: 2, data: b"\x05a\x1b[2J".to_vec() };
    assert_eq!(with_escape.communication().as_deref(), Some("a[2J"));
    assert_eq!(read(&whole(3, "0909")).map(|message| format!("{message:?}").contains("code: 9")), Ok(true));
}

#[test]
fn single_byte_changes_never_panic() {
    // Every byte of every message, changed to every value.
    let next_hop: IpAddr = "2001:db8::1".parse().unwrap();
    let reach =
        Reach { next_hop, attributes: Attributes::default(), prefixes: vec![prefix("2001:db8::/32")] };
    let messages = [
        open().encode(),
        Update::Reach(reach).encode(FOUR).remove(0),
        Update::EndOfRib(Family::V6).encode(FOUR).remove(0),
    ];
    for message in messages {
        for place in 0..message.len() {
            for value in 0..=255 {
                let mut bytes = message.clone();
                bytes[place] = value;
                decode(&bytes, FOUR).ok();
                decode(&bytes, Negotiated { four_octets: false, internal: true }).ok();
            }
        }
    }
}
