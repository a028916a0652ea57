//! Packets of clients, through a router that spreads them over all hosts (ECMP), while things go wrong.

use std::time::Duration;

use kube_vip::model::BootTime;
use kube_vip_lab::note;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::workload::{Caller, Workload, set_pods};
use kube_vip_lab::{Neighbour, Router, RouterKind, ServiceLab, now};

use crate::bgp::{HOSTS, agents, router_with, wait_for_status};
use crate::harness::ServicesGuard;
use crate::traffic::{ip, serve, wait_for_answer};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("planned_changes_cost_clients_behind_a_router_no_requests", planned).alone(),
        trial("clients_behind_a_router_survive_failures", unplanned).alone(),
    ]
}

const SERVICE: &str = "10.43.0.20";
const ROUTE: &str = "10.43.0.20/32";

struct Scene {
    lab: ServicesGuard,
    router: Router,
    _workload: Workload,
}

impl Drop for Scene {
    fn drop(&mut self) {
        drop(route_client(&self.lab, &[]));
    }
}

/// Route the client's packets to addresses of Services by a router, or directly to the nodes that announce them.
fn route_client(lab: &ServiceLab, via: &[&str]) -> Outcome {
    let route = [&["route", "replace", "10.43.0.0/16"], via, &["dev", "eth0"]].concat();
    lab.lab.client_host.ip(&route)?;
    Ok(())
}

/// A Service on three hosts behind a router, with a pod on each of these.
fn scene(pods: &[usize]) -> Result<Scene, Failed> {
    let peers = "10.42.0.254:65001:::::true;300;300;3";
    let mut lab = agents(peers, &[("bgp_hold_time", "3"), ("bgp_keepalive_interval", "1")])?;
    let bfd = |neighbour: &mut Neighbour| neighbour.bfd = Some((300, 3));
    let router = router_with(&lab, RouterKind::Frr, 65_001, &HOSTS, bfd)?;
    let workload = Workload::start(&lab.lab)?;
    serve(&lab, "web", &format!("{SERVICE},fd43::3"), "Cluster", pods)?;
    lab.start_agents()?;
    router.wait_for_next_hops(ROUTE, &HOSTS)?;
    for host in 0..3 {
        wait_for_status(&lab, host, "BFD up")?;
    }
    route_client(&lab, &["via", "10.42.0.254"])?;
    let scene = Scene { lab, router, _workload: workload };
    wait_for_answer(&scene.lab, SERVICE)?;
    Ok(scene)
}

/// A client that sends requests all the time.
struct Witness {
    caller: Caller,
    begun: BootTime,
}

impl Witness {
    fn new(lab: &ServiceLab) -> Self {
        let caller = Caller::start(&lab.lab, ip(SERVICE), 80);
        // Fifty requests have used every next hop by then.
        std::thread::sleep(Duration::from_secs(1));
        Self { caller, begun: now() }
    }

    /// How many requests got no answer since it was last asked, or a second later.
    fn lost(&mut self, what: &str) -> usize {
        // A request counts as lost a second after its start.
        std::thread::sleep(Duration::from_secs(1));
        let asked = self.caller.since(self.begun);
        let lost = asked.iter().filter(|one| !one.answered).count();
        let outage = self.caller.outage(self.begun).as_secs_f64();
        note!("{what}: {lost} of {} requests lost, outage {outage:.3} s", asked.len());
        assert!(asked.len() > 20, "{what}: only {} requests", asked.len());
        self.begun = now();
        lost
    }
}

/// Agents that are stopped, replaced or killed; an API server that is killed. A connection that is under way when its packets
/// go another way is unknown there: one for each move is not ours to save.
fn planned() -> Outcome {
    let mut scene = scene(&[0, 1, 2])?;
    let (lab, router) = (&mut scene.lab, &scene.router);
    let mut witness = Witness::new(lab);
    let mut at_most = |what: &str, most: usize| {
        let lost = witness.lost(what);
        assert!(lost <= most, "{what}: {lost} requests lost");
    };
    lab.agent(0).terminate();
    assert!(lab.agent(0).wait(10)?.success());
    router.wait_for_next_hops(ROUTE, &HOSTS[1..])?;
    at_most("SIGTERM", 1);
    lab.start_agent(0)?;
    router.wait_for_next_hops(ROUTE, &HOSTS)?;
    at_most("start", 1);
    lab.agent(1).kill();
    lab.start_agent(1)?;
    wait_for_status(lab, 1, "Established")?;
    assert_eq!(router.next_hops(ROUTE), HOSTS);
    at_most("SIGKILL and restart", 1);
    for host in 0..3 {
        lab.agent(host).terminate();
        assert!(lab.agent(host).wait(10)?.success());
        lab.start_agent(host)?;
        router.wait_for_next_hops(ROUTE, &HOSTS)?;
    }
    at_most("rolling update", 6);
    lab.lab.host_mut(2).kill_api_server();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(router.next_hops(ROUTE), HOSTS, "nothing is withdrawn because an API server is away");
    at_most("an API server away", 1);
    lab.lab.start_api_server(2)?;
    lab.lab.wait_for_api_server(2)?;
    Ok(())
}

/// A host and the router's own daemons are lost.
fn unplanned() -> Outcome {
    // The lost host has no pod.
    let mut scene = scene(&[0, 2])?;
    set_pods(scene.lab.objects(), "web", &[0, 2])?;
    let (lab, router) = (&scene.lab, &mut scene.router);
    let mut witness = Witness::new(lab);
    lab.lab.segment.pull_cable(lab.lab.host(1).number)?;
    router.wait_for_next_hops(ROUTE, &[HOSTS[0], HOSTS[2]])?;
    witness.lost("host lost");
    assert!(witness.lost("after it") <= 1, "packets still go to a host that is lost");
    lab.lab.segment.plug_cable(lab.lab.host(1).number)?;
    router.wait_for_next_hops(ROUTE, &HOSTS)?;
    // After a failed ARP resolution hosts wait up to a second before the next one.
    witness.lost("host back");
    assert!(witness.lost("after that") <= 1, "a host that came back does not serve");
    router.kill();
    router.launch()?;
    router.wait_for_established(3)?;
    router.wait_for_next_hops(ROUTE, &HOSTS)?;
    witness.lost("router restarted");
    assert!(witness.lost("after it") <= 1, "the router does not spread packets as before");
    Ok(())
}
