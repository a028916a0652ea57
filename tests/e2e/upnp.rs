//! Ports of a home router that lead to Services, by UPnP: miniupnpd in secure mode, as most routers have it.

use k8s_openapi::api::core::v1::Service;
use kube_vip_lab::alerts::{self, Recording};
use kube_vip_lab::home_router::HomeRouter;
use kube_vip_lab::objects::annotation;
use kube_vip_lab::process::Process;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{ServiceLab, wait_for};
use serde_json::{Value, json};

use crate::harness::services;
use crate::services::wait_for_event;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("an_external_client_reaches_a_service_through_the_home_router", through).alone(),
        trial("an_open_port_follows_its_service", follows),
        trial("a_refusal_of_the_gateway_is_reported", refused),
    ]
}

pub(crate) const ALL: &str = "allow 1-65535 0.0.0.0/0 1-65535";
pub(crate) const V4: &str = "10.42.0.150";
const V6: &str = "fd42::1150";

/// Servers on every host, in place of a Service's pods.
pub(crate) fn workload(lab: &ServiceLab, port: &str) -> Result<Vec<Process>, Failed> {
    let start = |host: &kube_vip_lab::Host| {
        let log = host.folder.join("workload.log");
        Process::start(&host.namespace, &["python3", "-m", "http.server", "--bind", "::", port], &[], &log)
    };
    Ok(lab.lab.hosts.iter().map(start).collect::<kube_vip_lab::Result<_>>()?)
}

/// A Service on port 8080 with an endpoint on every node.
pub(crate) fn serve(lab: &ServiceLab, name: &str, addresses: &str, annotations: Value) -> Outcome {
    lab.create(name, addresses, json!({ "ports": [{ "port": 8080, "protocol": "TCP" }] }))?;
    lab.set_endpoints(name, "a", &["node-1", "node-2", "node-3"])?;
    Ok(lab.annotate(name, annotations)?)
}

pub(crate) fn wait_until_reached(router: &HomeRouter, url: &str, wanted: bool) -> Outcome {
    let what = if wanted { "an answer" } else { "no answer" };
    wait_for(&format!("{what} outside from {url}"), 40, || (router.reaches(url) == wanted).then_some(()))
        .map_err(|error| format!("{error}\n{}\n{}", router.open(), router.log()).into())
}

/// IPv4 and IPv6; the gateway appears late, and is restarted.
fn through() -> Outcome {
    let mut lab = services(&[("enable_upnp", "true")])?;
    let mut router = HomeRouter::start(&lab.lab)?;
    let _workload = workload(&lab, "8080")?;
    lab.start_agents()?;
    serve(&lab, "web", &format!("{V4},{V6}"), json!({ "kube-vip.io/forwardUPNP": "true" }))?;
    wait_for_event(&lab, "web", "PortNotForwarded", "no gateway answers on interface eth0")?;
    assert!(!router.reaches("http://100.200.0.1:8080/"));
    router.switch_on(ALL)?;
    wait_until_reached(&router, "http://100.200.0.1:8080/", true)?;
    wait_until_reached(&router, &format!("http://[{V6}]:8080/"), true)?;
    wait_for_event(
        &lab,
        "web",
        "PortForwarded",
        "port 8080/TCP of 100.200.0.1 is mapped to 10.42.0.150 port 8080",
    )?;
    let holder = lab.wait_for_holder(V4)?;
    let status = lab.lab.host(holder).namespace.run(&[crate::harness::PROGRAM, "status"])?;
    for line in
        ["10.42.0.254, external address 100.200.0.1", "10.42.0.254: port 8080/TCP for 10.42.0.150 is open"]
    {
        assert!(status.contains(&format!("gateway       {line}")), "{status}");
    }
    wait_for("the gateway's address in the annotation", 10, || {
        let service: Service = lab.objects().get("web").ok().flatten()?;
        (annotation(&service, "kube-vip.io/upnp-external-ip") == "100.200.0.1").then_some(())
    })?;
    // A gateway that lost its mappings gets them again.
    router.switch_off()?;
    assert!(!router.reaches("http://100.200.0.1:8080/"));
    router.switch_on(ALL)?;
    wait_until_reached(&router, "http://100.200.0.1:8080/", true)?;
    wait_until_reached(&router, &format!("http://[{V6}]:8080/"), true)?;
    // What is deleted is closed.
    lab.delete("web")?;
    wait_until_reached(&router, "http://100.200.0.1:8080/", false)?;
    let deleted = kube_vip_lab::now();
    // An attempt that fails is repeated after five seconds at least.
    wait_for("the rules to be gone", 10, || {
        let open = router.open();
        (!open.contains(V4) && !open.contains(V6)).then_some(())
    })
    .map_err(|error| {
        let logs: Vec<String> = lab.agents.iter().flatten().map(|agent| agent.log()).collect();
        format!("{error}\n{}\n{}\n{}", router.open(), router.log(), logs.join("\n"))
    })?;
    kube_vip_lab::note!("closed {:?} after the Service was deleted", kube_vip_lab::now().since(deleted));
    Ok(())
}

