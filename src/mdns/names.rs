//! Who is to be found under which name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::annotation::{MDNS, MDNS_NAME};
use crate::model::legal::is_name;
use crate::model::service::Protocol;
use crate::model::{ServiceKey, ServiceView};

/// What has no port with a name is found as this.
const ANY: &str = "_kube-vip._tcp";
/// The longest name of a service, without its underscore (RFC 6335 §5.1).
const LONGEST_SERVICE: usize = 15;

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
    if label.contains('.') || !is_name(label) || label.len() > 63 {
        return Err(format!(
            "{MDNS}: `{text}` is no name in the local network, such as `web` or `web.local`"
        ));
    }
    Ok(Some(label.to_lowercase()))
}

/// What is told of a Service that asks for this name. Where another host has it, the name that was found instead stays.
pub fn named(asked: String, view: &ServiceView, addresses: BTreeSet<IpAddr>) -> Named {
    let noted = view.annotation(MDNS_NAME).map(|name| name.trim_end_matches(".local"));
    let another = |name: &&str| {
        let number = name.strip_prefix(&asked).and_then(|rest| rest.strip_prefix('-'));
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let noted = noted.filter(|name| *name == asked || another(name)).map(str::to_owned);
    let known = noted.is_some();
    let host = noted.unwrap_or(asked);
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

    #[test]
    fn a_name_that_was_told_before_stays() {
        let told = |noted: Option<&str>| {
            let annotations = noted.map(|name| (MDNS_NAME.to_owned(), name.to_owned()));
            let view =
                ServiceView { annotations: annotations.into_iter().collect(), ..ServiceView::default() };
            let named = named("shop".into(), &view, BTreeSet::new());
            (named.host, named.known)
        };
        assert_eq!(told(None), ("shop".into(), false));
        assert_eq!(told(Some("shop.local")), ("shop".into(), true));
        assert_eq!(told(Some("shop-2.local")), ("shop-2".into(), true));
        // Of a name that was asked for before.
        assert_eq!(told(Some("store.local")), ("shop".into(), false));
        assert_eq!(told(Some("shop-keeper.local")), ("shop".into(), false));
    }

    #[test]
    fn ports_with_names_are_services() {
        let ports = vec![
            ("http".to_owned(), Protocol::Tcp, 80),
            ("dns".to_owned(), Protocol::Udp, 53),
            ("m3ua".to_owned(), Protocol::Sctp, 2905),
        ];
        let view = ServiceView { named_ports: ports, ..ServiceView::default() };
        let told = named("web".into(), &view, BTreeSet::new());
        assert_eq!(told.services, [("_http._tcp".to_owned(), 80), ("_dns._udp".to_owned(), 53)].into());
        let plain = ServiceView { ports: vec![(Protocol::Tcp, 8080)], ..ServiceView::default() };
        assert_eq!(named("web".into(), &plain, BTreeSet::new()).services, [(ANY.to_owned(), 8080)].into());
    }
}
