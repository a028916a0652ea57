//! What a Service's annotations and its node's status may change in the plan.

use super::*;
use crate::config::Policy;
use crate::dhcp::fsm::ClientState;
use crate::dhcp::identity::Identity;
use crate::dhcp::spec::ClientStatus;
use crate::mdns::records::requested_name;
use crate::model::annotation::{FORWARD_UPNP, LEASE_NAME, LOAD_BALANCER_IPS, SERVICE_ANNOTATIONS, VIP_HOST};
use crate::model::node::NodeView;
use crate::model::service::{Ingress, TrafficPolicy};
use crate::model::{LeaseName, LeaseOwner};
use crate::planner::endpoints::{Endpoint, Slice};
use crate::planner::reserved::Reserved;

const ADDRESS: &str = "192.0.2.65";

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "shop".into(), name: name.into() }
}

fn view(address: &str, annotations: &[(&str, &str)]) -> ServiceView {
    let all = [&[(LOAD_BALANCER_IPS, address)], annotations].concat();
    ServiceView {
        load_balancer: true,
        annotations: all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        ..ServiceView::default()
    }
}

/// A cluster in which every Service has an endpoint.
fn state(services: Vec<(&str, ServiceView)>) -> ClusterState {
    let mut state = ClusterState { listed: true, ..ClusterState::default() };
    for (name, view) in services {
        let endpoints = vec![Endpoint { node: Some("node-1".into()), ready: true, serving: true }];
        state.endpoints.apply(Slice { service: key(name), name: "a".into(), family: None, endpoints });
        state.apply(key(name), view);
    }
    state
}

#[test]
fn a_lease_name_that_the_api_server_rejects_is_reported_and_not_used() {
    for wrong in ["a_b", "A", "x/y/z", "/web", "shop/", "a?b", "%2e%2e", "Kube/x"] {
        let state = state(vec![("web", view(ADDRESS, &[(LEASE_NAME, wrong)]))]);
        let plan = plan(&PlanContext::example(), &state);
        let service = &plan.services[&key("web")];
        let own = LeaseName { namespace: "shop".into(), name: "kubevip-web".into() };
        assert_eq!(service.group, Some(own.into()), "{wrong}");
        let text = format!(
            "kube-vip.io/leaseName: `{wrong}` is not the name of a Lease: `name` or `namespace/name`, of lower-case letters, \
             digits, `-` and `.`"
        );
        assert_eq!(service.issues, [Issue::Annotation(text)]);
    }
}

#[test]
fn a_problem_is_one_short_line_whatever_an_annotation_contains() {
    let text = format!("x\n2026/01/01 00:00:00 INFO {}", "y".repeat(100_000));
    let routes = RouteRules { attach: true, external_ips: false, networks: Vec::new(), service_cidrs: false };
    let permitting = PlanContext { routes: Some(routes), ..PlanContext::example() };
    let refusing = PlanContext { policy: Policy::default(), ..permitting.clone() };
    let mut found = 0;
    for (context, address) in [(&permitting, ADDRESS), (&permitting, "0.0.0.0"), (&refusing, ADDRESS)] {
        for annotation in SERVICE_ANNOTATIONS {
            let view = view(address, &[(FORWARD_UPNP, "true"), (annotation.name, &text)]);
            let name_problem = requested_name(&key("web"), &view, false).err();
            let plan = plan(context, &state(vec![("web", view)]));
            let of_plan = plan.services[&key("web")].issues.iter().map(|issue| match issue {
                Issue::Refused(refusal) => refusal.to_string(),
                Issue::Annotation(text) => text.clone(),
                other => panic!("{other:?}"),
            });
            let of_mappings = plan.mappings.wrong.into_values().flatten();
            for problem in of_plan.chain(of_mappings).chain(name_problem) {
                assert!(problem.len() < 600 && !problem.contains('\n'), "{}: {problem}", annotation.name);
                found += 1;
            }
        }
    }
    assert!(found > 20, "{found}");
}

