//! Events, and what is known after them.

use super::*;
use crate::dhcp::fsm::ClientState;
use crate::dhcp::spec::ClientStatus;
use crate::model::Family;
use crate::model::annotation::{DHCP_LEASE, FORWARD_UPNP, LOAD_BALANCER_IPS};
use crate::model::service::Protocol;
use crate::planner::leases;
use crate::planner::plan::plan;

const ADDRESS: &str = "192.0.2.1";

fn context() -> PlanContext {
    PlanContext::example()
}

fn at(milliseconds: u64) -> BootTime {
    BootTime::from_boot(Duration::from_millis(milliseconds))
}

fn key() -> ServiceKey {
    ServiceKey { namespace: "lab".into(), name: "web".into() }
}

fn view(load_balancer: bool) -> ServiceView {
    let annotations = [(LOAD_BALANCER_IPS, ADDRESS), (FORWARD_UPNP, "true")];
    ServiceView {
        load_balancer,
        annotations: annotations.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        ports: vec![(Protocol::Tcp, 80)],
        ..ServiceView::default()
    }
}

/// Gateways with the Service's mapping, or without any.
fn gateways(open: bool) -> GatewayStatus {
    let key = MappingKey { address: ADDRESS.parse().unwrap(), protocol: Protocol::Tcp, external: 80 };
    let gateway: IpAddr = [192, 0, 2, 254].into();
    let ports = open.then(|| (key, [(gateway, Ok(()))].into())).into_iter().collect();
    GatewayStatus { ports, ..GatewayStatus::default() }
}

/// A cache with one Service, and its plan.
fn listed(open: bool) -> (Cache, Plan) {
    let mut cache = Cache::new(&[]);
    let none = Plan::default();
    let services = WatchEvent::Services(Change::Reset(vec![(key(), view(true))]));
    let endpoints = WatchEvent::Endpoints(Change::Reset(Vec::new()));
    let [info, lease] =
        Published::ALL.map(|object| WatchEvent::ControlPlane(object, Change::Reset(Vec::new())));
    let (nodes, cidrs) =
        (WatchEvent::Nodes(Change::Reset(Vec::new())), WatchEvent::Cidrs(Change::Reset(Vec::new())));
    for event in [services, endpoints, nodes, info, cidrs, lease] {
        assert!(!cache.state.listed);
        cache.apply(at(0), event, &context(), &none);
    }
    assert_eq!(cache.poll_timeout(), None);
    cache.apply_gateways(at(0), gateways(open));
    let plan = plan(&context(), &cache.state);
    assert!(cache.state.listed && plan.mappings.services.contains_key(&key()));
    (cache, plan)
}

#[test]
fn vips_of_another_process_are_reserved_as_long_as_an_object_names_them() {
    let mut cache = Cache::new(&[]);
    let vip: IpAddr = ADDRESS.parse().unwrap();
    let mut apply = |event| {
        cache.apply(at(0), event, &context(), &Plan::default());
        cache.state.reserved.control_plane.contains(&vip)
    };
    let named = |object| WatchEvent::ControlPlane(object, Change::Reset(vec![vec![vip]]));
    assert!(apply(named(Published::ClusterInfo)) && apply(named(Published::Lease)));
    // A change of the Nodes or of one of the objects keeps the other's.
    assert!(apply(WatchEvent::Nodes(Change::Reset(Vec::new()))));
    assert!(apply(WatchEvent::ControlPlane(Published::Lease, Change::Applied(Vec::new()))));
    assert!(!apply(WatchEvent::ControlPlane(Published::ClusterInfo, Change::Deleted(vec![vip]))));
}

fn delete(cache: &mut Cache, plan: &Plan) {
    let deleted = WatchEvent::Services(Change::Deleted((key(), view(true))));
    cache.apply(at(0), deleted, &context(), plan);
}

#[test]
fn each_resolved_name_is_known_at_once_and_the_others_stay() {
    let (mut cache, none) = (Cache::new(&[]), Plan::default());
    let mut names = |name: &str, addresses: &[IpAddr]| {
        cache.apply(at(0), WatchEvent::Name(name.into(), addresses.to_vec()), &context(), &none);
        cache.state.names.keys().cloned().collect::<Vec<_>>()
    };
    let address: IpAddr = ADDRESS.parse().unwrap();
    assert_eq!(names("a.example", &[address]), ["a.example"]);
    assert_eq!(names("b.example", &[address]), ["a.example", "b.example"]);
    assert_eq!(names("a.example", &[]), ["b.example"]);
}

#[test]
fn a_deleted_service_without_open_mappings_is_forgotten() {
    let (mut cache, plan) = listed(false);
    delete(&mut cache, &plan);
    assert!(cache.state.services.is_empty());
    assert_eq!(cache.poll_timeout(), None);
}

