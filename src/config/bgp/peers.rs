//! Peers as users write them: in the form that the Go program has, or as maps.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;

use super::super::problem::nearest;
use super::keys::PEER_KEYS;
use super::{Bfd, NextHops, Peer, PeerTarget, SecretName, next_hops};
use crate::model::go::parse_bool;
use crate::model::route::{community, large_community};
use crate::model::{Family, RouteAttributes};

/// The fields of a peer in the form that the Go program has, in their order.
const POSITIONS: [&str; 7] =
    ["address", "AS", "password", "multihop", "port", "MP-BGP options", "BFD options"];
/// From so much on, an interval was meant to be in microseconds: the way round upstream's mistake.
const MICROSECONDS: u32 = 10_000;

/// Peers, and what is wrong with them: in the form that the Go program has, or as a JSON list of maps and strings.
pub fn peers(text: &str, notes: &mut Vec<String>) -> (Vec<Peer>, Vec<String>) {
    let text = text.trim();
    if text.is_empty() {
        return (Vec::new(), Vec::new());
    }
    let (mut peers, mut problems) = (Vec::new(), Vec::new());
    for (index, written) in split_peers(text).into_iter().enumerate() {
        let mut wrong = Vec::new();
        let fields = match written {
            Ok(Value::String(text)) => Fields::of_string(&text, &mut wrong),
            Ok(Value::Object(map)) => Fields::of_map(&map, &mut wrong),
            Ok(_) => Err("a peer is a string or a map".to_owned()),
            Err(error) => Err(error),
        };
        match fields {
            Ok(fields) => {
                let peer = fields.read(&mut wrong, notes);
                peers.extend(peer.filter(|_| wrong.is_empty()));
            }
            Err(error) => wrong.push(error),
        }
        problems.extend(wrong.into_iter().map(|problem| format!("peer {}, {problem}", index + 1)));
    }
    let name = |peer: &Peer| (peer.target.clone(), peer.port, peer.node_selector.clone());
    for (index, peer) in peers.iter().enumerate() {
        if peers.iter().take(index).any(|before| name(before) == name(peer)) {
            problems.push(format!("peer {} is there twice", index + 1));
        }
    }
    (peers, problems)
}

/// Each peer as it is written.
fn split_peers(text: &str) -> Vec<Result<Value, String>> {
    if is_json(text) {
        return match serde_json::from_str::<Vec<Value>>(text) {
            Ok(values) => values.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(format!("a list in JSON that cannot be read: {error}"))],
        };
    }
    text.split(',').map(|peer| Ok(Value::String(peer.trim().to_owned()))).collect()
}

/// Whether peers are written as JSON: an IPv6 address begins with a bracket, too.
pub(in crate::config) fn is_json(text: &str) -> bool {
    let rest = text.trim_start().strip_prefix('[').map(str::trim_start);
    rest.is_some_and(|rest| rest.starts_with(['{', '"']))
}

/// What is written of a peer: by key, with the place for messages.
#[derive(Debug, Default)]
pub(super) struct Fields {
    values: BTreeMap<&'static str, (String, String)>,
}

