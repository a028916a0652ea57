//! Mistakes and common setups that must not become an outage.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Service};
use kube_vip_lab::trials::{Outcome, Trial, trial};
use kube_vip_lab::{Agent, AgentOptions, RouterKind, ServiceLab, now, wait_for};
use serde_json::json;

use crate::bgp;
use crate::harness::{PROGRAM, services};
use crate::services::wait_for_event;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_lease_name_that_the_api_server_rejects_costs_no_lists", lease_name),
        trial("a_lease_in_ever_other_namespaces_costs_no_descriptors", lease_namespaces),
        trial("a_status_that_another_controller_overwrites_is_written_seldom", two_writers),
        trial("a_taken_port_and_a_second_agent_end_no_process", two_agents),
        trial("services_alone_are_ready_and_report_their_elections", readiness),
        trial("an_address_that_a_kubelet_reports_stays", reported_address),
        trial("a_thousand_communities_end_no_session", communities),
    ]
}

/// LIST requests that the API server of a host has answered.
fn lists(lab: &ServiceLab, host: usize) -> Result<u64, kube_vip_lab::LabError> {
    let metrics = lab.raw(host, "/metrics")?;
    let lists = metrics
        .lines()
        .filter(|line| line.starts_with("apiserver_request_total{") && line.contains("verb=\"LIST\""));
    let counts = lists.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok());
    Ok(counts.sum::<f64>() as u64)
}

fn lease_name() -> Outcome {
    let mut lab = services(&[("svc_election", "true")])?;
    lab.serve("web", "10.43.0.1")?;
    lab.annotate("web", json!({ "kube-vip.io/leaseName": "a_b" }))?;
    lab.start_agents()?;
    wait_for_event(&lab, "web", "AnnotationIgnored", "`a_b` is not the name of a Lease")?;
    lab.wait_for_status("web", &["10.43.0.1"])?;
    let all = |lab: &ServiceLab| (0..3).map(|host| lists(lab, host)).sum::<Result<u64, _>>();
    let before = all(&lab)?;
    // The time in which the lists are counted.
    std::thread::sleep(Duration::from_secs(5));
    let lists = all(&lab)? - before;
    println!("  {lists} lists in 5 s");
    assert!(lists < 60, "{lists} lists");
    Ok(())
}

/// The namespaces do not exist: an API server answers a watch of their Leases all the same.
fn lease_namespaces() -> Outcome {
    let mut lab = services(&[("svc_election", "true")])?;
    lab.serve("web", "10.43.0.1")?;
    lab.start_agents()?;
    lab.wait_for_status("web", &["10.43.0.1"])?;
    let pids = [0, 1, 2].map(|host| lab.agent(host).pid());
    let descriptors = || pids.map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count());
    let before = descriptors();
    // Connections that are kept for the next request come and go.
    let most = before.into_iter().max().unwrap_or_default() + 8;
    for number in 1..=100 {
        lab.annotate("web", json!({ "kube-vip.io/leaseName": format!("n{number}/web") }))?;
    }
    lab.annotate("web", json!({ "kube-vip.io/leaseName": null }))?;
    // A second Service shows that the changes were planned.
    lab.serve("more", "10.43.0.2")?;
    lab.wait_for_status("more", &["10.43.0.2"])?;
    println!("  {before:?} descriptors before, {:?} after", descriptors());
    wait_for("as many descriptors as before", 20, || {
        descriptors().into_iter().all(|after| after <= most).then_some(())
    })?;
    Ok(())
}

/// A controller that allows no `ports`.
fn two_writers() -> Outcome {
    let mut lab = services(&[])?;
    lab.serve("web", "10.43.0.1")?;
    lab.start_agents()?;
    lab.wait_for_status("web", &["10.43.0.1"])?;
    let (until, mut reverted, mut reported) = (now() + Duration::from_secs(40), 0, false);
    while !reported && now() < until {
        let service: Service = lab.objects().get("web")?.ok_or("the Service is gone")?;
        let status = service.status.and_then(|status| status.load_balancer?.ingress).unwrap_or_default();
        if status.iter().any(|entry| entry.ports.is_some()) {
            reverted += 1;
            let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "10.43.0.1" }] } } });
            lab.objects().patch_status::<Service>("web", status)?;
            reported = lab.objects().events("web")?.iter().any(|(reason, _)| reason == "StatusOverwritten");
        }
    }
    println!("  {reverted} writes until the Event");
    assert!(reported && reverted <= 8, "{reverted} writes");
    Ok(())
}

/// Both have the same default port, and the process id of their container: the second one starts all the same, and takes the
/// port over.
fn two_agents() -> Outcome {
    let mut lab = services(&[("prometheus_server", ":2112")])?;
    lab.serve("web", "10.43.0.1")?;
    lab.start_agent(0)?;
    lab.wait_for_holder_to_be("10.43.0.1", 0)?;
    // Both read one file system.
    let options =
        lab.plain_options().with("instance_name", "control-plane").with("prometheus_server", ":2112");
    let options = options.with("cp_enable", "true").with("svc_enable", "false");
    let options = AgentOptions { address: "10.42.0.100".into(), ..options };
    let second = Agent::start(lab.lab.host(0), &options)?;
    let status = || lab.lab.host(0).namespace.run(&[PROGRAM, "status"]).unwrap_or_default();
    wait_for("the status of both, the second as leader without a port", 20, || {
        let status = status();
        let both =
            status.matches("process ").count() == 2 && status.matches("role          leader").count() == 2;
        (both && status.contains("port          prometheus_server: cannot listen")).then_some(())
    })?;
    lab.agent(0).terminate();
    assert!(lab.agent(0).wait(10)?.success(), "{}", lab.agent(0).log());
    wait_for("the second one to have the port", 40, || {
        lab.lab
            .host(0)
            .namespace
            .http_get(2112, "/metrics")
            .ok()
            .filter(|text| text.contains("plndr-cp-lock"))
    })?;
    drop(second);
    Ok(())
}

