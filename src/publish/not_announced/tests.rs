//! Every reason, and when it is reported.

use std::sync::Arc;

use super::*;
use crate::dhcp::identity::Identity;
use crate::model::annotation::VIP_HOST;
use crate::model::service::Ingress;
use crate::model::{HostUse, LeaseName, ServiceView};
use crate::planner::leases::DhcpSpec;
use crate::planner::plan::Leader;
use crate::planner::reserved::Refusal;
use crate::publish::Options;

const ADDRESS: &str = "192.0.2.1";

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "shop".into(), name: name.into() }
}

fn lease() -> LeaseName {
    LeaseName { namespace: "shop".into(), name: "kubevip-web".into() }
}

type Change = fn(&mut Sources, &mut ServicePlan);

/// A Service that this node leads and can serve, and does not announce, with a change.
fn sources(change: Change) -> Sources {
    let view = ServiceView { selector: [("app".into(), "web".into())].into(), ..ServiceView::default() };
    let mut service = ServicePlan {
        view: Arc::new(view),
        addresses: vec![ADDRESS.parse().unwrap()],
        group: Some(lease().into()),
        leader: led_by("node-1", true),
        servable_here: true,
        has_endpoints: true,
        has_slices: true,
        reports_here: true,
        ..ServicePlan::default()
    };
    let options = Options { me: "node-1".into(), write_status: true, ..Options::default() };
    let mut sources = Sources { options, ..Sources::default() };
    change(&mut sources, &mut service);
    plan(&mut sources).services.insert(key("web"), service);
    sources
}

fn plan(sources: &mut Sources) -> &mut Plan {
    Arc::get_mut(&mut sources.plan).unwrap()
}

fn view(service: &mut ServicePlan) -> &mut ServiceView {
    Arc::get_mut(&mut service.view).unwrap()
}

fn led_by(node: &str, serves: bool) -> Option<Leader> {
    Some(Leader { node: node.into(), serves })
}

fn hold(sources: &mut Sources) {
    sources.host.held.insert(ADDRESS.parse().unwrap());
}

/// The status names the address, and this node.
fn written(service: &mut ServicePlan, node: &str) {
    let view = view(service);
    view.annotations.insert(VIP_HOST.into(), node.into());
    view.status = vec![Ingress { ip: ADDRESS.parse().ok(), ..Ingress::default() }];
}

/// The nodes with its endpoints; this one is none of them.
fn local(service: &mut ServicePlan, nodes: &[&str]) {
    view(service).traffic_policy = TrafficPolicy::Local;
    service.servable_here = false;
    service.serving_nodes = nodes.iter().map(|node| (*node).to_owned()).collect();
}

fn leased(service: &mut ServicePlan) {
    let identity = Identity { mac: Identity::mac_of("u"), hostname: None, by_mac: false, broadcast: true };
    let (requested, wrong) = (Vec::new(), Vec::new());
    service.dhcp = Some(DhcpSpec { families: vec![Family::V4], identity, requested, wrong });
    service.addresses.clear();
}

/// Each row has parts of the reason; none: it is announced.
fn check(table: &[(&str, Change, &[&str])]) {
    for (name, change, parts) in table {
        let sources = sources(*change);
        let mut reasons = NotAnnounced::default();
        reasons.update(BootTime::default(), &sources);
        let lines = reasons.lines(&sources);
        assert_eq!(lines.len(), usize::from(!parts.is_empty()), "{name}: {lines:?}");
        for (line, part) in lines.iter().flat_map(|line| parts.iter().map(move |part| (line, part))) {
            assert!(line.starts_with("shop/web: ") && line.contains(part), "{name}: {line}");
        }
    }
}

