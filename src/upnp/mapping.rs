//! The desired port mappings of Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::config::{Upnp, UpnpPolicy};
use crate::model::annotation::{FORWARD_UPNP, UPNP_EXTERNAL_PORT, UPNP_LEASE_DURATION};
use crate::model::go::parse_duration;
use crate::model::hash::fnv1a;
use crate::model::service::{Ingress, Protocol};
use crate::model::text::quoted;
use crate::model::{ServiceKey, ServiceView};

/// The Go program's default.
const DEFAULT_LEASE: Duration = Duration::from_secs(3600);
/// The Go program's maximum: ten years.
const LONGEST_LEASE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Prefix of the description of our mappings.
pub const MARK: &str = "kube-vip ";
/// Gateways truncate or reject longer descriptions.
const LONGEST_DESCRIPTION: usize = 60;

/// Whether a Service requests port mappings.
pub fn asks(view: &ServiceView) -> bool {
    view.annotation(FORWARD_UPNP) == Some("true")
}

impl UpnpPolicy {
    /// Whether this Service's ports are mapped.
    pub fn covers(self, view: &ServiceView) -> bool {
        let may = match self {
            Self::Never => false,
            Self::Delegated => view.upnp_delegated,
            Self::Always => true,
        };
        may && asks(view)
    }
}

/// Identifies a mapping.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MappingKey {
    /// Internal client: an address of a Service.
    pub address: IpAddr,
    pub protocol: Protocol,
    /// External port; for IPv6 it is the Service's port.
    pub external: u16,
}

/// A desired mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    pub key: MappingKey,
    pub port: u16,
    /// None is permanent.
    pub lease: Option<Duration>,
    pub description: String,
}

/// All desired mappings, and the problems of Services' annotations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PortMappings {
    pub services: BTreeMap<ServiceKey, Vec<PortMapping>>,
    pub wrong: BTreeMap<ServiceKey, Vec<String>>,
}

