//! What a rejected field of a peer was probably meant to be.

use std::net::Ipv6Addr;

use super::super::problem::Hint;

/// The number of an AS in asdot notation (RFC 5396): `1.10` is 65546.
pub(in crate::config) fn asdot(text: &str) -> Option<u32> {
    let (high, low) = text.trim().split_once('.')?;
    let part = |text: &str| text.parse::<u16>().ok().map(u32::from);
    Some(part(high)? << 16 | part(low)?)
}

/// For a field that was rejected, by its key; empty where there is no guess.
pub(super) fn of_field(key: &str, text: &str) -> String {
    if text.contains("mpbgp_") {
        return "; the options mpbgp_… are field 6: `address:AS:password:multihop:port:mpbgp_nexthop=fixed`"
            .to_owned();
    }
    match key {
        "as" => Hint(asdot(text).map(|asn| asn.to_string().into())).to_string(),
        "address" => zone(text).map(of_zone).unwrap_or_default(),
        _ => String::new(),
    }
}

/// The zone of an IPv6 address.
fn zone(text: &str) -> Option<&str> {
    let (address, zone) = text.trim_matches(['[', ']']).split_once('%')?;
    address.parse::<Ipv6Addr>().is_ok().then_some(zone)
}

fn of_zone(zone: &str) -> String {
    format!(
        "; an address has no zone here: write `unnumbered:{zone}`, or the address without `%{zone}` and bgp_sourceif={zone}"
    )
}

#[cfg(test)]
mod tests {
    use super::super::peers;
    use super::*;

    #[test]
    fn asdot_has_two_parts_of_sixteen_bits() {
        for (text, asn) in [
            ("1.10", Some(65_546)),
            ("0.65000", Some(65_000)),
            ("65535.65535", Some(u32::MAX)),
            ("65536.1", None),
            ("1.2.3", None),
            ("65000", None),
        ] {
            assert_eq!(asdot(text), asn, "{text}");
        }
    }

    #[test]
    fn a_rejected_field_gets_a_hint() {
        let table: &[(&str, &[&str])] = &[
            (
                "192.0.2.1:1.10",
                &[
                    "peer 1, field 2 (AS): `1.10` is not an AS number from 1 to 4294967295; did you mean `65546`?",
                ],
            ),
            (
                "[fe80::1%eth0]:65000",
                &[
                    "peer 1, field 1 (address): `[fe80::1%eth0]` is not an IPv4 address, an IPv6 address in brackets, or `unnumbered:` and an interface; an address has no zone here: write `unnumbered:eth0`, or the address without `%eth0` and bgp_sourceif=eth0",
                ],
            ),
            (
                "192.0.2.1:65000::false:mpbgp_nexthop=fixed",
                &[
                    "peer 1, field 5 (port): `mpbgp_nexthop=fixed` is not a port from 1 to 65535; the options mpbgp_… are field 6: `address:AS:password:multihop:port:mpbgp_nexthop=fixed`",
                ],
            ),
            (
                r#"[{"address": "192.0.2.1", "as": 1, "passwordSecret": "Bad_NS/bgp"}]"#,
                &["peer 1, key `passwordSecret`: `Bad_NS/bgp` is not the name of a Secret: `namespace/name`"],
            ),
        ];
        for (text, expected) in table {
            assert_eq!(peers(text, &mut Vec::new()).1, *expected, "{text}");
        }
    }

    #[test]
    fn what_the_go_program_takes_is_a_warning() {
        for (text, part) in [
            ("192.0.2.1:65000,", "BGP peer 2 is empty"),
            ("192.0.2.1:65000:mpbgp_nexthop=fixed", "field 3 (password) of a BGP peer begins with `mpbgp_`"),
        ] {
            let mut notes = Vec::new();
            let (peers, problems) = peers(text, &mut notes);
            assert_eq!((peers.len(), problems.len(), notes.len()), (1, 0, 1), "{text}");
            assert!(notes[0].contains(part), "{notes:?}");
        }
    }
}