#[test]
fn an_announced_service_does_not_wait() {
    check(&[
        ("here", |sources, _| hold(sources), &[]),
        ("terminating", |_, service| service.terminating = true, &[]),
        (
            "to a peer",
            |sources, _| {
                hold(sources);
                (sources.options.bgp, sources.has_session) = (true, true);
            },
            &[],
        ),
        (
            "by another leader",
            |_, service| {
                service.leader = led_by("node-2", true);
                written(service, "node-2");
            },
            &[],
        ),
        (
            "by another leader that writes no status",
            |sources, service| {
                service.leader = led_by("node-2", true);
                sources.options.write_status = false;
            },
            &[],
        ),
        (
            "by every node",
            |_, service| {
                (service.group, service.leader) = (Some(GroupId::EveryNode), None);
                local(service, &["node-2"]);
                written(service, "node-2");
            },
            &[],
        ),
        (
            "by the holder of the control plane's VIP",
            |sources, service| {
                sources.options.control_plane.extend(service.group.clone());
                service.leader = None;
                written(service, "node-2");
            },
            &[],
        ),
        // What the last leader left.
        (
            "not by this leader",
            |_, service| written(service, "node-2"),
            &["node node-1, which leads Lease shop/kubevip-web, does not announce it"],
        ),
        (
            "without a leader",
            |_, service| {
                service.leader = None;
                written(service, "node-2");
            },
            &["no node leads Lease shop/kubevip-web: check"],
        ),
    ]);
}

#[test]
fn a_service_without_an_address_has_a_reason() {
    check(&[
        (
            "no provider",
            |_, service| service.addresses.clear(),
            &["asks for no address in kube-vip.io/loadbalancerIPs", "install kube-vip-cloud-provider"],
        ),
        (
            "a provider",
            |sources, service| {
                service.addresses.clear();
                let labels = [(IMPLEMENTATION.0.to_owned(), IMPLEMENTATION.1.to_owned())].into();
                let view = ServiceView { labels, ..ServiceView::default() };
                let mut other = ServicePlan { view: Arc::new(view), ..service.clone() };
                other.terminating = true;
                plan(sources).services.insert(key("other"), other);
            },
            &["kube-vip-cloud-provider has given it none: see its Events"],
        ),
        (
            "a DNS name",
            |_, service| {
                service.addresses.clear();
                view(service).annotations.insert(LOAD_BALANCER_IPS.into(), "web.test".into());
            },
            &["the DNS name `web.test` has no address", "dns_mode"],
        ),
        (
            "a DHCP server that is silent",
            |_, service| leased(service),
            &["node node-1 asks for an address by DHCP and has none yet"],
        ),
        (
            "a DHCP server that refuses",
            |_, service| {
                leased(service);
                service.issues.push(Issue::Lease("no server replies".into()));
            },
            &["node node-1: no server replies"],
        ),
        (
            "no node that asks for a lease",
            |_, service| {
                leased(service);
                service.leader = None;
            },
            &["no node leads Lease"],
        ),
        (
            "an address that is refused",
            |_, service| {
                let refusal = Refusal::Host { address: ADDRESS.parse().unwrap(), usage: HostUse::Gateway };
                service.addresses.clear();
                service.issues.push(Issue::Refused(refusal));
            },
            &["192.0.2.1 is a node's default gateway: ask for another address"],
        ),
    ]);
}

#[test]
fn a_service_without_endpoints_has_a_reason() {
    check(&[
        (
            "that are ready",
            |_, service| service.has_endpoints = false,
            &["no ready IPv4 endpoints: check the pods", "allow-reconcile-without-endpoints"],
        ),
        (
            "of both families",
            |_, service| {
                service.has_endpoints = false;
                service.addresses.push("2001:db8::1".parse().unwrap());
            },
            &["no ready endpoints"],
        ),
        (
            "and slices",
            |_, service| {
                local(service, &[]);
                (service.has_endpoints, service.has_slices) = (false, false);
            },
            &["it has no EndpointSlice: check kube-controller-manager, which creates them"],
        ),
        (
            "and selector",
            |_, service| {
                view(service).selector.clear();
                (service.has_endpoints, service.has_slices) = (false, false);
            },
            &["it has neither a selector nor an EndpointSlice"],
        ),
    ]);
}