/// Another port, another node, no port any more.
fn follows() -> Outcome {
    let mut lab = services(&[("enable_upnp", "true")])?;
    let mut router = HomeRouter::start(&lab.lab)?;
    router.switch_on(ALL)?;
    let _workload = workload(&lab, "8080")?;
    lab.start_agents()?;
    serve(
        &lab,
        "web",
        V4,
        json!({ "kube-vip.io/forwardUPNP": "true", "kube-vip.io/upnp-external-port": "9090" }),
    )?;
    wait_until_reached(&router, "http://100.200.0.1:9090/", true)?;
    assert!(!router.reaches("http://100.200.0.1:8080/"));
    // Another node looks after it; the port stays open.
    let holder = lab.wait_for_holder(V4)?;
    lab.agent(holder).terminate();
    lab.agent(holder).wait(10)?;
    lab.wait_for_holder(V4)?;
    wait_until_reached(&router, "http://100.200.0.1:9090/", true)?;
    lab.annotate("web", json!({ "kube-vip.io/upnp-external-port": null }))?;
    wait_until_reached(&router, "http://100.200.0.1:8080/", true)?;
    wait_until_reached(&router, "http://100.200.0.1:9090/", false)?;
    // Two Services with one port: the older one has it.
    serve(&lab, "more", "10.42.0.151", json!({ "kube-vip.io/forwardUPNP": "true" }))?;
    wait_for_event(&lab, "more", "PortNotForwarded", "is mapped to Service default/web")?;
    lab.annotate("web", json!({ "kube-vip.io/forwardUPNP": null }))?;
    wait_for("the port to lead to the other one", 20, || {
        let open = router.open();
        (open.contains("10.42.0.151") && !open.contains(V4)).then_some(())
    })?;
    // The port of a Service that is not a load balancer any more is closed, from the Service's address.
    lab.objects().patch::<Service>("more", json!({ "spec": { "type": "ClusterIP" } }))?;
    wait_until_reached(&router, "http://100.200.0.1:8080/", false)?;
    Ok(())
}

fn refused() -> Outcome {
    let mut lab = services(&[("enable_upnp", "true")])?;
    let mut router = HomeRouter::start(&lab.lab)?;
    router.switch_on("allow 1024-65535 10.42.0.150/32 1024-65535\nallow 1024-65535 10.42.0.152/32 1024-65535\ndeny 0-65535 0.0.0.0/0 0-65535")?;
    lab.start_agents()?;
    serve(&lab, "web", V4, json!({ "kube-vip.io/forwardUPNP": "true" }))?;
    wait_for("the port to be open", 20, || router.open().contains(V4).then_some(()))?;
    Recording::begin(&lab.lab)?.expect(&[])?;
    serve(
        &lab,
        "other",
        "10.42.0.151",
        json!({ "kube-vip.io/forwardUPNP": "true", "kube-vip.io/upnp-external-port": "9090" }),
    )?;
    wait_for_event(
        &lab,
        "other",
        "PortNotForwarded",
        "gateway 10.42.0.254, port 9090/TCP: the gateway denied it",
    )?;
    alerts::expect(alerts::agents(&lab.lab), &["KubeVipPortMappingRefused"])?;
    // A mapping of another host is left alone: it could be another cluster's.
    let other = lab.lab.machine("other", 152)?;
    let ask = |words: &[&str]| {
        let url = "http://10.42.0.254:5000/rootDesc.xml";
        other.run(&[&["upnpc", "-u", url, "-e", "kube-vip 01234567 default/web"][..], words].concat())
    };
    ask(&["-a", "10.42.0.152", "8080", "9091", "TCP"])?;
    lab.annotate("web", json!({ "kube-vip.io/upnp-external-port": "9091" }))?;
    wait_for_event(
        &lab,
        "web",
        "PortNotForwarded",
        "is mapped to 10.42.0.152 (`kube-vip 01234567 default/web`)",
    )?;
    assert!(router.open().contains("10.42.0.152"));
    // Until that host deletes it.
    ask(&["-d", "9091", "TCP"])?;
    wait_for("the port to be ours", 40, || {
        let open = router.open();
        (open.contains(V4) && open.contains("9091") && !open.contains("10.42.0.152")).then_some(())
    })?;
    Ok(())
}
