//! The routing-table mode: what the kernel's table has, and what routing daemons make of it.

use kube_vip_lab::process::Process;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{
    Agent, AgentOptions, Neighbour, Router, RouterKind, RouterOptions, ServiceLab, now, wait_for,
};
use serde_json::json;

use crate::harness::{ServicesGuard, services};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("routes_are_in_the_table_while_their_service_has_endpoints", routes),
        trial("routing_daemons_pass_the_routes_on", daemons),
        trial("stale_routes_are_removed_from_the_table", cleaned),
        trial("the_control_planes_routes_change_their_realm_where_daemons_need_it", realms),
        trial("elected_services_have_routes_on_their_holder", elected),
        trial("two_agents_on_a_host_leave_each_others_routes_alone", two_agents),
    ]
}

const TABLE: [(&str, &str); 3] =
    [("vip_arp", "false"), ("vip_routingtable", "true"), ("vip_leaderelection", "false")];
const CONTROL_PLANE: [(&str, &str); 2] = [("cp_enable", "true"), ("address", "10.43.0.100,fd43::100")];

fn agents(more: &[(&str, &str)]) -> Result<ServicesGuard, Failed> {
    Ok(services(&[&TABLE[..], more].concat())?)
}

/// The table of a host, as `ip route` shows it.
pub(crate) fn table(lab: &ServiceLab, host: usize) -> String {
    let show = |family| {
        lab.lab.host(host).namespace.ip(&[family, "route", "show", "table", "198"]).unwrap_or_default()
    };
    show("-4") + &show("-6")
}

/// Until a route is in a host's table, or not.
pub(crate) fn wait_for_route(lab: &ServiceLab, host: usize, route: &str, there: bool) -> Outcome {
    let word = if there { "in" } else { "out of" };
    wait_for(&format!("{route} to be {word} the table of host {}", host + 1), 20, || {
        (table(lab, host).lines().any(|line| line.starts_with(&format!("{route} "))) == there).then_some(())
    })?;
    Ok(())
}

/// Logs the changes of routes on the first host while it lives.
fn monitor_routes(lab: &ServiceLab) -> Result<Process, Failed> {
    let host = lab.lab.host(0);
    let log = lab.lab.path("routes.log");
    // Of an earlier trial in the same lab.
    std::fs::remove_file(&log).ok();
    Ok(Process::start(&host.namespace, &["ip", "-4", "monitor", "route"], &[], &log)?)
}

/// A socket with the name of an agent's, by which another user than root accepts connections and sends nothing.
fn strangers_socket(lab: &ServiceLab) -> Result<Process, Failed> {
    const LISTEN: &str = "import socket, time\n\
        listener = socket.socket(socket.AF_UNIX)\n\
        listener.bind('\\0kube-vip/stranger')\n\
        listener.listen()\n\
        print('listening', flush=True)\n\
        time.sleep(3600)";
    let namespace = &lab.lab.host(0).namespace;
    let command = ["setpriv", "--reuid", "65534", "--clear-groups", "/usr/bin/python3", "-c", LISTEN];
    let process = Process::start(namespace, &command, &[], &lab.lab.path("stranger.log"))?;
    wait_for("a stranger's socket", 10, || process.log().contains("listening").then_some(()))?;
    Ok(process)
}

