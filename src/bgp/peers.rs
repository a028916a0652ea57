//! From what was configured to what the driver needs: which peers this node talks to, from where, and with which next
//! hops.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use super::fsm::{Restart, Settings};
use crate::bfd::driver::Target;
use crate::config::Bgp;
use crate::config::bgp::{Bfd, NextHopMode, NextHops, Peer, PeerTarget, SecretName};
use crate::model::hash::fnv1a;
use crate::model::{ActualAddress, Family, IfIndex, Interface, PerFamily, RouteAttributes};
use crate::net::tcp::{Hops, Route};

/// Everything about one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What users call it: its address, or `unnumbered:` and an interface.
    pub name: String,
    /// Where it is.
    pub address: IpAddr,
    /// The index of the interface that this address is on, where it is a link-local one.
    pub scope: u32,
    /// Its port.
    pub port: u16,
    /// How to get there.
    pub route: Route,
    /// What the session is to be like.
    pub settings: Settings,
    /// Next hops that are not the session's own address.
    pub next_hops: PerFamily<Option<IpAddr>>,
    /// What is added to every route.
    pub defaults: RouteAttributes,
    /// BFD, where it is used.
    pub bfd: Option<Bfd>,
    /// BFD is to reach further than the interface.
    pub multihop: bool,
}

impl Config {
    /// How BFD watches the way there, where it is to.
    pub fn bfd_target(&self) -> Option<Target> {
        let Bfd { receive, transmit, multiplier } = self.bfd?;
        Some(Target {
            address: self.address,
            scope: self.scope,
            source: self.route.source,
            interface: self.route.interface.clone(),
            // RFC 5882 §4.4: as the session itself.
            multihop: self.multihop,
            transmit,
            receive,
            multiplier,
        })
    }

    /// The peer's address and port.
    pub fn address(&self) -> SocketAddr {
        match self.address {
            IpAddr::V4(_) => SocketAddr::new(self.address, self.port),
            IpAddr::V6(address) => SocketAddrV6::new(address, self.port, 0, self.scope).into(),
        }
    }
}

/// What of this host matters.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// This node's name.
    pub node: String,
    /// Its labels; none while they are not known.
    pub labels: Option<BTreeMap<String, String>>,
    /// Its interfaces.
    pub interfaces: Vec<Interface>,
    /// Their addresses.
    pub addresses: Vec<ActualAddress>,
    /// Routers that advertise themselves, by the index of the interface.
    pub routers: BTreeMap<IfIndex, Ipv6Addr>,
    /// Passwords from Secrets.
    pub passwords: BTreeMap<SecretName, String>,
    /// How long the host had been up when this process began: peers that still kept our routes then had not seen it
    /// restart.
    pub up_for: Duration,
}

/// Peers, and what keeps others from being talked to, in words.
pub type Resolved = (Vec<Config>, Vec<String>);

impl Host {
    fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// The first address of a family on an interface that others can reach, and that is not one of ours.
    fn address_on(&self, interface: IfIndex, family: Family) -> Option<IpAddr> {
        let own = self.addresses.iter().filter(|address| address.interface == interface && !address.tagged);
        own.map(|address| address.vip.address).find(|address| {
            let local = match address {
                IpAddr::V4(v4) => v4.is_link_local() || v4.is_loopback(),
                IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_loopback(),
            };
            Family::of(*address) == family && !local
        })
    }

    fn interface_with(&self, address: IpAddr) -> Option<IfIndex> {
        self.addresses.iter().find(|own| own.vip.address == address).map(|own| own.interface)
    }
}

