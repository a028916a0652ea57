//! `cargo xtask bench plan`: what a plan costs by the number of Services, without a cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use kube_vip::config::{Policy, Upnp};
use kube_vip::election::scheme::member_of;
use kube_vip::model::annotation::{LOAD_BALANCER_IPS, VIP_HOST};
use kube_vip::model::service::Ingress;
use kube_vip::model::{Holder, InterfaceSelector, LeaseName, PrefixLength, ServiceKey, ServiceView};
use kube_vip::planner::endpoints::{Endpoint, Slice};
use kube_vip::planner::plan::{ClusterState, Mode, Plan, PlanContext, plan};
use kube_vip::planner::select::Rules;

use super::save;
use super::services::{Options, Report};
use crate::sh::Outcome;

const RUNS: usize = 10;
const NODES: [&str; 3] = ["node-1", "node-2", "node-3"];

/// Services of type LoadBalancer, and all Services with them.
const SIZES: [(u32, u32); 4] = [(100, 1_000), (1_000, 10_000), (5_000, 50_000), (50_000, 50_000)];

pub(crate) fn run_all(options: &Options) -> Outcome {
    let mut report = Report::default();
    for (name, mode) in [("groups", groups()), ("per-service", Mode::PerService)] {
        for (balancers, all) in SIZES.into_iter().filter(|_| options.wants(name)) {
            let context = context(mode.clone());
            let mut state = state(balancers, all);
            state.note_services(&context.rules, &Plan::default());
            let before = plan(&context, &state);
            let times = (0..RUNS).map(|_| {
                let start = kube_vip_lab::now();
                state.note_services(&context.rules, &before);
                std::hint::black_box(plan(&context, &state));
                kube_vip_lab::now().since(start).as_secs_f64() * 1000.0
            });
            let work = format!("{name}: a plan of {balancers} load balancers among {all} Services");
            report.add_all(&work, times.collect(), "ms", "");
        }
    }
    report.print();
    save(&report, options.json(), "target/bench-plan.json")
}

fn base() -> LeaseName {
    LeaseName { namespace: "kube-system".into(), name: "plndr-svcs-lock".into() }
}

fn groups() -> Mode {
    Mode::Groups { base: base(), count: 16, most: 3 }
}

fn context(mode: Mode) -> PlanContext {
    PlanContext {
        me: NODES[0].into(),
        rules: Rules { on_demand: true, ..Rules::default() },
        mode,
        member: Some(member_of(&base(), NODES[0])),
        control_plane: None,
        services: true,
        interface: InterfaceSelector::Named("eth0".into()),
        main_interface: "eth0".into(),
        v4: PrefixLength::Fixed(32),
        v6: PrefixLength::Fixed(128),
        routes: None,
        upnp: Upnp::default(),
        policy: Policy::default(),
        host_uses: BTreeMap::new(),
    }
}

/// Every node takes part, and every Service is announced and has an endpoint on each.
fn state(balancers: u32, all: u32) -> ClusterState {
    let mut state = ClusterState { listed: true, nodes_listed: true, ..ClusterState::default() };
    for node in NODES {
        state.holders.insert(member_of(&base(), node), Holder { identity: node.into(), is_current: true });
    }
    for number in 0..all {
        let key = ServiceKey {
            namespace: format!("namespace-{}", number % 100),
            name: format!("service-{number}"),
        };
        let view = service(number, number < balancers);
        state.services.insert(key.clone(), Arc::new(view));
        let endpoints = NODES.map(|node| Endpoint { node: Some(node.into()), ready: true, serving: true });
        let name = format!("{}-a", key.name);
        state.endpoints.apply(Slice { service: key, name, family: None, endpoints: endpoints.into() });
    }
    state
}

fn service(number: u32, load_balancer: bool) -> ServiceView {
    let cluster_ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 0, 0)) + number);
    let mut view = ServiceView {
        uid: number.to_string(),
        created: i64::from(number),
        cluster_ips: vec![cluster_ip.into()],
        load_balancer,
        ..ServiceView::default()
    };
    if load_balancer {
        let address: IpAddr = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 0, 0)) + number).into();
        view.annotations.insert(LOAD_BALANCER_IPS.into(), address.to_string());
        view.annotations.insert(VIP_HOST.into(), "node-1".into());
        view.status.push(Ingress { ip: Some(address), ..Ingress::default() });
    }
    view
}