/// The mappings that Services request and the settings allow. The oldest Service gets a requested port.
pub fn mappings<'a>(
    upnp: &Upnp,
    services: impl IntoIterator<Item = (&'a ServiceKey, &'a ServiceView, &'a [IpAddr])>,
) -> PortMappings {
    let asking = |(_, view, _): &(&ServiceKey, &ServiceView, &[IpAddr])| upnp.policy.covers(view);
    let mut all: Vec<_> = services.into_iter().filter(asking).collect();
    all.sort_by_key(|(key, view, _)| (view.created, *key));
    let mut found = PortMappings::default();
    let mut taken: BTreeMap<(Protocol, u16), &ServiceKey> = BTreeMap::new();
    for (key, view, addresses) in all {
        let mut wrong = Vec::new();
        let lease = lease(view, &mut wrong);
        let outside = external_ports(view, &mut wrong);
        let mut mine = Vec::new();
        for (protocol, port) in &view.ports {
            if *protocol == Protocol::Sctp {
                wrong.push(format!(
                    "port {port}/SCTP: UPnP supports TCP and UDP only; the port is not mapped"
                ));
                continue;
            }
            let external = outside.get(port).copied().unwrap_or(*port);
            let opened = |address: &IpAddr| if address.is_ipv4() { external } else { *port };
            let (permitted, refused): (Vec<&IpAddr>, Vec<&IpAddr>) =
                addresses.iter().partition(|address| upnp.permits(opened(address)));
            let refused: BTreeSet<u16> = refused.into_iter().map(opened).collect();
            wrong.extend(refused.into_iter().map(|refused| {
                format!(
                    "upnp_ports does not permit port {refused}/{protocol} of the gateway: request another one with \
                     {UPNP_EXTERNAL_PORT}, or add it to upnp_ports"
                )
            }));
            let v4 = permitted.iter().any(|address| address.is_ipv4());
            let holder = taken.get(&(*protocol, external)).copied().filter(|_| v4);
            if let Some(holder) = holder {
                wrong.push(format!(
                    "port {external}/{protocol} of the gateway is mapped to Service {holder}: request another one with \
                     {UPNP_EXTERNAL_PORT}"
                ));
            } else if v4 {
                taken.insert((*protocol, external), key);
            }
            for address in permitted.into_iter().filter(|address| address.is_ipv6() || holder.is_none()) {
                mine.push(PortMapping {
                    key: MappingKey { address: *address, protocol: *protocol, external: opened(address) },
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

/// Status entries for the external addresses, separated by commas, of gateways with these mappings.
pub fn by_gateway(mappings: &[PortMapping], outside: &str) -> Vec<Ingress> {
    let same_ports = mappings.iter().all(|mapping| mapping.key.external == mapping.port);
    // With different external ports clients in the cluster have to use the gateway as well.
    let mode = if same_ports { "VIP" } else { "Proxy" };
    let entry = |ip: IpAddr| {
        let ports = mappings.iter().filter(|mapping| mapping.key.address.is_ipv4() == ip.is_ipv4());
        let ports = ports.map(|mapping| (mapping.key.protocol, mapping.key.external)).collect();
        Ingress { ip: Some(ip), hostname: None, ip_mode: Some(mode.to_owned()), ports }
    };
    outside.split(',').filter_map(|ip| ip.parse().ok()).map(entry).collect()
}

/// The description of a mapping: the cluster's tag and the Service.
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
                "{UPNP_LEASE_DURATION}: {} is not a duration such as 30m or 1h, or 0 for permanent; one hour is used",
                quoted(text)
            ));
            Some(DEFAULT_LEASE)
        }
    }
}

/// External ports by port of the Service: `8080`, where it has one port, or `80=8080,443=8443`.
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
                "{UPNP_EXTERNAL_PORT}: {} is ignored; write `PORT=EXTERNAL PORT` for ports of the Service, \
                 or one number where it has one port",
                quoted(part)
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

    /// Every Service may open every port.
    fn always() -> Upnp {
        Upnp { policy: UpnpPolicy::Always, ports: vec![1..=65535], status: true }
    }

    fn key(name: &str) -> ServiceKey {
        ServiceKey { namespace: "default".into(), name: name.into() }
    }

    fn lines(mappings: &PortMappings, name: &str) -> Vec<String> {
        let mine = mappings.services.get(&key(name)).into_iter().flatten();
        mine.map(|mapping| {
            let MappingKey { address, protocol, external } = &mapping.key;
            format!("{external}/{protocol} > {address} {}", mapping.port)
        })
        .collect()
    }

    const TCP: Protocol = Protocol::Tcp;

    #[test]
    fn annotations_become_mappings() {
        let addresses: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let ports = [(TCP, 80), (Protocol::Udp, 53), (Protocol::Sctp, 9)];
        let found = mappings(
            &always(),
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
        let mapping = &found.services[&key("web")][0];
        assert_eq!(mapping.lease, Some(DEFAULT_LEASE));
        assert!(mapping.description.starts_with(MARK) && mapping.description.ends_with("default/web"));
        assert_eq!(found.wrong[&key("web")].len(), 1);
        let silent = ServiceView { annotations: BTreeMap::new(), ..view(1, &ports, &[]) };
        assert_eq!(mappings(&always(), [(&key("web"), &silent, &addresses[..])]), PortMappings::default());
    }

    #[test]
    fn the_policy_decides_which_services_are_mapped() {
        use UpnpPolicy::{Always, Delegated, Never};
        // What an earlier cloud provider wrote, and every author can write.
        let annotation = [("kube-vip.io/upnp-delegated", "true")];
        for (upnp_delegated, policy, opened) in
            [(true, Never, false), (true, Delegated, true), (false, Delegated, false), (false, Always, true)]
        {
            let asking = ServiceView { upnp_delegated, ..view(1, &[(TCP, 80)], &annotation) };
            assert_eq!(policy.covers(&asking), opened, "{upnp_delegated} {policy:?}");
            let silent = view(1, &[(TCP, 80)], &[(FORWARD_UPNP, "false")]);
            let silent = ServiceView { upnp_delegated, ..silent };
            assert!(!policy.covers(&silent), "{upnp_delegated} {policy:?}");
        }
    }

    #[test]
    fn ports_that_are_not_permitted_are_reported() {
        let addresses: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        let upnp = Upnp { ports: vec![80..=80, 1024..=65535], ..always() };
        let ports = [(TCP, 22), (TCP, 80), (TCP, 25)];
        let annotations = [(UPNP_EXTERNAL_PORT, "22=2222,80=81")];
        let found = mappings(&upnp, [(&key("web"), &view(1, &ports, &annotations), &addresses[..])]);
        assert_eq!(lines(&found, "web"), ["2222/TCP > 192.0.2.1 22", "80/TCP > fd00::1 80"]);
        let refused = [22, 81, 25].map(|port| format!("upnp_ports does not permit port {port}/TCP"));
        let wrong = &found.wrong[&key("web")];
        assert!(wrong.iter().zip(&refused).all(|(text, start)| text.starts_with(start)), "{wrong:?}");
        assert_eq!(wrong.len(), refused.len());
    }

    #[test]
    fn status_entries_have_the_external_address_and_ports() {
        let addresses: [IpAddr; 2] = ["192.0.2.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        for (outside_port, mode, port) in [("", "VIP", 80), ("8080", "Proxy", 8080)] {
            let view = view(1, &[(TCP, 80)], &[(UPNP_EXTERNAL_PORT, outside_port)]);
            let found = mappings(&always(), [(&key("web"), &view, &addresses[..])]);
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
    fn the_oldest_service_gets_a_port() {
        let (a, b): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let (young, old) = (view(2, &[(TCP, 80), (TCP, 443)], &[]), view(1, &[(TCP, 80)], &[]));
        let found = mappings(&always(), [(&key("a"), &young, &[a][..]), (&key("b"), &old, &[b][..])]);
        assert_eq!(lines(&found, "a"), ["443/TCP > 192.0.2.1 443"]);
        assert_eq!(lines(&found, "b"), ["80/TCP > 192.0.2.2 80"]);
        assert!(found.wrong[&key("a")][0].contains("mapped to Service default/b"));
    }

    #[test]
    fn invalid_leases_and_ports_are_reported() {
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
            let found = mappings(&always(), [(&key("web"), &view, &[a][..])]);
            let mapping = &found.services[&key("web")][0];
            assert_eq!(mapping.lease.map(|lease| lease.as_secs()), lease, "{text}");
            assert_eq!(found.wrong.values().flatten().count(), wrong, "{text}: {:?}", found.wrong);
        }
    }
}