impl Fields {
    /// The form that the Go program has.
    fn of_string(text: &str, wrong: &mut Vec<String>) -> Result<Self, String> {
        let mut parts = split_fields(text).into_iter();
        let mut fields = Self::default();
        let place = |index: usize| match POSITIONS.get(index) {
            Some(name) => format!("field {} ({name})", index + 1),
            None => format!("field {}", index + 1),
        };
        let mut set = |key: &'static str, value: &str, index: usize| {
            if !value.is_empty() {
                fields.values.insert(key, (value.to_owned(), place(index)));
            }
        };
        match parts.next() {
            Some("unnumbered") => set("interface", parts.next().unwrap_or_default(), 0),
            Some(address) => set("address", address, 0),
            None => {}
        }
        for (index, (key, value)) in
            ["as", "password", "multiHop", "port"].into_iter().zip(parts.by_ref()).enumerate()
        {
            set(key, value, index + 1);
        }
        for option in parts.next().unwrap_or_default().split(';').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("mpbgp_nexthop", value)) => set("mpbgpNexthop", value, 5),
                Some(("mpbgp_ipv4", value)) => set("mpbgpIPv4", value, 5),
                Some(("mpbgp_ipv6", value)) => set("mpbgpIPv6", value, 5),
                _ => {
                    let known = ["mpbgp_nexthop", "mpbgp_ipv4", "mpbgp_ipv6"];
                    let typed = option.split('=').next().unwrap_or_default();
                    let hint = nearest(typed, known);
                    wrong.push(format!(
                        "{}: `{option}` is not `key=value` with one of the keys {}{hint}",
                        place(5),
                        known.join(", ")
                    ));
                }
            }
        }
        if let Some(text) = parts.next().filter(|text| !text.is_empty()) {
            let items: Vec<&str> = text.split(';').collect();
            match items.as_slice() {
                [enabled, receive, transmit, multiplier] => {
                    set("bfdEnabled", if enabled.is_empty() { "false" } else { enabled }, 6);
                    set("bfdReceiveInterval", receive, 6);
                    set("bfdTransmitInterval", transmit, 6);
                    set("bfdDetectMultiplier", multiplier, 6);
                }
                _ => wrong.push(format!(
                    "{}: `{text}` is not `enable;receive interval;transmit interval;multiplier`, such as `true;300;300;3`",
                    place(6)
                )),
            }
        }
        if parts.next().is_some() {
            wrong.push(format!("field 8: there are only seven fields ({})", POSITIONS.join(":")));
        }
        Ok(fields)
    }

    /// A map, with keys in any case.
    fn of_map(map: &serde_json::Map<String, Value>, wrong: &mut Vec<String>) -> Result<Self, String> {
        let mut fields = Self::default();
        for (key, value) in map {
            let Some(known) = PEER_KEYS.iter().find(|known| known.eq_ignore_ascii_case(key)) else {
                wrong.push(format!("there is no key `{key}`{}", nearest(key, PEER_KEYS)));
                continue;
            };
            let scalar = |value: &Value| match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let text = match value {
                Value::Null => continue,
                Value::Array(items) => items.iter().map(scalar).collect::<Vec<_>>().join(","),
                Value::Object(map) => {
                    let pairs = map.iter().map(|(key, value)| format!("{key}={}", scalar(value)));
                    pairs.collect::<Vec<_>>().join(",")
                }
                other => scalar(other),
            };
            fields.values.insert(known, (text, format!("key `{known}`")));
        }
        Ok(fields)
    }

    fn text(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|(value, _)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// A value that `read` accepts, or a problem that says what is allowed.
    fn get<T>(
        &self,
        key: &str,
        wrong: &mut Vec<String>,
        allowed: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let (value, place) = self.values.get(key).filter(|(value, _)| !value.is_empty())?;
        let found = read(value);
        if found.is_none() {
            wrong.push(format!("{place}: `{value}` is not {allowed}"));
        }
        found
    }

    fn read(&self, wrong: &mut Vec<String>, notes: &mut Vec<String>) -> Option<Peer> {
        let address = |text: &str| text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        let allowed = "an IPv4 address, an IPv6 address in brackets, or `unnumbered:` and an interface";
        let address = self.get("address", wrong, allowed, address);
        let unnumbered = self.text("interface").filter(|_| self.text("address").is_none());
        let asn = self.get("as", wrong, "an AS number from 1 to 4294967295", |text| {
            text.parse::<u32>().ok().filter(|asn| *asn != 0 || unnumbered.is_some())
        });
        let target = match (address, unnumbered) {
            (Some(address), _) => PeerTarget::Address(address),
            (None, Some(interface)) => PeerTarget::Unnumbered(interface.to_owned()),
            (None, None) => {
                if self.text("address").is_none() {
                    wrong.push(format!("field 1 (address) is empty: it has to be {allowed}"));
                }
                return None;
            }
        };
        if asn.is_none() && unnumbered.is_none() && self.text("as").is_none() {
            wrong.push("field 2 (AS) is empty: it has to be an AS number from 1 to 4294967295".to_owned());
        }
        let mut peer = self.peer(target, asn.filter(|asn| *asn != 0), wrong);
        peer.bfd = self.bfd(wrong, notes);
        Some(peer)
    }

    /// The peer at `target`, with everything else that is written of it.
    pub(super) fn peer(&self, target: PeerTarget, asn: Option<u32>, wrong: &mut Vec<String>) -> Peer {
        let number = |text: &str| text.parse::<u32>().ok();
        let seconds = |text: &str| text.parse::<u16>().ok();
        let list = |text: &str| text.split(',').map(|item| item.trim().to_owned()).collect::<Vec<String>>();
        let (mode, place) = self.values.get("mpbgpNexthop").cloned().unwrap_or_default();
        if !matches!(mode.as_str(), "" | "fixed" | "auto_sourceip" | "auto_sourceif") {
            let modes = ["fixed", "auto_sourceip", "auto_sourceif"];
            let hint = nearest(&mode, modes);
            wrong.push(format!("{place}: mpbgp_nexthop `{mode}` is not one of {}{hint}", modes.join(", ")));
        }
        let hops = [("mpbgpIPv4", "mpbgpIPv4"), ("mpbgpIPv6", "mpbgpIPv6")]
            .map(|(key, name)| (name, self.text(key).unwrap_or_default()));
        let hops = next_hops(&mode, &hops).map_err(|(key, allowed)| {
            let (value, place) = self.values.get(key).cloned().unwrap_or((String::new(), place.clone()));
            wrong.push(format!("{place}: `{value}` is not {allowed}"));
        });
        let communities = self.get("communities", wrong, "a list of communities such as 65000:100", |text| {
            list(text).iter().map(|item| community(item)).collect::<Option<Vec<u32>>>()
        });
        let large =
            self.get("largeCommunities", wrong, "a list of large communities such as 65000:1:2", |text| {
                list(text).iter().map(|item| large_community(item)).collect::<Option<Vec<_>>>()
            });
        let families = self.get("families", wrong, "a list of ipv4 and ipv6", |text| {
            let family = |item: &String| match item.to_lowercase().as_str() {
                "ipv4" => Some(Family::V4),
                "ipv6" => Some(Family::V6),
                _ => None,
            };
            list(text).iter().map(family).collect::<Option<Vec<Family>>>()
        });
        let selector = self.get("nodeSelector", wrong, "labels such as rack=a", |text| {
            let pair =
                |item: &String| item.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
            list(text).iter().map(pair).collect::<Option<BTreeMap<String, String>>>()
        });
        Peer {
            target,
            asn,
            password: self.text("password").map(str::to_owned),
            password_secret: self.get(
                "passwordSecret",
                wrong,
                "the name of a Secret: `namespace/name`",
                |text| {
                    let (namespace, name) = text.split_once('/')?;
                    let given = !namespace.is_empty() && !name.is_empty();
                    given.then(|| SecretName { namespace: namespace.to_owned(), name: name.to_owned() })
                },
            ),
            multihop: self.get("multiHop", wrong, "true or false", parse_bool).unwrap_or(false),
            ttl_security: self.get("ttlSecurityHops", wrong, "a number of hops from 1 to 254", |text| {
                text.parse().ok().filter(|hops| (1..=254).contains(hops))
            }),
            port: self
                .get("port", wrong, "a port from 1 to 65535", |text| text.parse().ok())
                .filter(|port| *port != 0)
                .unwrap_or(179),
            passive: self.get("passive", wrong, "true or false", parse_bool).unwrap_or(false),
            families,
            next_hops: hops.ok().filter(|hops| *hops != NextHops::default()),
            source_address: self.get("sourceIP", wrong, "an IP address", |text| text.parse().ok()),
            source_interface: self.text("sourceIF").map(str::to_owned),
            bfd: None,
            hold_time: self.get("holdTime", wrong, "0 (no limit), or 3 seconds or more", |text| {
                seconds(text).filter(|hold| !matches!(hold, 1 | 2))
            }),
            keepalive: self.get("keepaliveInterval", wrong, "a number of seconds, 1 or more", |text| {
                seconds(text).filter(|interval| *interval > 0)
            }),
            defaults: RouteAttributes {
                communities: communities.unwrap_or_default(),
                large_communities: large.unwrap_or_default(),
                local_pref: self.get("localPref", wrong, "a number", number),
                med: self.get("med", wrong, "a number", number),
                prepend: self.get("prepend", wrong, "a number from 0 to 32", |text| {
                    text.parse().ok().filter(|times| *times <= 32)
                }),
                draining: false,
            },
            node_selector: selector.unwrap_or_default(),
        }
    }

    fn bfd(&self, wrong: &mut Vec<String>, notes: &mut Vec<String>) -> Option<Bfd> {
        let interval = |key: &str, wrong: &mut Vec<String>, notes: &mut Vec<String>| {
            let allowed = "a number of milliseconds from 10 to 4294967295";
            let given =
                self.get(key, wrong, allowed, |text| text.parse::<u32>().ok().filter(|value| *value >= 10));
            let value = given.unwrap_or(300);
            if value < MICROSECONDS {
                return Duration::from_millis(value.into());
            }
            notes.push(format!(
                "{key} {value} is read as microseconds, as the Go program does; intervals are milliseconds: write {}",
                value / 1000
            ));
            Duration::from_micros(value.into())
        };
        let receive = interval("bfdReceiveInterval", wrong, notes);
        let transmit = interval("bfdTransmitInterval", wrong, notes);
        let multiplier = self.get("bfdDetectMultiplier", wrong, "a number from 1 to 255", |text| {
            text.parse::<u8>().ok().filter(|times| *times > 0)
        });
        let enabled = self.get("bfdEnabled", wrong, "true or false", parse_bool)?;
        enabled.then_some(Bfd { receive, transmit, multiplier: multiplier.unwrap_or(3) })
    }
}

