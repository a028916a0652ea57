//! Who is to be found under which name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::annotation::{MDNS, MDNS_NAME};
use crate::model::service::Protocol;
use crate::model::validation::is_name;
use crate::model::{ServiceKey, ServiceView};

/// What has no port with a name is found as this.
const ANY: &str = "_kube-vip._tcp";
/// The longest name of a service, without its underscore (RFC 6335 §5.1).
const LONGEST_SERVICE: usize = 15;

/// The longest part of a name (RFC 1035 §2.3.4).
const LONGEST_LABEL: usize = 63;

/// A name that is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The host's, without `.local`.
    pub host: String,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// The services there: their types, such as `_http._tcp`, and ports.
    pub services: BTreeMap<String, u16>,
    /// It was told before, in this cluster: whoever takes over need not ask whether somebody else has it.
    pub known: bool,
}

/// The name of a Service; none if it asks for none. With `all` every Service has one.
///
/// # Errors
/// What is wrong with what it asks for.
pub fn name_of(key: &ServiceKey, view: &ServiceView, all: bool) -> Result<Option<String>, String> {
    let Some(text) = view.annotation(MDNS) else {
        return Ok(all.then(|| format!("{}-{}", key.name, key.namespace)));
    };
    let label = text.trim_end_matches('.').trim_end_matches(".local");
    if label.contains('.') || !is_name(label) || label.len() > LONGEST_LABEL {
        return Err(format!(
            "{MDNS}: `{text}` is no name in the local network, such as `web` or `web.local`"
        ));
    }
    Ok(Some(label.to_lowercase()))
}

/// A name that a Service has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Without `.local`.
    pub name: String,
    /// It was told before, in this cluster.
    pub known: bool,
}

/// Which Service has which name. One that was told before stays: also the one that was found where another host has what was
/// asked for. Of several that ask for the same the oldest has it; the others have one with a number.
pub fn hosts<'a>(
    services: impl IntoIterator<Item = (&'a ServiceKey, &'a ServiceView)>,
    all: bool,
) -> BTreeMap<&'a ServiceKey, Host> {
    let asking = |(key, view): (&'a ServiceKey, &'a ServiceView)| {
        Some((view.created, key, view, name_of(key, view, all).ok()??))
    };
    let mut asking: Vec<_> = services.into_iter().filter_map(asking).collect();
    asking.sort_by_key(|(created, key, ..)| (*created, *key));
    let mut taken: BTreeSet<String> = BTreeSet::new();
    let mut hosts = BTreeMap::new();
    for (_, key, view, asked) in &asking {
        if let Some(name) = noted(view, asked)
            && taken.insert(name.to_owned())
        {
            hosts.insert(*key, Host { name: name.to_owned(), known: true });
        }
    }
    for (_, key, _, asked) in &asking {
        if !hosts.contains_key(key) {
            let names = std::iter::once(asked.clone()).chain((2_u32..).map(|number| numbered(asked, number)));
            let free = names.into_iter().find(|name| taken.insert(name.clone()));
            hosts.extend(free.map(|name| (*key, Host { name, known: false })));
        }
    }
    hosts
}

/// The name under which a Service was found before, if it is one of those that it may have.
fn noted<'a>(view: &'a ServiceView, asked: &str) -> Option<&'a str> {
    let name = view.annotation(MDNS_NAME)?.trim_end_matches(".local");
    let number = || name.rsplit_once('-')?.1.parse().ok();
    (name == asked || number().is_some_and(|number| name == numbered(asked, number))).then_some(name)
}

/// Another name for whoever asked for this one.
fn numbered(asked: &str, number: u32) -> String {
    let end = format!("-{number}");
    let room = asked.len().min(LONGEST_LABEL - end.len());
    format!("{}{end}", asked.get(..room).unwrap_or_default())
}

