//! Computes which peers this node has, from which address, and with which next hops.
//!
//! `annotations` and `provider` read peers from the Node and from a provider's API; `resolver` combines them with the
//! configuration and the host. `driver` feeds it, `lookup` queries the provider.

pub mod annotations;
pub mod driver;
mod lookup;
pub mod provider;
pub mod resolver;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::time::Duration;

use super::fsm::{Restart, Settings};
use crate::bfd::path::{MULTI_HOP, SINGLE_HOP, SessionSpec};
use crate::config::Bgp;
use crate::config::bgp::{NextHopMode, NextHops, Peer, PeerTarget, SecretName};
use crate::host::HostState;
use crate::model::hash::fnv1a;
use crate::model::{Family, IfIndex, PerFamily, RouteAttributes};
use crate::net::tcp::{Hops, MD5_MAX, Route};

/// Parameters of one peer's task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name in messages and metrics: address and port, or `unnumbered:` and the interface.
    pub name: String,
    /// With the scope of a link-local address.
    pub address: SocketAddr,
    pub route: Route,
    pub settings: Settings,
    /// Configured next hops; the local address of the session is the default.
    pub next_hops: PerFamily<Option<IpAddr>>,
    /// Attributes of routes that have none of their own.
    pub defaults: RouteAttributes,
    /// The BFD session with the peer, if enabled.
    pub bfd: Option<SessionSpec>,
}

/// State of this host and of its Node that peers depend on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    pub node: String,
    /// Labels of the Node; None until it was read.
    pub labels: Option<BTreeMap<String, String>>,
    pub state: Arc<HostState>,
    /// Routers found by router advertisements or in the neighbour table, by interface index.
    pub routers: BTreeMap<IfIndex, Ipv6Addr>,
    /// Passwords read from Secrets.
    pub passwords: BTreeMap<SecretName, String>,
    /// Uptime of the host when this process started: whether the host forwarded packets during a graceful restart.
    pub up_for: Duration,
}

/// Peers, and problems that exclude or limit others.
pub type Resolved = (Vec<Config>, Vec<String>);

impl Host {
    fn interface_with(&self, address: IpAddr) -> Option<IfIndex> {
        self.state.addresses.iter().find(|own| own.vip.address == address).map(|own| own.interface)
    }
}

/// The peers of this node. `elected`: another node takes the routes over when this one stops, so peers must not retain
/// them (no graceful restart).
pub fn resolve(bgp: &Bgp, host: &Host, elected: bool) -> Resolved {
    let (mut peers, mut problems) = (Vec::new(), Vec::new());
    for peer in &bgp.peers {
        match &host.labels {
            _ if peer.node_selector.is_empty() => {}
            None => {
                problems.push(format!(
                    "peer {peer} has a nodeSelector: waiting for the labels of node {}",
                    host.node
                ));
                continue;
            }
            Some(labels) if peer.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value)) => {}
            Some(_) => continue,
        }
        match config(bgp, peer, host, elected) {
            Ok((config, warning)) => {
                peers.push(config);
                problems.extend(warning);
            }
            Err(problem) => problems.push(problem),
        }
    }
    (peers, problems)
}

