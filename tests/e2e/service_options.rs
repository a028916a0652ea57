//! Services and the settings for interfaces, selection and status.

use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{ServiceLab, wait_for};
use serde_json::json;

use crate::harness::services;
use crate::services::wait_for_event;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_name_in_the_annotation_is_followed", name),
        trial("nodes_are_labelled_for_what_they_announce", labels),
        trial("endpoints_of_the_older_kind_count_as_well", endpoints),
        trial("nothing_is_written_where_updates_are_disabled", unwritten),
        trial("only_services_of_svc_namespace_are_announced", namespace),
        trial("prefixes_and_interfaces_follow_the_subnet", subnets),
    ]
}

/// Until a link of a host shows this.
fn wait_for_link(lab: &ServiceLab, host: usize, link: &str, part: &str) -> Outcome {
    wait_for(&format!("{part} on {link}"), 20, || {
        let shown = lab.lab.host(host).namespace.ip(&["addr", "show", "dev", link]);
        shown.is_ok_and(|shown| shown.contains(part)).then_some(())
    })?;
    Ok(())
}

fn name() -> Outcome {
    let mut lab = services(&[])?;
    lab.start_agents()?;
    let resolve = |lab: &ServiceLab, address: &str| -> Outcome {
        for host in &lab.lab.hosts {
            std::fs::write(host.folder.join("root/etc/hosts"), format!("{address} web.test\n"))?;
        }
        Ok(())
    };
    lab.serve("web", "web.test,fd43::1")?;
    // What can be announced does not wait for the rest.
    lab.wait_for_holder("fd43::1")?;
    resolve(&lab, "10.43.0.1")?;
    lab.wait_for_holder("10.43.0.1")?;
    lab.wait_for_status("web", &["10.43.0.1", "fd43::1"])?;
    resolve(&lab, "10.43.0.2")?;
    lab.wait_for_holder("10.43.0.2")?;
    lab.wait_until_no_host_has("10.43.0.1")?;
    lab.wait_for_status("web", &["10.43.0.2", "fd43::1"])?;
    Ok(())
}

fn labels() -> Outcome {
    let mut lab = services(&[("enable_node_labeling", "true")])?;
    lab.start_agents()?;
    lab.serve("web", "10.43.0.3,fd43::2")?;
    let holder = lab.wait_for_holder("10.43.0.3")?;
    let label = |lab: &ServiceLab, host: usize| {
        let node: Node = lab.objects().get(&format!("node-{}", host + 1)).unwrap()?;
        node.metadata.labels?.get("service-provided.kube-vip.io/web.default").cloned()
    };
    let labelled = |lab: &ServiceLab, host: usize| {
        wait_for(&format!("a label on node {}", host + 1), 20, || {
            label(lab, host).filter(|value| value.contains("10.43.0.3"))
        })
    };
    let without = |lab: &ServiceLab, host: usize| {
        wait_for(&format!("no label on node {}", host + 1), 20, || label(lab, host).is_none().then_some(()))
    };
    labelled(&lab, holder)?;
    (0..3).filter(|host| *host != holder).try_for_each(|host| without(&lab, host))?;
    lab.agent(holder).terminate();
    assert!(lab.agent(holder).wait(10)?.success());
    let next = lab.wait_for_holder("10.43.0.3")?;
    labelled(&lab, next)?;
    without(&lab, holder)?;
    lab.delete("web")?;
    without(&lab, next)?;
    Ok(())
}

fn endpoints() -> Outcome {
    let mut lab = services(&[("enable_endpoints", "true")])?;
    lab.start_agents()?;
    lab.create("old", "10.43.0.4", json!({}))?;
    let subset =
        json!({ "addresses": [{ "ip": "10.244.0.9", "nodeName": "node-1" }], "ports": [{ "port": 8080 }] });
    lab.objects().create::<Endpoints>("old", json!({ "subsets": [subset] }))?;
    lab.wait_for_holder("10.43.0.4")?;
    lab.objects().patch::<Endpoints>("old", json!({ "subsets": null }))?;
    lab.wait_until_no_host_has("10.43.0.4")?;
    lab.objects().patch::<Endpoints>("old", json!({ "subsets": [subset] }))?;
    lab.wait_for_holder("10.43.0.4")?;
    lab.objects().delete::<Endpoints>("old")?;
    lab.wait_until_no_host_has("10.43.0.4")?;
    Ok(())
}