/// The peers of this node. `elected`: what is announced goes to another node when this one is gone, so that peers must
/// not keep it.
pub fn resolve(bgp: &Bgp, host: &Host, elected: bool) -> Resolved {
    let (mut peers, mut troubles) = (Vec::new(), Vec::new());
    for peer in &bgp.peers {
        match &host.labels {
            _ if peer.node_selector.is_empty() => {}
            None => {
                troubles.push(format!("peer {peer} waits for the labels of node {}", host.node));
                continue;
            }
            Some(labels) if peer.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value)) => {}
            Some(_) => continue,
        }
        match config(bgp, peer, host, elected) {
            Ok((config, notes)) => {
                peers.push(config);
                troubles.extend(notes);
            }
            Err(trouble) => troubles.push(trouble),
        }
    }
    (peers, troubles)
}

fn config(bgp: &Bgp, peer: &Peer, host: &Host, elected: bool) -> Result<(Config, Vec<String>), String> {
    let name = peer.to_string();
    let mut notes = Vec::new();
    let (interface, address, scope) = match &peer.target {
        PeerTarget::Address(address) => {
            let scope = peer
                .source_interface
                .as_ref()
                .or(bgp.source_interface.as_ref())
                .and_then(|name| host.interface(name));
            let scope = scope.map_or(0, |interface| interface.index.0);
            (None, *address, scope)
        }
        PeerTarget::Unnumbered(interface) => {
            let found = host
                .interface(interface)
                .ok_or_else(|| format!("peer {name}: there is no interface {interface} on this host"))?;
            let router = host.routers.get(&found.index).ok_or_else(|| {
                format!(
                    "peer {name}: no router has advertised itself on interface {interface} yet (RFC 4861)"
                )
            })?;
            (Some(interface.clone()), IpAddr::from(*router), found.index.0)
        }
    };
    let password = match &peer.password_secret {
        None => peer.password.clone(),
        Some(secret) => {
            let found = host.passwords.get(secret).cloned();
            Some(found.ok_or_else(|| format!("peer {name} waits for the password in Secret {secret}"))?)
        }
    };
    let internal = peer.asn == Some(bgp.local_as);
    let hops = match (peer.ttl_security, peer.multihop || internal || interface.is_some()) {
        (Some(hops), _) => Hops::Secured(hops),
        (None, true) => Hops::Any,
        (None, false) => Hops::Direct,
    };
    let source_address = peer.source_address.or(bgp.source_address);
    let source_interface = peer.source_interface.clone().or_else(|| bgp.source_interface.clone());
    let rule = peer.next_hops.as_ref().unwrap_or(&bgp.next_hops);
    let own = Family::of(address);
    let next_hops = next_hops(rule, host, source_address, source_interface.as_deref(), own);
    let missing = rule.mode != NextHopMode::None && next_hops[own.other()].is_none();
    if missing {
        notes.push(format!(
            "peer {name}: no {} next hop can be found (mpbgp_nexthop), so that only {own} routes are announced",
            own.other()
        ));
    }
    let unnumbered = interface.is_some();
    let families = peer.families.clone().unwrap_or_else(|| {
        let both = next_hops[own.other()].is_some() || unnumbered;
        Family::BOTH.into_iter().filter(|family| both || *family == own).collect()
    });
    let extended_next_hop =
        own == Family::V6 && families.contains(&Family::V4) && next_hops[Family::V4].is_none();
    let restart = bgp.restart_time.filter(|_| !elected).map(|seconds| Restart {
        seconds,
        // Whoever still keeps routes of ours has seen this host less than that long ago: it has not been off since.
        forwarding: host.up_for >= Duration::from_secs(seconds.into()),
    });
    let identifier = bgp.router_id.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let config = Config {
        port: peer.port,
        route: Route { source: source_address, interface: interface.or(source_interface), hops, password },
        settings: Settings {
            local_as: bgp.local_as,
            peer_as: peer.asn,
            identifier,
            hold_time: peer.hold_time.unwrap_or(bgp.hold_time),
            keepalive: Duration::from_secs(peer.keepalive.unwrap_or(bgp.keepalive).into()),
            passive: peer.passive,
            families,
            extended_next_hop,
            restart,
            seed: fnv1a(format!("{}/{name}", host.node).as_bytes()),
        },
        next_hops,
        defaults: peer.defaults.clone(),
        bfd: peer.bfd,
        multihop: peer.multihop,
        address,
        scope,
        name,
    };
    Ok((config, notes))
}

