//! Services, pools and requests that change.

use kube_vip::dhcp::identity::{Identity, parse_mac};
use kube_vip::model::Family::{V4, V6};
use kube_vip::model::ServiceView;
use kube_vip::model::annotation::{
    ALLOCATED, CLEANUP_FINALIZER, FORWARD_UPNP, HARDWARE_ADDRESS, IMPLEMENTATION, LEGACY_ADDRESS,
    LOAD_BALANCER_IPS, VIP_HOST,
};
use kube_vip::model::node::NodeView;
use kube_vip::model::service::FamilyPolicy::{PreferDual, RequireDual, Single};
use kube_vip::model::service::Ingress;
use kube_vip::planner::reserved::Reserved;
use kube_vip_cloud_provider::plan::{Action, Class, Planner, ServiceEvent, WriteStatus};
use kube_vip_cloud_provider::pools::Pools;

use crate::store::{Store, key, service};

fn pool() -> Store {
    Store::new(&[("range-global", "10.0.0.1-10.0.0.3,fd00::1-fd00::3")])
}

fn fixed(text: &str) -> ServiceView {
    let mut view = service(&[V4]);
    view.annotations.insert(LOAD_BALANCER_IPS.into(), text.into());
    view
}

fn by_spec(text: &str) -> ServiceView {
    ServiceView { load_balancer_ip: Some(text.into()), ..service(&[V4]) }
}

#[test]
fn an_allocation_is_one_write_and_one_event() {
    let mut store = pool();
    store.put("web", service(&[V4]));
    assert_eq!(store.writes, 1);
    assert_eq!(store.events, [("web".to_owned(), ServiceEvent::Allocated(vec!["10.0.0.1".into()]))]);
    let view = &store.services[&key("web")];
    assert_eq!(view.load_balancer_ip.as_deref(), Some("10.0.0.1"));
    assert_eq!(view.labels[IMPLEMENTATION.0], IMPLEMENTATION.1);
    assert_eq!(view.annotations[ALLOCATED], "10.0.0.1");
    assert_eq!(view.finalizers, [CLEANUP_FINALIZER]);
    // A restart without changes writes nothing.
    store.restart();
    store.edit("web", |view| drop(view.labels.insert("colour".into(), "blue".into())));
    assert_eq!((store.writes, store.events.len()), (1, 1));
}

#[test]
fn port_mappings_are_permitted_by_a_condition_of_the_status() {
    let mut store = pool();
    let mut view = service(&[V4]);
    view.annotations.insert(FORWARD_UPNP.into(), "true".into());
    store.put("web", view);
    let delegated = |store: &Store| store.services[&key("web")].upnp_delegated;
    assert!(!delegated(&store));
    store.upnp = true;
    store.restart();
    // The address and the condition are two writes.
    assert!(delegated(&store));
    assert_eq!(store.writes, 2);
    let writes = store.writes;
    store.edit("web", |view| drop(view.annotations.remove(FORWARD_UPNP)));
    assert!(!delegated(&store));
    assert_eq!(store.writes, writes + 1);
    store.edit("web", |view| drop(view.annotations.insert(FORWARD_UPNP.into(), "true".into())));
    assert!(delegated(&store));
    // Without the flag, and for a Service of another type, it is taken back.
    store.upnp = false;
    store.restart();
    assert!(!delegated(&store));
    store.upnp = true;
    store.restart();
    assert!(delegated(&store));
    store.edit("web", |view| view.load_balancer = false);
    assert!(!delegated(&store));
    assert_eq!(store.services[&key("web")].finalizers, [""; 0]);
}

