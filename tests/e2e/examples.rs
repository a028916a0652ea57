//! The files in the folder `examples` work unchanged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Node, Service};
use kube_vip_lab::alerts::Recording;
use kube_vip_lab::avahi::Avahi;
use kube_vip_lab::home_router::HomeRouter;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{
    AgentOptions, DhcpServer, Neighbour, Router, RouterKind, RouterOptions, ServerKind, ServerOptions,
    Written, wait_for,
};
use serde_json::{Value, json};

use crate::bgp::{HOSTS, wait_for_status};
use crate::harness::{ServicesGuard, services};
use crate::upnp::{ALL, wait_until_reached, workload};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("the_bgp_example_works", bgp),
        trial("the_routing_table_example_works", table),
        trial("the_home_lab_example_works", home),
    ]
}

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

/// A router with the configuration of an example.
fn router(kind: RouterKind, bgp: &str, zebra: Option<&str>) -> Result<RouterOptions, Failed> {
    let read = |name: &str| std::fs::read_to_string(path(name)).map_err(|error| format!("{name}: {error}"));
    let zebra = zebra.map(read).transpose()?.unwrap_or_default();
    let written = Some(Written { bgp: read(bgp)?, zebra });
    Ok(RouterOptions { written, ..RouterOptions::new(kind, 0, Vec::new()) })
}

/// Agents with the configuration of an example, and nothing else.
fn agents(file: &str) -> Result<ServicesGuard, Failed> {
    let mut lab = services(&[])?;
    lab.options = AgentOptions { file: Some(path(file)), env: BTreeMap::new(), ..lab.plain_options() };
    lab.serve("web", "10.43.0.1")?;
    Ok(lab)
}

const ROUTES: [&str; 2] = ["10.43.0.1/32", "10.43.0.100/32"];

fn bgp() -> Outcome {
    let mut lab = agents("bgp/kube-vip.yaml")?;
    for (node, rack) in [("node-1", "a"), ("node-2", "b"), ("node-3", "a")] {
        lab.objects().patch::<Node>(node, json!({ "metadata": { "labels": { "rack": rack } } }))?;
    }
    let rack_a = Router::start(&lab.lab, router(RouterKind::Frr, "bgp/frr.conf", None)?)?;
    let rack_b = router(RouterKind::Bird, "bgp/bird.conf", None)?;
    let rack_b = Router::start_as(&lab.lab, "rackb", 253, rack_b)?;
    lab.start_agents()?;
    for route in ROUTES {
        rack_a.wait_for_next_hops(route, &[HOSTS[0], HOSTS[2]])?;
        rack_b.wait_for_next_hops(route, &HOSTS[1..2])?;
    }
    for host in 0..3 {
        wait_for_status(&lab, host, "BFD up")?;
    }
    Recording::begin(&lab.lab)?.expect(&[])?;
    assert!(rack_a.about(ROUTES[0]).contains("65000:1"), "{}", rack_a.about(ROUTES[0]));
    assert!(rack_b.about(ROUTES[0]).contains("(65000,2)"), "{}", rack_b.about(ROUTES[0]));
    Ok(())
}

fn table() -> Outcome {
    let mut lab = agents("routing-table/kube-vip.yaml")?;
    let neighbours = HOSTS.iter().map(|host| Neighbour::new(host, 65_000)).collect();
    let gateway = Router::start(&lab.lab, RouterOptions::new(RouterKind::Frr, 65_001, neighbours))?;
    lab.start_agents()?;
    for options in [
        router(RouterKind::Frr, "routing-table/bgpd.conf", Some("routing-table/zebra.conf"))?,
        router(RouterKind::Bird, "routing-table/bird.conf", None)?,
    ] {
        let beside = Router::on_host(lab.lab.host(0), options)?;
        for route in ROUTES {
            gateway.wait_for_next_hops(route, &HOSTS[..1])?;
        }
        Recording::begin(&lab.lab)?.expect(&[])?;
        lab.delete("web")?;
        gateway.wait_for_next_hops(ROUTES[0], &[])?;
        lab.serve("web", "10.43.0.1")?;
        gateway.wait_for_next_hops(ROUTES[0], &HOSTS[..1])?;
        drop(beside);
        wait_for("the session to end", 20, || (gateway.established() == 0).then_some(()))?;
    }
    Ok(())
}

/// The Service as it is written, with DHCP, UPnP and mDNS.
fn home() -> Outcome {
    let mut lab = services(&[("enable_upnp", "true")])?;
    let _dhcp = DhcpServer::start(&lab.lab, ServerOptions::new(ServerKind::Dnsmasq, 600))?;
    let mut router = HomeRouter::start(&lab.lab)?;
    router.switch_on(ALL)?;
    let avahi = Avahi::start(&lab.lab, "seeker", 246)?;
    let _workload = workload(&lab, "80")?;
    lab.start_agents()?;
    let text = std::fs::read_to_string(path("home-lab/web.yaml"))?;
    let web: Value = serde_saphyr::from_str(&text)?;
    lab.objects().create::<Service>("web", web)?;
    lab.set_endpoints("web", "a", &["node-1", "node-2", "node-3"])?;
    wait_until_reached(&router, "http://100.200.0.1:8080/", true)?;
    let address = wait_for("the name to be found", 20, || avahi.resolve("web.local", "-4"))?;
    lab.wait_for_status("web", &[&address, "100.200.0.1"])?;
    wait_for("the port to be browsed", 10, || {
        avahi.browse("_http._tcp").contains("web;_http._tcp;local;web.local;").then_some(())
    })?;
    Ok(Recording::begin(&lab.lab)?.expect(&[])?)
}