fn config(bgp: &Bgp, peer: &Peer, host: &Host, elected: bool) -> Result<(Config, Option<String>), String> {
    let name = peer.to_string();
    let source_address = peer.source_address.or(bgp.source_address);
    let source_interface = peer.source_interface.as_ref().or(bgp.source_interface.as_ref());
    let (interface, address) = locate(peer, source_interface, host)?;
    let unnumbered = interface.is_some();
    let interface = interface.or_else(|| source_interface.cloned());
    let internal = peer.asn == Some(bgp.local_as);
    let hops = match (peer.ttl_security, peer.multihop || internal || unnumbered) {
        (Some(hops), _) => Hops::Secured(hops),
        (None, true) => Hops::Any,
        (None, false) => Hops::Direct,
    };
    let rule = peer.next_hops.as_ref().unwrap_or(&bgp.next_hops);
    let own = Family::of(address.ip());
    let mut next_hops = next_hops(rule, host, source_address, source_interface, own);
    let other = own.other();
    if rule.mode == NextHopMode::Fixed {
        next_hops[other] = next_hops[other].or(bgp.next_hops.given[other]);
    }
    let missing = rule.mode != NextHopMode::None && next_hops[other].is_none();
    let warning = missing.then(|| {
        let source = match rule.mode {
            NextHopMode::SourceAddress => {
                format!(", or give the interface of bgp_sourceip an {other} address")
            }
            NextHopMode::SourceInterface => format!(", or give bgp_sourceif an {other} address"),
            NextHopMode::None | NextHopMode::Fixed => String::new(),
        };
        let setting = format!("mpbgp_{other}").to_lowercase();
        format!(
            "peer {name}: no {other} next hop, so only {own} routes are advertised: set {setting}{source}"
        )
    });
    let families = peer.families.clone().unwrap_or_else(|| {
        let both = next_hops[own.other()].is_some() || unnumbered;
        Family::BOTH.into_iter().filter(|family| both || *family == own).collect()
    });
    let settings = Settings {
        local_as: bgp.local_as,
        peer_as: peer.asn,
        identifier: bgp.router_id.unwrap_or(Ipv4Addr::UNSPECIFIED),
        hold_time: peer.hold_time.unwrap_or(bgp.hold_time),
        keepalive: Duration::from_secs(peer.keepalive.unwrap_or(bgp.keepalive).into()),
        passive: peer.passive,
        extended_next_hop: own == Family::V6
            && families.contains(&Family::V4)
            && next_hops[Family::V4].is_none(),
        families,
        restart: bgp.restart_time.filter(|_| !elected).map(|seconds| Restart {
            seconds,
            // A peer that still retains routes saw this host less than the restart time ago.
            forwarding: host.up_for >= Duration::from_secs(seconds.into()),
        }),
        seed: fnv1a(format!("{}/{name}", host.node).as_bytes()),
    };
    let bfd = peer.bfd.map(|settings| {
        // RFC 5882 §4.4: single-hop or multihop like the BGP session.
        let mut peer_address = address;
        peer_address.set_port(if peer.multihop { MULTI_HOP } else { SINGLE_HOP });
        SessionSpec { peer: peer_address, source: source_address, interface: interface.clone(), settings }
    });
    let config = Config {
        route: Route { source: source_address, interface, hops, password: password(peer, host)? },
        settings,
        next_hops,
        defaults: peer.defaults.clone(),
        bfd,
        address,
        name,
    };
    Ok((config, warning))
}

/// The interface of an unnumbered peer, and the address.
fn locate(
    peer: &Peer,
    source_interface: Option<&String>,
    host: &Host,
) -> Result<(Option<String>, SocketAddr), String> {
    let name = match &peer.target {
        PeerTarget::Address(IpAddr::V6(address)) => {
            let scope = source_interface.and_then(|name| host.state.interface(name));
            let scope = scope.map_or(0, |interface| interface.index.0);
            return Ok((None, SocketAddrV6::new(*address, peer.port, 0, scope).into()));
        }
        PeerTarget::Address(address) => return Ok((None, SocketAddr::new(*address, peer.port))),
        PeerTarget::Unnumbered(name) => name,
    };
    let Some(interface) = host.state.interface(name) else {
        return Err(format!("peer {peer}: interface {name} does not exist on this host"));
    };
    let Some(router) = host.routers.get(&interface.index) else {
        return Err(format!(
            "peer {peer}: no router advertisement received on interface {name} yet (RFC 4861), and the kernel does not \
             know exactly one link-local neighbour there"
        ));
    };
    Ok((Some(name.clone()), SocketAddrV6::new(*router, peer.port, 0, interface.index.0).into()))
}

fn password(peer: &Peer, host: &Host) -> Result<Option<String>, String> {
    let password = match &peer.password_secret {
        None => peer.password.clone(),
        Some(secret) => {
            let known = host.passwords.get(secret).cloned();
            Some(known.ok_or_else(|| format!("peer {peer}: waiting for the password in Secret {secret}"))?)
        }
    };
    match password {
        Some(text) if !(1..=MD5_MAX).contains(&text.len()) => {
            Err(format!("peer {peer}: a password has 1 to {MD5_MAX} bytes, and this one {}", text.len()))
        }
        password => Ok(password),
    }
}

