//! Host records of Services and of the control plane, and which Service has which name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::annotation::{MDNS, MDNS_NAME};
use crate::model::hash::fnv1a;
use crate::model::service::Protocol;
use crate::model::validation::is_name;
use crate::model::{ServiceKey, ServiceView};

/// Service type of a Service without named ports.
const ANY: &str = "_kube-vip._tcp";
/// Longest service name, without its underscore (RFC 6335 §5.1).
const MAX_SERVICE: usize = 15;

/// Longest label (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;
/// Room in a shortened name for what `mdns-sd` appends after a conflict: `-2`, or ` (10)` to the name of a service.
const CONFLICT_ROOM: usize = 5;

/// A host name with its addresses and services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostRecord {
    /// Without `.local`.
    pub host: String,
    pub addresses: BTreeSet<IpAddr>,
    /// Ports by service type, such as `_http._tcp`.
    pub services: BTreeMap<String, u16>,
    /// Published before by this cluster: a takeover does not probe for conflicts.
    pub known: bool,
}

/// The name that a Service requests, if any. With `all` every Service has one.
///
/// # Errors
/// What is wrong with its annotation.
pub fn requested_name(key: &ServiceKey, view: &ServiceView, all: bool) -> Result<Option<String>, String> {
    let Some(text) = view.annotation(MDNS) else {
        return Ok(all.then(|| shorten(format!("{}-{}", key.name, key.namespace))));
    };
    let label = text.trim_end_matches('.').trim_end_matches(".local");
    if label.contains('.') || !is_name(label) || label.len() > MAX_LABEL {
        return Err(format!("{MDNS}: `{text}` is not a host name such as `web` or `web.local`"));
    }
    Ok(Some(label.to_lowercase()))
}

/// A name that fits into a label: a longer one is cut, and ends with a hash of the whole.
fn shorten(name: String) -> String {
    if name.len() <= MAX_LABEL {
        return name;
    }
    let end = format!("-{:016x}", fnv1a(name.as_bytes()));
    format!("{}{end}", cut(&name, MAX_LABEL - CONFLICT_ROOM - end.len()))
}

/// The first characters of a text, at most so many bytes.
fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

/// A name assigned to a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Without `.local`.
    pub name: String,
    /// Published before by this cluster.
    pub known: bool,
}

/// Assigns a name to each Service. A published name stays, also one chosen after a conflict. Of several Services that
/// request one name the oldest has it; the others have it with a number.
pub fn assign_names<'a>(
    services: impl IntoIterator<Item = (&'a ServiceKey, &'a ServiceView)>,
    all: bool,
) -> BTreeMap<&'a ServiceKey, Host> {
    let requests = |(key, view): (&'a ServiceKey, &'a ServiceView)| {
        Some((view.created, key, view, requested_name(key, view, all).ok()??))
    };
    let mut requests: Vec<_> = services.into_iter().filter_map(requests).collect();
    requests.sort_by_key(|(created, key, ..)| (*created, *key));
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut hosts = BTreeMap::new();
    for (_, key, view, requested) in &requests {
        if let Some(name) = published_name(view, requested)
            && taken.insert(name.to_owned())
        {
            hosts.insert(*key, Host { name: name.to_owned(), known: true });
        }
    }
    for (_, key, _, requested) in &requests {
        if !hosts.contains_key(key) {
            let names =
                std::iter::once(requested.clone()).chain((2_u32..).map(|number| numbered(requested, number)));
            let free = names.into_iter().find(|name| taken.insert(name.clone()));
            hosts.extend(free.map(|name| (*key, Host { name, known: false })));
        }
    }
    hosts
}

/// The published name of a Service, if it may still have it.
fn published_name<'a>(view: &'a ServiceView, requested: &str) -> Option<&'a str> {
    let name = view.annotation(MDNS_NAME)?.trim_end_matches(".local");
    let number = || name.rsplit_once('-')?.1.parse().ok();
    (name == requested || number().is_some_and(|number| name == numbered(requested, number))).then_some(name)
}

/// The requested name with a number.
fn numbered(requested: &str, number: u32) -> String {
    let end = format!("-{number}");
    format!("{}{end}", cut(requested, MAX_LABEL - end.len()))
}

/// The host record of a Service.
pub fn host_record(host: Host, view: &ServiceView, addresses: BTreeSet<IpAddr>) -> HostRecord {
    let Host { name: host, known } = host;
    let of_port = |(name, protocol, port): &(String, Protocol, u16)| {
        let protocol = transport(*protocol)?;
        is_service_name(name).then(|| (format!("_{name}.{protocol}"), *port))
    };
    let mut services: BTreeMap<String, u16> = view.named_ports.iter().filter_map(of_port).collect();
    if services.is_empty() {
        let first = view.ports.first().map_or(0, |(_, port)| *port);
        services.insert(ANY.to_owned(), first);
    }
    HostRecord { host, addresses, services, known }
}

