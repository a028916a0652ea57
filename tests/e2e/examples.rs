//! What stands in the folder `examples` works as it stands there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Node;
use kube_vip_lab::{AgentOptions, Neighbour, Router, RouterKind, RouterOptions, Written, wait_for};
use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::bgp::{HOSTS, wait_for_status};
use crate::harness::{ServicesGuard, services};
use crate::trial;

type Outcome = Result<(), Failed>;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("the_bgp_example_works", bgp), trial("the_routing_table_example_works", table)]
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
        lab.delete("web")?;
        gateway.wait_for_next_hops(ROUTES[0], &[])?;
        lab.serve("web", "10.43.0.1")?;
        gateway.wait_for_next_hops(ROUTES[0], &HOSTS[..1])?;
        drop(beside);
        wait_for("the session to end", 20, || (gateway.established() == 0).then_some(()))?;
    }
    Ok(())
}