fn readiness() -> Outcome {
    let routed = [("vip_arp", "false"), ("vip_routingtable", "true"), ("vip_leaderelection", "false")];
    type Settings<'a> = &'a [(&'a str, &'a str)];
    // Settings, and the Lease on which one agent is the leader.
    let table: [(Settings<'_>, Option<&str>); 4] = [
        (&[], Some("kube-system/plndr-svcs-lock")),
        (&[("svc_election", "true")], Some("default/kubevip-web")),
        (&[("svc_election_groups", "4")], Some("kube-system/plndr-svcs-lock-1")),
        (&routed, None),
    ];
    for (env, lease) in table {
        let ports = [("health_check_port", "2113"), ("prometheus_server", ":2112")];
        let mut lab = services(&[env, &ports].concat())?;
        lab.serve("web", "10.43.0.1")?;
        lab.start_agents()?;
        lab.wait_for_status("web", &["10.43.0.1"])?;
        for host in 0..3 {
            wait_for(&format!("host {host} to be ready with {env:?}"), 20, || {
                let ready = lab.lab.host(host).namespace.http_get(2113, "/readyz").ok()?;
                ready.starts_with("HTTP/1.0 200").then_some(())
            })?;
            let status = lab.lab.host(host).namespace.run(&[PROGRAM, "status"])?;
            assert!(
                !status.contains("has not been read") && !status.contains("role          starting"),
                "{status}"
            );
        }
        let Some(lease) = lease else { continue };
        wait_for(&format!("one leader of {lease} in the metrics"), 20, || {
            let leads = |host: usize| {
                let metrics = lab.lab.host(host).namespace.http_get(2112, "/metrics").unwrap_or_default();
                metrics
                    .lines()
                    .any(|line| line.contains("is_leader") && line.contains(lease) && line.ends_with(" 1"))
            };
            ((0..3).filter(|host| leads(*host)).count() == 1).then_some(())
        })?;
    }
    Ok(())
}

fn reported_address() -> Outcome {
    let mut lab = services(&[])?;
    lab.serve("web", "10.43.0.1")?;
    lab.start_agents()?;
    let holder = lab.wait_for_holder("10.43.0.1")?;
    lab.wait_for_status("web", &["10.43.0.1"])?;
    let node = lab.lab.host(holder).name.clone();
    let report = |addresses| {
        lab.objects().patch_status::<Node>(&node, json!({ "status": { "addresses": addresses } }))
    };
    let own = lab.lab.host(holder).v4.to_string();
    report(json!([{ "type": "InternalIP", "address": "10.43.0.1" }]))?;
    wait_for_event(&lab, "web", "NodeReportsAddress", "--node-ip")?;
    lab.annotate("web", json!({ "example.com/edited": "while it is reported" }))?;
    // A second Service shows that the change was planned.
    lab.serve("more", "10.43.0.2")?;
    lab.wait_for_holder_to_be("10.43.0.2", holder)?;
    assert_eq!(lab.holders("10.43.0.1"), [holder]);
    lab.agent(holder).kill();
    wait_for("another host with the address", 20, || {
        lab.holders("10.43.0.1").first().filter(|found| **found != holder).map(drop)
    })?;
    lab.objects().patch_status::<Node>(
        &node,
        json!({ "status": { "addresses": [{ "type": "InternalIP", "address": own }] } }),
    )?;
    Ok(())
}

/// Together they would fill more than a message.
fn communities() -> Outcome {
    let mut lab = bgp::agents("10.42.0.254:65001", &[])?;
    let router = bgp::router(&lab, RouterKind::Frr, 65_001, &bgp::HOSTS)?;
    lab.serve("web", "10.43.0.1")?;
    lab.start_agents()?;
    router.wait_for_established(3)?;
    router.wait_for_next_hops("10.43.0.1/32", &bgp::HOSTS)?;
    let lost = |lab: &mut ServiceLab, host| lab.agent(host).log().matches("the BGP session is down").count();
    let before = [0, 1, 2].map(|host| lost(&mut lab, host));
    let all: Vec<String> = (1..=1020).map(|number| format!("65001:{number}")).collect();
    lab.annotate("web", json!({ "kube-vip.io/bgp-communities": all.join(",") }))?;
    wait_for_event(&lab, "web", "AnnotationIgnored", "1020 communities are too many")?;
    // A second Service shows that the sessions work.
    lab.serve("more", "10.43.0.2")?;
    router.wait_for_next_hops("10.43.0.2/32", &bgp::HOSTS)?;
    router.wait_for_next_hops("10.43.0.1/32", &bgp::HOSTS)?;
    assert_eq!([0, 1, 2].map(|host| lost(&mut lab, host)), before);
    Ok(())
}
