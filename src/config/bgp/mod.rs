//! BGP settings.

mod hints;
mod peers;
mod provider;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use super::settings::{Key, Values};
pub use super::value::NextHopMode;
use super::value::address;
use super::{HostFacts, Problem};
use crate::model::{Family, PerFamily, Prefix, RouteAttributes, Vip};
pub(super) use hints::asdot;
use peers::from_values;
pub use peers::peers;
pub(super) use peers::{PEER_KEYS, is_json, split_fields, split_peers, to_text};
pub use provider::{Provider, Shape, Token};

/// Next hops of the family that a session does not have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NextHops {
    pub mode: NextHopMode,
    pub given: PerFamily<Option<IpAddr>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bfd {
    /// Required Min RX Interval.
    pub receive: Duration,
    /// Desired Min TX Interval.
    pub transmit: Duration,
    /// Detect Mult.
    pub multiplier: u8,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PeerTarget {
    Address(IpAddr),
    /// The router on this interface, found by router advertisements or in the neighbour table.
    Unnumbered(String),
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretName {
    pub namespace: String,
    pub name: String,
}

impl std::fmt::Display for SecretName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    pub target: PeerTarget,
    /// None accepts any AS.
    pub asn: Option<u32>,
    /// TCP MD5 password (RFC 2385).
    pub password: Option<String>,
    /// Secret with the password in the key `password`.
    pub password_secret: Option<SecretName>,
    pub multihop: bool,
    /// Maximum distance in hops (GTSM, RFC 5082).
    pub ttl_security: Option<u8>,
    pub port: u16,
    /// Only accept connections of the peer.
    pub passive: bool,
    /// None: the family of the session, and the other one if it has a next hop.
    pub families: Option<Vec<Family>>,
    /// None: those of all peers.
    pub next_hops: Option<NextHops>,
    pub source_address: Option<IpAddr>,
    pub source_interface: Option<String>,
    pub bfd: Option<Bfd>,
    /// Seconds; None: that of all peers.
    pub hold_time: Option<u16>,
    /// Interval in seconds; None: that of all peers.
    pub keepalive: Option<u16>,
    /// Attributes of routes that have none of their own.
    pub defaults: RouteAttributes,
    /// Only nodes with these labels have this peer.
    pub node_selector: BTreeMap<String, String>,
}

/// Name in messages and metrics, as in the Go program.
impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.target {
            PeerTarget::Address(IpAddr::V4(address)) => write!(f, "{address}:{}", self.port),
            PeerTarget::Address(IpAddr::V6(address)) => write!(f, "[{address}]:{}", self.port),
            PeerTarget::Unnumbered(interface) => write!(f, "unnumbered:{interface}"),
        }
    }
}

impl Peer {
    /// None if it is found by router advertisements.
    pub fn address(&self) -> Option<IpAddr> {
        match self.target {
            PeerTarget::Address(address) => Some(address),
            PeerTarget::Unnumbered(_) => None,
        }
    }

