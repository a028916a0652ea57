//! What a Service's annotations and its node's status may change in the plan.

use super::*;
use crate::config::Policy;
use crate::dhcp::fsm::ClientState;
use crate::dhcp::identity::Identity;
use crate::dhcp::spec::ClientStatus;
use crate::mdns::records::requested_name;
use crate::model::annotation::{
    FORWARD_UPNP, IGNORE, LEASE_NAME, LOAD_BALANCER_IPS, SERVICE_ANNOTATIONS, VIP_HOST, WITHOUT_ENDPOINTS,
};
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
        state.note_services(&PlanContext::example().rules, before);
        plan(&PlanContext::example(), &state)
    };
    let reported = Issue::Reported { address: ADDRESS.parse().unwrap(), node: "node-1".into() };
    // By the status, on this node and on others, also when the node that reports it is gone.
    for host in ["node-1", "node-2", "gone"] {
        let plan = planned(announced(Some(host)), &Plan::default());
        let service = &plan.services[&key("web")];
        assert_eq!((service.addresses.len(), service.issues.as_slice()), (1, &[reported.clone()][..]));
    }
    // Where no status is written, by what this process announced before, unless it did not know the Nodes then.
    for (nodes_listed, kept) in [(true, 1), (false, 0)] {
        let known = ClusterState { nodes_listed, ..state(vec![("web", view(ADDRESS, &[]))]) };
        let before = plan(&PlanContext::example(), &known);
        assert_eq!(planned(view(ADDRESS, &[]), &before).services[&key("web")].addresses.len(), kept);
    }
    // Of another class: its author, or another controller, has written it.
    let other_class = ServiceView { class: Some("other".into()), ..announced(Some("x")) };
    let mut forged = state(vec![("forged", other_class), ("web", view(ADDRESS, &[]))]);
    forged.reserved = Reserved::new([&node], None);
    forged.note_services(&PlanContext::example().rules, &Plan::default());
    assert_eq!(plan(&PlanContext::example(), &forged).services[&key("web")].addresses.len(), 0);
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

/// A Service that waits must not make the restart of an agent interrupt the others.
#[test]
fn an_address_that_no_node_has_announced_does_not_count_as_lost() {
    let announced = |address: &str| ServiceView {
        status: vec![Ingress { ip: address.parse().ok(), ..Ingress::default() }],
        ..view(address, &[(VIP_HOST, "node-1")])
    };
    let lease = LeaseName { namespace: "kube-system".into(), name: "plndr-svcs-lock".into() };
    let context = PlanContext { mode: Mode::Global(lease.clone()), ..PlanContext::example() };
    for (left_over, resuming) in [(&[ADDRESS][..], true), (&["192.0.2.66"], false), (&[], false)] {
        let services = vec![("web", announced(ADDRESS)), ("new", view("192.0.2.66", &[]))];
        let mut state = state(services);
        state.left_over = left_over.iter().map(|address| address.parse().unwrap()).collect();
        state.note_services(&context.rules, &Plan::default());
        let plan = plan(&context, &state);
        assert_eq!(plan.groups[&lease.clone().into()].candidacy.resuming, resuming, "{left_over:?}");
    }
}

#[test]
fn a_service_has_a_limited_number_of_addresses_and_names() {
    let list = |count: u8, element: fn(u8) -> String| (1..=count).map(element).collect::<Vec<_>>().join(",");
    let addresses = |count| list(count, |last| format!("192.0.2.{last}"));
    let names = |count| list(count, |number| format!("n{number}.example"));
    let limited = |limit| vec![Issue::Refused(Refusal::Limit(limit))];
    for (asks, planned, resolved, issues) in [
        (addresses(16), 16, 0, vec![]),
        (addresses(30), 16, 0, limited(Limit::Addresses)),
        (names(4), 0, 4, vec![]),
        (names(30), 0, 4, limited(Limit::Names)),
    ] {
        let plan = plan(&PlanContext::example(), &state(vec![("web", view(&asks, &[]))]));
        let service = &plan.services[&key("web")];
        assert_eq!((service.addresses.len(), plan.names.len()), (planned, resolved), "{asks}");
        assert_eq!(service.issues, issues, "{asks}");
    }
}

