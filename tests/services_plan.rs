//! Which addresses this host may hold, and by which election: the plan for Services, as data and by property.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use kube_vip::config::{Namespaces, Policy, Prefixes, Upnp};
use kube_vip::dhcp::fsm::ClientState;
use kube_vip::dhcp::spec::ClientStatus;
use kube_vip::election::scheme::member_of;
use kube_vip::model::Holder;
use kube_vip::model::annotation::{
    BGP_COMMUNITIES, DHCP_LEASE, FORCE_ELECTION, HARDWARE_ADDRESS, LEASE_NAME, LOAD_BALANCER_IPS,
    MACVLAN_NAME, REQUESTED_IP, SERVICE_INTERFACE, SERVICE_VLAN, VIP_HOST, WITHOUT_ENDPOINTS,
};
use kube_vip::model::interface::ManagedInterface;
use kube_vip::model::service::TrafficPolicy;
use kube_vip::model::{
    CandidacyKind, Family, GroupId, InterfaceSelector, LeaseName, PrefixLength, ServiceKey, ServiceView, Vip,
};
use kube_vip::planner::control_plane::ControlPlane;
use kube_vip::planner::endpoints::{Endpoint, Slice};
use kube_vip::planner::leases;
use kube_vip::planner::plan::{ClusterState, Mode, Plan, PlanContext, RouteRules, plan};
use kube_vip::planner::select::Rules;
use proptest::prelude::*;

const ME: &str = "node-1";

fn lease(text: &str) -> LeaseName {
    let (namespace, name) = text.split_once('/').unwrap();
    LeaseName { namespace: namespace.into(), name: name.into() }
}

fn base() -> LeaseName {
    lease("kube-system/plndr-svcs-lock")
}

fn groups(count: usize) -> Mode {
    Mode::Groups { base: base(), count, most: 3 }
}

fn context(mode: Mode) -> PlanContext {
    PlanContext {
        me: ME.into(),
        member: matches!(mode, Mode::Groups { .. }).then(|| member_of(&base(), ME)),
        rules: Rules { on_demand: true, ..Rules::default() },
        mode,
        control_plane: None,
        services: true,
        interface: InterfaceSelector::Named("eth0".into()),
        main_interface: "eth0".into(),
        v4: PrefixLength::Fixed(32),
        v6: PrefixLength::Fixed(128),
        routes: None,
        upnp: Upnp::default(),
        policy: Policy { infrastructure: Namespaces::All, share_control_plane: true, ..Policy::default() },
        host_uses: BTreeMap::new(),
    }
}

fn key(name: &str) -> ServiceKey {
    ServiceKey { namespace: "default".into(), name: name.into() }
}

/// A lease as it is written down.
fn record(address: &str) -> String {
    format!("{address} from 10.0.0.254 at 2026-11-22T05:00:00Z for 60 renew 30 rebind 52")
}

/// One that had ended a second before that.
const ENDED: &str = "10.0.0.9 from 10.0.0.254 at 2026-11-22T04:58:59Z for 60 renew 30 rebind 52";

fn group(text: &str) -> GroupId {
    lease(text).into()
}

/// The control plane with one VIP, elected on its Lease.
fn control_plane(vip: &str) -> ControlPlane {
    ControlPlane {
        lease: lease("kube-system/plndr-cp-lock"),
        groups: vec![group("kube-system/plndr-cp-lock")],
        interface: "eth0".into(),
        prefixes: Prefixes { v4: None, v6: None },
        fixed: [Vip::host(vip.parse().unwrap())].into(),
        names: BTreeSet::new(),
        dhcp: None,
        mdns: None,
        resuming: false,
    }
}

/// A cluster that is built up line by line.
struct Scene {
    seen: ClusterState,
    age: i64,
}

impl Default for Scene {
    fn default() -> Self {
        Self { seen: ClusterState { listed: true, ..ClusterState::default() }, age: 0 }
    }
}

impl Scene {
    /// A Service with these addresses, and endpoints on these nodes.
    fn service(mut self, name: &str, addresses: &str, nodes: &[&str]) -> Self {
        self.age += 1;
        let mut view = ServiceView { load_balancer: true, created: self.age, ..ServiceView::default() };
        view.uid = name.into();
        view.annotations.insert(LOAD_BALANCER_IPS.into(), addresses.into());
        self.seen.services.insert(key(name), Arc::new(view));
        let endpoints =
            nodes.iter().map(|node| Endpoint { node: Some((*node).into()), ready: true, serving: true });
        let endpoints = endpoints.collect();
        self.seen.endpoints.apply(Slice { service: key(name), name: "a".into(), family: None, endpoints });
        self
    }

