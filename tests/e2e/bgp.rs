//! BGP: what real routers make of what the agents tell them.

use kube_vip_lab::{Neighbour, Router, RouterKind, RouterOptions, ServiceLab};
use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::harness::{ServicesGuard, services};
use crate::trial;

type Outcome = Result<(), Failed>;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("routers_of_every_kind_learn_the_routes_of_services", every_router)]
}

/// The hosts' addresses, as routers see them.
const HOSTS: [&str; 3] = ["10.42.0.11", "10.42.0.12", "10.42.0.13"];
const HOSTS_V6: [&str; 3] = ["fd42::11", "fd42::12", "fd42::13"];

/// Agents in AS 65000 that talk to these peers.
fn agents(peers: &str) -> Result<ServicesGuard, Failed> {
    Ok(services(&[
        ("vip_arp", "false"),
        ("bgp_enable", "true"),
        ("bgp_as", "65000"),
        ("bgp_peers", peers),
        ("bgp_hold_time", "9"),
        ("bgp_keepalive_interval", "3"),
    ])?)
}

/// A router for the three hosts.
fn router(lab: &ServiceLab, kind: RouterKind, asn: u32, hosts: &[&str]) -> Result<Router, Failed> {
    let neighbours = hosts.iter().map(|host| Neighbour::new(host, 65_000)).collect();
    Ok(Router::start(&lab.lab, RouterOptions::new(kind, asn, neighbours))?)
}

/// With each router, as a peer in another AS and in our own: the address of a Service is announced by every host with
/// policy Cluster, by those that have an endpoint with policy Local, and by nobody when there is none.
fn every_router() -> Outcome {
    for kind in RouterKind::ALL {
        for asn in [65_001, 65_000] {
            let mut lab = agents(&format!("10.42.0.254:{asn}"))?;
            let router = router(&lab, kind, asn, &HOSTS)?;
            lab.serve("web", "10.43.0.1")?;
            lab.start_agents()?;
            router.wait_for_established(3)?;
            router.wait_for_next_hops("10.43.0.1/32", &HOSTS)?;
            lab.wait_for_status("web", &["10.43.0.1"])?;
            lab.create("here", "10.43.0.2", json!({ "externalTrafficPolicy": "Local" }))?;
            lab.set_endpoints("here", "here-1", &["node-2"])?;
            router.wait_for_next_hops("10.43.0.2/32", &HOSTS[1..2])?;
            lab.set_endpoints("here", "here-1", &["node-3"])?;
            router.wait_for_next_hops("10.43.0.2/32", &HOSTS[2..])?;
            lab.set_endpoints("here", "here-1", &[])?;
            router.wait_for_next_hops("10.43.0.2/32", &[])?;
            lab.delete("web")?;
            router.wait_for_next_hops("10.43.0.1/32", &[])?;
            let _unused = HOSTS_V6;
        }
    }
    Ok(())
}
