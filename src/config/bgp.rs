//! BGP: who the peers are, and what sessions with them are like.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use serde_json::Value;

use super::problem::nearest;
use super::raw::{Raw, go_bool};
use super::settings::Key;
use super::{Facts, Problem};
use crate::model::route::{community, large_community};
use crate::model::{Family, Path, Prefix};

/// Where packets for routes of each family are to go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NextHops {
    /// Where addresses are looked for that are not given.
    pub mode: NextHopMode,
    /// For IPv4.
    pub v4: Option<Ipv4Addr>,
    /// For IPv6.
    pub v6: Option<IpAddr>,
}

/// Where the next hop of the family that a session does not have comes from (`mpbgp_nexthop`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NextHopMode {
    /// There is none.
    #[default]
    None,
    /// As configured.
    Fixed,
    /// From the link that has the source address.
    SourceAddress,
    /// From the source link.
    SourceLink,
}

/// BFD with a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bfd {
    /// How often we can hear.
    pub receive: Duration,
    /// How often we want to speak.
    pub transmit: Duration,
    /// So many packets may be lost.
    pub multiplier: u8,
}

/// Where a peer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerTarget {
    /// At this address.
    Address(IpAddr),
    /// The router that advertises itself on this link.
    Unnumbered(String),
}

/// Where a Secret is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl std::fmt::Display for SecretName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it is.
    pub target: PeerTarget,
    /// Its AS; none takes any.
    pub asn: Option<u32>,
    /// Signs the connection.
    pub password: Option<String>,
    /// The Secret that has the password under the key `password`.
    pub password_secret: Option<SecretName>,
    /// It is more than one hop away.
    pub multihop: bool,
    /// It is at most so many hops away, and what comes from further away is dropped (RFC 5082).
    pub ttl_security: Option<u8>,
    /// Its port.
    pub port: u16,
    /// Wait for it to connect.
    pub passive: bool,
    /// Families of routes; none means that of the session, and the other one where it has a next hop.
    pub families: Option<Vec<Family>>,
    /// Next hops; none means as for all peers.
    pub next_hops: Option<NextHops>,
    /// The address to come from.
    pub source_address: Option<IpAddr>,
    /// The link to go by.
    pub source_link: Option<String>,
    /// BFD, where it is used.
    pub bfd: Option<Bfd>,
    /// Seconds of silence that end the session; none means as for all peers.
    pub hold_time: Option<u16>,
    /// Seconds from one KEEPALIVE to the next; none means as for all peers.
    pub keepalive: Option<u16>,
    /// What is added to every route.
    pub defaults: Path,
    /// Only nodes with these labels talk to it.
    pub node_selector: BTreeMap<String, String>,
}

impl Peer {
    /// A peer of which nothing else is said.
    pub fn new(target: PeerTarget, asn: Option<u32>) -> Self {
        Fields::default().peer(target, asn, &mut Vec::new())
    }
}

/// Everything about BGP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bgp {
    /// Our AS.
    pub local_as: u32,
    /// Our identifier. None where the node's annotations tell.
    pub router_id: Option<Ipv4Addr>,
    /// The address to come from.
    pub source_address: Option<IpAddr>,
    /// The link to go by.
    pub source_link: Option<String>,
    /// Seconds of silence that end a session.
    pub hold_time: u16,
    /// Seconds from one KEEPALIVE to the next.
    pub keepalive: u16,
    /// Peers keep our routes for so many seconds while this process restarts.
    pub restart_time: Option<u16>,
    /// Where peers may connect.
    pub listen_port: u16,
    /// Next hops for all peers.
    pub next_hops: NextHops,
    /// The peers.
    pub peers: Vec<Peer>,
    /// The prefix of node annotations that tell all this.
    pub annotations: Option<String>,
    /// Put the addresses of Services on the link, too.
    pub attach: bool,
    /// The control plane's address is announced by an elected node alone.
    pub elected: bool,
    /// What is announced besides addresses.
    pub extras: Extras,
}

/// What is announced besides the addresses of the control plane and of Services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extras {
    /// `spec.externalIPs` of Services.
    pub external_ips: bool,
    /// The cluster's ServiceCIDR objects.
    pub service_cidrs: bool,
    /// Networks: announced while an address in them is.
    pub aggregates: Vec<Prefix>,
    /// Networks that are announced in any case.
    pub networks: Vec<Prefix>,
}