#[test]
fn a_deleted_service_whose_address_another_has_is_forgotten_at_once() {
    let (mut cache, _) = listed(true);
    let other = ServiceKey { namespace: "lab".into(), name: "other".into() };
    let added = WatchEvent::Services(Change::Applied((other.clone(), view(true))));
    cache.apply(at(0), added, &context(), &Plan::default());
    let plan = plan(&context(), &cache.state);
    delete(&mut cache, &plan);
    assert_eq!(cache.state.services.keys().collect::<Vec<_>>(), [&other]);
    assert!(cache.state.terminating.is_empty());
    // Of two that are deleted before the next plan the last one keeps the address.
    let deleted = WatchEvent::Services(Change::Deleted((other.clone(), view(true))));
    cache.apply(at(0), deleted, &context(), &plan);
    assert_eq!(cache.state.terminating, [other].into());
}

/// A Role of one namespace cannot grant the right to list Nodes.
#[test]
fn nodes_are_waited_for_and_not_for_ever() {
    let (mut cache, none) = (Cache::new(&[]), Plan::default());
    cache.apply(at(0), WatchEvent::Services(Change::Reset(Vec::new())), &context(), &none);
    cache.apply(at(1), WatchEvent::Endpoints(Change::Reset(Vec::new())), &context(), &none);
    assert!(!cache.handle_timeout(at(10_000)) && !cache.state.listed);
    assert_eq!(cache.poll_timeout(), Some(at(10_001)));
    assert!(cache.handle_timeout(at(10_001)) && cache.state.listed);
    assert_eq!(cache.poll_timeout(), None);
}

#[test]
fn a_node_name_that_no_node_has_is_a_problem() {
    let node = |name: &str, address: &str| NodeView {
        name: name.into(),
        own: [address.parse().unwrap()].into(),
        ..NodeView::default()
    };
    let nodes = [node("n1", "192.0.2.2"), node("n2", "192.0.2.3")];
    let own: BTreeSet<IpAddr> = ["192.0.2.2", "fd00::2"].map(|address| address.parse().unwrap()).into();
    for (nodes, me, named) in [
        (&nodes[..], "n1.example.com", Some("Node n1 has this host's address: set vip_nodename to n1;")),
        (&nodes[..], "n1", None),
        (&nodes[1..], "n1", Some("and none has an address of this host")),
        (&[], "n1.example.com", None),
    ] {
        let (mut cache, none) = (Cache::new(&[]), Plan::default());
        cache.apply(at(0), WatchEvent::Nodes(Change::Reset(nodes.to_vec())), &context(), &none);
        let found = cache.node_problem(me, &own);
        assert_eq!(found.is_some(), named.is_some(), "{me}: {found:?}");
        let begins = format!("no Node is named {me}, ");
        assert!(found.is_none_or(|text| text.starts_with(&begins) && text.contains(named.unwrap())));
    }
}

#[test]
fn a_deleted_service_keeps_its_address_until_its_mappings_are_closed() {
    let (mut cache, before) = listed(true);
    delete(&mut cache, &before);
    // The EndpointSlices of a deleted Service are deleted, too.
    cache.apply(at(0), WatchEvent::Endpoints(Change::Reset(Vec::new())), &context(), &before);
    let after = plan(&context(), &cache.state);
    assert_eq!(after.services[&key()].addresses, before.services[&key()].addresses);
    assert!(after.services[&key()].servable_here);
    assert!(after.mappings.services.is_empty());
    // The gateway still has it, then it has not.
    assert!(!cache.apply_gateways(at(1), gateways(true)));
    assert!(cache.apply_gateways(at(2), gateways(false)));
    assert!(cache.state.services.is_empty() && cache.state.terminating.is_empty());
    assert_eq!(cache.poll_timeout(), None);
}

#[test]
fn a_gateway_that_does_not_close_a_mapping_delays_the_end_of_a_service_only_so_long() {
    let (mut cache, plan) = listed(true);
    delete(&mut cache, &plan);
    assert_eq!(cache.poll_timeout(), Some(at(5000)));
    assert!(!cache.handle_timeout(at(4999)));
    assert!(cache.handle_timeout(at(5000)));
    assert!(cache.state.services.is_empty());
    assert!(!cache.handle_timeout(at(5000)));
}

#[test]
fn a_deselected_service_is_replaced_by_its_new_version_once_its_mappings_are_closed() {
    let (mut cache, plan) = listed(true);
    let changed = WatchEvent::Services(Change::Applied((key(), view(false))));
    cache.apply(at(0), changed, &context(), &plan);
    assert!(cache.state.services[&key()].load_balancer);
    cache.apply_gateways(at(1), gateways(false));
    assert!(!cache.state.services[&key()].load_balancer);
}

/// The store is restored from a backup: what is listed then counts, and what follows it.
#[test]
fn a_new_list_replaces_versions_that_were_greater() {
    let versioned = |load_balancer, version: u64| {
        (key(), ServiceView { resource_version: version.to_string(), ..view(load_balancer) })
    };
    let known = |cache: &Cache| cache.state.services[&key()].resource_version.clone();
    for open in [false, true] {
        let (mut cache, plan) = listed(open);
        let apply = |cache: &mut Cache, change| {
            cache.apply(at(0), WatchEvent::Services(change), &context(), &plan);
        };
        apply(&mut cache, Change::Applied(versioned(true, 1000)));
        apply(&mut cache, Change::Reset(vec![versioned(true, 500)]));
        assert_eq!(known(&cache), "500");
        apply(&mut cache, Change::Applied(versioned(true, 501)));
        assert_eq!(known(&cache), "501");
        // In the backup it was of another type. With open port mappings it terminates first.
        apply(&mut cache, Change::Reset(vec![versioned(false, 400)]));
        cache.handle_timeout(at(5000));
        assert_eq!(known(&cache), "400");
    }
}

