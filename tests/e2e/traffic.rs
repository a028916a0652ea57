//! Packets of clients, through a real kube-proxy, to the pods of a Service.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube_vip_lab::note;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::workload::{Caller, Workload, get, get_udp, set_pods};
use kube_vip_lab::{ServiceLab, wait_for};
use serde_json::json;

use crate::harness::{ServicesGuard, services};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("clients_reach_a_service_in_both_families_and_protocols", reached),
        trial("two_services_with_one_port_leave_the_others_alone", same_port),
        trial("a_local_service_sees_its_clients_addresses", sources),
        trial("traffic_survives_a_rolling_update_of_the_agents", rolling_update).alone(),
        trial("traffic_comes_back_after_the_loss_of_a_node", node_lost),
    ]
}

fn scene(env: &[(&str, &str)]) -> Result<(ServicesGuard, Workload), Failed> {
    let mut lab = services(env)?;
    let workload = Workload::start(&lab.lab)?;
    lab.start_agents()?;
    Ok((lab, workload))
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A Service of both families and protocols, with a pod on each of these hosts.
pub(crate) fn serve(lab: &ServiceLab, name: &str, addresses: &str, policy: &str, hosts: &[usize]) -> Outcome {
    let spec = json!({
        "ipFamilyPolicy": "RequireDualStack",
        "externalTrafficPolicy": policy,
        "ports": [
            { "name": "tcp", "port": 80, "targetPort": 8080, "protocol": "TCP" },
            { "name": "udp", "port": 80, "targetPort": 8080, "protocol": "UDP" },
        ],
    });
    lab.create(name, addresses, spec)?;
    Ok(set_pods(lab.objects(), name, hosts)?)
}

pub(crate) fn wait_for_answer(lab: &ServiceLab, address: &str) -> Result<String, Failed> {
    Ok(wait_for(&format!("an answer from {address}"), 30, || get(&lab.lab, ip(address), 80).ok())?)
}

fn reached() -> Outcome {
    let (lab, _workload) = scene(&[])?;
    serve(&lab, "web", "10.43.0.20,fd43::3", "Cluster", &[0, 1, 2])?;
    for address in ["10.43.0.20", "fd43::3"] {
        assert!(wait_for_answer(&lab, address)?.starts_with("pod "));
        let answer = wait_for("a datagram", 10, || get_udp(&lab.lab, ip(address), 80).ok())?;
        assert!(answer.starts_with("pod "), "{answer}");
    }
    // Two Services on one address, with different ports.
    let spec = json!({ "ports": [{ "name": "tcp", "port": 81, "targetPort": 8080 }] });
    lab.create("more", "10.43.0.20", spec)?;
    set_pods(lab.objects(), "more", &[1])?;
    let answer = wait_for("the second Service", 30, || get(&lab.lab, ip("10.43.0.20"), 81).ok())?;
    assert!(answer.starts_with("pod 2"), "{answer}");
    // The last pod is removed, and another one added.
    set_pods(lab.objects(), "web", &[])?;
    set_pods(lab.objects(), "more", &[])?;
    lab.wait_until_no_host_has("10.43.0.20")?;
    set_pods(lab.objects(), "web", &[2])?;
    wait_for("the pod that came back", 30, || {
        get(&lab.lab, ip("10.43.0.20"), 80).ok().filter(|answer| answer.starts_with("pod 3"))
    })?;
    Ok(())
}

/// In one namespace nothing prevents it; kube-proxy has one element for both in its map.
fn same_port() -> Outcome {
    let (lab, _workload) = scene(&[])?;
    for name in ["web", "twin"] {
        let spec = json!({ "ports": [{ "name": "tcp", "port": 80, "targetPort": 8080 }] });
        lab.create(name, "10.43.0.24", spec)?;
        set_pods(lab.objects(), name, &[0])?;
    }
    wait_for_answer(&lab, "10.43.0.24")?;
    serve(&lab, "later", "10.43.0.25,fd43::5", "Cluster", &[1])?;
    for address in ["10.43.0.25", "fd43::5"] {
        assert!(wait_for_answer(&lab, address)?.starts_with("pod 2"));
    }
    Ok(())
}

fn sources() -> Outcome {
    let (lab, _workload) = scene(&[("svc_election", "true")])?;
    serve(&lab, "web", "10.43.0.21,fd43::4", "Local", &[1])?;
    for (address, client) in [("10.43.0.21", "10.42.0.101"), ("fd43::4", "fd42::101")] {
        assert_eq!(wait_for_answer(&lab, address)?, format!("pod 2 asked by {client}"));
    }
    // The pod moves, and the address with it.
    set_pods(lab.objects(), "web", &[2])?;
    lab.wait_for_holder_to_be("10.43.0.21", 2)?;
    wait_for("the new pod", 30, || {
        get(&lab.lab, ip("10.43.0.21"), 80).ok().filter(|answer| answer == "pod 3 asked by 10.42.0.101")
    })?;
    Ok(())
}

fn rolling_update() -> Outcome {
    for env in [&[][..], &[("svc_election", "true")], &[("svc_election_groups", "4")]] {
        let (mut lab, _workload) = scene(env)?;
        serve(&lab, "web", "10.43.0.22,fd43::3", "Cluster", &[0, 1, 2])?;
        // A kube-proxy may still answer for an earlier test's Service.
        lab.wait_for_holder("10.43.0.22")?;
        wait_for_answer(&lab, "10.43.0.22")?;
        wait_for_answer(&lab, "fd43::3")?;
        let callers = ["10.43.0.22", "fd43::3"].map(|address| Caller::start(&lab.lab, ip(address), 80));
        // Connections are under way when the first agent stops, and when the next one does.
        std::thread::sleep(Duration::from_secs(2));
        let start = kube_vip_lab::now();
        for host in 0..3 {
            lab.agent(host).terminate();
            assert!(lab.agent(host).wait(10)?.success());
            lab.start_agent(host)?;
            std::thread::sleep(Duration::from_secs(2));
        }
        for caller in &callers {
            let asked = caller.since(start);
            let lost = asked.iter().filter(|one| !one.answered).count();
            assert!(asked.len() > 100, "{} requests", asked.len());
            // A connection that is under way when its address moves is unknown at the new place: one for each move.
            assert!(lost <= 3, "{env:?}: {lost} of {} requests were lost", asked.len());
        }
    }
    Ok(())
}

fn node_lost() -> Outcome {
    let (lab, _workload) = scene(&[])?;
    serve(&lab, "web", "10.43.0.23", "Cluster", &[0, 1, 2])?;
    // The loss of a node takes its pod along.
    wait_for_answer(&lab, "10.43.0.23")?;
    let holder = lab.wait_for_holder("10.43.0.23")?;
    let others: Vec<usize> = (0..3).filter(|host| *host != holder).collect();
    set_pods(lab.objects(), "web", &others)?;
    // Nothing shows that every kube-proxy has dropped that pod.
    std::thread::sleep(Duration::from_secs(2));
    let begun = kube_vip_lab::now();
    let caller = Caller::start(&lab.lab, ip("10.43.0.23"), 80);
    wait_for("the first answer", 10, || caller.since(begun).into_iter().find(|one| one.answered))?;
    let start = kube_vip_lab::now();
    let number = lab.lab.host(holder).number;
    lab.lab.segment.pull_cable(number)?;
    wait_for("answers through another node", 30, || {
        caller.since(start + Duration::from_secs(1)).into_iter().find(|one| one.answered)
    })?;
    note!("outage {:.3} s", caller.outage(start).as_secs_f64());
    lab.lab.segment.plug_cable(number)?;
    lab.wait_for_holder("10.43.0.23")?;
    let gone = lab.objects().get::<Service>("web")?;
    assert!(gone.is_some());
    Ok(())
}