/// Next hops of the family that the session does not have (`mpbgp_nexthop`), as in the Go program.
fn next_hops(
    rule: &NextHops,
    host: &Host,
    source_address: Option<IpAddr>,
    source_interface: Option<&String>,
    own: Family,
) -> PerFamily<Option<IpAddr>> {
    let interface = match rule.mode {
        NextHopMode::None => return PerFamily::default(),
        NextHopMode::Fixed => None,
        NextHopMode::SourceAddress => source_address.and_then(|address| host.interface_with(address)),
        NextHopMode::SourceInterface => {
            source_interface.and_then(|name| host.state.interface(name)).map(|interface| interface.index)
        }
    };
    let other = own.other();
    let mut hops = PerFamily::default();
    hops[other] = rule.given[other]
        .or_else(|| interface.and_then(|interface| host.state.routable_address(interface, other)));
    hops
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::bgp::{Extras, peers};
    use crate::model::{ActualAddress, Interface, Tag, Vip};

    pub(crate) fn bgp(text: &str) -> Bgp {
        let (peers, problems) = peers(text, &mut Vec::new());
        assert!(problems.is_empty(), "{problems:?}");
        Bgp {
            local_as: 65_000,
            router_id: Some("192.0.2.1".parse().unwrap()),
            source_address: None,
            source_interface: Some("eth0".into()),
            hold_time: 30,
            keepalive: 10,
            restart_time: Some(30),
            listen_port: 179,
            next_hops: NextHops::default(),
            peers,
            annotations: None,
            provider: None,
            attach: false,
            elected: false,
            extras: Extras::default(),
        }
    }

    pub(crate) fn host() -> Host {
        let interface =
            Interface { index: IfIndex(2), name: "eth0".into(), up: true, ..Interface::default() };
        let address = |text: &str, tag| {
            let vip = Vip::host(text.parse().unwrap());
            ActualAddress { vip, tag, deprecated: tag == Tag::Ours, ..ActualAddress::on(2, text, 0) }
        };
        Host {
            node: "a".into(),
            labels: Some([("rack".to_owned(), "a".to_owned())].into()),
            state: Arc::new(HostState {
                interfaces: vec![interface],
                addresses: vec![
                    address("192.0.2.99", Tag::Ours),
                    address("192.0.2.1", Tag::None),
                    address("fe80::1", Tag::None),
                    address("fd00::1", Tag::None),
                ],
                ..HostState::default()
            }),
            up_for: Duration::from_secs(3600),
            ..Host::default()
        }
    }

    fn one(text: &str, host: &Host) -> Config {
        let (mut peers, problems) = resolve(&bgp(text), host, false);
        assert_eq!((peers.len(), problems.len()), (1, 0), "{problems:?}");
        peers.remove(0)
    }

    #[test]
    fn families_and_next_hops() {
        use Family::{V4, V6};
        let hop = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let table = [
            ("192.0.2.254:65001", vec![V4], None, None, false),
            ("[fd00::fe]:65001", vec![V6], None, None, false),
            ("192.0.2.254:65001::::mpbgp_nexthop=auto_sourceif", vec![V4, V6], None, hop("fd00::1"), false),
            ("[fd00::fe]:65001::::mpbgp_nexthop=auto_sourceif", vec![V4, V6], hop("192.0.2.1"), None, false),
            ("[fd00::fe]:65001::::mpbgp_ipv4=192.0.2.7", vec![V4, V6], hop("192.0.2.7"), None, false),
            (
                r#"[{"address": "fd00::fe", "as": 65001, "families": ["ipv4", "ipv6"]}]"#,
                vec![V4, V6],
                None,
                None,
                true,
            ),
        ];
        for (text, families, v4, v6, extended) in table {
            let config = one(text, &host());
            assert_eq!(config.settings.families, families, "{text}");
            assert_eq!((config.next_hops.v4, config.next_hops.v6), (v4, v6), "{text}");
            assert_eq!(config.settings.extended_next_hop, extended, "{text}");
        }
    }

    #[test]
    fn a_password_that_the_kernel_cannot_use_excludes_its_peer() {
        let long = format!("192.0.2.254:65001:{}", "x".repeat(81));
        let (peers, problems) = resolve(&bgp(&long), &host(), false);
        assert!(peers.is_empty() && problems[0].contains("1 to 80 bytes, and this one 81"), "{problems:?}");
        let secret = r#"[{"address": "192.0.2.254", "as": 65001, "passwordSecret": "kube-system/bgp"}]"#;
        let name = bgp(secret).peers[0].password_secret.clone().unwrap();
        let passwords = [(name, String::new())].into();
        let (peers, problems) = resolve(&bgp(secret), &Host { passwords, ..host() }, false);
        assert!(peers.is_empty() && problems[0].contains("and this one 0"), "{problems:?}");
    }

    #[test]
    fn without_a_next_hop_the_session_has_its_own_family() {
        let fixed = |v6: Option<&str>| {
            let given = PerFamily { v4: None, v6: v6.and_then(|text| text.parse().ok()) };
            NextHops { mode: NextHopMode::Fixed, given }
        };
        let resolved = |text: &str, next_hops| resolve(&Bgp { next_hops, ..bgp(text) }, &host(), false);
        let (peers, problems) = resolved("192.0.2.254:65001", fixed(None));
        assert_eq!(peers[0].settings.families, [Family::V4]);
        assert_eq!(
            problems,
            ["peer 192.0.2.254:179: no IPv6 next hop, so only IPv4 routes are advertised: set mpbgp_ipv6"]
        );
        // The address of all peers serves a peer that has the rule alone.
        for text in ["192.0.2.254:65001", "192.0.2.254:65001::::mpbgp_nexthop=fixed"] {
            let (peers, problems) = resolved(text, fixed(Some("fd77::11")));
            assert_eq!((peers[0].next_hops.v6, problems.len()), ("fd77::11".parse().ok(), 0), "{text}");
        }
    }

    #[test]
    fn only_nodes_that_a_peer_selects_have_it() {
        let text = r#"[{"address": "192.0.2.1", "as": 1, "nodeSelector": {"rack": "a"}},
                       {"address": "192.0.2.2", "as": 1, "nodeSelector": {"rack": "b"}},
                       {"address": "192.0.2.3", "as": 1}]"#;
        let names = |host: &Host| {
            let (peers, problems) = resolve(&bgp(text), host, false);
            (peers.into_iter().map(|peer| peer.name).collect::<Vec<_>>(), problems.len())
        };
        assert_eq!(names(&host()), (vec!["192.0.2.1:179".into(), "192.0.2.3:179".into()], 0));
        let unknown = Host { labels: None, ..host() };
        assert_eq!(names(&unknown), (vec!["192.0.2.3:179".into()], 2));
    }

    #[test]
    fn the_hop_limit_follows_from_multihop_the_as_and_ttl_security() {
        let table = [
            ("192.0.2.254:65001", Hops::Direct),
            ("192.0.2.254:65000", Hops::Any),
            ("192.0.2.254:65001::true", Hops::Any),
            (r#"[{"address": "192.0.2.254", "as": 65001, "ttlSecurityHops": 2}]"#, Hops::Secured(2)),
        ];
        for (text, hops) in table {
            assert_eq!(one(text, &host()).route.hops, hops, "{text}");
        }
    }

    #[test]
    fn an_unnumbered_peer_is_the_router_on_its_interface() {
        let (peers, problems) = resolve(&bgp("unnumbered:eth0:65001"), &host(), false);
        assert!(peers.is_empty() && problems[0].contains("no router advertisement received"), "{problems:?}");
        let router: Ipv6Addr = "fe80::fe".parse().unwrap();
        let host = Host { routers: [(IfIndex(2), router)].into(), ..host() };
        let config = one("unnumbered:eth0:65001", &host);
        assert_eq!(config.address, SocketAddrV6::new(router, 179, 0, 2).into());
        assert_eq!(config.route.interface.as_deref(), Some("eth0"));
        assert_eq!((config.settings.families.len(), config.settings.extended_next_hop), (2, true));
    }

    #[test]
    fn graceful_restart_is_not_offered_with_an_election() {
        assert_eq!(
            one("192.0.2.254:65001", &host()).settings.restart,
            Some(Restart { seconds: 30, forwarding: true })
        );
        let rebooted = Host { up_for: Duration::from_secs(29), ..host() };
        assert_eq!(
            one("192.0.2.254:65001", &rebooted).settings.restart,
            Some(Restart { seconds: 30, forwarding: false })
        );
        let (peers, _) = resolve(&bgp("192.0.2.254:65001"), &host(), true);
        assert_eq!(peers[0].settings.restart, None);
    }
}
