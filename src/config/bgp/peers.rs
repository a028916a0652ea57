//! Parses peers: strings in the format of the Go program, and maps from YAML or JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::super::problem::nearest;
use super::super::value::{Value as _, address, named};
use super::{Bfd, NextHopMode, NextHops, Peer, PeerTarget, SecretName, hints, next_hops};
use crate::model::go::parse_bool;
use crate::model::route::{MAX_COMMUNITIES, community, large_community};
use crate::model::validation::{is_label, is_subdomain};
use crate::model::{Family, PerFamily, RouteAttributes};

/// Keys of a peer map. The first ones also exist in the string format of the Go program.
pub(in crate::config) const PEER_KEYS: [&str; 27] = [
    "address",
    "as",
    "password",
    "multiHop",
    "port",
    "interface",
    "mpbgpNexthop",
    "mpbgpIPv4",
    "mpbgpIPv6",
    "bfdEnabled",
    "bfdReceiveInterval",
    "bfdTransmitInterval",
    "bfdDetectMultiplier",
    "holdTime",
    "keepaliveInterval",
    "passive",
    "ttlSecurityHops",
    "families",
    "sourceIP",
    "sourceIF",
    "communities",
    "largeCommunities",
    "localPref",
    "med",
    "prepend",
    "passwordSecret",
    "nodeSelector",
];
/// Number of keys that exist in the string format.
const PLAIN: usize = 13;
/// The MP-BGP options of a peer string, with their keys.
const MP_BGP: [(&str, &str); 3] =
    [("mpbgp_nexthop", "mpbgpNexthop"), ("mpbgp_ipv4", "mpbgpIPv4"), ("mpbgp_ipv6", "mpbgpIPv6")];
const BFD: [&str; 4] = ["bfdEnabled", "bfdReceiveInterval", "bfdTransmitInterval", "bfdDetectMultiplier"];
/// Fields of a peer string, in order.
const POSITIONS: [&str; 7] =
    ["address", "AS", "password", "multihop", "port", "MP-BGP options", "BFD options"];
/// BFD intervals from this value on are microseconds: users of the Go program wrote them so, because of a bug there.
const MICROSECONDS: u32 = 10_000;

/// Parses `bgp_peers`: peer strings separated by commas, or a JSON list of strings and maps. Returns the valid peers, and
/// all problems.
pub fn peers(text: &str, notes: &mut Vec<String>) -> (Vec<Peer>, Vec<String>) {
    from_values(split_peers(text), notes)
}

/// Parses peers as given: strings in the format of the Go program, or maps.
pub(super) fn from_values(
    values: impl IntoIterator<Item = Result<Value, String>>,
    notes: &mut Vec<String>,
) -> (Vec<Peer>, Vec<String>) {
    let (mut peers, mut problems) = (Vec::new(), Vec::new());
    for (index, value) in values.into_iter().enumerate() {
        // After a trailing comma, as the Go program has it.
        if value == Ok(Value::String(String::new())) {
            notes.push(format!("BGP peer {} is empty and ignored", index + 1));
            continue;
        }
        let mut reader = Reader { fields: BTreeMap::new(), problems: Vec::new(), notes };
        let peer = match value {
            Ok(Value::String(text)) => reader.peer_from_text(&text),
            Ok(Value::Object(map)) => reader.peer_from_map(map),
            Ok(_) => reader.reject("a peer is a string or a map".to_owned()),
            Err(error) => reader.reject(error),
        };
        let wrong = reader.problems;
        peers.extend(peer.filter(|_| wrong.is_empty()));
        problems.extend(wrong.into_iter().map(|problem| format!("peer {}, {problem}", index + 1)));
    }
    let identity = |peer: &Peer| (peer.target.clone(), peer.port, peer.node_selector.clone());
    for (index, peer) in peers.iter().enumerate() {
        if peers.iter().take(index).any(|before| identity(before) == identity(peer)) {
            problems.push(format!("peer {} is there twice", index + 1));
        }
    }
    (peers, problems)
}

/// The peers of `bgp_peers` as strings and maps.
pub(in crate::config) fn split_peers(text: &str) -> Vec<Result<Value, String>> {
    let text = text.trim();
    if text.is_empty() {
        return Vec::new();
    }
    if is_json(text) {
        return match serde_json::from_str::<Vec<Value>>(text) {
            Ok(values) => values.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(format!("invalid JSON list: {error}"))],
        };
    }
    text.split(',').map(|peer| Ok(Value::String(peer.trim().to_owned()))).collect()
}

/// Whether peers are a JSON list. An IPv6 address starts with a bracket, too.
pub(in crate::config) fn is_json(text: &str) -> bool {
    let rest = text.trim_start().strip_prefix('[').map(str::trim_start);
    rest.is_some_and(|rest| rest.starts_with(['{', '"']))
}