    fn local(mut self, name: &str) -> Self {
        Arc::make_mut(self.seen.services.get_mut(&key(name)).unwrap()).traffic_policy = TrafficPolicy::Local;
        self
    }

    fn annotated(mut self, name: &str, annotation: &str, value: &str) -> Self {
        let view = Arc::make_mut(self.seen.services.get_mut(&key(name)).unwrap());
        view.annotations.insert(annotation.into(), value.into());
        self
    }

    /// A DHCP server gave it this address.
    fn leased(mut self, name: &str, address: &str) -> Self {
        let (saved, state) = (record(address).parse().ok(), ClientState::Bound);
        let address = address.parse().ok();
        let held = ClientStatus { address, saved, state, probed: false, last_error: None };
        self.seen.leases.insert(leases::key(&self.seen.services[&key(name)], Family::V4), held);
        self
    }

    /// And that was written down.
    fn recorded(self, name: &str, address: &str) -> Self {
        self.annotated(name, DHCP_LEASE, &record(address))
    }

    fn plan(&self, mode: Mode) -> Plan {
        plan(&context(mode), &self.seen)
    }
}

/// Lease, whether this host is a candidate, addresses here.
fn shown(plan: &Plan) -> Vec<String> {
    plan.groups
        .iter()
        .map(|(lease, group)| {
            let addresses: Vec<String> =
                group.addresses.iter().map(|spec| spec.address.to_string()).collect();
            let part = if group.candidacy.eligible { "candidate" } else { "stays away" };
            format!("{lease} {part}: {}", addresses.join(" ")).trim_end().to_owned()
        })
        .collect()
}

#[test]
fn one_election_for_all() {
    let scene = Scene::default()
        .service("web", "10.0.0.1,fd00::1", &["node-2"])
        .service("empty", "", &["node-1"])
        .service("idle", "10.0.0.2", &[])
        .service("here", "10.0.0.3", &["node-1"])
        .service("there", "10.0.0.4", &["node-2"])
        .local("here")
        .local("there");
    let plan = scene.plan(Mode::Global(base()));
    assert_eq!(shown(&plan), ["kube-system/plndr-svcs-lock candidate: 10.0.0.1 10.0.0.3 fd00::1"]);
    assert!(!plan.services[&key("idle")].has_endpoints && !plan.services[&key("there")].servable_here);
}

#[test]
fn one_election_for_each() {
    let scene = Scene::default()
        .service("web", "10.0.0.1", &["node-2"])
        .service("idle", "10.0.0.2", &[])
        .service("forced", "10.0.0.3", &[])
        .annotated("forced", WITHOUT_ENDPOINTS, "True")
        .service("there", "10.0.0.4", &["node-2"])
        .local("there");
    assert_eq!(
        shown(&scene.plan(Mode::PerService)),
        [
            "default/kubevip-forced candidate: 10.0.0.3",
            "default/kubevip-idle stays away:",
            "default/kubevip-there stays away: 10.0.0.4",
            "default/kubevip-web candidate: 10.0.0.1",
        ]
    );
}

#[test]
fn a_dhcp_lease_has_a_leader_although_no_node_can_serve_the_service() {
    let address = "10.0.0.9";
    let scene = |nodes: &[&str]| {
        Scene::default().service("web", "0.0.0.0", nodes).local("web").leased("web", address)
    };
    let web = |scene: &Scene| shown(&scene.plan(Mode::PerService)).remove(0);
    assert_eq!(web(&scene(&[])), "default/kubevip-web candidate:");
    assert_eq!(web(&scene(&[ME])), "default/kubevip-web candidate: 10.0.0.9");
    // The node that renewed it meanwhile hands it over to a node that can serve it, and never has the address.
    assert_eq!(web(&scene(&["node-2"])), "default/kubevip-web stays away:");
    let announced = scene(&["node-2"]).annotated("web", VIP_HOST, ME);
    assert_eq!(web(&announced), "default/kubevip-web stays away: 10.0.0.9");
}

