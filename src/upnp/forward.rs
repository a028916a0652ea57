//! Which ports of a gateway should lead to which Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::config::UpnpPolicy;
use crate::model::annotation::{FORWARD_UPNP, UPNP_DELEGATED, UPNP_EXTERNAL_PORT, UPNP_LEASE_DURATION};
use crate::model::go::parse_duration;
use crate::model::hash::fnv1a;
use crate::model::service::{Ingress, Protocol};
use crate::model::{ServiceKey, ServiceView};

/// As in the Go program.
const DEFAULT_LEASE: Duration = Duration::from_secs(3600);
/// The same: ten years.
const LONGEST_LEASE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Every description of ours begins with this.
pub const MARK: &str = "kube-vip ";
/// Gateways cut descriptions that are longer, or refuse them.
const LONGEST_DESCRIPTION: usize = 60;

/// Whether a Service asks for ports of the gateway.
pub fn asks(view: &ServiceView) -> bool {
    view.annotation(FORWARD_UPNP) == Some("true")
}

impl UpnpPolicy {
    /// Whether this Service's ports are to be opened.
    pub fn covers(self, view: &ServiceView) -> bool {
        let may = match self {
            Self::Never => false,
            Self::Delegated => view.annotation(UPNP_DELEGATED) == Some("true"),
            Self::Always => true,
        };
        may && asks(view)
    }
}

/// A port of the gateway that is to lead somewhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ForwardKey {
    /// Where to: an address of a Service.
    pub address: IpAddr,
    /// The protocol.
    pub protocol: Protocol,
    /// The port of the gateway, and for IPv6, which needs no other, that of the Service.
    pub external: u16,
}

/// The same with all there is to say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Which one.
    pub key: ForwardKey,
    /// The Service's port.
    pub port: u16,
    /// For how long a gateway is to keep it without hearing of us; none is for ever.
    pub lease: Option<Duration>,
    /// What the gateway shows to its owner.
    pub description: String,
}

/// Which ports should be open, and what is wrong with what Services ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forwards {
    /// By Service.
    pub services: BTreeMap<ServiceKey, Vec<Forward>>,
    /// What their users should know.
    pub wrong: BTreeMap<ServiceKey, Vec<String>>,
}

/// All that Services ask for, and may. A port of the gateway goes to the oldest Service that asks for it.
pub fn forwards<'a>(
    policy: UpnpPolicy,
    services: impl IntoIterator<Item = (&'a ServiceKey, &'a ServiceView, &'a [IpAddr])>,
) -> Forwards {
    let asking = |(_, view, _): &(&ServiceKey, &ServiceView, &[IpAddr])| policy.covers(view);
    let mut all: Vec<_> = services.into_iter().filter(asking).collect();
    all.sort_by_key(|(key, view, _)| (view.created, *key));
    let mut found = Forwards::default();
    let mut taken: BTreeMap<(Protocol, u16), &ServiceKey> = BTreeMap::new();
    for (key, view, addresses) in all {
        let mut wrong = Vec::new();
        let lease = lease(view, &mut wrong);
        let outside = external_ports(view, &mut wrong);
        let mut mine = Vec::new();
        for (protocol, port) in &view.ports {
            if *protocol == Protocol::Sctp {
                wrong.push(format!("port {port}/SCTP: UPnP knows TCP and UDP alone; it stays closed"));
                continue;
            }
            let external = outside.get(port).copied().unwrap_or(*port);
            let v4 = addresses.iter().any(IpAddr::is_ipv4);
            let holder = taken.get(&(*protocol, external)).copied().filter(|_| v4);
            if let Some(holder) = holder {
                wrong.push(format!(
                    "port {external}/{protocol} of the gateway leads to Service {holder}: ask for another one with \
                     {UPNP_EXTERNAL_PORT}"
                ));
            } else if v4 {
                taken.insert((*protocol, external), key);
            }
            for address in addresses.iter().filter(|address| address.is_ipv6() || holder.is_none()) {
                let external = if address.is_ipv4() { external } else { *port };
                mine.push(Forward {
                    key: ForwardKey { address: *address, protocol: *protocol, external },
                    port: *port,
                    lease,
                    description: describe(key, view),
                });
            }
        }
        found.services.insert(key.clone(), mine);
        if !wrong.is_empty() {
            found.wrong.insert(key.clone(), wrong);
        }
    }
    found
}