/// The value of the variable `bgp_peers` for these peers: in the format of the Go program if it can express all of them,
/// otherwise as a JSON list.
pub(in crate::config) fn to_text(peers: &[Value]) -> String {
    let texts: Option<Vec<String>> = peers.iter().map(peer_text).collect();
    texts.map_or_else(|| Value::from(peers.to_vec()).to_string(), |texts| texts.join(","))
}

fn peer_text(peer: &Value) -> Option<String> {
    let fields = match peer {
        Value::String(text) => return Some(text.clone()),
        Value::Object(fields) => fields,
        _ => return None,
    };
    let is_plain = |key: &String| PEER_KEYS.iter().take(PLAIN).any(|plain| plain == key);
    if fields.iter().any(|(key, value)| !is_plain(key) || !value.is_string()) {
        return None;
    }
    let field = |key: &str| fields.get(key).and_then(Value::as_str);
    let or = |key: &str, default: &str| field(key).unwrap_or(default).to_owned();
    let address = match (field("interface"), field("address")) {
        (Some(interface), None) => format!("unnumbered:{interface}"),
        (_, Some(address)) if address.contains(':') && !address.starts_with('[') => format!("[{address}]"),
        (_, address) => address.unwrap_or_default().to_owned(),
    };
    let options = MP_BGP.iter().filter_map(|(name, key)| Some(format!("{name}={}", field(key)?)));
    let bfd = BFD.iter().zip(["", "300", "300", "3"]).map(|(key, default)| or(key, default));
    let bfd = field("bfdEnabled").map(|_| bfd.collect::<Vec<_>>().join(";"));
    let fields = [
        address,
        or("as", ""),
        or("password", ""),
        or("multiHop", ""),
        or("port", ""),
        options.collect::<Vec<_>>().join(";"),
        bfd.unwrap_or_default(),
    ];
    Some(fields.join(":").trim_end_matches(':').to_owned())
}