fn routes() -> Outcome {
    let mut lab = agents(&CONTROL_PLANE)?;
    lab.serve("web", "10.43.0.1,fd43::1")?;
    lab.create("here", "10.43.0.2", json!({ "externalTrafficPolicy": "Local" }))?;
    lab.set_endpoints("here", "here-1", &["node-2"])?;
    lab.start_agents()?;
    for host in 0..3 {
        for route in ["10.43.0.100", "fd43::100", "10.43.0.1", "fd43::1"] {
            wait_for_route(&lab, host, route, true)?;
        }
        wait_for_route(&lab, host, "10.43.0.2", host == 1)?;
        let text = table(&lab, host);
        assert!(text.contains("10.43.0.100 dev eth0 proto 248"), "{text}");
        let on_link = lab.lab.host(host).namespace.ip(&["addr", "show", "dev", "eth0"])?;
        assert!(on_link.contains("10.43.0.100/32") && on_link.contains("fd43::100/128"), "{on_link}");
        assert!(!on_link.contains("10.43.0.1/32"), "{on_link}");
    }
    lab.wait_for_status("web", &["10.43.0.1", "fd43::1"])?;
    let status = lab.lab.host(0).namespace.run(&[crate::harness::PROGRAM, "status"])?;
    assert!(status.contains("none: every node announces") && !status.contains("blocked by"), "{status}");
    // A route is removed by hand, and comes back by notification; an API server is killed.
    let began = now();
    lab.lab.host(0).namespace.ip(&["route", "del", "10.43.0.1/32", "table", "198"])?;
    wait_for_route(&lab, 0, "10.43.0.1", true)?;
    println!("  the route came back after {:?}", now().since(began));
    lab.lab.host_mut(1).kill_api_server();
    wait_for_route(&lab, 1, "10.43.0.100", false)?;
    wait_for_route(&lab, 1, "10.43.0.1", true)?;
    let on_link = lab.lab.host(1).namespace.ip(&["addr", "show", "dev", "eth0"])?;
    assert!(!on_link.contains("10.43.0.100"), "{on_link}");
    lab.lab.start_api_server(1)?;
    lab.lab.wait_for_api_server(1)?;
    wait_for_route(&lab, 1, "10.43.0.100", true)?;
    lab.set_endpoints("here", "here-1", &["node-3"])?;
    wait_for_route(&lab, 1, "10.43.0.2", false)?;
    wait_for_route(&lab, 2, "10.43.0.2", true)?;
    lab.delete("web")?;
    wait_for_route(&lab, 0, "10.43.0.1", false)?;
    lab.agent(0).terminate();
    assert!(lab.agent(0).wait(10)?.success());
    assert_eq!(table(&lab, 0), "");
    let on_link = lab.lab.host(0).namespace.ip(&["addr", "show", "dev", "eth0"])?;
    assert!(!on_link.contains("10.43.0.100"), "{on_link}");
    Ok(())
}

/// FRR and BIRD beside the agents redistribute the table to the gateway.
fn daemons() -> Outcome {
    for kind in [RouterKind::Frr, RouterKind::Bird] {
        let mut lab = agents(&[])?;
        let hosts = ["10.42.0.11", "10.42.0.12"];
        let neighbours = hosts.iter().map(|host| Neighbour::new(host, 65_000)).collect();
        let gateway = Router::start(&lab.lab, RouterOptions::new(RouterKind::Bird, 65_001, neighbours))?;
        let _beside = [0, 1].map(|host| Router::beside_agent(lab.lab.host(host), kind, 198).unwrap());
        gateway.wait_for_established(2)?;
        // Routes of killed agents are removed, once their Service is known.
        lab.serve("web", "10.43.0.1")?;
        lab.set_endpoints("web", "a", &[])?;
        lab.start_agents()?;
        gateway.wait_for_next_hops("10.43.0.1/32", &[])?;
        lab.serve("web", "10.43.0.1")?;
        gateway.wait_for_next_hops("10.43.0.1/32", &hosts)?;
        lab.set_endpoints("web", "a", &[])?;
        gateway.wait_for_next_hops("10.43.0.1/32", &[])?;
        lab.set_endpoints("web", "a", &["node-1"])?;
        gateway.wait_for_next_hops("10.43.0.1/32", &hosts)?;
    }
    Ok(())
}

/// A route of a Service that went while no agent ran is removed where that is asked for; a live one is never, and
/// neither is another program's.
fn cleaned() -> Outcome {
    let mut lab = agents(&[("vip_cleanroutingtable", "true")])?;
    lab.serve("stays", "10.43.0.1")?;
    lab.serve("goes", "10.43.0.2")?;
    lab.start_agent(0)?;
    wait_for_route(&lab, 0, "10.43.0.1", true)?;
    wait_for_route(&lab, 0, "10.43.0.2", true)?;
    let host = lab.lab.host(0);
    host.namespace.ip(&["route", "add", "10.43.0.9/32", "dev", "eth0", "table", "198", "proto", "static"])?;
    // Of another scope and metric than those that kube-vip adds.
    for odd in ["10.43.0.7/32", "10.43.0.1/32"] {
        let route = ["route", "add", odd, "dev", "lo", "table", "198", "proto", "248", "metric", "100"];
        host.namespace.ip(&[&route[..], &["scope", "host"]].concat())?;
    }
    lab.agent(0).kill();
    lab.delete("goes")?;
    let monitor = monitor_routes(&lab)?;
    let _stranger = strangers_socket(&lab)?;
    lab.start_agent(0)?;
    wait_for_route(&lab, 0, "10.43.0.2", false)?;
    wait_for_route(&lab, 0, "10.43.0.7", false)?;
    wait_for_route(&lab, 0, "10.43.0.1", true)?;
    wait_for_route(&lab, 0, "10.43.0.9", true)?;
    assert!(!table(&lab, 0).contains("metric 100"), "{}", table(&lab, 0));
    let events = monitor.log();
    assert!(events.contains("Deleted 10.43.0.2"), "{events}");
    assert!(!events.contains("Deleted 10.43.0.1 dev eth0"), "{events}");
    lab.lab.host(0).namespace.ip(&["route", "del", "10.43.0.9/32", "table", "198"])?;
    Ok(())
}

