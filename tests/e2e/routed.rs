//! What holds for BGP and for the routing table alike.

use k8s_openapi::api::core::v1::Service;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{Router, RouterKind, ServiceLab, wait_for};
use serde_json::json;

use crate::bgp::{HOSTS, HOSTS_V6, agents, router};
use crate::harness::{ServicesGuard, services};
use crate::table::{table, wait_for_route};

type Env<'a> = &'a [(&'a str, &'a str)];

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("each_address_of_the_control_plane_depends_on_its_own_family", family),
        trial("a_url_may_check_the_health_of_the_control_plane", url),
        trial("elections_of_every_kind_choose_who_has_routes", elections),
        trial("an_exit_removes_all_routes_and_addresses", exits),
    ]
}

const TABLE: [(&str, &str); 2] = [("vip_arp", "false"), ("vip_routingtable", "true")];
const CONTROL_PLANE: [(&str, &str); 2] = [("cp_enable", "true"), ("address", "10.43.0.100,fd43::100")];
const NO_ELECTION: (&str, &str) = ("vip_leaderelection", "false");
const PEERS: &str = "10.42.0.254:65001,[fd42::254]:65001";

/// An API server that answers by one family only has the address of that one only.
fn family() -> Outcome {
    let mut lab = services(&[&TABLE[..], &CONTROL_PLANE, &[NO_ELECTION]].concat())?;
    let host = &lab.lab.host(1).namespace;
    host.run(&["nft", "add table ip6 hole"])?;
    host.run(&["nft", "add chain ip6 hole in { type filter hook input priority 0 ; }"])?;
    let block = ["nft", "add rule ip6 hole in tcp dport 6443 drop"];
    lab.start_agents()?;
    wait_for_route(&lab, 0, "fd43::100", true)?;
    wait_for_route(&lab, 1, "fd43::100", true)?;
    // From the start of an agent as well. Its rights are in effect by now: an API server learns of them by `[::1]:6443`.
    lab.agent(1).terminate();
    lab.agent(1).wait(10)?;
    wait_for_route(&lab, 1, "10.43.0.100", false)?;
    lab.lab.host(1).namespace.run(&block)?;
    lab.start_agent(1)?;
    wait_for_route(&lab, 1, "10.43.0.100", true)?;
    let host = &lab.lab.host(1).namespace;
    wait_for_route(&lab, 1, "fd43::100", false)?;
    host.run(&["nft", "flush table ip6 hole"])?;
    wait_for_route(&lab, 1, "fd43::100", true)?;
    host.run(&block)?;
    wait_for_route(&lab, 1, "fd43::100", false)?;
    wait_for_route(&lab, 1, "10.43.0.100", true)?;
    let on_link = host.ip(&["addr", "show", "dev", "eth0"])?;
    assert!(on_link.contains("10.43.0.100/32") && !on_link.contains("fd43::100"), "{on_link}");
    host.run(&["nft", "delete table ip6 hole"])?;
    wait_for_route(&lab, 1, "fd43::100", true)
}

/// A URL judges all addresses, every 250 ms if that is wanted; the loss of one server costs one way, and no request.
fn url() -> Outcome {
    let check = [
        ("control_plane_health_check_address", "https://127.0.0.1:6443/livez"),
        ("control_plane_health_check_period_seconds", "0"),
        ("control_plane_health_check_timeout_seconds", "1"),
        ("control_plane_health_check_failure_threshold", "3"),
        ("control_plane_health_check_ca_path", "/etc/ca.crt"),
    ];
    let mut lab = agents(PEERS, &[&CONTROL_PLANE[..], &[NO_ELECTION], &check].concat())?;
    for host in 0..3 {
        let etc = lab.lab.host(host).folder.join("root/etc");
        std::fs::create_dir_all(&etc)?;
        std::fs::copy(lab.lab.pki.path("ca.crt"), etc.join("ca.crt"))?;
    }
    let router = router(&lab, RouterKind::Frr, 65_001, &[HOSTS, HOSTS_V6].concat())?;
    lab.start_agents()?;
    router.wait_for_next_hops("10.43.0.100/32", &HOSTS)?;
    lab.lab.host_mut(2).kill_api_server();
    router.wait_for_next_hops("10.43.0.100/32", &HOSTS[..2])?;
    wait_for("two ways to the IPv6 VIP", 20, || {
        (router.next_hops("fd43::100/128").len() == 2).then_some(())
    })?;
    lab.lab.start_api_server(2)?;
    lab.lab.wait_for_api_server(2)?;
    router.wait_for_next_hops("10.43.0.100/32", &HOSTS)?;
    Ok(())
}

/// How a test sees where a route is: by way of a router, or in the hosts' tables.
struct Sight<'a> {
    lab: &'a ServiceLab,
    router: Option<&'a Router>,
}

impl Sight<'_> {
    /// How many hosts have it.
    fn ways(&self, route: &str) -> usize {
        let length = if route.contains(':') { 128 } else { 32 };
        match self.router {
            Some(router) => router.next_hops(&format!("{route}/{length}")).len(),
            None => (0..3).filter(|host| table(self.lab, *host).contains(&format!("{route} dev"))).count(),
        }
    }

    fn wait_for_ways(&self, route: &str, count: usize, what: &str) -> Outcome {
        wait_for(&format!("{what}: {route} on {count} hosts"), 20, || {
            (self.ways(route) == count).then_some(())
        })?;
        Ok(())
    }
}