/// Reads one peer.
struct Reader<'a> {
    /// Values by key, with the place for messages.
    fields: BTreeMap<&'static str, (Value, String)>,
    problems: Vec<String>,
    notes: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn peer_from_text(&mut self, text: &str) -> Option<Peer> {
        let mut parts = split_fields(text).into_iter();
        match parts.next() {
            Some("unnumbered") => self.set("interface", parts.next().unwrap_or_default(), 0),
            Some(address) => self.set("address", address, 0),
            None => {}
        }
        let keys = ["as", "password", "multiHop", "port"];
        for (index, (key, value)) in keys.into_iter().zip(parts.by_ref()).enumerate() {
            if key == "password" && value.starts_with("mpbgp_") {
                let hint = hints::of_field(key, value);
                self.notes.push(format!("field 3 (password) of a BGP peer begins with `mpbgp_`{hint}"));
            }
            self.set(key, value, index + 1);
        }
        for option in parts.next().unwrap_or_default().split(';').filter(|option| !option.is_empty()) {
            let (name, value) =
                option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            match (MP_BGP.iter().find(|(known, _)| *known == name), value) {
                (Some((_, key)), Some(value)) => self.set(key, value, 5),
                _ => {
                    let known = MP_BGP.map(|(known, _)| known);
                    let hint = nearest(name, known);
                    self.problems.push(format!(
                        "{}: `{option}` is not `key=value` with one of the keys {}{hint}",
                        place(5),
                        known.join(", ")
                    ));
                }
            }
        }
        if let Some(text) = parts.next().filter(|text| !text.is_empty()) {
            let items: Vec<&str> = text.split(';').collect();
            if items.len() == BFD.len() {
                BFD.into_iter().zip(items).for_each(|(key, item)| self.set(key, item, 6));
            } else {
                self.problems.push(format!(
                    "{}: `{text}` is not `enable;receive interval;transmit interval;multiplier`, such as `true;300;300;3`",
                    place(6)
                ));
            }
        }
        if parts.next().is_some() {
            self.problems.push(format!("field 8: there are only seven fields ({})", POSITIONS.join(":")));
        }
        self.peer()
    }

    /// Keys match in any case.
    fn peer_from_map(&mut self, map: serde_json::Map<String, Value>) -> Option<Peer> {
        for (key, value) in map {
            match PEER_KEYS.iter().find(|known| known.eq_ignore_ascii_case(&key)) {
                Some(known) => drop(self.fields.insert(known, (value, format!("key `{known}`")))),
                None => {
                    self.problems.push(format!("there is no key `{key}`{}", nearest(&key, PEER_KEYS)));
                }
            }
        }
        self.peer()
    }

    fn reject(&mut self, problem: String) -> Option<Peer> {
        self.problems.push(problem);
        None
    }

    fn set(&mut self, key: &'static str, value: &str, index: usize) {
        if !value.is_empty() {
            self.fields.insert(key, (value.into(), place(index)));
        }
    }

    fn has(&self, key: &str) -> bool {
        self.fields.get(key).is_some_and(|(value, _)| !matches!(value, Value::Null) && *value != "")
    }

    /// The value of a key if `read` accepts it; otherwise a problem that names what is allowed.
    fn get<T>(&mut self, key: &str, allowed: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
        if !self.has(key) {
            return None;
        }
        let (value, place) = self.fields.get(key)?;
        let found = read(value);
        if found.is_none() {
            let shown = scalar(value).unwrap_or_else(|| items(value).join(","));
            let hint = hints::of_field(key, &shown);
            self.problems.push(format!("{place}: `{shown}` is not {allowed}{hint}"));
        }
        found
    }

    /// The same for a value without structure.
    fn scalar<T>(&mut self, key: &str, allowed: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        self.get(key, allowed, |value| read(&scalar(value)?))
    }

    fn number<T: std::str::FromStr>(
        &mut self,
        key: &str,
        allowed: &str,
        valid: impl Fn(&T) -> bool,
    ) -> Option<T> {
        self.scalar(key, allowed, |text| text.parse().ok().filter(&valid))
    }

    fn text(&mut self, key: &str, allowed: &str) -> Option<String> {
        self.scalar(key, allowed, |text| Some(text.to_owned()))
    }

    fn boolean(&mut self, key: &str) -> Option<bool> {
        self.scalar(key, "true or false", parse_bool)
    }

    fn list<T>(&mut self, key: &str, allowed: &str, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        self.get(key, allowed, |value| items(value).iter().map(|item| read(item)).collect())
    }

    /// At most [`MAX_COMMUNITIES`].
    fn communities<T>(&mut self, key: &str, kind: &str, read: impl Fn(&str) -> Option<T>) -> Vec<T> {
        let allowed = format!("a list of at most {MAX_COMMUNITIES} {kind}");
        let few = |value: &Value| items(value).len() <= MAX_COMMUNITIES;
        let read = |value: &Value| items(value).iter().map(|item| read(item)).collect();
        self.get(key, &allowed, |value| few(value).then(|| read(value))?).unwrap_or_default()
    }

    fn peer(&mut self) -> Option<Peer> {
        let (target, asn) = self.target()?;
        let peer = Peer::new(target, asn);
        let families =
            self.list("families", "a list of ipv4 and ipv6", |text| match text.to_lowercase().as_str() {
                "ipv4" => Some(Family::V4),
                "ipv6" => Some(Family::V6),
                _ => None,
            });
        let node_selector = self.list("nodeSelector", "labels such as rack=a", |text| {
            text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()))
        });
        Some(Peer {
            next_hops: self.next_hops(),
            families,
            node_selector: node_selector.unwrap_or_default().into_iter().collect(),
            password: self.text("password", "a text"),
            password_secret: self.scalar(
                "passwordSecret",
                "the name of a Secret: `namespace/name`",
                |text| {
                    let (namespace, name) = text.split_once('/')?;
                    let valid = is_label(namespace) && is_subdomain(name);
                    valid.then(|| SecretName { namespace: namespace.to_owned(), name: name.to_owned() })
                },
            ),
            multihop: self.boolean("multiHop").unwrap_or(peer.multihop),
            ttl_security: self
                .number("ttlSecurityHops", "a number of hops from 1 to 254", |hops| (1..=254).contains(hops)),
            port: self
                .number("port", "a port from 1 to 65535", |_| true)
                .filter(|port| *port != 0)
                .unwrap_or(peer.port),
            passive: self.boolean("passive").unwrap_or(peer.passive),
            source_address: self.number("sourceIP", "an IP address", |_| true),
            source_interface: self.text("sourceIF", "an interface"),
            hold_time: self
                .number("holdTime", "0 (no limit), or 3 seconds or more", |hold| !matches!(hold, 1 | 2)),
            keepalive: self
                .number("keepaliveInterval", "a number of seconds, 1 or more", |interval| *interval > 0),
            defaults: RouteAttributes {
                communities: self.communities("communities", "communities such as 65000:100", community),
                large_communities: self.communities(
                    "largeCommunities",
                    "large communities such as 65000:1:2",
                    large_community,
                ),
                local_pref: self.number("localPref", "a number", |_| true),
                med: self.number("med", "a number", |_| true),
                prepend: self.number("prepend", "a number from 0 to 32", |times| *times <= 32),
                draining: false,
            },
            bfd: self.bfd(),
            ..peer
        })
    }

    fn target(&mut self) -> Option<(PeerTarget, Option<u32>)> {
        const AS: &str = "an AS number from 1 to 4294967295";
        let allowed = "an IPv4 address, an IPv6 address in brackets, or `unnumbered:` and an interface";
        let address = self.scalar("address", allowed, address);
        let unnumbered = !self.has("address") && self.has("interface");
        let asn = self.number("as", AS, |asn: &u32| *asn != 0 || unnumbered).filter(|asn| *asn != 0);
        let target = match address {
            Some(address) => PeerTarget::Address(address),
            None if unnumbered => PeerTarget::Unnumbered(self.text("interface", "an interface")?),
            None => {
                if !self.has("address") {
                    self.problems.push(format!("field 1 (address) is empty: it has to be {allowed}"));
                }
                return None;
            }
        };
        if !unnumbered && !self.has("as") {
            self.problems.push(format!("field 2 (AS) is empty: it has to be {AS}"));
        }
        Some((target, asn))
    }

    fn next_hops(&mut self) -> Option<NextHops> {
        let field = |key| {
            let (value, place) = self.fields.get(key)?;
            Some((scalar(value).unwrap_or_default(), place.clone()))
        };
        let [mode, v4, v6] = MP_BGP.map(|(_, key)| field(key).unwrap_or_default());
        let (mode, place) = mode;
        let rule = NextHopMode::read(&mode).unwrap_or_else(|| {
            let known = named(NextHopMode::WORDS);
            let (all, hint) = (known.join(", "), nearest(&mode, known));
            self.problems.push(format!("{place}: mpbgp_nexthop `{mode}` is not one of {all}{hint}"));
            NextHopMode::None
        });
        match next_hops(rule, PerFamily { v4: &v4.0, v6: &v6.0 }) {
            Ok(hops) => (hops.mode != NextHopMode::None).then_some(hops),
            Err((family, allowed)) => {
                let (value, at) = &PerFamily { v4, v6 }[family];
                let at = if at.is_empty() { &place } else { at };
                self.problems.push(format!("{at}: `{value}` is not {allowed}"));
                None
            }
        }
    }

    fn bfd(&mut self) -> Option<Bfd> {
        let receive = self.interval("bfdReceiveInterval");
        let transmit = self.interval("bfdTransmitInterval");
        let multiplier =
            self.number("bfdDetectMultiplier", "a number from 1 to 255", |times: &u8| *times > 0);
        let enabled = self.boolean("bfdEnabled")?;
        enabled.then_some(Bfd { receive, transmit, multiplier: multiplier.unwrap_or(3) })
    }

    fn interval(&mut self, key: &str) -> Duration {
        let allowed = "a number of milliseconds from 10 to 4294967295";
        let value = self.number(key, allowed, |value: &u32| *value >= 10).unwrap_or(300);
        if value < MICROSECONDS {
            return Duration::from_millis(value.into());
        }
        self.notes.push(format!(
            "{key} {value} is read as microseconds, as in the Go program; intervals are milliseconds: write {}",
            value / 1000
        ));
        Duration::from_micros(value.into())
    }
}