/// Next hops besides the session's own address (`mpbgp_nexthop`).
fn next_hops(
    rule: &NextHops,
    host: &Host,
    source_address: Option<IpAddr>,
    source_interface: Option<&str>,
    own: Family,
) -> PerFamily<Option<IpAddr>> {
    let interface = match rule.mode {
        NextHopMode::None => return PerFamily::default(),
        NextHopMode::Fixed => None,
        NextHopMode::SourceAddress => source_address.and_then(|address| host.interface_with(address)),
        NextHopMode::SourceLink => {
            source_interface.and_then(|name| host.interface(name)).map(|interface| interface.index)
        }
    };
    // As upstream has it: only for the family that the session does not have.
    let other = own.other();
    let mut hops = PerFamily::default();
    hops[other] =
        rule.given[other].or_else(|| interface.and_then(|interface| host.address_on(interface, other)));
    hops
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::bgp::{Extras, peers};
    use crate::model::Vip;

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

    fn host() -> Host {
        let interface = Interface {
            index: IfIndex(2),
            name: "eth0".into(),
            up: true,
            hardware_type: 1,
            hardware_address: vec![0; 6],
            broadcast: vec![255; 6],
            managed: false,
            reverse_path: 0,
        };
        let address = |text: &str, tagged| ActualAddress {
            interface: IfIndex(2),
            vip: Vip::host(text.parse().unwrap()),
            tagged,
            deprecated: tagged,
            valid_for: None,
            dad_failed: false,
        };
        Host {
            node: "a".into(),
            labels: Some([("rack".to_owned(), "a".to_owned())].into()),
            interfaces: vec![interface],
            addresses: vec![
                address("192.0.2.99", true),
                address("192.0.2.1", false),
                address("fe80::1", false),
                address("fd00::1", false),
            ],
            up_for: Duration::from_secs(3600),
            ..Host::default()
        }
    }

    fn one(text: &str, host: &Host) -> Config {
        let (mut peers, troubles) = resolve(&bgp(text), host, false);
        assert_eq!((peers.len(), troubles.len()), (1, 0), "{troubles:?}");
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
    fn nodes_talk_to_the_peers_that_select_them() {
        let text = r#"[{"address": "192.0.2.1", "as": 1, "nodeSelector": {"rack": "a"}},
                       {"address": "192.0.2.2", "as": 1, "nodeSelector": {"rack": "b"}},
                       {"address": "192.0.2.3", "as": 1}]"#;
        let names = |host: &Host| {
            let (peers, troubles) = resolve(&bgp(text), host, false);
            (peers.into_iter().map(|peer| peer.name).collect::<Vec<_>>(), troubles.len())
        };
        assert_eq!(names(&host()), (vec!["192.0.2.1:179".into(), "192.0.2.3:179".into()], 0));
        let unknown = Host { labels: None, ..host() };
        assert_eq!(names(&unknown), (vec!["192.0.2.3:179".into()], 2));
    }

    #[test]
    fn how_far_away_a_peer_may_be() {
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
        let (peers, troubles) = resolve(&bgp("unnumbered:eth0:65001"), &host(), false);
        assert!(peers.is_empty() && troubles[0].contains("no router has advertised itself"), "{troubles:?}");
        let router: Ipv6Addr = "fe80::fe".parse().unwrap();
        let host = Host { routers: [(IfIndex(2), router)].into(), ..host() };
        let config = one("unnumbered:eth0:65001", &host);
        assert_eq!((config.address, config.scope), (router.into(), 2));
        assert_eq!(config.route.interface.as_deref(), Some("eth0"));
        assert_eq!((config.settings.families.len(), config.settings.extended_next_hop), (2, true));
    }

    #[test]
    fn nothing_is_promised_for_a_restart_where_others_take_over() {
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