#[test]
fn a_terminating_service_that_loses_its_finalizer_still_waits_for_its_mappings() {
    let (mut cache, before) = listed(true);
    let changed = |load_balancer| WatchEvent::Services(Change::Applied((key(), view(load_balancer))));
    cache.apply(at(0), changed(false), &context(), &before);
    let after = plan(&context(), &cache.state);
    cache.apply(at(1), changed(false), &context(), &after);
    assert!(cache.state.services[&key()].load_balancer);
    delete(&mut cache, &after);
    assert!(cache.state.services.contains_key(&key()));
    assert!(cache.apply_gateways(at(2), gateways(false)));
    assert!(cache.state.services.is_empty(), "no earlier version comes back");
}

#[test]
fn a_new_list_without_a_service_closes_its_mappings_first() {
    let (mut cache, before) = listed(true);
    for _ in 0..2 {
        cache.apply(at(0), WatchEvent::Services(Change::Reset(Vec::new())), &context(), &before);
        assert!(cache.state.terminating.contains(&key()));
        assert!(cache.state.services.contains_key(&key()));
    }
    assert!(cache.apply_gateways(at(2), gateways(false)));
    assert!(cache.state.services.is_empty());
}

#[test]
fn a_service_that_is_created_again_does_not_terminate() {
    let (mut cache, plan) = listed(true);
    delete(&mut cache, &plan);
    cache.apply(at(1), WatchEvent::Services(Change::Applied((key(), view(true)))), &context(), &plan);
    assert!(!cache.handle_timeout(at(5000)));
    assert!(cache.state.terminating.is_empty() && cache.state.services.contains_key(&key()));
}

#[test]
fn a_lease_is_annotated_only_by_the_node_whose_client_is_known() {
    let (mut cache, _) = listed(false);
    let mut leased = view(true);
    leased.annotations.insert(LOAD_BALANCER_IPS.into(), "0.0.0.0".into());
    cache.state.apply(key(), leased.clone());
    // Another node's lease is not removed before this node's clients have started.
    let planned = |state: &ClusterState| plan(&context(), state).services[&key()].lease_annotations.clone();
    assert!(planned(&cache.state).is_empty());
    let status = |state| ClientStatus { address: None, saved: None, state, probed: false, last_error: None };
    let lease = leases::key(&leased, Family::V4);
    cache.state.leases.insert(lease.clone(), status(ClientState::Standby));
    assert!(planned(&cache.state).is_empty());
    cache.state.leases.insert(lease, status(ClientState::Selecting));
    assert_eq!(planned(&cache.state), [(DHCP_LEASE, None)].into());
}

#[test]
fn events_that_cannot_change_the_plan_cause_none() {
    let (mut cache, plan) = listed(false);
    let other = || ServiceKey { namespace: "lab".into(), name: "db".into() };
    let service = |last: u8, version: &str| {
        let cluster_ips = vec![[10, 96, 0, last].into()];
        let view = ServiceView { cluster_ips, resource_version: version.into(), ..ServiceView::default() };
        WatchEvent::Services(Change::Applied((other(), view)))
    };
    let slice = |service| Slice { service, name: "a".into(), family: None, endpoints: Vec::new() };
    let endpoints = |service| WatchEvent::Endpoints(Change::Applied(slice(service)));
    let node = || {
        let node = NodeView { name: "node-1".into(), ..NodeView::default() };
        WatchEvent::Nodes(Change::Applied(node))
    };
    let lease = || WatchEvent::ControlPlane(Published::Lease, Change::Applied(vec![[192, 0, 2, 9].into()]));
    let name = |last: &[u8]| {
        let addresses = last.iter().map(|last| [192, 0, 2, *last].into()).collect();
        WatchEvent::Name("web.example.com".into(), addresses)
    };
    let events = [
        (service(1, "1"), true),
        (service(1, "2"), false),
        (service(2, "3"), true),
        (WatchEvent::Services(Change::Applied((key(), view(true)))), true),
        (endpoints(other()), false),
        (endpoints(key()), true),
        (endpoints(ServiceKey { namespace: "lab".into(), name: "unknown".into() }), false),
        (node(), true),
        (node(), false),
        (lease(), true),
        (lease(), false),
        (name(&[1, 2]), true),
        (name(&[1, 2]), false),
        (name(&[]), true),
        (name(&[]), false),
    ];
    for (number, (event, expected)) in events.into_iter().enumerate() {
        let shown = format!("{number}: {event:?}");
        assert_eq!(cache.apply(at(0), event, &context(), &plan), expected, "{shown}");
    }
}