/// One agent for the control plane and one for Services, as in OpenShift's design; both clean the table at their start.
fn two_agents() -> Outcome {
    let clean = ("vip_cleanroutingtable", "true");
    let mut lab = agents(&[clean])?;
    lab.serve("web", "10.43.0.1")?;
    // What an earlier process has left shows when an agent has cleaned the table.
    let leave_a_route = |lab: &ServiceLab| {
        let route = ["route", "add", "10.43.0.7/32", "dev", "eth0", "table", "198", "proto", "248"];
        lab.lab.host(0).namespace.ip(&route).map(drop)
    };
    leave_a_route(&lab)?;
    lab.start_agent(0)?;
    wait_for_route(&lab, 0, "10.43.0.7", false)?;
    wait_for_route(&lab, 0, "10.43.0.1", true)?;
    // Both read one file system.
    let more = [clean, ("cp_enable", "true"), ("svc_enable", "false"), ("instance_name", "control-plane")];
    let options = TABLE.iter().chain(&more);
    let options = options.fold(lab.plain_options(), |options, (name, value)| options.with(name, value));
    let options = AgentOptions { address: "10.43.0.100".into(), ..options };
    let monitor = monitor_routes(&lab)?;
    let mut control_plane = Agent::start(lab.lab.host(0), &options)?;
    wait_for_route(&lab, 0, "10.43.0.100", true)?;
    control_plane.kill();
    leave_a_route(&lab)?;
    let _control_plane = Agent::start(lab.lab.host(0), &options)?;
    wait_for_route(&lab, 0, "10.43.0.7", false)?;
    lab.agent(0).kill();
    leave_a_route(&lab)?;
    lab.start_agent(0)?;
    wait_for_route(&lab, 0, "10.43.0.7", false)?;
    // Its end shows that the agents have come to rest: the last one to be reconciled removes what it alone had.
    lab.delete("web")?;
    wait_for_route(&lab, 0, "10.43.0.1", false)?;
    wait_for_route(&lab, 0, "10.43.0.100", true)?;
    let events = monitor.log();
    assert!(!events.contains("Deleted 10.43.0.100"), "{events}");
    assert_eq!(events.matches("Deleted 10.43.0.1 ").count(), 1, "{events}");
    Ok(())
}

fn elected() -> Outcome {
    let mut lab = agents(&[("svc_election", "true")])?;
    lab.serve("web", "10.43.0.1")?;
    lab.start_agents()?;
    let holder = crate::services::wait_for_lease(&lab, "default/kubevip-web")?;
    for host in 0..3 {
        wait_for_route(&lab, host, "10.43.0.1", host == holder)?;
    }
    lab.agent(holder).terminate();
    assert!(lab.agent(holder).wait(10)?.success());
    wait_for_route(&lab, holder, "10.43.0.1", false)?;
    wait_for("the route on another host", 20, || {
        (0..3).any(|host| host != holder && table(&lab, host).contains("10.43.0.1 ")).then_some(())
    })?;
    Ok(())
}

fn realms() -> Outcome {
    let more = [("vip_routingrealms", "true"), ("backend_health_check_interval", "1")];
    let mut lab = agents(&[&CONTROL_PLANE[..], &more].concat())?;
    lab.serve("web", "10.43.0.1")?;
    lab.start_agent(0)?;
    for realm in ["realm 1", "realm 2", "realm 1"] {
        wait_for(&format!("the route with {realm}"), 10, || {
            let text = table(&lab, 0);
            let route = text.lines().find(|line| line.starts_with("10.43.0.100 "))?.to_owned();
            route.contains(realm).then_some(())
        })?;
    }
    wait_for_route(&lab, 0, "10.43.0.1", true)?;
    assert_eq!(table(&lab, 0).matches("realm").count(), 1, "{}", table(&lab, 0));
    Ok(())
}