#[test]
fn requested_addresses_are_reserved_and_copied() {
    let mut store = pool();
    store.put("a", fixed("10.0.0.1"));
    store.put("b", by_spec("10.0.0.2"));
    store.put("c", service(&[V4]));
    assert_eq!(["a", "b", "c"].map(|name| store.addresses(name)), ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    assert_eq!(store.services[&key("a")].load_balancer_ip, None);
    // A new request releases the earlier address.
    store.edit("b", |view| view.load_balancer_ip = Some("10.0.0.9".into()));
    assert_eq!(store.addresses("b"), "10.0.0.9");
    store.put("d", service(&[V4]));
    assert_eq!(store.addresses("d"), "10.0.0.2");
    assert!(store.events.iter().any(|(name, event)| {
        name == "b" && matches!(event, ServiceEvent::AllocatedWithNote(text) if text.contains("10.0.0.9 is outside every pool"))
    }));
    // Without a request it gets any address.
    store.delete("a");
    store.edit("b", |view| view.load_balancer_ip = None);
    assert_eq!(store.addresses("b"), "10.0.0.1");
}

fn node_1(address: &str) -> Reserved {
    let nodes = [(address.parse().unwrap(), "node-1".to_owned())].into();
    Reserved { nodes, ..Reserved::default() }
}

#[test]
fn requests_that_cannot_be_met_have_a_reason() {
    let mut store = pool();
    store.planner.set_reserved(node_1("10.0.0.3"));
    store.put("first", service(&[V4]));
    let table = [
        ("10.0.0.1", "10.0.0.1 is in use by Service default/first"),
        ("10.0.0.3", "10.0.0.3 is node node-1's own address"),
        ("127.0.0.1", "is a loopback address"),
        ("224.0.0.1", "is a multicast address"),
        ("169.254.1.1", "is a link-local address"),
        ("255.255.255.255", "is a broadcast address"),
        ("fe80::1", "is a link-local address"),
        ("ff02::1", "is a multicast address"),
        ("10.0.0.2,10.0.0.1", "10.0.0.1 is in use by Service default/first"),
        ("10.0.0.300", "unable to parse IP `10.0.0.300`"),
        ("10.0.0.2 10.0.0.3", "unable to parse IP"),
        (
            "dhcp",
            "unable to parse IP `dhcp`: write addresses or DNS names, separated by commas, and 0.0.0.0 or ::",
        ),
        ("Auto", "unable to parse IP `Auto`"),
    ];
    for (text, expected) in table {
        store.put("web", fixed(text));
        let reason = store.waits("web");
        assert!(reason.contains(expected), "{text}: {reason}");
        assert!(reason.contains(LOAD_BALANCER_IPS), "{reason}");
        store.delete("web");
    }
    // Neither they nor DNS names keep other Services waiting.
    store.put("bad", fixed("10.0.0.300"));
    store.put("name", fixed("vip.example.com"));
    store.put("web", service(&[V4]));
    assert_eq!(store.addresses("web"), "10.0.0.2");
    // The requested address becomes free.
    store.put("waiting", fixed("10.0.0.1"));
    assert!(store.waits("waiting").contains("in use by"));
    store.delete("first");
    assert_eq!(store.planner.ipam().held(&key("waiting")).len(), 1);
}

#[test]
fn addresses_of_nodes_are_not_allocated() {
    let mut store = pool();
    store.planner.set_reserved(node_1("10.0.0.1"));
    store.put("web", service(&[V4]));
    assert_eq!(store.addresses("web"), "10.0.0.2");
    store.planner.set_reserved(Reserved::default());
    store.put("next", service(&[V4]));
    assert_eq!(store.addresses("next"), "10.0.0.1");
}

#[test]
fn deletion_and_a_change_of_type_release_an_address() {
    let mut store = Store::new(&[("range-global", "10.0.0.1")]);
    store.put("a", service(&[V4]));
    store.put("b", service(&[V4]));
    store.put("c", service(&[V4]));
    assert!(store.waits("b").contains("no addresses available in [global] range [10.0.0.1]"));
    // Until the object is gone, its address is in use.
    store.edit("a", |view| view.deleting = true);
    assert_eq!(store.services[&key("a")].finalizers, [""; 0]);
    assert_eq!(store.addresses("b"), "");
    store.delete("a");
    assert_eq!((store.addresses("b"), store.addresses("c")), ("10.0.0.1".into(), String::new()));
    store.edit("b", |view| view.load_balancer = false);
    let view = &store.services[&key("b")];
    assert_eq!((view.finalizers.len(), view.labels.len(), view.annotations.len()), (0, 0, 0));
    assert_eq!(view.load_balancer_ip, None);
    assert_eq!(store.addresses("c"), "10.0.0.1");
}

#[test]
fn a_change_of_type_keeps_the_users_values() {
    let mut store = pool();
    store.put("a", fixed("10.0.0.1"));
    store.put("b", by_spec("10.0.0.2"));
    for name in ["a", "b"] {
        store.edit(name, |view| view.load_balancer = false);
    }
    assert_eq!(store.addresses("a"), "10.0.0.1");
    assert_eq!(store.services[&key("b")].load_balancer_ip.as_deref(), Some("10.0.0.2"));
    assert_eq!(store.addresses("b"), "");
    store.put("c", service(&[V4]));
    assert_eq!(store.addresses("c"), "10.0.0.1");
}

#[test]
fn a_second_family_is_added_and_dropped() {
    let mut store = pool();
    store.put("web", service(&[V4]));
    store.edit("web", |view| {
        view.family_policy = RequireDual;
        view.families = vec![V4, V6];
    });
    assert_eq!(store.addresses("web"), "10.0.0.1,fd00::1");
    store.edit("web", |view| {
        view.family_policy = Single;
        view.families = vec![V4];
    });
    assert_eq!(store.addresses("web"), "10.0.0.1");
    assert_eq!(store.planner.ipam().held(&key("web")).len(), 1);
}

#[test]
fn a_service_that_prefers_two_families_gains_that_of_a_larger_pool() {
    let mut store = Store::new(&[("range-global", "10.0.0.1-10.0.0.9")]);
    for (name, policy) in [("web", PreferDual), ("single", Single)] {
        let families = if policy == Single { vec![V4] } else { vec![V4, V6] };
        store.put(name, ServiceView { family_policy: policy, families, ..service(&[]) });
    }
    let addresses = |store: &Store| ["web", "single"].map(|name| store.addresses(name));
    assert_eq!(addresses(&store), ["10.0.0.1", "10.0.0.2"]);
    store.configure(&[("range-global", "10.0.0.1-10.0.0.9,fd00::1-fd00::9")]);
    assert_eq!(addresses(&store), ["10.0.0.1,fd00::1", "10.0.0.2"]);
    let writes = store.writes;
    store.configure(&[("range-global", "10.0.0.1-10.0.0.9,fd00::1-fd00::8")]);
    assert_eq!(
        (addresses(&store), store.writes),
        (["10.0.0.1,fd00::1", "10.0.0.2"].map(str::to_owned), writes)
    );
    // It keeps both when the pool has one family again.
    store.configure(&[("range-global", "10.0.0.1-10.0.0.9")]);
    assert_eq!(addresses(&store), ["10.0.0.1,fd00::1", "10.0.0.2"]);
}

#[test]
fn a_hardware_address_that_may_be_another_hosts_needs_a_flag() {
    const MAC: &str = "02:00:00:00:00:01";
    for (any, text, used) in [(false, MAC, false), (true, MAC, true), (false, "00:00:6c:00:00:01", true)] {
        let mut planner = Planner::new(Class::Unnamed);
        planner.enable_dhcp("eth0", any);
        planner.set_pools(
            Pools::parse(&[("range-global".into(), "0.0.0.0/32".into())].into(), &Pools::default()).0,
        );
        let mut view = ServiceView { uid: "u".into(), resource_version: "1".into(), ..service(&[V4]) };
        view.annotations.insert(HARDWARE_ADDRESS.into(), text.into());
        planner.apply(key("web"), view);
        while !planner.next_actions().is_empty() {}
        let requests = planner.lease_requests();
        let mac = requests.values().next().unwrap().identity.mac;
        let (own, given) = (Identity::mac_of("u"), parse_mac(text).unwrap());
        assert_eq!(mac, if used { given } else { own }, "{any} {text}");
    }
}

#[test]
fn a_lost_annotation_is_restored_with_both_addresses() {
    let mut store = pool();
    let mut view = service(&[V6, V4]);
    view.family_policy = RequireDual;
    store.put("web", view);
    store.edit("web", |view| drop(view.annotations.remove(LOAD_BALANCER_IPS)));
    assert_eq!(store.addresses("web"), "fd00::1,10.0.0.1");
    // Without both fields it requests any address.
    store.edit("web", |view| {
        view.annotations.remove(LOAD_BALANCER_IPS);
        view.load_balancer_ip = None;
    });
    assert_eq!(store.addresses("web"), "fd00::1,10.0.0.1");
}

/// The Go framework sets the finalizer before it asks for an address, and before the label.
#[test]
fn the_finalizer_of_a_deleted_service_is_removed_where_no_other_controller_does_it() {
    let mut store = pool();
    let deleted = ServiceView {
        deleting: true,
        finalizers: vec![CLEANUP_FINALIZER.into(), "other.example/cleanup".into()],
        ..service(&[V4])
    };
    let classed = ServiceView { class: Some("other.example/class".into()), ..deleted.clone() };
    store.put("ours", deleted);
    store.put("classed", classed);
    assert_eq!(store.services[&key("ours")].finalizers, ["other.example/cleanup"]);
    assert_eq!(store.services[&key("classed")].finalizers.len(), 2);
}

#[test]
fn a_service_keeps_an_address_that_a_kubelet_reports_as_its_nodes_own() {
    let mut store = pool();
    store.put("web", service(&[V4]));
    store.edit("web", |view| {
        let ip = "10.0.0.1".parse().ok();
        view.status = vec![Ingress { ip, ..Ingress::default() }];
        view.annotations.insert(VIP_HOST.into(), "node-1".into());
    });
    let own = ["10.0.0.1".parse().unwrap()].into();
    let node = NodeView { name: "node-1".into(), own, ..NodeView::default() };
    let announced = store.planner.announced();
    store.planner.set_reserved(Reserved::new([&node], None).announcing(announced));
    store.edit("web", |view| drop(view.labels.insert("colour".into(), "blue".into())));
    store.planner.enqueue(&key("web"));
    store.settle();
    assert_eq!(store.addresses("web"), "10.0.0.1");
    // Without the status it is the node's.
    store.edit("web", |view| view.status.clear());
    let announced = store.planner.announced();
    store.planner.set_reserved(Reserved::new([&node], None).announcing(announced));
    store.planner.enqueue(&key("web"));
    store.settle();
    assert_eq!(store.addresses("web"), "10.0.0.2");
}

#[test]
fn allocations_of_the_go_program_are_taken_over() {
    let mut store = pool();
    let mut allocated = fixed("10.0.0.2");
    allocated.load_balancer_ip = Some("10.0.0.2".into());
    allocated.labels.insert(IMPLEMENTATION.0.into(), IMPLEMENTATION.1.into());
    allocated.finalizers.push(CLEANUP_FINALIZER.into());
    let mut old = by_spec("10.0.0.1");
    old.labels.insert(LEGACY_ADDRESS.into(), "10.0.0.1".into());
    store.services.insert(key("allocated"), ServiceView { uid: "1".into(), ..allocated });
    store.services.insert(key("old"), ServiceView { uid: "2".into(), ..old });
    store.restart();
    assert_eq!(store.writes, 1, "only the old one is written to");
    let view = &store.services[&key("old")];
    assert_eq!(view.annotations[LOAD_BALANCER_IPS], "10.0.0.1");
    assert_eq!(view.labels.keys().collect::<Vec<_>>(), [IMPLEMENTATION.0]);
    store.put("web", service(&[V4]));
    assert_eq!(store.addresses("web"), "10.0.0.3");
}

#[test]
fn a_larger_pool_serves_waiting_services_and_an_invalid_one_changes_nothing() {
    let mut store = Store::new(&[("range-global", "10.0.0.1-10.0.0.2")]);
    for number in 0..5 {
        store.put(&format!("web-{number}"), service(&[V4]));
    }
    let served = |store: &Store| (0..5).filter(|n| !store.addresses(&format!("web-{n}")).is_empty()).count();
    assert_eq!(served(&store), 2);
    let problems =
        store.configure(&[("range-global", "10.0.0.1-10.0.0.300"), ("cdir-global", "10.0.0.0/24")]);
    let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
    assert!(texts[0].contains("did you mean `cidr-global`?"), "{texts:?}");
    assert!(texts[1].contains("10.0.0.1-10.0.0.2 stays in force"), "{texts:?}");
    assert_eq!(served(&store), 2);
    assert!(store.configure(&[("range-global", "10.0.0.1-10.0.0.4")]).is_empty());
    assert_eq!(served(&store), 4);
    assert!(store.waits("web-4").contains("all 4 IPv4 addresses are in use"));
    // Without the pool Services keep their addresses.
    store.configure(&[]);
    assert_eq!(served(&store), 4);
    assert!(store.waits("web-4").contains("no address pools could be found"));
}

#[test]
fn overlapping_pools_are_reported_and_allocate_no_address_twice() {
    let mut store = Store::new(&[]);
    let problems = store.configure(&[("range-a", "10.0.0.1-10.0.0.2"), ("range-b", "10.0.0.2-10.0.0.3")]);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].text.contains("10.0.0.2 in common with range-a"), "{}", problems[0]);
    for (name, address) in [("a/1", "10.0.0.1"), ("a/2", "10.0.0.2"), ("b/1", "10.0.0.3"), ("b/2", "")] {
        store.put(name, service(&[V4]));
        assert_eq!(store.addresses(name), address);
    }
}