/// Status entries for addresses outside, separated by commas, under which gateways lead to these ports.
pub fn by_gateway(forwards: &[Forward], outside: &str) -> Vec<Ingress> {
    let same_ports = forwards.iter().all(|forward| forward.key.external == forward.port);
    // Where the gateway has other ports than the Service, clients in the cluster have to go there, too.
    let mode = if same_ports { "VIP" } else { "Proxy" };
    let entry = |ip: IpAddr| {
        let ports = forwards.iter().filter(|forward| forward.key.address.is_ipv4() == ip.is_ipv4());
        let ports = ports.map(|forward| (forward.key.protocol, forward.key.external)).collect();
        Ingress { ip: Some(ip), hostname: None, ip_mode: Some(mode.to_owned()), ports }
    };
    outside.split(',').filter_map(|ip| ip.parse().ok()).map(entry).collect()
}

/// Who made the mapping, for people and for ourselves.
fn describe(key: &ServiceKey, view: &ServiceView) -> String {
    let tag = fnv1a(view.uid.as_bytes()) & 0xffff_ffff;
    let mut text = format!("{MARK}{tag:08x} {key}");
    text.truncate(LONGEST_DESCRIPTION);
    text
}

fn lease(view: &ServiceView, wrong: &mut Vec<String>) -> Option<Duration> {
    let Some(text) = view.annotation(UPNP_LEASE_DURATION) else { return Some(DEFAULT_LEASE) };
    match parse_duration(text) {
        Some(lease) if lease.is_zero() => None,
        Some(lease) => Some(lease.clamp(Duration::from_secs(1), LONGEST_LEASE)),
        None => {
            wrong.push(format!(
                "{UPNP_LEASE_DURATION}: `{text}` is no duration, such as 30m or 1h, or 0 for ever; one hour is used"
            ));
            Some(DEFAULT_LEASE)
        }
    }
}