#[test]
fn a_local_service_without_an_endpoint_on_the_right_node_has_a_reason() {
    check(&[
        (
            "on the leader of all Services",
            |sources, service| {
                local(service, &["node-2"]);
                (service.leader, sources.options.common) = (led_by("node-1", false), service.group.clone());
            },
            &["node node-1, which leads Lease shop/kubevip-web", "on node-2: set svc_local_election"],
        ),
        (
            "on the leader, and on this node",
            |_, service| {
                local(service, &["node-1"]);
                service.servable_here = true;
                service.leader = led_by("node-2", false);
            },
            &["node node-2, which leads Lease shop/kubevip-web, has no endpoint", "on node-1: run kube-vip"],
        ),
        (
            "on a node with an agent",
            |_, service| {
                local(service, &["node-6", "node-7", "node-8", "node-9"]);
                service.leader = None;
            },
            &[
                "no agent announces it on a node with an endpoint",
                "on node-6, node-7, node-8 and others: run kube-vip there",
                "vip_nodename",
            ],
        ),
        (
            "on a Node with the name of this node",
            |sources, service| {
                local(service, &["node-1.test"]);
                service.leader = None;
                plan(sources).node_problem = Some("no Node is named node-1".into());
            },
            &["its endpoints are on node-1.test", "; no Node is named node-1"],
        ),
        (
            "that name their node",
            |_, service| {
                local(service, &[]);
                (service.group, service.leader) = (Some(GroupId::EveryNode), None);
            },
            &["its endpoints name no node"],
        ),
        (
            "on the control plane's holder",
            |sources, service| {
                sources.options.control_plane.extend(service.group.clone());
                local(service, &["node-2"]);
                service.leader = None;
            },
            &["the node with the control plane's VIP has no endpoint; its endpoints are on node-2"],
        ),
    ]);
}

#[test]
fn a_service_that_no_node_announces_has_a_reason() {
    check(&[
        (
            "blocked",
            |sources, _| {
                let text = "there is no interface eth7 on this host".to_owned();
                sources.host.blocked.insert(ADDRESS.parse().unwrap(), text);
            },
            &["node node-1 cannot announce it: there is no interface eth7"],
        ),
        (
            "another leader",
            |_, service| service.leader = led_by("node-2", true),
            &["node node-2, which leads Lease shop/kubevip-web, does not announce it"],
        ),
        ("no leader", |_, service| service.leader = None, &["no node leads Lease shop/kubevip-web: check"]),
        (
            "no permission",
            |sources, service| {
                service.leader = None;
                sources.refused.insert(lease(), ("create", "leases is forbidden".into()));
            },
            &["the API server refuses to create it: leases is forbidden", "kube-vip manifest rbac"],
        ),
        (
            "no election",
            |_, service| (service.group, service.leader) = (Some(GroupId::EveryNode), None),
            &["no node announces it: check"],
        ),
        (
            "no BGP session",
            |sources, _| {
                hold(sources);
                sources.options.bgp = true;
            },
            &["node node-1 advertises it to no BGP peer"],
        ),
    ]);
}

#[test]
fn an_ignored_service_has_a_line_and_no_event() {
    let sources = sources(|sources, _| plan(sources).ignored.extend([key("web")]));
    let mut reasons = NotAnnounced::default();
    reasons.update(BootTime::default(), &sources);
    assert_eq!(reasons.lines(&sources), ["shop/web: ignored, kube-vip.io/ignore is \"true\""]);
    assert_eq!(reasons.due(BootTime::from_boot(USUAL_WAIT), &key("web")), None);
}

#[test]
fn a_reason_is_due_once_it_has_lasted() {
    let at = |seconds| BootTime::from_boot(Duration::from_secs(seconds));
    let no_leader = sources(|_, service| service.leader = None);
    let not_held = sources(|_, _| {});
    let mut reasons = NotAnnounced::default();
    let mut due = |now, sources: &Sources| {
        reasons.update(at(now), sources);
        (reasons.due(at(now), &key("web")).is_some(), reasons.poll_timeout(at(now)))
    };
    assert_eq!(due(100, &no_leader), (false, Some(at(130))));
    assert_eq!(due(129, &no_leader), (false, Some(at(130))));
    assert_eq!(due(130, &no_leader), (true, None));
    // Another reason has a time of its own.
    assert_eq!(due(131, &not_held), (false, Some(at(161))));
    assert_eq!(due(160, &sources(|sources, _| hold(sources))), (false, None));
    assert_eq!(due(161, &not_held), (false, Some(at(191))));
    // A problem with an Event of its own.
    let refused = sources(|_, service| {
        service.addresses.clear();
        service.issues.push(Issue::Lease(String::new()));
    });
    assert_eq!((due(162, &refused).0, due(999, &refused).0), (false, false));
}