#[test]
fn a_duplicate_made_by_hand_is_resolved() {
    let mut store = pool();
    store.put("a", service(&[V4]));
    let twin = store.services[&key("a")].clone();
    store.put("b", twin);
    assert_eq!((store.addresses("a"), store.addresses("b")), ("10.0.0.1".into(), "10.0.0.2".into()));
}

/// The store is restored from a backup: all versions are smaller.
#[test]
fn a_list_counts_whatever_its_versions() {
    let mut store = pool();
    store.put("a", service(&[V4]));
    let written = store.services[&key("a")].clone();
    let restored = ServiceView {
        uid: written.uid.clone(),
        resource_version: "0".into(),
        created: written.created,
        ..service(&[V4])
    };
    // A list may be older than the response to a write that the watch has not shown yet.
    store.planner.reset([(key("a"), restored.clone())]);
    assert!(store.planner.next_actions().is_empty());
    store.planner.apply(key("a"), written);
    store.planner.reset([(key("a"), restored)]);
    let actions = store.planner.next_actions();
    assert!(matches!(actions.as_slice(), [Action::Write { .. }]), "{actions:?}");
}

/// The response to a write is lost: whether it was carried out or not, no other Service gets the address meanwhile.
#[test]
fn a_write_of_unknown_result_keeps_its_address() {
    for carried_out in [false, true] {
        let mut store = Store::new(&[("range-global", "10.0.0.1-10.0.0.2")]);
        let view =
            ServiceView { uid: "a".into(), resource_version: "1".into(), created: 1, ..service(&[V4]) };
        store.planner.apply(key("a"), view.clone());
        let actions = store.planner.next_actions();
        let [Action::Write { patch, .. }] = actions.as_slice() else { panic!("{actions:?}") };
        assert_eq!(store.planner.handle_written(&key("a"), WriteStatus::Failed), None);
        store.put("b", service(&[V4]));
        assert_eq!(store.addresses("b"), "10.0.0.2");
        store.planner.enqueue(&key("a"));
        let again = store.planner.next_actions();
        assert!(
            matches!(again.as_slice(), [Action::Write { patch: same, .. }] if same == patch),
            "{again:?}"
        );
        store.planner.handle_written(&key("a"), WriteStatus::Failed);
        let mut now = ServiceView { resource_version: "9".into(), ..view };
        if carried_out {
            for (name, value) in &patch.annotations {
                now.annotations.insert((*name).into(), value.clone().unwrap());
            }
            now.load_balancer_ip = patch.load_balancer_ip.clone().flatten();
        }
        store.services.insert(key("a"), now.clone());
        store.planner.apply(key("a"), now);
        store.settle();
        assert_eq!(store.addresses("a"), "10.0.0.1");
    }
}