/// None for SCTP, which service discovery does not know.
fn transport(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::Tcp => Some("_tcp"),
        Protocol::Udp => Some("_udp"),
        Protocol::Sctp => None,
    }
}

/// Whether the name of a port can be a service name (RFC 6335 §5.1), without its underscore. Kubernetes permits others.
fn is_service_name(name: &str) -> bool {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    (1..=MAX_SERVICE).contains(&name.len())
        && name.bytes().all(legal)
        && name.bytes().any(|byte| byte.is_ascii_alphabetic())
        && !name.starts_with('-')
        && !name.ends_with('-')
        && !name.contains("--")
}

/// The named ports of a Service that are not published, as a problem to report.
pub fn port_problem(view: &ServiceView) -> Option<String> {
    let wrong = view
        .named_ports
        .iter()
        .filter(|(name, protocol, _)| transport(*protocol).is_some() && !is_service_name(name));
    let wrong: Vec<String> = wrong.map(|(name, ..)| format!("`{name}`")).collect();
    (!wrong.is_empty()).then(|| {
        format!(
            "mDNS cannot publish port {}: rename it to at most {MAX_SERVICE} letters, digits and single hyphens, with a \
             letter (RFC 6335)",
            wrong.join(", ")
        )
    })
}

pub fn control_plane(host: String, addresses: BTreeSet<IpAddr>, port: u16) -> HostRecord {
    HostRecord { host, addresses, services: [("_kubernetes._tcp".to_owned(), port)].into(), known: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(name: Option<&str>) -> ServiceView {
        let annotations = name.map(|name| (MDNS.to_owned(), name.to_owned()));
        ServiceView { annotations: annotations.into_iter().collect(), ..ServiceView::default() }
    }

    #[test]
    fn names_of_services() {
        let key = ServiceKey { namespace: "lab".into(), name: "web".into() };
        let of = |text: Option<&str>, all| requested_name(&key, &view(text), all).map_err(|_| ());
        assert_eq!(of(None, false), Ok(None));
        assert_eq!(of(None, true), Ok(Some("web-lab".into())));
        for text in ["shop", "Shop.local", "shop.local."] {
            assert_eq!(of(Some(text), false), Ok(Some("shop".into())), "{text}");
        }
        for text in ["shop.example.com", "a b", "-", "192.0.2.1"] {
            assert_eq!(of(Some(text), true), Err(()), "{text}");
        }
    }

    #[test]
    fn a_name_that_does_not_fit_is_cut_and_stays_unique() {
        let name = |service: &str, namespace: &str| {
            let key = ServiceKey { namespace: namespace.into(), name: service.into() };
            requested_name(&key, &view(None), true).unwrap().unwrap()
        };
        // The longest that fits.
        let fits = format!("{}-lab", "a".repeat(59));
        assert_eq!(name(&"a".repeat(59), "lab"), fits);
        let long = name(&"a".repeat(60), "lab");
        assert_eq!(long, format!("{}-f535409c2d3198ab", "a".repeat(41)), "the same in every release");
        assert_ne!(long, name(&"a".repeat(61), "lab"));
        assert_ne!(long, name(&"a".repeat(60), "lob"));
        for service in ["a".repeat(63), "é".repeat(40), format!("a{}", "é".repeat(40)), "漢".repeat(30)] {
            let short = name(&service, &"n".repeat(63));
            assert!(is_short(&short) && service.starts_with(short.rsplit_once('-').unwrap().0), "{short}");
            // A conflict appends to it, and that is recognized.
            let next = numbered(&short, 99);
            assert!(next.starts_with(&short) && next.len() <= MAX_LABEL);
        }
        let is_cut = |text: &str, most, expected: &str| assert_eq!(cut(text, most), expected);
        is_cut("aé", 2, "a");
        is_cut("aé", 3, "aé");
        is_cut("aé", 9, "aé");
    }

    fn is_short(name: &str) -> bool {
        name.len() <= MAX_LABEL - CONFLICT_ROOM
    }

    /// The records of Services, each with its own name, its requested name, and its earlier name.
    fn names(services: &[(&str, &str, &str)]) -> Vec<(String, bool)> {
        let services: Vec<(ServiceKey, ServiceView)> = (0..)
            .zip(services)
            .map(|(created, (name, requested, noted))| {
                let annotations = [(MDNS, *requested), (MDNS_NAME, *noted)];
                let annotations = annotations.iter().filter(|(_, value)| !value.is_empty());
                let annotations = annotations.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
                let view =
                    ServiceView { annotations: annotations.collect(), created, ..ServiceView::default() };
                (ServiceKey { namespace: "lab".into(), name: (*name).into() }, view)
            })
            .collect();
        let hosts = assign_names(services.iter().map(|(key, view)| (key, view)), false);
        services.iter().map(|(key, _)| (hosts[key].name.clone(), hosts[key].known)).collect()
    }

    #[test]
    fn a_published_name_stays() {
        let told = |noted| names(&[("web", "shop", noted)]).remove(0);
        assert_eq!(told(""), ("shop".into(), false));
        assert_eq!(told("shop.local"), ("shop".into(), true));
        assert_eq!(told("shop-2.local"), ("shop-2".into(), true));
        // Of a name that was requested for before.
        assert_eq!(told("store.local"), ("shop".into(), false));
        assert_eq!(told("shop-keeper.local"), ("shop".into(), false));
        assert_eq!(told("shop-02.local"), ("shop".into(), false));
    }

    #[test]
    fn of_several_services_with_one_name_the_oldest_has_it() {
        let has = |services: &[(&str, &str, &str)]| -> Vec<String> {
            names(services).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(
            has(&[("b", "shop", ""), ("a", "shop", ""), ("c", "shop.local", "")]),
            ["shop", "shop-2", "shop-3"]
        );
        // A published name does not change when other Services come or go.
        assert_eq!(
            has(&[("a", "shop", "shop-2.local"), ("b", "shop", ""), ("c", "shop", "")]),
            ["shop-2", "shop", "shop-3"]
        );
        assert_eq!(has(&[("a", "shop", "shop.local"), ("b", "shop", "shop.local")]), ["shop", "shop-2"]);
        let long = "a".repeat(MAX_LABEL);
        let cut = format!("{}-2", "a".repeat(MAX_LABEL - 2));
        assert_eq!(has(&[("a", &long, ""), ("b", &long, ""), ("c", &long, "")])[1], cut);
        assert_eq!(names(&[("a", &long, &format!("{cut}.local"))]), [(cut, true)]);
    }

    #[test]
    fn ports_with_names_are_services() {
        let ports = vec![
            ("http".to_owned(), Protocol::Tcp, 80),
            ("dns".to_owned(), Protocol::Udp, 53),
            ("m3ua".to_owned(), Protocol::Sctp, 2905),
        ];
        let view = ServiceView { named_ports: ports, ..ServiceView::default() };
        let web = || Host { name: "web".into(), known: false };
        let told = host_record(web(), &view, BTreeSet::new());
        assert_eq!(told.services, [("_http._tcp".to_owned(), 80), ("_dns._udp".to_owned(), 53)].into());
        let plain = ServiceView { ports: vec![(Protocol::Tcp, 8080)], ..ServiceView::default() };
        assert_eq!(host_record(web(), &plain, BTreeSet::new()).services, [(ANY.to_owned(), 8080)].into());
    }

    /// Kubernetes accepts each of these, and one of them kept all names after it from being published.
    #[test]
    fn a_port_that_cannot_be_a_service_is_left_out_and_reported() {
        for (name, expected) in [
            ("http", true),
            ("a", true),
            ("a-b", true),
            ("8080a", true),
            ("a23456789012345", true),
            ("a234567890123456", false),
            ("80", false),
            ("8-0", false),
            ("a--b", false),
            ("-a", false),
            ("a-", false),
            ("a.b", false),
            ("", false),
        ] {
            assert_eq!(is_service_name(name), expected, "{name}");
        }
        let of = |names: &[&str]| {
            let ports = names.iter().map(|name| ((*name).to_owned(), Protocol::Tcp, 80)).collect();
            let view = ServiceView {
                named_ports: ports,
                ports: vec![(Protocol::Tcp, 80)],
                ..ServiceView::default()
            };
            let web = Host { name: "web".into(), known: false };
            let services: Vec<String> =
                host_record(web, &view, BTreeSet::new()).services.into_keys().collect();
            (services, port_problem(&view))
        };
        assert_eq!(of(&["http"]), (vec!["_http._tcp".to_owned()], None));
        let (services, problem) = of(&["8080", "a--b", "http"]);
        assert_eq!(services, ["_http._tcp"]);
        assert!(problem.unwrap().contains("port `8080`, `a--b`:"));
        // Its addresses have the name all the same.
        assert_eq!(of(&["8080"]).0, [ANY]);
        let view =
            ServiceView { named_ports: vec![("80".into(), Protocol::Sctp, 80)], ..ServiceView::default() };
        assert_eq!(port_problem(&view), None);
    }
}