/// Agents in either mode, and the router that they talk to.
fn scene(bgp: bool, env: &[(&str, &str)]) -> Result<(ServicesGuard, Option<Router>), Failed> {
    if !bgp {
        return Ok((services(&[&TABLE[..], env].concat())?, None));
    }
    let lab = agents(PEERS, env)?;
    let router = router(&lab, RouterKind::Frr, 65_001, &[HOSTS, HOSTS_V6].concat())?;
    Ok((lab, Some(router)))
}

fn mode(bgp: bool) -> &'static str {
    if bgp { "BGP" } else { "routing table" }
}

/// One election for all, one for each, one for a group by its own name, and on demand beside Services without election:
/// one host has the route, until the last Service of the address is deleted.
fn elections() -> Outcome {
    let each: Env<'_> = &[("svc_election", "true")];
    let on_demand: Env<'_> = &[NO_ELECTION, ("per_service_election_on_demand", "true")];
    let by_name = json!({ "kube-vip.io/leaseName": "common" });
    let forced = json!({ "kube-vip.io/forcePerServiceElection": "true", "kube-vip.io/leaseName": "common" });
    let table = [
        ("one for all", &[][..], json!({})),
        ("one each", each, json!({})),
        ("by name", each, by_name),
        ("on demand", on_demand, forced),
    ];
    for (bgp, (what, env, annotations)) in
        [false, true].iter().flat_map(|bgp| table.iter().map(|row| (*bgp, row)))
    {
        let what = &format!("{}, {what}", mode(bgp));
        let (mut lab, router) = scene(bgp, env)?;
        for (name, address) in [("first", "10.43.0.1,fd43::1"), ("second", "10.43.0.1")] {
            lab.serve(name, address)?;
            let patch = json!({ "metadata": { "annotations": annotations } });
            lab.objects().patch::<Service>(name, patch)?;
        }
        lab.serve("other", "10.43.0.2")?;
        lab.start_agents()?;
        let sight = Sight { lab: &lab, router: router.as_ref() };
        // With BGP, one election for all is none: routers choose, as with the Go program.
        let elected = if bgp && env.is_empty() { 3 } else { 1 };
        let other = if what.ends_with("on demand") { 3 } else { elected };
        sight.wait_for_ways("10.43.0.2", other, what)?;
        for route in ["10.43.0.1", "fd43::1"] {
            sight.wait_for_ways(route, elected, what)?;
        }
        lab.delete("first")?;
        sight.wait_for_ways("fd43::1", 0, what)?;
        sight.wait_for_ways("10.43.0.1", elected, what)?;
        lab.delete("second")?;
        sight.wait_for_ways("10.43.0.1", 0, what)?;
        lab.stop_agents()?;
    }
    Ok(())
}

/// In either mode, with the control plane, Services, or both, elected or not: an agent that gets SIGTERM exits in time
/// and leaves neither route nor address.
fn exits() -> Outcome {
    let none: Env<'_> = &[NO_ELECTION];
    let scenes: [(&str, Vec<(&str, &str)>); 6] = [
        ("the control plane", [&CONTROL_PLANE[..], none, &[("svc_enable", "false")]].concat()),
        ("Services", none.to_vec()),
        ("Services, elected together", vec![]),
        ("Services, elected one by one", vec![("svc_election", "true")]),
        ("both", [&CONTROL_PLANE[..], none].concat()),
        ("both, elected", [&CONTROL_PLANE[..], &[("svc_election", "true")]].concat()),
    ];
    for bgp in [true, false] {
        for (what, env) in &scenes {
            let what = &format!("{}: {what}", mode(bgp));
            let (mut lab, router) = scene(bgp, env)?;
            lab.serve("web", "10.43.0.1,fd43::1")?;
            lab.start_agents()?;
            let mut routes = vec!["10.43.0.1", "fd43::1"];
            if env.contains(&CONTROL_PLANE[0]) {
                routes.extend(["10.43.0.100", "fd43::100"]);
            }
            if env.contains(&("svc_enable", "false")) {
                routes.retain(|route| route.ends_with("100"));
            }
            let seen = |lab: &ServiceLab, what: &str, there: bool| {
                let sight = Sight { lab, router: router.as_ref() };
                routes.iter().try_for_each(|route| {
                    wait_for(&format!("{what}: {route}"), 20, || {
                        ((sight.ways(route) > 0) == there).then_some(())
                    })
                })
            };
            seen(&lab, what, true)?;
            for host in 0..3 {
                lab.agent(host).terminate();
                assert!(lab.agent(host).wait(10)?.success(), "{what}");
            }
            seen(&lab, &format!("{what}, stopped"), false)?;
            for host in 0..3 {
                let left = lab.lab.host(host).namespace.ip(&["addr", "show", "dev", "eth0"])?;
                assert!(!left.contains("10.43.0.") && !left.contains("fd43::"), "{what}: {left}");
            }
        }
    }
    Ok(())
}