/// The gateway's port for each of the Service's that is to have another one: `8080`, where there is one port, or
/// `80=8080,443=8443`.
fn external_ports(view: &ServiceView, wrong: &mut Vec<String>) -> BTreeMap<u16, u16> {
    let text = view.annotation(UPNP_EXTERNAL_PORT).unwrap_or_default();
    let ports: BTreeSet<u16> = view.ports.iter().map(|(_, port)| *port).collect();
    let port = |text: &str| text.trim().parse().ok().filter(|port: &u16| *port > 0);
    let mut found = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let pair = match part.split_once('=') {
            Some((inside, outside)) => port(inside).zip(port(outside)),
            None => ports.first().copied().filter(|_| ports.len() == 1).zip(port(part)),
        };
        match pair {
            Some((inside, outside)) if ports.contains(&inside) => drop(found.insert(inside, outside)),
            _ => wrong.push(format!(
                "{UPNP_EXTERNAL_PORT}: `{part}` is passed over; write `PORT=PORT OF THE GATEWAY` for ports of the Service, \
                 or one number where it has one port"
            )),
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(created: i64, ports: &[(Protocol, u16)], annotations: &[(&str, &str)]) -> ServiceView {
        let annotations = [(FORWARD_UPNP, "true")].iter().chain(annotations);
        ServiceView {
            created,
            uid: "u".into(),
            ports: ports.to_vec(),
            annotations: annotations.map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            ..ServiceView::default()
        }
    }

    fn key(name: &str) -> ServiceKey {
        ServiceKey { namespace: "default".into(), name: name.into() }
    }

    fn lines(forwards: &Forwards, name: &str) -> Vec<String> {
        let mine = forwards.services.get(&key(name)).into_iter().flatten();
        mine.map(|forward| {
            let ForwardKey { address, protocol, external } = &forward.key;
            format!("{external}/{protocol} > {address} {}", forward.port)
        })
        .collect()
    }

    const TCP: Protocol = Protocol::Tcp;

    #[test]
    fn what_is_asked_for() {
        let addresses: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let ports = [(TCP, 80), (Protocol::Udp, 53), (Protocol::Sctp, 9)];
        let found = forwards(
            UpnpPolicy::Always,
            [(&key("web"), &view(1, &ports, &[(UPNP_EXTERNAL_PORT, "80=8080")]), &addresses[..])],
        );
        assert_eq!(
            lines(&found, "web"),
            [
                "8080/TCP > 192.0.2.1 80",
                "80/TCP > fd00::1 80",
                "53/UDP > 192.0.2.1 53",
                "53/UDP > fd00::1 53"
            ]
        );
        let forward = &found.services[&key("web")][0];
        assert_eq!(forward.lease, Some(DEFAULT_LEASE));
        assert!(forward.description.starts_with(MARK) && forward.description.ends_with("default/web"));
        assert_eq!(found.wrong[&key("web")].len(), 1);
        let silent = ServiceView { annotations: BTreeMap::new(), ..view(1, &ports, &[]) };
        assert_eq!(
            forwards(UpnpPolicy::Always, [(&key("web"), &silent, &addresses[..])]),
            Forwards::default()
        );
    }

    #[test]
    fn ports_are_opened_for_those_that_may() {
        use UpnpPolicy::{Always, Delegated, Never};
        for (delegated, policy, opened) in [
            ("true", Never, false),
            ("true", Delegated, true),
            ("false", Delegated, false),
            ("", Delegated, false),
            ("", Always, true),
        ] {
            let asking = view(1, &[(TCP, 80)], &[(UPNP_DELEGATED, delegated)]);
            assert_eq!(policy.covers(&asking), opened, "{delegated} {policy:?}");
            let silent = view(1, &[(TCP, 80)], &[(UPNP_DELEGATED, delegated), (FORWARD_UPNP, "false")]);
            assert!(!policy.covers(&silent), "{delegated} {policy:?}");
        }
    }

    #[test]
    fn how_it_is_reached_from_outside() {
        let addresses: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        for (outside_port, mode, port) in [("", "VIP", 80), ("8080", "Proxy", 8080)] {
            let view = view(1, &[(TCP, 80)], &[(UPNP_EXTERNAL_PORT, outside_port)]);
            let found = forwards(UpnpPolicy::Always, [(&key("web"), &view, &addresses[..])]);
            let entries = by_gateway(&found.services[&key("web")], "100.200.0.1,nonsense");
            let entry = Ingress {
                ip: Some("100.200.0.1".parse().unwrap()),
                hostname: None,
                ip_mode: Some(mode.into()),
                ports: vec![(TCP, port)],
            };
            assert_eq!(entries, [entry]);
            assert_eq!(by_gateway(&found.services[&key("web")], ""), []);
        }
    }

    #[test]
    fn the_oldest_has_the_port() {
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let (young, old) = (view(2, &[(TCP, 80), (TCP, 443)], &[]), view(1, &[(TCP, 80)], &[]));
        let found =
            forwards(UpnpPolicy::Always, [(&key("a"), &young, &[a][..]), (&key("b"), &old, &[b][..])]);
        assert_eq!(lines(&found, "a"), ["443/TCP > 192.0.2.1 443"]);
        assert_eq!(lines(&found, "b"), ["80/TCP > 192.0.2.2 80"]);
        assert!(found.wrong[&key("a")][0].contains("leads to Service default/b"));
    }

    #[test]
    fn leases_and_ports_that_are_wrong_are_told() {
        let a: IpAddr = "192.0.2.1".parse().unwrap();
        for (annotation, text, lease, wrong) in [
            (UPNP_LEASE_DURATION, "30m", Some(1800), 0),
            (UPNP_LEASE_DURATION, "0", None, 0),
            (UPNP_LEASE_DURATION, "-1h", Some(3600), 1),
            (UPNP_LEASE_DURATION, "soon", Some(3600), 1),
            (UPNP_EXTERNAL_PORT, "8080", Some(3600), 0),
            (UPNP_EXTERNAL_PORT, "81=8080,0", Some(3600), 2),
        ] {
            let view = view(1, &[(TCP, 80)], &[(annotation, text)]);
            let found = forwards(UpnpPolicy::Always, [(&key("web"), &view, &[a][..])]);
            let forward = &found.services[&key("web")][0];
            assert_eq!(forward.lease.map(|lease| lease.as_secs()), lease, "{text}");
            assert_eq!(found.wrong.values().flatten().count(), wrong, "{text}: {:?}", found.wrong);
        }
    }
}
