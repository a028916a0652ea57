//! BGP: the routes that real routers learn from agents.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Secret, Service};
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{Neighbour, Router, RouterKind, RouterOptions, ServiceLab, now, wait_for};
use serde_json::json;

use crate::harness::{PROGRAM, ServicesGuard, services};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("routers_of_every_kind_learn_the_routes_of_services", every_router),
        trial("the_control_plane_is_announced_while_its_server_is_healthy", control_plane),
        trial("both_families_over_one_session_and_over_two", families),
        trial("peers_are_reached_as_configured", peers),
        trial("a_restart_keeps_the_routes_and_a_stop_withdraws_them", restart),
        trial("a_broken_path_is_detected_by_bfd", bfd),
        trial("changes_while_the_api_was_away_are_applied_afterwards", api_away),
        trial("route_attributes_follow_annotations", annotations),
        trial("an_elected_service_is_announced_by_its_holder", elected),
        trial("an_unnumbered_peer_is_the_router_on_the_link", unnumbered),
        trial("peers_come_from_node_annotations_selectors_and_secrets", found_peers),
        trial("a_router_that_comes_back_learns_everything_again", router_back),
    ]
}

/// The hosts' addresses, as routers see them.
pub(crate) const HOSTS: [&str; 3] = ["10.42.0.11", "10.42.0.12", "10.42.0.13"];
pub(crate) const HOSTS_V6: [&str; 3] = ["fd42::11", "fd42::12", "fd42::13"];
/// Variables of agents that talk BGP.
const BGP: [(&str, &str); 5] = [
    ("vip_arp", "false"),
    ("bgp_enable", "true"),
    ("bgp_as", "65000"),
    ("bgp_hold_time", "9"),
    ("bgp_keepalive_interval", "3"),
];

/// Agents in AS 65000 that talk to these peers.
pub(crate) fn agents(peers: &str, more: &[(&str, &str)]) -> Result<ServicesGuard, Failed> {
    let env = [&BGP[..], &[("bgp_peers", peers)], more].concat();
    Ok(services(&env)?)
}

/// A router for these hosts.
pub(crate) fn router(lab: &ServiceLab, kind: RouterKind, asn: u32, hosts: &[&str]) -> Result<Router, Failed> {
    router_with(lab, kind, asn, hosts, |_| {})
}

/// A router for these hosts, each changed as a neighbour of it.
pub(crate) fn router_with(
    lab: &ServiceLab,
    kind: RouterKind,
    asn: u32,
    hosts: &[&str],
    change: impl Fn(&mut Neighbour),
) -> Result<Router, Failed> {
    let mut neighbours: Vec<Neighbour> = hosts.iter().map(|host| Neighbour::new(host, 65_000)).collect();
    neighbours.iter_mut().for_each(change);
    Ok(Router::start(&lab.lab, RouterOptions::new(kind, asn, neighbours))?)
}

/// The output of `kube-vip status bgp` on a host.
pub(crate) fn status(lab: &ServiceLab, host: usize, more: &[&str]) -> Result<String, Failed> {
    let command = [&[PROGRAM, "status", "bgp"], more].concat();
    Ok(lab.lab.host(host).namespace.run(&command)?)
}

/// Until the status of the peers on a host contains `part`.
pub(crate) fn wait_for_status(lab: &ServiceLab, host: usize, part: &str) -> Result<String, Failed> {
    let mut last = String::new();
    let found = wait_for(&format!("`{part}`"), 40, || {
        last = status(lab, host, &["--routes"]).unwrap_or_default();
        last.contains(part).then(|| last.clone())
    });
    Ok(found.map_err(|error| format!("{error}; the last status was\n{last}"))?)
}

/// With each router, as a peer in another AS and in our own: the address of a Service is announced by every host with
/// policy Cluster, by those that have an endpoint with policy Local, and by none without endpoints.
fn every_router() -> Outcome {
    for kind in RouterKind::ALL {
        for asn in [65_001, 65_000] {
            let mut lab = agents(&format!("10.42.0.254:{asn}"), &[])?;
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
            // An address of two Services is withdrawn with the last.
            lab.serve("web2", "10.43.0.1")?;
            lab.delete("web")?;
            wait_for_status(&lab, 0, "announced 10.43.0.1/32")?;
            lab.delete("web2")?;
            router.wait_for_next_hops("10.43.0.1/32", &[])?;
        }
    }
    Ok(())
}