/// A server that has lost its leases offers an address that is in use.
#[test]
fn an_address_in_use_is_refused_from_any_source() {
    let (given, webs) = ("10.0.0.9", "10.0.0.9 belongs to Service default/web");
    // A younger Service asks, and is given the address of the older one; what else is so; whose the address is.
    type Change = fn(Scene) -> Scene;
    let table: [(&str, &str, Change, Option<&str>); 10] = [
        ("free", "10.0.0.1", |scene| scene, None),
        ("by hand", given, |scene| scene, Some(webs)),
        // It may have had it before.
        ("by hand, and asked for", given, |it| it.annotated("late", REQUESTED_IP, "10.0.0.9"), Some(webs)),
        (
            "by hand after the lease had ended",
            given,
            |it| it.annotated("late", DHCP_LEASE, ENDED),
            Some(webs),
        ),
        ("by hand later", given, |scene| scene.recorded("late", "10.0.0.9"), None),
        (
            "another lease",
            "0.0.0.0",
            |scene| scene.leased("web", "10.0.0.9"),
            Some("leased to Service default/web, too"),
        ),
        (
            "both were written",
            "0.0.0.0",
            |scene| scene.leased("web", "10.0.0.9").recorded("web", "10.0.0.9").recorded("late", "10.0.0.9"),
            None,
        ),
        (
            "one client",
            "0.0.0.0",
            |scene| {
                let hardware = "02:00:00:00:00:01";
                let scene = scene.leased("web", "10.0.0.9");
                scene.annotated("web", HARDWARE_ADDRESS, hardware).annotated(
                    "late",
                    HARDWARE_ADDRESS,
                    hardware,
                )
            },
            None,
        ),
        (
            "a node's",
            "10.0.0.1",
            |mut scene| {
                scene.seen.reserved.nodes.insert("10.0.0.9".parse().unwrap(), "node-7".into());
                scene
            },
            Some("node node-7's own"),
        ),
        (
            "the control plane's",
            "10.0.0.1",
            |mut scene| {
                scene.seen.vips.insert("10.0.0.9".parse().unwrap());
                scene
            },
            Some("10.0.0.9 is the control plane's"),
        ),
    ];
    for (name, older, change, whose) in table {
        let scene = Scene::default().service("web", older, &[ME]).service("late", "0.0.0.0", &[ME]);
        let plan = change(scene.leased("late", given)).plan(Mode::Global(base()));
        let late = &plan.services[&key("late")];
        assert_eq!(late.addresses.is_empty(), whose.is_some(), "{name}: {late:?}");
        assert_eq!(
            plan.lease_conflicts.len(),
            usize::from(whose.is_some()),
            "{name}: {:?}",
            plan.lease_conflicts
        );
        let told: Vec<&String> = plan.lease_conflicts.values().collect();
        assert!(whose.is_none_or(|whose| told[0].contains(whose)), "{name}: {told:?}");
    }
}

#[test]
fn services_that_share_an_address_or_a_lease_go_together_on_the_oldest_ones_lease() {
    let scene = Scene::default()
        .service("old", "10.0.0.1", &["node-1"])
        .service("young", "10.0.0.1,10.0.0.2", &["node-1"])
        .service("third", "10.0.0.2", &["node-1"])
        .service("named", "10.0.0.5", &["node-1"])
        .annotated("named", LEASE_NAME, "shop/common")
        .service("alike", "10.0.0.6", &["node-1"])
        .annotated("alike", LEASE_NAME, "shop/common");
    assert_eq!(
        shown(&scene.plan(Mode::PerService)),
        ["default/kubevip-old candidate: 10.0.0.1 10.0.0.2", "shop/common candidate: 10.0.0.5 10.0.0.6"]
    );
}

#[test]
fn a_service_that_asks_for_it_has_an_election_of_its_own() {
    let scene = Scene::default()
        .service("web", "10.0.0.1", &["node-1"])
        .service("own", "10.0.0.2", &["node-1"])
        .annotated("own", FORCE_ELECTION, "true");
    assert_eq!(
        shown(&scene.plan(Mode::Global(base()))),
        ["default/kubevip-own candidate: 10.0.0.2", "kube-system/plndr-svcs-lock candidate: 10.0.0.1"]
    );
}

#[test]
fn groups_take_the_services_that_any_node_can_serve() {
    let scene = Scene::default()
        .service("a", "10.0.0.4", &["node-1"])
        .service("b", "10.0.0.5", &["node-1"])
        .service("local", "10.0.0.6", &["node-1"])
        .local("local");
    assert_eq!(
        shown(&scene.plan(groups(2))),
        [
            "default/kubevip-local candidate: 10.0.0.6",
            "kube-system/plndr-svcs-lock-0 candidate: 10.0.0.4",
            "kube-system/plndr-svcs-lock-1 candidate: 10.0.0.5",
            "kube-system/plndr-svcs-lock-member-node-1 candidate:",
        ]
    );
}