/// The fields of a peer in the form that the Go program has, in their order.
const POSITIONS: [&str; 7] =
    ["address", "AS", "password", "multihop", "port", "MP-BGP options", "BFD options"];
/// The keys of a peer that is written as a map.
pub const PEER_KEYS: [&str; 27] = [
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
/// Those that the other form has a place for.
pub(super) const PLAIN_PEER_KEYS: [&str; 13] = [
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
];
/// From so much on, an interval was meant to be in microseconds: the way round upstream's mistake.
const MICROSECONDS: u32 = 10_000;

/// Everything about BGP, with notes worth a warning.
pub(super) fn bgp(raw: &Raw, facts: &Facts, notes: &mut Vec<String>) -> Result<Bgp, Vec<Problem>> {
    let mut problems = Vec::new();
    let text = |key| Some(raw.text(key)).filter(|text| !text.is_empty()).map(str::to_owned);
    let mut wrong = |key: Key, allowed: &str| {
        problems.push(Problem::unacceptable(raw.origin(key), raw.text(key), allowed));
    };
    let seconds = |key| u16::try_from(raw.int(key)).unwrap_or(u16::MAX);
    let hold_time = seconds(Key::BgpHoldTime);
    if matches!(hold_time, 1 | 2) {
        wrong(Key::BgpHoldTime, "0 (no limit) or 3 seconds or more (RFC 4271)");
    }
    let source_address = text(Key::BgpSourceIp).and_then(|text| match text.parse() {
        Ok(address) => Some(address),
        Err(_) => {
            wrong(Key::BgpSourceIp, "an IP address");
            None
        }
    });
    let source_link = text(Key::BgpSourceIf);
    if source_link.as_ref().is_some_and(|name| facts.addresses_of(name).is_none()) {
        wrong(Key::BgpSourceIf, "a link of this host");
    }
    let annotations = text(Key::BgpAnnotations);
    let router_id = router_id(raw, facts, annotations.is_some(), &mut problems);
    let next_hops = next_hops(
        raw.text(Key::MpBgpNexthop),
        &[(Key::MpBgpIpv4, raw.text(Key::MpBgpIpv4)), (Key::MpBgpIpv6, raw.text(Key::MpBgpIpv6))],
    )
    .map_err(|(key, allowed)| {
        problems.push(Problem::unacceptable(raw.origin(key), raw.text(key), allowed));
    })
    .unwrap_or_default();
    let (mut peers, wrong_peers) = peers(raw.text(Key::BgpPeers), notes);
    let origin = raw.origin(Key::BgpPeers);
    problems.extend(wrong_peers.into_iter().map(|text| Problem::Combination(format!("{origin}: {text}"))));
    match single(raw) {
        Ok(peer) => peers.extend(peer),
        Err(problem) => problems.push(problem),
    }
    if peers.is_empty() && annotations.is_none() && problems.is_empty() {
        problems.push(Problem::Combination(
            "BGP needs a peer: set bgp_peers to `address:AS`, or bgp_peeraddress and bgp_peeras, or annotation to \
             the prefix of node annotations that name peers"
                .into(),
        ));
    }
    let (extras, wrong_extras) = extras(raw);
    problems.extend(wrong_extras);
    if raw.bool(Key::Zebra) {
        problems.push(Problem::Combination(format!(
            "zebra_enable ({}): kube-vip does not talk to zebra; use the routing-table mode (vip_routingtable), whose \
             routes FRR picks up with `ip import-table 198` and `redistribute table 198`",
            raw.origin(Key::Zebra)
        )));
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(Bgp {
        local_as: u32::try_from(raw.int(Key::BgpAs)).unwrap_or_default(),
        router_id,
        source_address,
        source_link,
        hold_time,
        keepalive: seconds(Key::BgpKeepalive).max(1),
        restart_time: Some(seconds(Key::BgpRestartTime)).filter(|seconds| *seconds > 0),
        listen_port: seconds(Key::BgpListenPort),
        next_hops,
        peers,
        annotations,
        attach: raw.bool(Key::BgpAttach),
        elected: raw.bool(Key::LeaderElection) && raw.bool(Key::ControlPlane),
        extras,
    })
}

/// As configured, of the configured link, or the first IPv4 address of this host.
fn router_id(raw: &Raw, facts: &Facts, told_later: bool, problems: &mut Vec<Problem>) -> Option<Ipv4Addr> {
    let first = |addresses: &[IpAddr]| {
        addresses.iter().find_map(|address| match address {
            IpAddr::V4(v4) if !v4.is_loopback() && !v4.is_link_local() => Some(*v4),
            _ => None,
        })
    };
    let (text, link) = (raw.text(Key::BgpRouterId), raw.text(Key::BgpRouterInterface));
    if !text.is_empty() {
        let id = text.parse().ok().filter(|id: &Ipv4Addr| !id.is_unspecified());
        if id.is_none() {
            let allowed = "an identifier in the form of an IPv4 address, and not 0.0.0.0";
            problems.push(Problem::unacceptable(raw.origin(Key::BgpRouterId), text, allowed));
        }
        return id;
    }
    if !link.is_empty() {
        let id = facts.addresses_of(link).and_then(first);
        if id.is_none() {
            let allowed = "a link of this host that has an IPv4 address";
            problems.push(Problem::unacceptable(raw.origin(Key::BgpRouterInterface), link, allowed));
        }
        return id;
    }
    let link = Some(raw.text(Key::Interface)).and_then(|name| facts.addresses_of(name));
    let all = facts.addresses.iter().map(|(_, addresses)| addresses.as_slice());
    let id = link.and_then(first).or_else(|| all.into_iter().find_map(first));
    if id.is_none() && !told_later {
        problems.push(Problem::Combination(
            "BGP needs a router ID, and this host has no IPv4 address to take it from: set bgp_routerid (flag \
             --bgpRouterID) to any number in the form of an IPv4 address that no other router has"
                .into(),
        ));
    }
    id
}

type NoNextHop<K> = (K, String);

fn next_hops<K: Copy>(mode: &str, addresses: &[(K, &str); 2]) -> Result<NextHops, NoNextHop<K>> {
    let [(v4_key, v4), (v6_key, v6)] = *addresses;
    let read = |key, text: &str, family: Family| {
        if text.is_empty() {
            return Ok(None);
        }
        let address = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        let found = address.filter(|address| Family::of(*address) == family);
        found.map(Some).ok_or_else(|| (key, format!("an {family} address")))
    };
    let v4 = match read(v4_key, v4, Family::V4)? {
        Some(IpAddr::V4(address)) => Some(address),
        _ => None,
    };
    let v6 = read(v6_key, v6, Family::V6)?;
    let mode = match mode {
        "fixed" if v4.is_none() && v6.is_none() => {
            return Err((v4_key, "an address: with `fixed`, mpbgp_ipv4 or mpbgp_ipv6 has to be set".into()));
        }
        "fixed" => NextHopMode::Fixed,
        "auto_sourceip" => NextHopMode::SourceAddress,
        "auto_sourceif" => NextHopMode::SourceLink,
        // Whoever gives an address means it.
        _ if v4.is_some() || v6.is_some() => NextHopMode::Fixed,
        _ => NextHopMode::None,
    };
    Ok(NextHops { mode, v4, v6 })
}

fn extras(raw: &Raw) -> (Extras, Vec<Problem>) {
    let mut problems = Vec::new();
    let mut networks = |key: Key, also: &str| {
        let texts = raw.list(key).into_iter().filter(|text| *text != also);
        let read = texts.filter_map(|text| match text.parse() {
            Ok(prefix) => Some(prefix),
            Err(_) => {
                let allowed = format!(
                    "a network such as 10.96.0.0/12 or fd00::/108{}",
                    match also {
                        "" => String::new(),
                        also => format!(", or `{also}`"),
                    }
                );
                problems.push(Problem::unacceptable(raw.origin(key), text, allowed));
                None
            }
        });
        read.collect::<Vec<Prefix>>()
    };
    let extras = Extras {
        external_ips: raw.bool(Key::BgpExternalIps),
        networks: networks(Key::BgpServiceCidrs, "auto"),
        aggregates: networks(Key::BgpAggregates, ""),
        service_cidrs: raw.list(Key::BgpServiceCidrs).contains(&"auto"),
    };
    (extras, problems)
}

/// The peer of the variables for a single one.
#[expect(clippy::result_large_err, reason = "it is made once, and ends the program")]
fn single(raw: &Raw) -> Result<Option<Peer>, Problem> {
    let address = raw.text(Key::BgpPeerAddress);
    if address.is_empty() {
        return Ok(None);
    }
    let unacceptable =
        |key: Key, allowed: &str| Problem::unacceptable(raw.origin(key), raw.text(key), allowed);
    let asn = u32::try_from(raw.int(Key::BgpPeerAs)).ok().filter(|asn| *asn != 0);
    if asn.is_none() {
        return Err(unacceptable(Key::BgpPeerAs, "an AS number from 1 to 4294967295"));
    }
    let address = address.trim_start_matches('[').trim_end_matches(']').parse();
    let address: IpAddr = address.map_err(|_| unacceptable(Key::BgpPeerAddress, "an IP address"))?;
    let mut peer = Peer::new(PeerTarget::Address(address), asn);
    peer.password = Some(raw.text(Key::BgpPeerPass)).filter(|text| !text.is_empty()).map(str::to_owned);
    peer.multihop = raw.bool(Key::BgpMultihop);
    Ok(Some(peer))
}

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
pub(super) fn is_json(text: &str) -> bool {
    let rest = text.trim_start().strip_prefix('[').map(str::trim_start);
    rest.is_some_and(|rest| rest.starts_with(['{', '"']))
}

/// What is written of a peer: by key, with the place for messages.
#[derive(Debug, Default)]
struct Fields {
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
        let allowed = "an IPv4 address, an IPv6 address in brackets, or `unnumbered:` and a link";
        let address = self.get("address", wrong, allowed, address);
        let unnumbered = self.text("interface").filter(|_| self.text("address").is_none());
        let asn = self.get("as", wrong, "an AS number from 1 to 4294967295", |text| {
            text.parse::<u32>().ok().filter(|asn| *asn != 0 || unnumbered.is_some())
        });
        let target = match (address, unnumbered) {
            (Some(address), _) => PeerTarget::Address(address),
            (None, Some(link)) => PeerTarget::Unnumbered(link.to_owned()),
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
    fn peer(&self, target: PeerTarget, asn: Option<u32>, wrong: &mut Vec<String>) -> Peer {
        let boolean = |text: &str| go_bool(text);
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
            multihop: self.get("multiHop", wrong, "true or false", boolean).unwrap_or(false),
            ttl_security: self.get("ttlSecurityHops", wrong, "a number of hops from 1 to 254", |text| {
                text.parse().ok().filter(|hops| (1..=254).contains(hops))
            }),
            port: self
                .get("port", wrong, "a port from 1 to 65535", |text| text.parse().ok())
                .filter(|port| *port != 0)
                .unwrap_or(179),
            passive: self.get("passive", wrong, "true or false", boolean).unwrap_or(false),
            families,
            next_hops: hops.ok().filter(|hops| *hops != NextHops::default()),
            source_address: self.get("sourceIP", wrong, "an IP address", |text| text.parse().ok()),
            source_link: self.text("sourceIF").map(str::to_owned),
            bfd: None,
            hold_time: self.get("holdTime", wrong, "0 (no limit), or 3 seconds or more", |text| {
                seconds(text).filter(|hold| !matches!(hold, 1 | 2))
            }),
            keepalive: self.get("keepaliveInterval", wrong, "a number of seconds, 1 or more", |text| {
                seconds(text).filter(|interval| *interval > 0)
            }),
            defaults: Path {
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
        let enabled = self.get("bfdEnabled", wrong, "true or false", go_bool)?;
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
        assert_eq!(all.next_hops.unwrap().mode, NextHopMode::SourceLink);
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
        assert_eq!(six.next_hops.unwrap().v6, Some("fd00::1".parse().unwrap()));
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
                    "peer 2, field 1 (address): `192.0.2.300` is not an IPv4 address, an IPv6 address in brackets, or `unnumbered:` and a link",
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