/// A kubelet without `--node-ip` takes the first or the newest global address of the interface for its node's own.
#[test]
fn an_announced_address_that_a_node_reports_as_its_own_stays() {
    let announced = |host: Option<&str>| {
        let mut view = view(ADDRESS, &[]);
        view.annotations.extend(host.map(|host| (VIP_HOST.to_owned(), host.to_owned())));
        view.status = vec![Ingress { ip: ADDRESS.parse().ok(), ..Ingress::default() }];
        view
    };
    let node =
        NodeView { name: "node-1".into(), own: [ADDRESS.parse().unwrap()].into(), ..NodeView::default() };
    let planned = |view: ServiceView, before: &Plan| {
        let mut state = state(vec![("web", view)]);
        state.reserved = Reserved::new([&node], None);
        state.note_services(before);
        plan(&PlanContext::example(), &state)
    };
    let reported = Issue::Reported { address: ADDRESS.parse().unwrap(), node: "node-1".into() };
    // By the status, on this node and on others, also when the node that reports it is gone.
    for host in ["node-1", "node-2", "gone"] {
        let plan = planned(announced(Some(host)), &Plan::default());
        let service = &plan.services[&key("web")];
        assert_eq!((service.addresses.len(), service.issues.as_slice()), (1, &[reported.clone()][..]));
    }
    // Where no status is written, by what this process announced before.
    let before = plan(&PlanContext::example(), &state(vec![("web", view(ADDRESS, &[]))]));
    assert_eq!(planned(view(ADDRESS, &[]), &before).services[&key("web")].addresses.len(), 1);
    // A node's address that was never announced.
    let refused = planned(view(ADDRESS, &[]), &Plan::default());
    let service = &refused.services[&key("web")];
    assert!(matches!(service.issues[..], [Issue::Refused(Refusal::Node { .. })]), "{:?}", service.issues);
    assert_eq!(service.addresses.len(), 0);
    assert_eq!(planned(announced(None), &Plan::default()).services[&key("web")].addresses.len(), 0);
}

/// A router that answers ARP requests by its leases would be taken for a host with the same address.
#[test]
fn an_answer_about_a_leased_address_is_of_this_host_if_it_has_the_clients_hardware_address() {
    let view = ServiceView { uid: "u".into(), ..view("0.0.0.0", &[]) };
    let (lease, address) = (leases::key(&view, Family::V4), ADDRESS.parse().unwrap());
    let mut state = state(vec![("web", view)]);
    let leased = ClientStatus {
        address: Some(address),
        saved: None,
        state: ClientState::Bound,
        probed: true,
        last_error: None,
    };
    state.leases.insert(lease, leased);
    let plan = plan(&PlanContext::example(), &state).take_vip_plan("node-1", true);
    let own = Identity::mac_of("u");
    assert!(plan.is_of_own_lease(address, &own));
    assert!(!plan.is_of_own_lease(address, &[2, 0, 0, 0, 0, 9]));
    assert!(!plan.is_of_own_lease("192.0.2.66".parse().unwrap(), &own));
}