/// What is told of a Service that has this name.
pub fn named(host: Host, view: &ServiceView, addresses: BTreeSet<IpAddr>) -> Named {
    let Host { name: host, known } = host;
    let of_port = |(name, protocol, port): &(String, Protocol, u16)| {
        let protocol = match protocol {
            Protocol::Tcp => "_tcp",
            Protocol::Udp => "_udp",
            Protocol::Sctp => return None,
        };
        (name.len() <= LONGEST_SERVICE).then(|| (format!("_{name}.{protocol}"), *port))
    };
    let mut services: BTreeMap<String, u16> = view.named_ports.iter().filter_map(of_port).collect();
    if services.is_empty() {
        let first = view.ports.first().map_or(0, |(_, port)| *port);
        services.insert(ANY.to_owned(), first);
    }
    Named { host, addresses, services, known }
}

/// What is told of the control plane.
pub fn control_plane(host: String, addresses: BTreeSet<IpAddr>, port: u16) -> Named {
    Named { host, addresses, services: [("_kubernetes._tcp".to_owned(), port)].into(), known: false }
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
        let of = |text: Option<&str>, all| name_of(&key, &view(text), all).map_err(|_| ());
        assert_eq!(of(None, false), Ok(None));
        assert_eq!(of(None, true), Ok(Some("web-lab".into())));
        for text in ["shop", "Shop.local", "shop.local."] {
            assert_eq!(of(Some(text), false), Ok(Some("shop".into())), "{text}");
        }
        for text in ["shop.example.com", "a b", "-", "192.0.2.1"] {
            assert_eq!(of(Some(text), true), Err(()), "{text}");
        }
    }

    /// The names that Services have: each given as its own name, what it asks for, and what it was told as before.
    fn names(services: &[(&str, &str, &str)]) -> Vec<(String, bool)> {
        let services: Vec<(ServiceKey, ServiceView)> = (0..)
            .zip(services)
            .map(|(created, (name, asked, noted))| {
                let annotations = [(MDNS, *asked), (MDNS_NAME, *noted)];
                let annotations = annotations.iter().filter(|(_, value)| !value.is_empty());
                let annotations = annotations.map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
                let view =
                    ServiceView { annotations: annotations.collect(), created, ..ServiceView::default() };
                (ServiceKey { namespace: "lab".into(), name: (*name).into() }, view)
            })
            .collect();
        let hosts = hosts(services.iter().map(|(key, view)| (key, view)), false);
        services.iter().map(|(key, _)| (hosts[key].name.clone(), hosts[key].known)).collect()
    }

    #[test]
    fn a_name_that_was_told_before_stays() {
        let told = |noted| names(&[("web", "shop", noted)]).remove(0);
        assert_eq!(told(""), ("shop".into(), false));
        assert_eq!(told("shop.local"), ("shop".into(), true));
        assert_eq!(told("shop-2.local"), ("shop-2".into(), true));
        // Of a name that was asked for before.
        assert_eq!(told("store.local"), ("shop".into(), false));
        assert_eq!(told("shop-keeper.local"), ("shop".into(), false));
        assert_eq!(told("shop-02.local"), ("shop".into(), false));
    }

    #[test]
    fn of_several_that_ask_for_a_name_one_has_it() {
        let has = |services: &[(&str, &str, &str)]| -> Vec<String> {
            names(services).into_iter().map(|(name, _)| name).collect()
        };
        assert_eq!(
            has(&[("b", "shop", ""), ("a", "shop", ""), ("c", "shop.local", "")]),
            ["shop", "shop-2", "shop-3"]
        );
        // Nobody's name changes because somebody else comes or goes.
        assert_eq!(
            has(&[("a", "shop", "shop-2.local"), ("b", "shop", ""), ("c", "shop", "")]),
            ["shop-2", "shop", "shop-3"]
        );
        assert_eq!(has(&[("a", "shop", "shop.local"), ("b", "shop", "shop.local")]), ["shop", "shop-2"]);
        let long = "a".repeat(LONGEST_LABEL);
        let cut = format!("{}-2", "a".repeat(LONGEST_LABEL - 2));
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
        let told = named(web(), &view, BTreeSet::new());
        assert_eq!(told.services, [("_http._tcp".to_owned(), 80), ("_dns._udp".to_owned(), 53)].into());
        let plain = ServiceView { ports: vec![(Protocol::Tcp, 8080)], ..ServiceView::default() };
        assert_eq!(named(web(), &plain, BTreeSet::new()).services, [(ANY.to_owned(), 8080)].into());
    }
}