fn unwritten() -> Outcome {
    let mut lab = services(&[("disable_service_updates", "true")])?;
    lab.start_agents()?;
    lab.serve("web", "10.43.0.8")?;
    let holder = lab.wait_for_holder("10.43.0.8")?;
    let written = |lab: &ServiceLab| -> Result<bool, Failed> {
        let service: Service = lab.objects().get("web")?.ok_or("the Service is gone")?;
        let status = service.status.and_then(|status| status.load_balancer?.ingress);
        let named = service.metadata.annotations.unwrap_or_default().contains_key("kube-vip.io/vipHost");
        Ok(named || status.is_some_and(|ingress| !ingress.is_empty()))
    };
    lab.agent(holder).terminate();
    assert!(lab.agent(holder).wait(10)?.success());
    lab.wait_for_holder("10.43.0.8")?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    assert!(!written(&lab)?, "the status or the annotation was written");
    Ok(())
}

fn namespace() -> Outcome {
    let mut lab = services(&[("svc_namespace", "kube-public")])?;
    lab.start_agents()?;
    lab.serve("outside", "10.43.0.5")?;
    lab.create("kube-public/inside", "10.43.0.6", json!({}))?;
    let forced = json!({ "kube-vip.io/allow-reconcile-without-endpoints": "true" });
    lab.annotate("kube-public/inside", forced)?;
    lab.wait_for_holder("10.43.0.6")?;
    assert!(lab.holders("10.43.0.5").is_empty());
    lab.objects().delete::<Service>("kube-public/inside")?;
    lab.wait_until_no_host_has("10.43.0.6")?;
    Ok(())
}

fn subnets() -> Outcome {
    let mut lab = services(&[("vip_subnet", "auto,auto")])?;
    let host = &lab.lab.host(0).namespace;
    host.ip(&["link", "add", "spare", "type", "veth", "peer", "name", "far"])?;
    host.ip(&["link", "set", "far", "up"])?;
    host.ip(&["link", "set", "spare", "up"])?;
    host.ip(&["addr", "add", "10.44.0.1/25", "dev", "spare"])?;
    host.sysctl("net.ipv4.conf.spare.rp_filter", "1")?;
    lab.start_agent(0)?;
    let on = |link: &str| json!({ "kube-vip.io/serviceInterface": link });
    lab.serve("near", "10.42.0.150,fd42::150")?;
    wait_for_link(&lab, 0, "eth0", "10.42.0.150/24")?;
    wait_for_link(&lab, 0, "eth0", "fd42::150/64")?;
    lab.serve("far", "10.43.0.7")?;
    wait_for_event(&lab, "far", "AddressBlocked", "no subnet of interface eth0 contains 10.43.0.7")?;
    lab.serve("auto", "10.44.0.9")?;
    lab.annotate("auto", on("auto"))?;
    wait_for_link(&lab, 0, "spare", "10.44.0.9/25")?;
    let log = lab.agent(0).log();
    assert!(log.contains("set net.ipv4.conf.spare.rp_filter to 2"), "{log}");
    lab.serve("elsewhere", "10.42.0.151")?;
    lab.annotate("elsewhere", on("eth7"))?;
    wait_for_event(&lab, "elsewhere", "AddressBlocked", "there is no interface eth7")?;
    // Another link for a live Service: the address moves there.
    lab.annotate("auto", on("eth0"))?;
    wait_for_event(&lab, "auto", "AddressBlocked", "no subnet of interface eth0 contains 10.44.0.9")?;
    lab.stop_agents()?;
    lab.lab.host(0).namespace.ip(&["link", "del", "spare"])?;
    Ok(())
}
