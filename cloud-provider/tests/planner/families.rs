//! Pools by namespace, and the addresses by family policy.

use kube_vip::model::Family::{V4, V6};
use kube_vip::model::service::FamilyPolicy::{PreferDual, RequireDual, Single};

use crate::store::{Store, dual, service};

type Config = &'static [(&'static str, &'static str)];

const DUAL_POOL: (&str, &str) = ("cidr-global", "10.0.0.1/32,fd00::1/128");

#[test]
fn addresses_follow_the_family_policy() {
    let table: &[(&str, _, &[_], Result<&str, &str>)] = &[
        ("10.0.0.0/30", Single, &[V4], Ok("10.0.0.1")),
        ("10.0.0.0/30", Single, &[], Ok("10.0.0.1")),
        ("10.0.0.0/30", Single, &[V6], Err("could not find suitable pool for the IP family of the service")),
        ("fd00::/127", Single, &[V6], Ok("fd00::")),
        ("fd00::/127", Single, &[], Ok("fd00::")),
        ("fd00::/127", Single, &[V4], Err("could not find suitable pool for the IP family of the service")),
        ("10.0.0.1,fd00::1", Single, &[V6, V4], Ok("fd00::1")),
        ("10.0.0.1", PreferDual, &[V4, V6], Ok("10.0.0.1")),
        ("10.0.0.1", PreferDual, &[V6, V4], Ok("10.0.0.1")),
        ("fd00::1", PreferDual, &[V4], Ok("fd00::1")),
        ("10.0.0.1,fd00::1", PreferDual, &[V4, V6], Ok("10.0.0.1,fd00::1")),
        ("10.0.0.1,fd00::1", PreferDual, &[V6, V4], Ok("fd00::1,10.0.0.1")),
        ("10.0.0.1,fd00::1", PreferDual, &[], Ok("10.0.0.1,fd00::1")),
        ("10.0.0.1,fd00::1", RequireDual, &[V6, V4], Ok("fd00::1,10.0.0.1")),
        (
            "10.0.0.1",
            RequireDual,
            &[V4, V6],
            Err("service requires dual-stack, but the configuration does not have both"),
        ),
        (
            "fd00::1",
            RequireDual,
            &[V4, V6],
            Err("service requires dual-stack, but the configuration does not have both"),
        ),
        ("0.0.0.0/32", Single, &[V4], Ok("0.0.0.0")),
        ("::/128", Single, &[V6], Ok("::")),
        ("0.0.0.0/32,fd00::10", PreferDual, &[V4, V6], Ok("0.0.0.0,fd00::10")),
        ("dhcp", RequireDual, &[V6, V4], Ok("::,0.0.0.0")),
        // Addresses that end in 0 or 255 are allocated only on request.
        (
            "10.0.0.255,10.0.1.0",
            Single,
            &[V4],
            Err("no addresses available in [global] range [10.0.0.255,10.0.1.0]"),
        ),
    ];
    for (pool, policy, families, expected) in table {
        let mut store = Store::new(&[("cidr-global", pool)]);
        store.put("web", dual(*policy, families));
        match expected {
            Ok(addresses) => assert_eq!(store.addresses("web"), *addresses, "{pool} {policy:?} {families:?}"),
            Err(text) => {
                let reason = store.waits("web");
                assert!(reason.contains(text), "{pool} {policy:?} {families:?}: {reason}");
                assert_eq!(store.addresses("web"), "");
            }
        }
    }
}

#[test]
fn an_exhausted_family_is_optional_only_with_prefer_dual() {
    let both = "could not allocate any IP address for PreferDualStack service:";
    let required = "could not allocate required IP addresses for RequireDualStack service:";
    let table: &[(&[_], _, Result<&str, &str>)] = &[
        (&[V4], PreferDual, Ok("fd00::1")),
        (&[V6], PreferDual, Ok("10.0.0.1")),
        (&[V4, V6], PreferDual, Err(both)),
        (&[V4], RequireDual, Err(required)),
        (&[V6], RequireDual, Err(required)),
        (&[V4], Single, Err("no addresses available in [global] cidr [10.0.0.1/32,fd00::1/128]")),
    ];
    for (used, policy, expected) in table {
        let mut store = Store::new(&[DUAL_POOL]);
        for family in *used {
            store.put(&format!("first-{family}"), service(&[*family]));
        }
        store.put("web", dual(*policy, &[V4, V6]));
        match expected {
            Ok(addresses) => assert_eq!(store.addresses("web"), *addresses, "{used:?} {policy:?}"),
            Err(text) => assert!(store.waits("web").contains(text), "{}", store.waits("web")),
        }
    }
    // The Go program writes an empty address here, and then allocates no more addresses.
    let mut store = Store::new(&[("cidr-global", "10.0.0.1/32")]);
    store.put("first", service(&[V4]));
    store.put("web", dual(PreferDual, &[V4, V6]));
    assert!(store.waits("web").contains("no addresses available in"), "{}", store.waits("web"));
}