/// Holders of group Leases: a suffix, a node, and whether it renews in time.
fn held(leases: &[(&str, &str, bool)]) -> BTreeMap<LeaseName, Holder> {
    let named = |(suffix, node, is_current): &(&str, &str, bool)| {
        let holder = Holder { identity: (*node).to_owned(), is_current: *is_current };
        (lease(&format!("kube-system/plndr-svcs-lock{suffix}")), holder)
    };
    leases.iter().map(named).collect()
}

#[test]
fn a_node_with_more_than_its_share_hands_over() {
    let mut scene = Scene::default();
    scene.seen.holders = held(&[("-0", ME, true), ("-1", ME, true), ("-member-node-2", "node-2", true)]);
    let plan = scene.plan(groups(2));
    let mine: Vec<bool> = plan.groups.values().map(|group| group.candidacy.eligible).collect();
    // One of the two goes; the third is this node's own membership.
    assert_eq!(mine.iter().filter(|eligible| **eligible).count(), 2, "{:?}", shown(&plan));
}

#[test]
fn a_node_that_is_late_with_its_renewals_is_given_nothing_and_its_groups_are_shared_out_ahead() {
    let mut scene = Scene::default();
    // Of the three groups of node-2 the first is free already, and taken; the others end in a moment.
    scene.seen.holders = held(&[
        ("-0", ME, true),
        ("-1", "node-2", false),
        ("-2", "node-2", false),
        ("-member-node-2", "node-2", false),
    ]);
    let plan = scene.plan(groups(3));
    for (lease, group) in &plan.groups {
        let candidacy = group.candidacy;
        assert!(candidacy.eligible && candidacy.delay == Duration::ZERO, "{lease}: {candidacy:?}");
    }
}

#[test]
fn an_earlier_version_of_a_service_does_not_replace_a_later_one() {
    let view = |version: &str| ServiceView { resource_version: version.into(), ..ServiceView::default() };
    let mut state = ClusterState::default();
    for (version, known) in [("9", "9"), ("12", "12"), ("11", "12")] {
        state.apply(key("web"), view(version));
        assert_eq!(state.services[&key("web")].resource_version, known, "{version}");
    }
}

/// The nodes in the order in which they take a Service's free Lease, where all of them are there.
fn order(scene: &Scene, name: &str) -> Vec<(Duration, String)> {
    let nodes = ["node-1", "node-2", "node-3"];
    let mut order: Vec<(Duration, String)> = nodes
        .iter()
        .map(|me| {
            let plan = plan(&PlanContext { me: (*me).to_owned(), ..context(Mode::PerService) }, &scene.seen);
            (plan.groups[&group(&format!("default/kubevip-{name}"))].candidacy.delay, (*me).to_owned())
        })
        .collect();
    order.sort();
    order
}

#[test]
fn of_the_nodes_that_are_there_one_goes_first_for_each_service() {
    let mut scene = Scene::default().service("local", "10.0.1.1", &["node-2"]).local("local");
    for number in 1..=30 {
        scene = scene.service(&format!("web-{number}"), &format!("10.0.0.{number}"), &["node-1"]);
    }
    let holder = |node: &str, is_current| Holder { identity: node.to_owned(), is_current };
    for (number, node) in [(1, "node-1"), (2, "node-2"), (3, "node-3")] {
        scene.seen.holders.insert(lease(&format!("default/kubevip-web-{number}")), holder(node, true));
    }
    let steps = [0, 30, 60].map(Duration::from_millis);
    let mut first: BTreeMap<String, usize> = BTreeMap::new();
    for number in 1..=30 {
        let order = order(&scene, &format!("web-{number}"));
        assert_eq!(order.iter().map(|(delay, _)| *delay).collect::<Vec<_>>(), steps);
        *first.entry(order[0].1.clone()).or_default() += 1;
    }
    assert!(first.len() == 3 && first.values().all(|count| (4..=16).contains(count)), "{first:?}");
    // Candidates do not wait for a node that cannot serve it or renews late.
    assert_eq!(order(&scene, "local").iter().find(|(_, node)| node == "node-2").unwrap().0, Duration::ZERO);
    scene.seen.holders.insert(lease("default/kubevip-web-3"), holder("node-3", false));
    for number in 1..=30 {
        let order = order(&scene, &format!("web-{number}"));
        let delays = order.iter().filter(|(_, node)| node != "node-3").map(|(delay, _)| *delay);
        assert_eq!(delays.collect::<Vec<_>>(), steps[..2]);
    }
}