const VIPS: [(&str, &str); 4] = [
    ("cp_enable", "true"),
    ("svc_enable", "false"),
    ("vip_leaderelection", "false"),
    ("address", "10.43.0.100,fd43::100"),
];

/// Every host whose API server answers announces the VIPs, and has them on its link. One whose server stops withdraws,
/// and comes back with it.
fn control_plane() -> Outcome {
    let peers = "10.42.0.254:65001,[fd42::254]:65001";
    let mut lab = agents(peers, &VIPS)?;
    let hosts = [HOSTS, HOSTS_V6].concat();
    let router = router(&lab, RouterKind::Frr, 65_001, &hosts)?;
    lab.start_agents()?;
    router.wait_for_established(6)?;
    router.wait_for_next_hops("10.43.0.100/32", &HOSTS)?;
    let v6 = |count: usize| {
        wait_for(&format!("{count} ways to the IPv6 VIP"), 20, || {
            (router.next_hops("fd43::100/128").len() == count).then_some(())
        })
    };
    v6(3)?;
    let on_link = lab.lab.host(1).namespace.ip(&["addr", "show", "dev", "eth0"])?;
    assert!(on_link.contains("10.43.0.100/32") && on_link.contains("fd43::100/128"), "{on_link}");
    assert!(status(&lab, 1, &[])?.contains("Established"));
    lab.lab.host_mut(1).kill_api_server();
    router.wait_for_next_hops("10.43.0.100/32", &[HOSTS[0], HOSTS[2]])?;
    v6(2)?;
    lab.lab.start_api_server(1)?;
    lab.lab.wait_for_api_server(1)?;
    router.wait_for_next_hops("10.43.0.100/32", &HOSTS)?;
    // One that stops leaves nothing behind.
    lab.agent(2).terminate();
    assert!(lab.agent(2).wait(10)?.success());
    router.wait_for_next_hops("10.43.0.100/32", &HOSTS[..2])?;
    let on_link = lab.lab.host(2).namespace.ip(&["addr", "show", "dev", "eth0"])?;
    assert!(!on_link.contains("10.43.0.100") && !on_link.contains("fd43::100"), "{on_link}");
    Ok(())
}