/// Its status leads to it from every node.
#[test]
fn an_announced_service_that_shall_be_ignored_is_planned_without_addresses() {
    let status = vec![Ingress { ip: ADDRESS.parse().ok(), ..Ingress::default() }];
    let ignored = view(ADDRESS, &[(IGNORE, "true")]);
    let announced = ServiceView { status, ..view(ADDRESS, &[(IGNORE, "true"), (VIP_HOST, "node-1")]) };
    let plan = plan(&PlanContext::example(), &state(vec![("never", ignored), ("web", announced)]));
    let addresses = plan.services.iter().map(|(key, service)| (key.name.as_str(), service.addresses.len()));
    assert_eq!(addresses.collect::<Vec<_>>(), [("web", 0)]);
    assert!(plan.groups.values().all(|group| group.addresses.is_empty()));
    assert_eq!(plan.ignored, [key("never"), key("web")].into());
}

#[test]
fn external_addresses_are_checked_as_others_are() {
    let external = |namespace: &str, name: &str, addresses: &[&str]| {
        let external_ips = addresses.iter().map(|address| address.parse().unwrap()).collect();
        let key = ServiceKey { namespace: namespace.into(), name: name.into() };
        (key, ServiceView { uid: name.into(), external_ips, ..ServiceView::default() })
    };
    let node =
        NodeView { name: "node-1".into(), own: ["192.0.2.1".parse().unwrap()].into(), ..NodeView::default() };
    let mut state = state(vec![("web", view(ADDRESS, &[]))]);
    state.reserved = Reserved::new([&node], None);
    state.vips = ["192.0.2.100".parse().unwrap()].into();
    for (key, view) in [
        external("shop", "own", &["198.51.100.1", ADDRESS]),
        external("thief", "a", &["192.0.2.1", "192.0.2.100", ADDRESS, "198.51.100.1", "198.51.100.2"]),
    ] {
        let endpoints = vec![Endpoint { node: Some("node-1".into()), ready: true, serving: true }];
        state.endpoints.apply(Slice { service: key.clone(), name: "a".into(), family: None, endpoints });
        state.apply(key, view);
    }
    let rules = RouteRules { attach: true, external_ips: true, networks: Vec::new(), service_cidrs: false };
    let policy =
        Policy { infrastructure: crate::config::Namespaces::default(), ..PlanContext::example().policy };
    let context = PlanContext { routes: Some(rules), policy, ..PlanContext::example() };
    let plan = plan(&context, &state);
    let routes = plan.groups[&GroupId::EveryNode].routes.keys().map(ToString::to_string);
    assert_eq!(routes.collect::<Vec<_>>(), ["192.0.2.65/32", "198.51.100.1/32", "198.51.100.2/32"]);
    let refused = plan.external.values().flatten().map(|issue| match issue {
        Issue::Refused(refusal) => refusal.to_string(),
        other => panic!("{other:?}"),
    });
    let mut refused: Vec<String> = refused.collect();
    refused.sort();
    let expected = [
        "192.0.2.1 is node node-1's own address",
        "192.0.2.100 is the control plane's VIP",
        "192.0.2.65 belongs to Service shop/web",
        "198.51.100.1 belongs to Service shop/own",
    ];
    assert_eq!(refused, expected);
}

#[test]
fn the_same_problem_of_many_elements_is_one() {
    let wrong = format!("{}{ADDRESS}", "!,?,".repeat(100));
    let plan = plan(&PlanContext::example(), &state(vec![("web", view(&wrong, &[]))]));
    assert_eq!(plan.services[&key("web")].issues.len(), 2);
}