#[test]
fn a_service_on_the_control_planes_address_goes_where_that_goes() {
    let scene =
        Scene::default().service("web", "10.0.0.1", &["node-1"]).service("more", "10.0.0.2", &["node-1"]);
    let context = PlanContext { control_plane: Some(control_plane("10.0.0.1")), ..context(Mode::PerService) };
    let seen = ClusterState { vips: ["10.0.0.1".parse().unwrap()].into(), ..scene.seen };
    let plan = plan(&context, &seen);
    assert_eq!(
        shown(&plan),
        ["default/kubevip-more candidate: 10.0.0.2", "kube-system/plndr-cp-lock candidate: 10.0.0.1"]
    );
    assert_eq!(plan.services[&key("web")].group, Some(group("kube-system/plndr-cp-lock")));
}

/// Services elected on the control plane's Lease.
fn shared_lease() -> PlanContext {
    PlanContext {
        control_plane: Some(control_plane("10.0.0.1")),
        ..context(Mode::Global(lease("kube-system/plndr-cp-lock")))
    }
}

#[test]
fn on_the_control_planes_lease_addresses_and_managed_interfaces_of_services_join_its_group() {
    let mut scene = Scene::default()
        .service("web", "10.0.0.2", &["node-1"])
        .service("leased", "0.0.0.0", &["node-1"])
        .annotated("leased", MACVLAN_NAME, "lan");
    scene.seen.vips = ["10.0.0.1".parse().unwrap()].into();
    let plan = plan(&shared_lease(), &scene.seen);
    assert_eq!(shown(&plan), ["kube-system/plndr-cp-lock candidate: 10.0.0.1 10.0.0.2"]);
    let group = &plan.groups[&group("kube-system/plndr-cp-lock")];
    assert_eq!(group.candidacy.kind, CandidacyKind::ControlPlane);
    assert_eq!(group.interfaces.iter().map(ManagedInterface::name).collect::<Vec<_>>(), ["lan"]);
    assert_eq!(plan.unverified, ["10.0.0.2".parse().unwrap()].into());
}

#[test]
fn on_the_control_planes_lease_routes_of_the_vip_and_of_services_are_advertised_together() {
    let rules = RouteRules { attach: false, external_ips: false, networks: vec![], service_cidrs: false };
    let mut context = PlanContext { routes: Some(rules), ..shared_lease() };
    let mut scene = Scene::default()
        .service("web", "10.0.0.2", &["node-1"])
        .service("shares", "10.0.0.1", &["node-1"])
        .annotated("shares", BGP_COMMUNITIES, "65000:100");
    scene.seen.vips = ["10.0.0.1".parse().unwrap()].into();
    for (namespaces, expected) in
        [(Namespaces::All, vec![65_000 << 16 | 100]), (Namespaces::default(), vec![])]
    {
        context.policy.infrastructure = namespaces;
        let routes = plan(&context, &scene.seen).groups[&group("kube-system/plndr-cp-lock")].routes.clone();
        assert_eq!(routes.values().map(|route| &route.communities).collect::<Vec<_>>(), [&expected, &vec![]]);
    }
    assert_eq!(shown(&plan(&context, &scene.seen))[0], "kube-system/plndr-cp-lock candidate: 10.0.0.1");
}

#[test]
fn without_election_of_the_control_plane_services_have_their_lease_to_themselves() {
    let families = Family::BOTH.map(|family| GroupId::ControlPlane(Some(family)));
    let rules = RouteRules { attach: true, external_ips: false, networks: vec![], service_cidrs: false };
    let anycast = ControlPlane { groups: families.to_vec(), ..control_plane("10.0.0.1") };
    let context = PlanContext { control_plane: Some(anycast), routes: Some(rules), ..shared_lease() };
    let mut scene = Scene::default().service("web", "10.0.0.2", &["node-1"]);
    scene.seen.vips = ["10.0.0.1".parse().unwrap()].into();
    let plan = plan(&context, &scene.seen);
    let expected = [
        "kube-system/plndr-cp-lock candidate: 10.0.0.2",
        "control plane, IPv4 stays away: 10.0.0.1",
        "control plane, IPv6 stays away:",
        "every node stays away:",
    ];
    assert_eq!(shown(&plan), expected);
}

