//! Services that share an address.

use kube_vip::model::Family::{V4, V6};
use kube_vip::model::ServiceView;
use kube_vip::model::annotation::SHARING_KEY;
use kube_vip::model::service::{FamilyPolicy, Protocol, TrafficPolicy};

use crate::store::{Store, dual, service};

type Ports = &'static [(Protocol, u16)];

const TCP: Protocol = Protocol::Tcp;
const UDP: Protocol = Protocol::Udp;

fn with_ports(ports: &[(Protocol, u16)]) -> ServiceView {
    ServiceView { ports: ports.into(), ..service(&[V4]) }
}

fn pool() -> Store {
    Store::new(&[("range-global", "10.0.0.1-10.0.0.9"), ("allow-share-global", "true")])
}

#[test]
fn different_ports_or_protocols_share_the_lowest_address_with_room() {
    let mut store = pool();
    let table: &[(&str, Ports, &str)] = &[
        ("a", &[(TCP, 80)], "10.0.0.1"),
        ("b", &[(TCP, 443)], "10.0.0.1"),
        ("c", &[(TCP, 80)], "10.0.0.2"),
        ("dns-tcp", &[(TCP, 53)], "10.0.0.1"),
        ("dns-udp", &[(UDP, 53)], "10.0.0.1"),
        ("d", &[(TCP, 443), (TCP, 8443)], "10.0.0.2"),
        ("e", &[(TCP, 443)], "10.0.0.3"),
        ("f", &[(TCP, 80), (TCP, 53)], "10.0.0.3"),
        ("g", &[(Protocol::Sctp, 80)], "10.0.0.1"),
    ];
    for (name, ports, expected) in table {
        store.put(name, with_ports(ports));
        assert_eq!(store.addresses(name), *expected, "{name}");
    }
    store.delete("a");
    store.put("h", with_ports(&[(TCP, 80)]));
    assert_eq!(store.addresses("h"), "10.0.0.1");
}

#[test]
fn services_with_different_endpoints_do_not_share() {
    let mut store = pool();
    let local = |port: u16, app: &str| ServiceView {
        traffic_policy: TrafficPolicy::Local,
        selector: [("app".to_owned(), app.to_owned())].into(),
        ..with_ports(&[(TCP, port)])
    };
    let expected = [
        ("cluster", with_ports(&[(TCP, 1)]), "10.0.0.1"),
        ("local", local(2, "x"), "10.0.0.2"),
        ("same endpoints", local(3, "x"), "10.0.0.2"),
        ("other endpoints", local(4, "y"), "10.0.0.3"),
    ];
    for (name, view, address) in expected {
        store.put(name, view);
        assert_eq!(store.addresses(name), address, "{name}");
    }
}

#[test]
fn services_with_the_same_key_share_without_the_pools_permission() {
    let mut store = Store::new(&[("range-global", "10.0.0.1-10.0.0.9,fd00::1-fd00::9")]);
    let keyed = |port: u16, word: Option<&str>| {
        let mut view = dual(FamilyPolicy::RequireDual, &[V4, V6]);
        view.ports = vec![(TCP, port)];
        view.annotations.extend(word.map(|word| (SHARING_KEY.to_owned(), word.to_owned())));
        view
    };
    let expected = [
        ("a", keyed(1, Some("x")), "10.0.0.1,fd00::1"),
        ("b", keyed(2, None), "10.0.0.2,fd00::2"),
        ("c", keyed(3, Some("y")), "10.0.0.3,fd00::3"),
        ("d", keyed(4, Some("x")), "10.0.0.1,fd00::1"),
        ("e", keyed(1, Some("x")), "10.0.0.4,fd00::4"),
    ];
    for (name, view, addresses) in expected {
        store.put(name, view);
        assert_eq!(store.addresses(name), addresses, "{name}");
    }
}

#[test]
fn allow_share_applies_to_ipv4_only() {
    let mut store =
        Store::new(&[("range-global", "10.0.0.1-10.0.0.9,fd00::1-fd00::9"), ("allow-share-global", "true")]);
    for (name, port, addresses) in [("a", 1, "10.0.0.1,fd00::1"), ("b", 2, "10.0.0.1,fd00::2")] {
        let view = dual(FamilyPolicy::RequireDual, &[V4, V6]);
        store.put(name, ServiceView { ports: vec![(TCP, port)], ..view });
        assert_eq!(store.addresses(name), addresses);
    }
}

#[test]
fn addresses_of_other_pools_and_placeholders_are_not_shared() {
    let mut store = Store::new(&[
        ("range-global", "10.0.0.1-10.0.0.9"),
        ("range-a", "10.1.0.1-10.1.0.9"),
        ("cidr-d", "0.0.0.0/32"),
        ("allow-share-global", "true"),
    ]);
    for (name, port, address) in [
        ("a/web", 1, "10.1.0.1"),
        ("b/web", 2, "10.0.0.1"),
        ("d/web", 3, "0.0.0.0"),
        ("c/web", 4, "10.0.0.1"),
    ] {
        store.put(name, with_ports(&[(TCP, port)]));
        assert_eq!(store.addresses(name), address, "{name}");
    }
}

#[test]
fn a_port_conflict_moves_the_service_that_changed() {
    let mut store = pool();
    store.put("a", with_ports(&[(TCP, 1)]));
    store.put("b", with_ports(&[(TCP, 2)]));
    store.edit("b", |view| view.ports.push((TCP, 1)));
    assert_eq!((store.addresses("a"), store.addresses("b")), ("10.0.0.1".into(), "10.0.0.2".into()));
    // Without a free address it loses the shared one.
    let mut store = Store::new(&[("range-global", "10.0.0.1"), ("allow-share-global", "true")]);
    store.put("a", with_ports(&[(TCP, 1)]));
    store.put("b", with_ports(&[(TCP, 2)]));
    store.edit("b", |view| view.ports.push((TCP, 1)));
    assert_eq!(store.addresses("b"), "");
    assert!(store.waits("b").contains("no addresses available"));
    store.edit("a", |view| view.ports = vec![(TCP, 3)]);
    assert_eq!(store.addresses("b"), "10.0.0.1");
}