/// IPv6 alone; IPv6 routes over an IPv4 session and the other way round, with fixed next hops and with those of a
/// link; and IPv4 routes with IPv6 next hops (RFC 8950).
fn families() -> Outcome {
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let table: [Case<'_>; 6] = [
        // Without the interface there is no IPv6 next hop: IPv4 is announced alone.
        ("10.42.0.254:65001::::mpbgp_nexthop=auto_sourceif", &[], &HOSTS),
        ("[fd42::254]:65001", &[], &HOSTS_V6),
        ("10.42.0.254:65001::::mpbgp_nexthop=auto_sourceif", &[("bgp_sourceif", "eth0")], &HOSTS),
        ("[fd42::254]:65001", &[("bgp_sourceif", "eth0"), ("mpbgp_nexthop", "auto_sourceif")], &HOSTS_V6),
        ("10.42.0.254:65001", &[("mpbgp_nexthop", "fixed"), ("mpbgp_ipv6", "fd42::77")], &HOSTS),
        (r#"[{"address": "fd42::254", "as": 65001, "families": ["ipv4", "ipv6"]}]"#, &[], &HOSTS_V6),
    ];
    for (peers, env, hosts) in table {
        for kind in RouterKind::ALL {
            let mut lab = agents(peers, env)?;
            let router = router(&lab, kind, 65_001, hosts)?;
            lab.serve("web", "10.43.0.1,fd43::1")?;
            lab.start_agents()?;
            router.wait_for_established(3)?;
            let extended = peers.starts_with("[{");
            let v4: &[&str] = match peers {
                _ if extended => &HOSTS_V6,
                "[fd42::254]:65001" if env.is_empty() => &[],
                _ => &HOSTS,
            };
            let v6: &[&str] = match peers {
                "10.42.0.254:65001" => &["fd42::77"],
                _ if peers.ends_with("auto_sourceif") && env.is_empty() => &[],
                _ => &HOSTS_V6,
            };
            router.wait_for_next_hops("fd43::1/128", v6).map_err(|error| format!("{peers}: {error}"))?;
            router.wait_for_next_hops("10.43.0.1/32", v4).map_err(|error| format!("{peers}: {error}"))?;
        }
    }
    Ok(())
}

/// Passwords, several hops, GTSM, waiting for the peer, another port.
fn peers() -> Outcome {
    let one = |more: &str| format!(r#"[{{"address": "10.42.0.254", "as": 65001{more}}}]"#);
    for kind in RouterKind::ALL {
        let password = |neighbour: &mut Neighbour| neighbour.password = Some("s3cret".into());
        let mut lab = agents("10.42.0.254:65001:s3cret:true", &[])?;
        let with_password = router_with(&lab, kind, 65_001, &HOSTS, |neighbour| {
            password(neighbour);
            neighbour.multihop = true;
        })?;
        lab.start_agents()?;
        with_password.wait_for_established(3)?;
        drop(with_password);

        let mut lab_guard = lab;
        lab_guard.stop_agents()?;
        drop(lab_guard);
        let mut lab = agents(&one(r#", "ttlSecurityHops": 1"#), &[])?;
        let secured = router_with(&lab, kind, 65_001, &HOSTS, |neighbour| neighbour.ttl_security = true)?;
        lab.start_agents()?;
        secured.wait_for_established(3)?;
        drop(secured);

        lab.stop_agents()?;
        drop(lab);
        let mut lab = agents(&one(r#", "passive": true, "password": "s3cret""#), &[])?;
        let calling = router_with(&lab, kind, 65_001, &HOSTS, |neighbour| {
            password(neighbour);
            neighbour.connects = true;
        })?;
        lab.start_agents()?;
        calling.wait_for_established(3)?;
        lab.stop_agents()?;
    }
    // A wrong password looks like silence; a wrong AS causes a NOTIFICATION.
    let mut lab = agents("10.42.0.254:65002", &[])?;
    let _router = router(&lab, RouterKind::Frr, 65_001, &HOSTS)?;
    lab.start_agents()?;
    wait_for_status(&lab, 0, "bad peer AS (2/2)")?;
    Ok(())
}

/// While an agent is killed and started again, the router keeps its routes, though no other node has the Service. One
/// that gets SIGTERM withdraws its routes, and sends the reason.
fn restart() -> Outcome {
    for kind in RouterKind::ALL {
        let mut lab = agents("10.42.0.254:65001", &[])?;
        let router = router(&lab, kind, 65_001, &HOSTS)?;
        lab.serve("web", "10.43.0.1")?;
        lab.create("here", "10.43.0.2", json!({ "externalTrafficPolicy": "Local" }))?;
        lab.set_endpoints("here", "here-1", &["node-2"])?;
        lab.start_agents()?;
        router.wait_for_next_hops("10.43.0.1/32", &HOSTS)?;
        router.wait_for_next_hops("10.43.0.2/32", &HOSTS[1..2])?;
        lab.agent(1).kill();
        let killed = now();
        lab.start_agent(1)?;
        let mut seen = Vec::new();
        while now().since(killed) < Duration::from_secs(4) {
            seen.push((now().since(killed), router.next_hops("10.43.0.2/32")));
        }
        let gap = seen.iter().find(|(_, hops)| *hops != HOSTS[1..2]);
        assert_eq!(gap, None, "{kind:?} stopped using the host that was restarted");
        router.wait_for_established(3)?;
        router.wait_for_next_hops("10.43.0.1/32", &HOSTS)?;
        lab.agent(1).terminate();
        assert!(lab.agent(1).wait(10)?.success());
        router.wait_for_next_hops("10.43.0.1/32", &[HOSTS[0], HOSTS[2]])?;
        router.wait_for_next_hops("10.43.0.2/32", &[])?;
        if kind == RouterKind::Frr {
            let log = std::fs::read_to_string(lab.lab.path("router").join("bgpd.frr.log"))?;
            assert!(log.contains("kube-vip stops"), "{log}");
        }
    }
    Ok(())
}

/// With BFD a way that breaks takes the session with it in a fraction of the hold time; with a peer that has no BFD
/// nothing happens.
fn bfd() -> Outcome {
    for kind in [RouterKind::Frr, RouterKind::Bird] {
        let mut lab = agents("10.42.0.254:65001:::::true;300;300;3", &[("bgp_hold_time", "60")])?;
        let router = router_with(&lab, kind, 65_001, &HOSTS, |neighbour| neighbour.bfd = Some((300, 3)))?;
        lab.serve("web", "10.43.0.1")?;
        lab.start_agents()?;
        router.wait_for_next_hops("10.43.0.1/32", &HOSTS)?;
        for host in 0..3 {
            wait_for_status(&lab, host, "BFD up")?;
        }
        // The session that was there before BFD was is still the same.
        lab.lab.segment.pull_cable(lab.lab.host(1).number)?;
        let cut = now();
        router.wait_for_next_hops("10.43.0.1/32", &[HOSTS[0], HOSTS[2]])?;
        let took = now().since(cut);
        assert!(took < Duration::from_secs(5), "{kind:?} took {took:?}, which is not by BFD");
        wait_for_status(&lab, 1, "BFD down (6/10)")?;
        lab.lab.segment.plug_cable(lab.lab.host(1).number)?;
        router.wait_for_next_hops("10.43.0.1/32", &HOSTS)?;
    }
    let mut lab = agents("10.42.0.254:65001:::::true;50;50;3", &[])?;
    let router = router(&lab, RouterKind::GoBgp, 65_001, &HOSTS)?;
    lab.start_agents()?;
    router.wait_for_established(3)?;
    wait_for_status(&lab, 0, "BFD not up yet")?;
    assert!(!status(&lab, 0, &[])?.contains("last error"));
    Ok(())
}

/// Nothing is withdrawn because the API server is away; what changed meanwhile is caught up; a Service whose address
/// or policy changes is announced as it is then.
fn api_away() -> Outcome {
    let mut lab = agents("10.42.0.254:65001", &[])?;
    let router = router(&lab, RouterKind::Frr, 65_001, &HOSTS)?;
    for (name, address) in [("stays", "10.43.0.1"), ("goes", "10.43.0.2"), ("moves", "10.43.0.3")] {
        lab.serve(name, address)?;
    }
    lab.start_agents()?;
    for address in ["10.43.0.1/32", "10.43.0.2/32", "10.43.0.3/32"] {
        router.wait_for_next_hops(address, &HOSTS)?;
    }
    // The agent of the first host sees nothing of what follows.
    lab.lab.host(0).freeze_api_server();
    lab.lab.host(0).namespace.black_hole("eth0", 6443)?;
    for host in 1..3 {
        lab.lab.host(host).namespace.black_hole("eth0", 6443)?;
    }
    let admin = kube_vip_lab::Administrator::new(&lab.lab, 1)?;
    let objects = admin.objects(&lab.lab);
    objects.delete::<Service>("goes")?;
    objects.patch::<Service>(
        "moves",
        json!({ "metadata": { "annotations": { "kube-vip.io/loadbalancerIPs": "10.43.0.4" } } }),
    )?;
    router.wait_for_next_hops("10.43.0.4/32", &HOSTS[1..])?;
    router.wait_for_next_hops("10.43.0.2/32", &HOSTS[..1])?;
    assert_eq!(router.next_hops("10.43.0.1/32"), HOSTS);
    lab.lab.host(0).thaw_api_server();
    for host in 0..3 {
        lab.lab.host(host).namespace.fill_black_hole()?;
    }
    router.wait_for_next_hops("10.43.0.2/32", &[])?;
    router.wait_for_next_hops("10.43.0.3/32", &[])?;
    router.wait_for_next_hops("10.43.0.4/32", &HOSTS)?;
    objects.patch::<Service>("stays", json!({ "spec": { "externalTrafficPolicy": "Local" } }))?;
    lab.set_endpoints("stays", "a", &["node-1"])?;
    router.wait_for_next_hops("10.43.0.1/32", &HOSTS[..1])?;
    objects.patch::<Service>("stays", json!({ "spec": { "externalTrafficPolicy": "Cluster" } }))?;
    router.wait_for_next_hops("10.43.0.1/32", &HOSTS)?;
    Ok(())
}

/// Communities, preference and the rest, by peer and by Service; external addresses, networks and aggregates.
fn annotations() -> Outcome {
    let peer = r#"[{"address": "10.42.0.254", "as": 65000, "communities": ["65000:1"], "med": 5}]"#;
    let env = [
        ("bgp_advertise_external_ips", "true"),
        ("bgp_advertise_service_cidrs", "10.96.0.0/12"),
        ("bgp_aggregates", "10.44.0.0/24"),
    ];
    let mut lab = agents(peer, &env)?;
    let router = router(&lab, RouterKind::Frr, 65_000, &HOSTS)?;
    lab.serve("web", "10.43.0.1")?;
    lab.serve("many", "10.44.0.7")?;
    let change = json!({
        "metadata": { "annotations": {
            "kube-vip.io/bgp-communities": "65000:2,nonsense",
            "kube-vip.io/bgp-large-communities": "65000:1:2",
            "kube-vip.io/bgp-local-pref": "200",
        } },
        "spec": { "externalIPs": ["198.51.100.7"] },
    });
    lab.objects().patch::<Service>("web", change)?;
    lab.start_agents()?;
    for prefix in ["10.43.0.1/32", "198.51.100.7/32", "10.96.0.0/12", "10.44.0.0/24"] {
        router.wait_for_next_hops(prefix, &HOSTS)?;
    }
    assert_eq!(router.next_hops("10.44.0.7/32"), [""; 0]);
    let text = router.about("10.43.0.1/32");
    for part in ["65000:1 65000:2", "65000:1:2", "localpref 200", "metric 5"] {
        assert!(text.contains(part), "`{part}` is not in {text}");
    }
    crate::services::wait_for_event(&lab, "web", "AnnotationIgnored", "nonsense")?;
    lab.delete("many")?;
    router.wait_for_next_hops("10.44.0.0/24", &[])?;
    Ok(())
}

/// Elections with BGP: only the holder of the Lease announces.
fn elected() -> Outcome {
    let mut lab = agents("10.42.0.254:65001", &[("svc_election", "true")])?;
    let router = router(&lab, RouterKind::Frr, 65_001, &HOSTS)?;
    lab.serve("web", "10.43.0.1")?;
    lab.start_agents()?;
    let holder = crate::services::wait_for_lease(&lab, "default/kubevip-web")?;
    router.wait_for_next_hops("10.43.0.1/32", &HOSTS[holder..=holder])?;
    lab.agent(holder).terminate();
    assert!(lab.agent(holder).wait(10)?.success());
    let next = wait_for("another holder", 20, || {
        let name = lab.lease_holder("default/kubevip-web").ok()?;
        let host = name.trim_start_matches("node-").parse::<usize>().ok()? - 1;
        (host != holder).then_some(host)
    })?;
    router.wait_for_next_hops("10.43.0.1/32", &HOSTS[next..=next])?;
    Ok(())
}

/// Without any address: both ends find each other by router advertisements, and IPv4 routes have an IPv6 next hop.
fn unnumbered() -> Outcome {
    let mut lab = agents("unnumbered:eth0:65001", &[])?;
    let router = router(&lab, RouterKind::Frr, 65_001, &["eth0"])?;
    lab.serve("web", "10.43.0.1,fd43::1")?;
    lab.start_agent(1)?;
    router.wait_for_established(1)?;
    for prefix in ["10.43.0.1/32", "fd43::1/128"] {
        wait_for(&format!("a way to {prefix}"), 20, || {
            let hops = router.next_hops(prefix);
            (hops.len() == 1 && hops[0].starts_with("fe80::")).then_some(())
        })?;
    }
    Ok(())
}

/// Annotations of the Node are waited for and followed; labels choose the peers of a node; a Secret has a password; the
/// cluster's own networks are announced.
fn found_peers() -> Outcome {
    let env = [
        ("annotation", "test"),
        ("bgp_advertise_service_cidrs", "auto"),
        // Routes go with the agents that this test kills.
        ("bgp_graceful_restart_time", "0"),
    ];
    let lab = agents("", &env)?;
    let router_1 = router(&lab, RouterKind::Frr, 65_001, &HOSTS)?;
    let neighbours = HOSTS.iter().map(|host| Neighbour::new(host, 65_000)).collect();
    let options = RouterOptions::new(RouterKind::Bird, 65_001, neighbours);
    let router_2 = Router::start_as(&lab.lab, "router2", 253, options)?;
    lab.serve("web", "10.43.0.1")?;
    let annotate = |host: usize, peers: &str| {
        lab.objects().patch::<Node>(
            &format!("node-{host}"),
            json!({ "metadata": { "labels": { "rack": format!("rack-{host}") }, "annotations": {
                "test/bgp-peers-0-node-asn": "65000",
                "test/bgp-peers-0-src-ip": format!("10.42.0.1{host}"),
                "test/bgp-peers-0-peer-asn": "65001",
                "test/bgp-peers-0-peer-ip": peers,
            } } }),
        )
    };
    for host in 1..=3 {
        lab.objects().patch::<Node>(
            &format!("node-{host}"),
            json!({ "metadata": { "annotations": {
            "test/bgp-peers-0-node-asn": null, "test/bgp-peers-0-src-ip": null,
            "test/bgp-peers-0-peer-asn": null, "test/bgp-peers-0-peer-ip": null,
        } } }),
        )?;
    }
    for host in 0..3 {
        let started = kube_vip_lab::Agent::start(lab.lab.host(host), &lab.options)?;
        started.wait_for_log("the annotation test/node-asn", 20)?;
        annotate(host + 1, "10.42.0.254")?;
        router_1.wait_for_established(1)?;
        // Followed without a restart.
        annotate(host + 1, "10.42.0.253")?;
        router_2.wait_for_next_hops("10.43.0.1/32", &HOSTS[host..=host])?;
        router_1.wait_for_next_hops("10.43.0.1/32", &[])?;
        router_2.wait_for_next_hops("10.96.0.0/16", &HOSTS[host..=host])?;
        drop(started);
        wait_for("the session to end", 20, || (router_2.established() == 0).then_some(()))?;
    }
    drop((router_1, router_2, lab));

    let peers = r#"[{"address": "10.42.0.254", "as": 65001, "passwordSecret": "kube-system/bgp", "nodeSelector": {"rack": "rack-2"}}]"#;
    let mut lab = agents(peers, &[])?;
    let router = router_with(&lab, RouterKind::Frr, 65_001, &HOSTS, |neighbour| {
        neighbour.password = Some("s3cret".into())
    })?;
    lab.serve("web", "10.43.0.1")?;
    lab.start_agents()?;
    lab.agent(1).wait_for_log("Secret kube-system/bgp cannot be read", 20)?;
    lab.objects().create::<Secret>("kube-system/bgp", json!({ "stringData": { "password": "s3cret" } }))?;
    router.wait_for_next_hops("10.43.0.1/32", &HOSTS[1..2])?;
    assert_eq!(router.established(), 1);
    Ok(())
}

/// A router that was stopped or killed learns every route again.
fn router_back() -> Outcome {
    for kind in RouterKind::ALL {
        let mut lab = agents("10.42.0.254:65001", &[])?;
        let mut router = router(&lab, kind, 65_001, &HOSTS)?;
        lab.serve("web", "10.43.0.1")?;
        lab.start_agents()?;
        router.wait_for_next_hops("10.43.0.1/32", &HOSTS)?;
        for farewell in [true, false] {
            if farewell {
                router.terminate()
            } else {
                router.kill()
            }
            router.launch()?;
            router.wait_for_established(3)?;
            router.wait_for_next_hops("10.43.0.1/32", &HOSTS)?;
        }
    }
    Ok(())
}