#[test]
fn the_control_plane_is_planned_before_services_are_listed() {
    let mut scene = Scene::default().service("web", "10.0.0.2", &["node-1"]);
    scene.seen.listed = false;
    let plan = plan(&shared_lease(), &scene.seen);
    assert_eq!(shown(&plan), ["kube-system/plndr-cp-lock candidate: 10.0.0.1"]);
    assert!(plan.services.is_empty());
    let (first, vips) = kube_vip::planner::first_plan(&shared_lease());
    assert_eq!((first.groups.len(), first.complete), (1, false));
    assert_eq!(vips, [Vip::host("10.0.0.1".parse().unwrap())].into());
}

#[test]
fn where_addresses_go() {
    let scene = Scene::default()
        .service("plain", "10.0.0.1", &["node-1"])
        .service("named", "10.0.0.2", &["node-1"])
        .annotated("named", SERVICE_INTERFACE, "eth7")
        .service("auto", "10.0.0.3", &["node-1"])
        .annotated("auto", SERVICE_INTERFACE, "auto")
        .service("vlan", "10.0.0.4", &["node-1"])
        .annotated("vlan", SERVICE_VLAN, "eth1.200")
        .annotated("vlan", SERVICE_INTERFACE, "eth7");
    let plan = scene.plan(Mode::Global(base()));
    let interfaces: Vec<InterfaceSelector> =
        plan.groups[&base().into()].addresses.iter().map(|spec| spec.interface.clone()).collect();
    assert_eq!(
        interfaces,
        [
            InterfaceSelector::Named("eth0".into()),
            InterfaceSelector::Named("eth7".into()),
            InterfaceSelector::OfSubnet("eth0".into()),
            InterfaceSelector::Managed(ManagedInterface::Vlan { parent: "eth1".into(), tag: 200 }),
        ]
    );
    let wrong = Scene::default().service("vlan", "10.0.0.4", &["node-1"]).annotated(
        "vlan",
        SERVICE_VLAN,
        "eth1.5000",
    );
    let issues = &wrong.plan(Mode::PerService).services[&key("vlan")].issues;
    assert_eq!(issues.len(), 1, "{issues:?}");
}

proptest! {
    // A failure prints its input; it is kept as a test of its own, not in a file.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What must never happen: one address in two elections.
    #[test]
    fn an_address_belongs_to_one_election(
        services in prop::collection::vec((0..8_u8, prop::option::of(0..8_u8), any::<bool>(), any::<bool>(), 0..3_u8), 1..12),
        mode in 0..3,
    ) {
        let mut scene = Scene::default();
        for (number, (first, second, local, force, common)) in services.iter().enumerate() {
            let name = format!("s{number}");
            let second = second.map(|second| format!(",10.0.0.{second}")).unwrap_or_default();
            scene = scene.service(&name, &format!("10.0.0.{first}{second}"), &["node-1"]);
            if *local {
                scene = scene.local(&name);
            }
            if *force {
                scene = scene.annotated(&name, FORCE_ELECTION, "true");
            }
            if *common > 0 {
                scene = scene.annotated(&name, LEASE_NAME, &format!("common-{common}"));
            }
        }
        let plan = scene.plan(match mode {
            0 => Mode::Global(base()),
            1 => Mode::PerService,
            _ => groups(3),
        });
        let mut owners: BTreeMap<IpAddr, BTreeSet<&GroupId>> = BTreeMap::new();
        for (id, group) in &plan.groups {
            for spec in &group.addresses {
                owners.entry(spec.address).or_default().insert(id);
            }
        }
        for (address, leases) in owners {
            prop_assert_eq!(leases.len(), 1, "{} belongs to {:?}", address, leases);
        }
    }
}

#[test]
fn an_address_that_its_dhcp_client_has_just_probed_is_not_probed_again() {
    let mut scene = Scene::default().service("web", "0.0.0.0", &[ME]).leased("web", "10.0.0.9");
    assert_eq!(scene.plan(Mode::PerService).unverified.len(), 1);
    scene.seen.leases.values_mut().for_each(|lease| lease.probed = true);
    assert!(scene.plan(Mode::PerService).unverified.is_empty());
}