/// A Service that lists the whole range of a DHCP server would otherwise make the agents decline every lease.
#[test]
fn a_lease_conflicts_with_addresses_that_a_service_may_have_and_no_others() {
    let many: String = (1..17).map(|last| format!("198.51.100.{last},")).collect();
    let outside = "198.51.100.0/24".parse().unwrap();
    let other_class = || ServiceView { class: Some("other".into()), ..view(ADDRESS, &[]) };
    for (name, asking, networks, conflicts) in [
        ("one address", view(ADDRESS, &[]), vec![], true),
        ("the seventeenth", view(&format!("{many}{ADDRESS}"), &[]), vec![], false),
        ("refused", view(ADDRESS, &[]), vec![outside], false),
        ("of another class", other_class(), vec![], false),
    ] {
        let leasing = ServiceView { uid: "u".into(), created: 9, ..view("0.0.0.0", &[]) };
        let lease = leases::key(&leasing, Family::V4);
        let mut state = state(vec![("asking", asking), ("leasing", leasing)]);
        let leased = ClientStatus {
            address: ADDRESS.parse().ok(),
            saved: None,
            state: ClientState::Bound,
            probed: true,
            last_error: None,
        };
        state.leases.insert(lease.clone(), leased);
        let mut context = PlanContext::example();
        context.policy.networks = networks;
        assert_eq!(plan(&context, &state).lease_conflicts.contains_key(&lease), conflicts, "{name}");
    }
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

#[test]
fn a_word_for_dhcp_is_no_dns_name_and_the_event_names_the_placeholder() {
    for (text, word) in [("dhcp", true), ("Auto", true), ("192.0.2.65,DHCP", true), ("auto.example", false)] {
        let plan = plan(&PlanContext::example(), &state(vec![("web", view(text, &[]))]));
        let service = &plan.services[&key("web")];
        let remedies: Vec<String> = service.refusals().map(Refusal::remedy).collect();
        assert_eq!((remedies.len(), plan.names.len()), (usize::from(word), usize::from(!word)), "{text}");
        assert!(
            remedies.iter().all(|remedy| remedy.contains("write 0.0.0.0 in kube-vip.io/loadbalancerIPs"))
        );
    }
}

/// Where EndpointSlices are created only for Services with an address.
#[test]
fn a_setting_announces_services_without_endpoints_and_their_leased_addresses() {
    let context = PlanContext::example();
    let policy = Policy { without_endpoints: true, ..context.policy.clone() };
    let permitting = PlanContext { policy, ..context.clone() };
    let asked = |value: &'static str| [(WITHOUT_ENDPOINTS, value)];
    for (context, annotations, traffic_policy, announced) in [
        (&context, &[][..], TrafficPolicy::Cluster, false),
        (&context, &asked("True"), TrafficPolicy::Cluster, true),
        (&permitting, &[], TrafficPolicy::Cluster, true),
        (&permitting, &asked("false"), TrafficPolicy::Cluster, false),
        (&permitting, &[], TrafficPolicy::Local, false),
    ] {
        for address in [ADDRESS, "0.0.0.0"] {
            let view = ServiceView { uid: "u".into(), traffic_policy, ..view(address, annotations) };
            let mut state = ClusterState { listed: true, ..ClusterState::default() };
            let leased = ClientStatus {
                address: ADDRESS.parse().ok(),
                saved: None,
                state: ClientState::Bound,
                probed: true,
                last_error: None,
            };
            state.leases.insert(leases::key(&view, Family::V4), leased);
            state.apply(key("web"), view);
            let plan = plan(context, &state);
            let specs = plan.groups.values().flat_map(|group| &group.addresses);
            let planned: Vec<IpAddr> = specs.map(|spec| spec.address).collect();
            let expected: Vec<IpAddr> = announced.then(|| ADDRESS.parse().unwrap()).into_iter().collect();
            assert_eq!(planned, expected, "{address} {annotations:?} {traffic_policy:?}");
            assert_eq!(plan.services[&key("web")].servable_here, announced);
        }
    }
}

/// The leader of all Services may have no endpoint of it, and then no node would announce it.
#[test]
fn a_local_service_has_an_election_of_its_own_where_the_setting_asks_for_it() {
    let common = LeaseName { namespace: "kube-system".into(), name: "plndr-svcs-lock".into() };
    let own = LeaseName { namespace: "shop".into(), name: "kubevip-web".into() };
    let modes = [Mode::Global(common.clone()), Mode::EveryNode];
    for (mode, local_alone, traffic_policy, expected) in [
        (0, false, TrafficPolicy::Local, Some(&common)),
        (0, true, TrafficPolicy::Local, Some(&own)),
        (0, true, TrafficPolicy::Cluster, Some(&common)),
        (1, true, TrafficPolicy::Local, None),
    ] {
        let mut context = PlanContext { mode: modes[mode].clone(), ..PlanContext::example() };
        context.rules.local_alone = local_alone;
        let web = ServiceView { traffic_policy, ..view(ADDRESS, &[]) };
        let state = state(vec![("web", web), ("other", view("192.0.2.66", &[]))]);
        let group = |plan: &Plan, name: &str| plan.services[&key(name)].group.clone().unwrap();
        let expected = expected.map_or(GroupId::EveryNode, |lease| lease.clone().into());
        let here = plan(&context, &state);
        assert_eq!(group(&here, "web"), expected, "{mode} {local_alone} {traffic_policy:?}");
        assert!(here.groups[&expected].candidacy.eligible || expected == GroupId::EveryNode);
        // Another node takes no part in that election, and in the common one without the address.
        let elsewhere = plan(&PlanContext { me: "node-2".into(), ..context }, &state);
        assert_eq!(group(&elsewhere, "web"), expected);
        let alone = expected == own.clone().into();
        assert!(!alone || !elsewhere.groups[&expected].candidacy.eligible);
        // The other Services are not concerned.
        let others = if mode == 0 { common.clone().into() } else { GroupId::EveryNode };
        assert_eq!(group(&elsewhere, "other"), others);
    }
}
