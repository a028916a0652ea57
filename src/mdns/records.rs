//! Host records of Services and of the control plane, and which Service has which name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::annotation::{MDNS, MDNS_NAME};
use crate::model::hash::fnv1a;
use crate::model::service::Protocol;
use crate::model::text::quoted;
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
    /// Published by another node until now: the name is not probed for.
    pub known: bool,
}

/// Host records to publish, by owner.
pub type HostRecords = BTreeMap<String, HostRecord>;
/// The published name of each owner, or why there is none. It differs from the requested one after a conflict.
pub type PublishedNames = BTreeMap<String, Result<String, String>>;

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
        return Err(format!("{MDNS}: {} is not a host name such as `web` or `web.local`", quoted(text)));
    }
    Ok(Some(label.to_lowercase()))
}

/// A name that fits into a label: a longer one is cut, and ends with a hash of the whole.
fn shorten(name: String) -> String {
    if fits(&name) {
        return name;
    }
    let end = format!("-{:016x}", fnv1a(name.as_bytes()));
    format!("{}{end}", cut(&name, MAX_LABEL - CONFLICT_ROOM - end.len()))
}

/// The first characters of a text, at most so many bytes.
fn cut(text: &str, most: usize) -> &str {
    text.get(..text.floor_char_boundary(most)).unwrap_or_default()
}

/// Whether a name fits into a label.
pub(super) fn fits(name: &str) -> bool {
    name.len() <= MAX_LABEL
}

/// A Service that requests a name.
struct Request<'a> {
    key: &'a ServiceKey,
    view: &'a ServiceView,
    name: String,
    /// The name that this node publishes.
    own: Option<&'a str>,
}

/// Assigns a name to each Service. A published name stays, also one chosen after a conflict. Of several Services that
/// request one name the oldest has it; the others have it with a number. No Service has the reserved name.
///
/// A name that this node publishes precedes those in annotations: an author of a Service can write these.
pub fn assign_names<'a>(
    services: impl IntoIterator<Item = (&'a ServiceKey, &'a ServiceView)>,
    all: bool,
    reserved: Option<&str>,
    published: &'a PublishedNames,
) -> BTreeMap<&'a ServiceKey, String> {
    let request = |(key, view): (&'a ServiceKey, &'a ServiceView)| {
        let name = requested_name(key, view, all).ok()??;
        let own = published.get(&key.to_string()).and_then(|name| name.as_deref().ok());
        Some(Request { key, view, name, own })
    };
    let mut requests: Vec<_> = services.into_iter().filter_map(request).collect();
    requests.sort_by_key(|request| (request.view.created, request.key));
    let mut taken: BTreeSet<String> = reserved.map(str::to_owned).into_iter().collect();
    let mut names = BTreeMap::new();
    let (own, others): (Vec<_>, Vec<_>) = requests.iter().partition(|request| request.own.is_some());
    for Request { key, view, name: requested, own } in own.into_iter().chain(others) {
        if let Some(name) = own.or_else(|| recorded_name(view))
            && derives_from(name, requested)
            && taken.insert(name.to_owned())
        {
            names.insert(*key, name.to_owned());
        }
    }
    for Request { key, name: requested, .. } in &requests {
        if !names.contains_key(key) {
            let numbers = (2_u32..).map(|number| numbered(requested, number));
            let mut candidates = std::iter::once(requested.clone()).chain(numbers);
            names.extend(candidates.find(|name| taken.insert(name.clone())).map(|name| (*key, name)));
        }
    }
    names
}

/// The name that the announcing node has written to a Service. While no address is announced, its author may have.
pub fn recorded_name(view: &ServiceView) -> Option<&str> {
    view.announced_in_status().next()?;
    view.annotation(MDNS_NAME)?.strip_suffix(".local")
}

/// Whether a name is the requested one, or that with a number.
fn derives_from(name: &str, requested: &str) -> bool {
    let number = || name.rsplit_once('-')?.1.parse().ok();
    name == requested || number().is_some_and(|number| name == numbered(requested, number))
}

/// The requested name with a number.
fn numbered(requested: &str, number: u32) -> String {
    let end = format!("-{number}");
    format!("{}{end}", cut(requested, MAX_LABEL - end.len()))
}