    /// A peer with defaults.
    pub fn new(target: PeerTarget, asn: Option<u32>) -> Self {
        Self {
            target,
            asn,
            password: None,
            password_secret: None,
            multihop: false,
            ttl_security: None,
            port: 179,
            passive: false,
            families: None,
            next_hops: None,
            source_address: None,
            source_interface: None,
            bfd: None,
            hold_time: None,
            keepalive: None,
            defaults: RouteAttributes::default(),
            node_selector: BTreeMap::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bgp {
    pub local_as: u32,
    /// None if the Node's annotations or the provider define it.
    pub router_id: Option<Ipv4Addr>,
    pub source_address: Option<IpAddr>,
    pub source_interface: Option<String>,
    /// Seconds; 0 for no limit.
    pub hold_time: u16,
    /// Interval in seconds.
    pub keepalive: u16,
    /// Graceful restart time in seconds (RFC 4724).
    pub restart_time: Option<u16>,
    /// For passive peers.
    pub listen_port: u16,
    pub next_hops: NextHops,
    pub peers: Vec<Peer>,
    /// Prefix of Node annotations that define peers.
    pub annotations: Option<String>,
    pub provider: Option<Provider>,
    /// Also assign addresses of Services to the interface.
    pub attach: bool,
    /// Only the elected node advertises the control plane's address.
    pub elected: bool,
    pub extras: Extras,
}

/// Routes in addition to the addresses of the control plane and of Services.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Extras {
    /// `spec.externalIPs` of Services.
    pub external_ips: bool,
    /// The cluster's ServiceCIDR objects.
    pub service_cidrs: bool,
    /// Advertised while an address in them is.
    pub aggregates: Vec<Prefix>,
    /// Always advertised.
    pub networks: Vec<Prefix>,
}

pub(super) fn read(
    values: &Values,
    facts: Option<&HostFacts>,
    problems: &mut Vec<Problem>,
    notes: &mut Vec<String>,
) -> Bgp {
    let raw = &values.raw;
    let valid = problems.len();
    if matches!(values.bgp_hold_time, 1 | 2) {
        let allowed = "0 (no limit) or 3 seconds or more (RFC 4271)";
        problems.push(raw.unacceptable(Key::BgpHoldTime, allowed));
    }
    let source_address = raw.accept(Key::BgpSourceIp, "an IP address", problems, |text| text.parse().ok());
    let source_interface = raw.accept(Key::BgpSourceIf, "an interface of this host", problems, |name| {
        let exists = facts.is_none_or(|facts| facts.addresses_of(name).is_some());
        exists.then(|| name.to_owned())
    });
    let annotations = values.bgp_annotations.clone();
    let provider = provider(values, problems);
    let defined_later = annotations.is_some() || provider.is_some();
    let router_id = router_id(values, facts, defined_later, problems);
    let given = PerFamily { v4: raw.text(Key::MpBgpIpv4), v6: raw.text(Key::MpBgpIpv6) };
    let next_hops = next_hops(values.mp_bgp_nexthop, given).unwrap_or_else(|(family, allowed)| {
        problems
            .push(raw.unacceptable(PerFamily { v4: Key::MpBgpIpv4, v6: Key::MpBgpIpv6 }[family], allowed));
        NextHops::default()
    });
    let mut peers = given_peers(values, problems, notes);
    peers.extend(single(values, problems));
    if peers.is_empty() && !defined_later && problems.len() == valid {
        problems.push(Problem::Combination(
            "BGP needs a peer: set bgp_peers to `address:AS`, or bgp_peeraddress and bgp_peeras, or annotation to \
             the prefix of node annotations that define peers, or bgp_provider_url to the URL of a provider"
                .into(),
        ));
    }
    let extras = extras(values, problems);
    if values.zebra {
        problems.push(Problem::Combination(format!(
            "zebra_enable ({}): kube-vip does not connect to zebra; use the routing-table mode (vip_routingtable), whose \
             routes FRR picks up with `ip import-table 198` and `redistribute table 198`",
            raw.origin(Key::Zebra)
        )));
    }
    Bgp {
        local_as: values.bgp_as,
        router_id,
        source_address,
        source_interface,
        hold_time: values.bgp_hold_time,
        keepalive: values.bgp_keepalive.max(1),
        restart_time: Some(values.bgp_restart_time).filter(|seconds| *seconds > 0),
        listen_port: values.bgp_listen_port,
        next_hops,
        peers,
        annotations,
        provider,
        attach: values.bgp_attach,
        elected: values.leader_election && values.control_plane,
        extras,
    }
}

/// The valid peers of `bgp_peers`.
pub(super) fn given_peers(
    values: &Values,
    problems: &mut Vec<Problem>,
    notes: &mut Vec<String>,
) -> Vec<Peer> {
    let (peers, wrong) = from_values(values.raw.peers(), notes);
    let origin = values.raw.origin(Key::BgpPeers);
    problems.extend(wrong.into_iter().map(|text| Problem::Combination(format!("{origin}: {text}"))));
    peers
}

/// The configured identifier, else an IPv4 address: of the configured interface, of the VIP interface, or of any other. None
/// also where the host is not known.
fn router_id(
    values: &Values,
    facts: Option<&HostFacts>,
    defined_later: bool,
    problems: &mut Vec<Problem>,
) -> Option<Ipv4Addr> {
    let raw = &values.raw;
    let first = |addresses: &[Vip]| {
        addresses.iter().find_map(|vip| match vip.address {
            IpAddr::V4(v4) if !v4.is_loopback() && !v4.is_link_local() => Some(v4),
            _ => None,
        })
    };
    if values.bgp_router_id.is_some() {
        let allowed = "an identifier in the form of an IPv4 address, and not 0.0.0.0";
        let identifier = |text: &str| text.parse().ok().filter(|id: &Ipv4Addr| !id.is_unspecified());
        return raw.accept(Key::BgpRouterId, allowed, problems, identifier);
    }
    let facts = facts?;
    if values.bgp_router_interface.is_some() {
        let allowed = "an interface of this host that has an IPv4 address";
        let of_interface = |name: &str| facts.addresses_of(name).and_then(first);
        return raw.accept(Key::BgpRouterInterface, allowed, problems, of_interface);
    }
    let interface = facts.addresses_of(raw.text(Key::Interface));
    let all = facts.addresses.iter().map(|(_, addresses)| addresses.as_slice());
    let id = interface.and_then(first).or_else(|| all.into_iter().find_map(first));
    if id.is_none() && !defined_later {
        problems.push(Problem::Combination(
            "BGP needs a router ID, and this host has no IPv4 address to take it from: set bgp_routerid (flag \
             --bgpRouterID) to any number in the form of an IPv4 address that no other router has"
                .into(),
        ));
    }
    id
}

/// The error is an invalid address's family, and what is allowed.
fn next_hops(mode: NextHopMode, given: PerFamily<&str>) -> Result<NextHops, (Family, String)> {
    let read = |family: Family| match given[family] {
        "" => Ok(None),
        text => {
            let found = address(text).filter(|address| Family::of(*address) == family);
            found.map(Some).ok_or_else(|| (family, format!("an {family} address")))
        }
    };
    let given = PerFamily { v4: read(Family::V4)?, v6: read(Family::V6)? };
    let mode = match mode {
        // A given address without a mode applies as with `fixed`.
        NextHopMode::None if given != PerFamily::default() => NextHopMode::Fixed,
        mode => mode,
    };
    Ok(NextHops { mode, given })
}

fn extras(values: &Values, problems: &mut Vec<Problem>) -> Extras {
    let (auto, cidrs): (Vec<_>, Vec<_>) = values.bgp_service_cidrs.iter().partition(|text| *text == "auto");
    let mut networks = |key: Key, given: Vec<&String>, also: &str| {
        let allowed = format!("a network such as 10.96.0.0/12 or fd00::/108{also}");
        let read = given.into_iter().filter_map(|text| {
            let network = text.parse().ok();
            if network.is_none() {
                problems.push(Problem::unacceptable(values.raw.origin(key), text, &allowed));
            }
            network
        });
        read.collect::<Vec<Prefix>>()
    };
    Extras {
        external_ips: values.bgp_external_ips,
        networks: networks(Key::BgpServiceCidrs, cidrs, ", or `auto`"),
        aggregates: networks(Key::BgpAggregates, values.bgp_aggregates.iter().collect(), ""),
        service_cidrs: !auto.is_empty(),
    }
}

fn provider(values: &Values, problems: &mut Vec<Problem>) -> Option<Provider> {
    let raw = &values.raw;
    let url = values.bgp_provider_url.clone()?;
    // The reply determines where traffic goes, and may contain passwords.
    if !url.starts_with("https://") {
        problems.push(raw.unacceptable(Key::BgpProviderUrl, "an https URL"));
    }
    if values.bgp_annotations.is_some() {
        problems.push(raw.exclusive(Key::BgpProviderUrl, Key::BgpAnnotations));
    }
    let (token, file) = (values.bgp_provider_token.clone(), values.bgp_provider_token_file.clone());
    if token.is_some() && file.is_some() {
        problems.push(raw.exclusive(Key::BgpProviderToken, Key::BgpProviderTokenFile));
    }
    let token = token.map(Token::Given).or(file.map(Token::File));
    let shape = Shape::read(&values.bgp_provider_shape).unwrap_or_else(|wrong| {
        let origin = raw.origin(Key::BgpProviderShape);
        problems.extend(wrong.into_iter().map(|text| Problem::Combination(format!("{origin}: {text}"))));
        Shape::equinix()
    });
    let (header, ca) = (values.bgp_provider_token_header.clone(), values.bgp_provider_ca.clone());
    Some(Provider { url, token, header, ca, shape })
}

/// The peer of `bgp_peeraddress`.
fn single(values: &Values, problems: &mut Vec<Problem>) -> Option<Peer> {
    if values.bgp_peer_address.is_some() && values.bgp_peer_as == 0 {
        problems.push(values.raw.unacceptable(Key::BgpPeerAs, "an AS number from 1 to 4294967295"));
        return None;
    }
    let allowed = "an IP address (without a zone: bgp_sourceif is the interface of a link-local address)";
    let address = values.raw.accept(Key::BgpPeerAddress, allowed, problems, address)?;
    Some(Peer {
        password: values.bgp_peer_pass.clone(),
        multihop: values.bgp_multihop,
        ..Peer::new(PeerTarget::Address(address), Some(values.bgp_peer_as))
    })
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::super::raw::{Raw, Sources};
    use super::*;

    /// BGP on a host with these addresses on eth0.
    fn with(addresses: &[&str], more: &[(&str, &str)]) -> Result<Bgp, Vec<String>> {
        let base = [("bgp_enable", "true"), ("svc_enable", "true")];
        let env = base.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let (raw, problems, _) = Raw::collect(&Sources { env: env.collect(), ..Sources::default() });
        let mut reported: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let addresses = addresses.iter().map(|address| Vip::host(address.parse().unwrap())).collect();
        let facts = HostFacts {
            hostname: "node-a".into(),
            interfaces: vec![("eth0".into(), true)],
            addresses: vec![("eth0".into(), addresses)],
            ..HostFacts::default()
        };
        match check(raw, Some(&facts)) {
            Ok(config) if reported.is_empty() => Ok(config.bgp.unwrap()),
            Ok(_) => Err(reported),
            Err(problems) => {
                reported.extend(problems.iter().map(ToString::to_string));
                Err(reported)
            }
        }
    }

    const V4: &str = "192.0.2.10";
    const PEER: (&str, &str) = ("bgp_peers", "192.0.2.1:65001");

    #[test]
    fn the_router_id_is_configured_or_an_address_of_this_host() {
        let id = |more: &[(&str, &str)]| with(&[V4], &[&[PEER], more].concat()).unwrap().router_id;
        assert_eq!(id(&[]), V4.parse().ok());
        assert_eq!(id(&[("bgp_routerid", "10.0.0.9")]), "10.0.0.9".parse().ok());
        assert_eq!(id(&[("bgp_routerinterface", "eth0")]), V4.parse().ok());
        // The provider defines the router ID, too.
        let later = with(&["fd00::1"], &[("bgp_provider_url", "https://192.0.2.2/")]).unwrap();
        assert_eq!((later.router_id, later.peers.len()), (None, 0));
    }

    #[test]
    fn a_next_hop_may_be_that_of_a_peer_or_missing() {
        let fixed = ("mpbgp_nexthop", "fixed");
        let bgp = with(&[V4], &[fixed, ("bgp_peers", "192.0.2.1:65001::::mpbgp_ipv6=[fd77::11]")]).unwrap();
        let six = bgp.peers[0].next_hops.as_ref().unwrap();
        assert_eq!((six.mode, six.given.v6), (NextHopMode::Fixed, "fd77::11".parse().ok()));
        assert_eq!(with(&[V4], &[fixed, PEER]).unwrap().next_hops.mode, NextHopMode::Fixed);
        let wrong = with(&[V4], &[fixed, PEER, ("mpbgp_ipv4", "fd77::11")]).unwrap_err();
        assert_eq!(wrong, ["variable mpbgp_ipv4: `fd77::11` is not an IPv4 address"]);
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let problems = with(
            &["fd00::1"],
            &[
                ("bgp_as", "0"),
                ("bgp_peers", "[fd00::2]:0,[fd00::3]:65001::maybe"),
                ("bgp_sourceip", "fd00::1"),
                ("bgp_sourceif", "eth0"),
                ("bgp_hold_time", "2"),
                ("zebra_enable", "true"),
            ],
        )
        .unwrap_err();
        let expected = [
            "bgp_as: `0` is not",
            "bgp_sourceif (variable bgp_sourceif) and bgp_sourceip (variable bgp_sourceip) exclude each other",
            "bgp_hold_time: `2` is not 0 (no limit) or 3 seconds or more",
            "BGP needs a router ID, and this host has no IPv4 address to take it from: set bgp_routerid",
            "peer 1, field 2 (AS): `0` is not an AS number",
            "peer 2, field 4 (multihop): `maybe` is not true or false",
            "kube-vip does not connect to zebra; use the routing-table mode (vip_routingtable)",
        ];
        for part in expected {
            assert_eq!(
                problems.iter().filter(|text| text.contains(part)).count(),
                1,
                "{part}: {problems:#?}"
            );
        }
        assert_eq!(problems.len(), expected.len(), "{problems:#?}");
        let none = with(&[V4], &[]).unwrap_err();
        assert!(none.len() == 1 && none[0].starts_with("BGP needs a peer"), "{none:?}");
    }

    #[test]
    fn a_provider_needs_https_one_token_and_no_annotations() {
        let problems = with(
            &[V4],
            &[
                ("bgp_provider_url", "http://192.0.2.2/"),
                ("annotation", "example.com"),
                ("bgp_provider_token", "a"),
                ("bgp_provider_token_file", "/b"),
                ("bgp_provider_shape", "equinix,peersAS=/a"),
            ],
        )
        .unwrap_err();
        assert_eq!(problems.len(), 4, "{problems:#?}");
        assert!(problems.iter().all(|text| text.contains("bgp_provider_")), "{problems:#?}");
    }
}