/// Parts between colons that are in no brackets.
fn split_fields(text: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    text.split(|letter| {
        match letter {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        letter == ':' && depth == 0
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::NextHopMode;
    use super::*;

    fn read(text: &str) -> Vec<Peer> {
        let mut notes = Vec::new();
        let (peers, problems) = peers(text, &mut notes);
        assert!(problems.is_empty(), "{text}: {problems:?}");
        peers
    }

    fn one(text: &str) -> Peer {
        let mut all = read(text);
        assert_eq!(all.len(), 1, "{text}");
        all.remove(0)
    }

    fn wrong(text: &str) -> Vec<String> {
        peers(text, &mut Vec::new()).1
    }

    #[test]
    fn what_the_go_program_accepts() {
        let two = read("192.168.0.10:65000::false,192.168.0.11:65000::false");
        assert_eq!((two.len(), two[1].asn, two[1].port), (2, Some(65_000), 179));
        let port = one("192.168.0.10:65000::false:180");
        assert_eq!((port.port, port.multihop, port.password), (180, false, None));
        let six = one("[fd00:100:64::2]:65000:secret:true");
        assert_eq!(six.target, PeerTarget::Address("fd00:100:64::2".parse().unwrap()));
        assert_eq!((six.password.as_deref(), six.multihop), (Some("secret"), true));
        let all = one("[fd00::1]:65501::false::mpbgp_nexthop=auto_sourceif:true;300;200;4");
        assert_eq!(all.next_hops.unwrap().mode, NextHopMode::SourceInterface);
        let bfd = all.bfd.unwrap();
        assert_eq!((bfd.receive.as_millis(), bfd.transmit.as_millis(), bfd.multiplier), (300, 200, 4));
        assert!(one("[fd00::1]:65501::false:::true;300;300;3").bfd.is_some());
        assert!(one("[fd00::1]:65501::false:::;300;300;3").bfd.is_none());
        let unnumbered = read("unnumbered:eth0,unnumbered:eth1:65000::true::mpbgp_nexthop=auto_sourceif");
        assert_eq!(unnumbered[0].target, PeerTarget::Unnumbered("eth0".into()));
        assert_eq!((unnumbered[0].asn, unnumbered[1].asn), (None, Some(65_000)));
    }

    #[test]
    fn what_the_go_program_could_not_say() {
        let six = one("192.0.2.1:65000::::mpbgp_nexthop=fixed;mpbgp_ipv6=[fd00::1]");
        assert_eq!(six.next_hops.unwrap().given.v6, Some("fd00::1".parse().unwrap()));
        let text = r#"[{"address": "fd00::1", "as": 65001, "holdTime": 3, "passive": true, "ttlSecurityHops": 1,
            "communities": ["65000:1", "no-export"], "largeCommunities": "1:2:3", "localPref": 200, "prepend": 2,
            "families": ["ipv4", "ipv6"], "nodeSelector": {"rack": "a"}, "passwordSecret": "kube-system/bgp"},
            "192.0.2.1:65000"]"#;
        let all = read(text);
        assert_eq!(all[0].defaults.communities, [65_000 << 16 | 1, 0xffff_ff01]);
        assert_eq!((all[0].hold_time, all[0].ttl_security, all[0].passive), (Some(3), Some(1), true));
        assert_eq!(all[0].node_selector.get("rack").map(String::as_str), Some("a"));
        assert_eq!(all[1].asn, Some(65_000));
    }

    #[test]
    fn long_intervals_are_microseconds() {
        let mut notes = Vec::new();
        let (peers, _) = peers("192.0.2.1:65000:::::true;300000;50;3", &mut notes);
        let bfd = peers[0].bfd.unwrap();
        assert_eq!((bfd.receive.as_millis(), bfd.transmit.as_millis()), (300, 50));
        assert_eq!(notes.len(), 1);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_and_all_at_once() {
        let table: &[(&str, &[&str])] = &[
            ("192.0.2.1", &["peer 1, field 2 (AS) is empty: it has to be an AS number from 1 to 4294967295"]),
            ("192.0.2.1:0", &["peer 1, field 2 (AS): `0` is not an AS number from 1 to 4294967295"]),
            (
                "192.0.2.1:65000,192.0.2.300:65000:secret:maybe:70000",
                &[
                    "peer 2, field 1 (address): `192.0.2.300` is not an IPv4 address, an IPv6 address in brackets, or `unnumbered:` and an interface",
                ],
            ),
            (
                "192.0.2.1:65000::maybe:70000",
                &[
                    "peer 1, field 4 (multihop): `maybe` is not true or false",
                    "peer 1, field 5 (port): `70000` is not a port from 1 to 65535",
                ],
            ),
            (
                "192.0.2.1:65000::::mpbgp_nexthop=auto",
                &[
                    "peer 1, field 6 (MP-BGP options): mpbgp_nexthop `auto` is not one of fixed, auto_sourceip, auto_sourceif",
                ],
            ),
            (
                "192.0.2.1:65000::::mpbgp_nxthop=fixed",
                &[
                    "peer 1, field 6 (MP-BGP options): `mpbgp_nxthop=fixed` is not `key=value` with one of the keys mpbgp_nexthop, mpbgp_ipv4, mpbgp_ipv6; did you mean `mpbgp_nexthop`?",
                ],
            ),
            (
                "192.0.2.1:65000:::::true;300",
                &[
                    "peer 1, field 7 (BFD options): `true;300` is not `enable;receive interval;transmit interval;multiplier`, such as `true;300;300;3`",
                ],
            ),
            ("192.0.2.1:65000,192.0.2.1:65001", &["peer 2 is there twice"]),
            (r#"[{"adress": "192.0.2.1"}]"#, &["peer 1, there is no key `adress`; did you mean `address`?"]),
        ];
        for (text, expected) in table {
            let found = wrong(text);
            assert_eq!(
                found.iter().take(expected.len()).collect::<Vec<_>>(),
                expected.iter().collect::<Vec<_>>()
            );
        }
        assert!(!wrong(":::::::").is_empty());
        assert!(!wrong("192.0.2.1:65000/mpbgp_nexthop=fixed").is_empty());
    }
}