/// The host record of a Service.
pub fn host_record(host: String, known: bool, view: &ServiceView, addresses: BTreeSet<IpAddr>) -> HostRecord {
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
    use crate::model::annotation::VIP_HOST;
    use crate::model::service::Ingress;

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

    /// A Service: its name, the requested one, the one in its annotation, and whether it is announced. The first of several
    /// is the oldest.
    type Row<'a> = (&'a str, &'a str, &'a str, bool);

    /// The names of Services. `own` are those that this node publishes, with the name of the Service.
    fn names(services: &[Row<'_>], reserved: Option<&str>, own: &[(&str, &str)]) -> Vec<String> {
        let own = own.iter().map(|(service, name)| (format!("lab/{service}"), Ok((*name).to_owned())));
        let own = own.collect();
        let services: Vec<(ServiceKey, ServiceView)> = (0..)
            .zip(services)
            .map(|(created, (name, requested, noted, announced))| {
                let host = if *announced { "node-1" } else { "" };
                let annotations = [(MDNS, *requested), (MDNS_NAME, *noted), (VIP_HOST, host)];
                let annotations = annotations.iter().filter(|(_, value)| !value.is_empty());
                let annotations = annotations.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
                let ip = Some(IpAddr::from([192, 0, 2, 1]));
                let view = ServiceView {
                    annotations: annotations.collect(),
                    status: announced.then(|| Ingress { ip, ..Ingress::default() }).into_iter().collect(),
                    created,
                    ..ServiceView::default()
                };
                (ServiceKey { namespace: "lab".into(), name: (*name).into() }, view)
            })
            .collect();
        let names = assign_names(services.iter().map(|(key, view)| (key, view)), false, reserved, &own);
        services.iter().map(|(key, _)| names[key].clone()).collect()
    }

    #[test]
    fn a_published_name_stays() {
        let name = |noted, announced| names(&[("web", "shop", noted, announced)], None, &[]).remove(0);
        for (noted, expected) in [
            ("", "shop"),
            ("shop.local", "shop"),
            ("shop-2.local", "shop-2"),
            // Of a name that was requested before.
            ("store.local", "shop"),
            ("shop-keeper.local", "shop"),
            ("shop-02.local", "shop"),
        ] {
            assert_eq!(name(noted, true), expected, "{noted}");
            assert_eq!(name(noted, false), "shop", "its author wrote {noted}");
        }
    }

    #[test]
    fn of_several_services_with_one_name_the_oldest_has_it() {
        let has = |services: &[Row<'_>]| names(services, None, &[]);
        assert_eq!(
            has(&[("b", "shop", "", false), ("a", "shop", "", false), ("c", "shop.local", "", false)]),
            ["shop", "shop-2", "shop-3"]
        );
        // A published name does not change when other Services come or go.
        assert_eq!(
            has(&[("a", "shop", "shop-2.local", true), ("b", "shop", "", true), ("c", "shop", "", true)]),
            ["shop-2", "shop", "shop-3"]
        );
        let both = [("a", "shop", "shop.local", true), ("b", "shop", "shop.local", true)];
        assert_eq!(has(&both), ["shop", "shop-2"]);
        let long = "a".repeat(MAX_LABEL);
        let next = format!("{}-2", "a".repeat(MAX_LABEL - 2));
        assert_eq!(has(&[("a", &long, "", true), ("b", &long, "", true), ("c", &long, "", true)])[1], next);
        assert_eq!(has(&[("a", &long, &format!("{next}.local"), true)]), [next]);
    }

    #[test]
    fn an_annotation_takes_a_name_from_no_service() {
        let thief = ("thief", "shop", "shop.local", true);
        let waiting = ("thief", "shop", "shop.local", false);
        let web = ("web", "shop", "shop.local", true);
        // Without an announced address it counts for nothing, not even beside an older request.
        assert_eq!(names(&[waiting, web], None, &[]), ["shop-2", "shop"]);
        assert_eq!(names(&[("web", "shop", "", false), waiting], None, &[]), ["shop", "shop-2"]);
        // On the node that publishes the name, and on the one that publishes the thief under another name.
        assert_eq!(names(&[thief, web], None, &[("web", "shop")]), ["shop-2", "shop"]);
        assert_eq!(names(&[thief, web], None, &[("thief", "thief")]), ["shop-2", "shop"]);
    }

    #[test]
    fn the_name_of_the_control_plane_is_no_services() {
        for row in
            [("web", "k8s", "", false), ("web", "k8s", "k8s.local", true), ("web", "K8s.local", "", true)]
        {
            assert_eq!(names(&[row], Some("k8s"), &[]), ["k8s-2"]);
            assert_eq!(names(&[row], Some("k8s"), &[("web", "k8s")]), ["k8s-2"]);
            assert_eq!(names(&[row], None, &[]), ["k8s"]);
        }
        assert_eq!(
            names(&[("a", "web", "", true), ("b", "web", "", true)], Some("web-2"), &[]),
            ["web", "web-3"]
        );
    }

    #[test]
    fn ports_with_names_are_services() {
        let ports = vec![
            ("http".to_owned(), Protocol::Tcp, 80),
            ("dns".to_owned(), Protocol::Udp, 53),
            ("m3ua".to_owned(), Protocol::Sctp, 2905),
        ];
        let view = ServiceView { named_ports: ports, ..ServiceView::default() };
        let record = host_record("web".into(), false, &view, BTreeSet::new());
        assert_eq!(record.services, [("_http._tcp".to_owned(), 80), ("_dns._udp".to_owned(), 53)].into());
        let plain = ServiceView { ports: vec![(Protocol::Tcp, 8080)], ..ServiceView::default() };
        assert_eq!(
            host_record("web".into(), false, &plain, BTreeSet::new()).services,
            [(ANY.to_owned(), 8080)].into()
        );
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
            let services: Vec<String> =
                host_record("web".into(), false, &view, BTreeSet::new()).services.into_keys().collect();
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