/// The place of a field for messages.
fn place(index: usize) -> String {
    match POSITIONS.get(index) {
        Some(name) => format!("field {} ({name})", index + 1),
        None => format!("field {}", index + 1),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// The items of a list, of a comma-separated string, or `key=value` of a map.
fn items(value: &Value) -> Vec<String> {
    let text = |value: &Value| scalar(value).unwrap_or_else(|| value.to_string());
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        Value::Object(map) => map.iter().map(|(key, value)| format!("{key}={}", text(value))).collect(),
        _ => text(value).split(',').map(|item| item.trim().to_owned()).collect(),
    }
}

/// Splits at colons outside of brackets.
pub(in crate::config) fn split_fields(text: &str) -> Vec<&str> {
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
    fn peer_strings_of_the_go_program() {
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
    fn ipv6_next_hops_in_strings_and_all_keys_in_maps() {
        let six = one("192.0.2.1:65000::::mpbgp_nexthop=fixed;mpbgp_ipv6=[fd00::1]");
        assert_eq!(six.next_hops.unwrap().given.v6, Some("fd00::1".parse().unwrap()));
        // The address may be that of all peers, or missing: then only the family of the session is advertised.
        let fixed = one("192.0.2.1:65000::::mpbgp_nexthop=fixed").next_hops.unwrap();
        assert_eq!((fixed.mode, fixed.given), (NextHopMode::Fixed, PerFamily::default()));
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
    fn intervals_from_ten_thousand_on_are_microseconds() {
        let mut notes = Vec::new();
        let (peers, _) = peers("192.0.2.1:65000:::::true;300000;50;3", &mut notes);
        let bfd = peers[0].bfd.unwrap();
        assert_eq!((bfd.receive.as_millis(), bfd.transmit.as_millis()), (300, 50));
        assert_eq!(notes.len(), 1);
    }

    #[test]
    fn all_problems_are_reported_with_their_place() {
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