#[test]
fn a_namespaces_pool_overrides_the_global_one() {
    let config = [
        ("range-development", "10.1.0.1-10.1.0.9"),
        ("cidr-global", "10.2.0.0/24"),
        ("cidr-both", "10.3.0.8/29"),
        ("range-both", "10.3.0.1-10.3.0.2"),
        ("cidr-empty", ""),
    ];
    let expected =
        [("development/a", "10.1.0.1"), ("other/a", "10.2.0.1"), ("both/a", "10.3.0.1"), ("empty/a", "")];
    let mut store = Store::new(&config);
    for (name, address) in expected {
        store.put(name, service(&[V4]));
        assert_eq!(store.addresses(name), address, "{name}");
    }
    assert!(store.waits("empty/a").contains("could not discover address: pool is not specified"));
    // The Go program's order, where a global CIDR overrides a namespace's range.
    let mut store = Store::new(&[&config[..], &[("compat-precedence", "true")]].concat());
    store.put("development/a", service(&[V4]));
    assert_eq!(store.addresses("development/a"), "10.2.0.1");
    let mut store = Store::new(&[]);
    store.put("lonely/a", service(&[V4]));
    assert!(store.waits("lonely/a").contains("no address pools could be found"));
}

#[test]
fn search_order_exclusions_and_skipped_ends_are_applied() {
    let table: &[(Config, &[&str])] = &[
        (&[("cidr-global", "10.0.0.0/30")], &["10.0.0.1", "10.0.0.2", "10.0.0.3", ""]),
        (
            &[("cidr-global", "10.0.0.0/30"), ("search-order", "desc")],
            &["10.0.0.3", "10.0.0.2", "10.0.0.1", ""],
        ),
        (
            &[("cidr-global", "10.0.0.0/29"), ("skip-end-ips-in-cidr", "true"), ("search-order", "desc")],
            &["10.0.0.6"],
        ),
        (&[("range-global", "10.0.0.254-10.0.1.2")], &["10.0.0.254", "10.0.1.1", "10.0.1.2", ""]),
        (
            &[("range-global", "10.0.0.254-10.0.1.2"), ("search-order", "desc")],
            &["10.0.1.2", "10.0.1.1", "10.0.0.254", ""],
        ),
        (
            &[("range-global", "10.0.0.1-10.0.0.4"), ("exclude-global", "10.0.0.1-10.0.0.2")],
            &["10.0.0.3", "10.0.0.4", ""],
        ),
        (
            &[
                ("range-default", "10.0.0.1-10.0.0.3"),
                ("exclude-default", "10.0.0.2"),
                ("exclude-global", "10.0.0.1"),
            ],
            &["10.0.0.3", ""],
        ),
        (&[("cidr-global", "10.0.0.0/8")], &["10.0.0.1", "10.0.0.2"]),
    ];
    for (config, expected) in table {
        let mut store = Store::new(config);
        for (number, address) in expected.iter().enumerate() {
            let name = format!("web-{number}");
            store.put(&name, service(&[V4]));
            assert_eq!(store.addresses(&name), *address, "{config:?} {name}");
        }
    }
    let mut store = Store::new(&[("cidr-global", "fd00::/64"), ("search-order", "desc")]);
    store.put("web", service(&[V6]));
    assert_eq!(store.addresses("web"), "fd00::ffff:ffff:ffff:ffff");
}

#[test]
fn a_namespaces_interface_overrides_the_global_one() {
    let config = [
        ("cidr-global", "10.0.0.0/24"),
        ("interface-global", "eth1"),
        ("interface-a", "eth2"),
        ("interface-b", ""),
    ];
    let mut store = Store::new(&config);
    for (namespace, expected) in [("a", Some("eth2")), ("b", None), ("c", Some("eth1"))] {
        let name = format!("{namespace}/web");
        store.put(&name, service(&[V4]));
        let view = &store.services[&crate::store::key(&name)];
        assert_eq!(view.annotations.get("kube-vip.io/serviceInterface").map(String::as_str), expected);
    }
}