/// Otherwise clients wait for an address that leads nowhere.
#[test]
fn only_addresses_of_families_with_endpoints_are_announced() {
    use Family::{V4, V6};
    const V6_ADDRESS: &str = "2001:db8::65";
    let both = format!("{ADDRESS},{V6_ADDRESS}");
    // Addresses, families of ready endpoints here and on another node, traffic policy; announced addresses, and the Service's
    // endpoints.
    type Row<'a> = (&'a str, &'a [Family], &'a [Family], TrafficPolicy, &'a [&'a str], bool);
    let table: [Row<'_>; 8] = [
        (&both, &[V4], &[], TrafficPolicy::Cluster, &[ADDRESS], true),
        (&both, &[V6], &[], TrafficPolicy::Cluster, &[V6_ADDRESS], true),
        (&both, &[V4], &[V6], TrafficPolicy::Cluster, &[ADDRESS, V6_ADDRESS], true),
        (&both, &[V4], &[V6], TrafficPolicy::Local, &[ADDRESS], true),
        (&both, &[V4, V6], &[], TrafficPolicy::Local, &[ADDRESS, V6_ADDRESS], true),
        (&both, &[], &[], TrafficPolicy::Cluster, &[], false),
        (V6_ADDRESS, &[V4], &[], TrafficPolicy::Cluster, &[], false),
        (V6_ADDRESS, &[V4, V6], &[], TrafficPolicy::Cluster, &[V6_ADDRESS], true),
    ];
    for (addresses, here, elsewhere, traffic_policy, announced, has_endpoints) in table {
        let mut state = ClusterState { listed: true, ..ClusterState::default() };
        state.apply(key("web"), ServiceView { traffic_policy, ..view(addresses, &[]) });
        for (node, families) in [("node-1", here), ("node-2", elsewhere)] {
            for family in families {
                let endpoints = vec![Endpoint { node: Some(node.into()), ready: true, serving: true }];
                let name = format!("{node}-{family}");
                state.endpoints.apply(Slice { service: key("web"), name, family: Some(*family), endpoints });
            }
        }
        let plan = plan(&PlanContext::example(), &state);
        let groups = plan.groups.values().flat_map(|group| &group.addresses);
        let found: Vec<String> = groups.map(|spec| spec.address.to_string()).collect();
        let what = format!("{addresses} {here:?} {elsewhere:?} {traffic_policy:?}");
        assert_eq!(found, announced, "{what}");
        let service = &plan.services[&key("web")];
        assert_eq!((service.has_endpoints, service.servable_here), (has_endpoints, has_endpoints), "{what}");
        // The election, and the owner of each address, do not depend on endpoints.
        assert_eq!(service.addresses.len(), addresses.split(',').count(), "{what}");
    }
}

/// The author of a Service may ask for any address; its status is kube-vip's.
#[test]
fn an_untagged_address_of_this_host_is_adoptable_if_it_was_announced() {
    let address: IpAddr = ADDRESS.parse().unwrap();
    let asked = view(ADDRESS, &[(VIP_HOST, "node-1")]);
    let status = vec![Ingress { ip: Some(address), ..Ingress::default() }];
    let announced = ServiceView { status, ..asked.clone() };
    for (view, untagged, expected) in
        [(asked, true, false), (announced.clone(), true, true), (announced, false, false)]
    {
        let mut state = state(vec![("web", view)]);
        state.untagged.extend(untagged.then_some(address));
        let plan = plan(&PlanContext::example(), &state);
        let group = plan.services[&key("web")].group.clone().unwrap();
        assert_eq!(
            (plan.adoptable.contains(&address), plan.groups[&group].candidacy.resuming),
            (expected, expected)
        );
    }
}

/// Otherwise each Service that ever was leaves a Lease.
#[test]
fn the_lease_that_is_named_after_a_service_goes_with_it() {
    for (name, text, owned) in [
        ("web", "", true),
        ("web", "kubevip-web", true),
        ("web", "kubevip-other", false),
        ("web", "elsewhere/kubevip-web", false),
        ("other", "kubevip-web", false),
    ] {
        let uid = format!("uid of {name}");
        let view = ServiceView { uid: uid.clone(), ..view(ADDRESS, &[(LEASE_NAME, text)]) };
        let mut state = state(vec![(name, view)]);
        let owner = |state: &ClusterState| {
            let plan = plan(&PlanContext::example(), state);
            plan.groups.into_values().next().and_then(|group| group.owner)
        };
        let expected = owned.then(|| LeaseOwner { service: name.to_owned(), uid });
        assert_eq!(owner(&state), expected, "{name} on {text}");
        // A Lease that is created for a deleted Service is deleted at once.
        state.terminating.insert(key(name));
        assert_eq!(owner(&state), None);
    }
}
