//! Names in the local network: resolved and browsed by avahi on a host beside the cluster.

use k8s_openapi::api::core::v1::Service;
use kube_vip_lab::avahi::Avahi;
use kube_vip_lab::mdns::{flood, query, query_aloud};
use kube_vip_lab::objects::annotation;
use kube_vip_lab::trials::{Outcome, Trial, trial};
use kube_vip_lab::{ServiceLab, wait_for};
use serde_json::json;

use crate::harness::services;
use crate::services::wait_for_event;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("an_mdns_name_resolves_until_its_service_is_deleted", found),
        trial("a_name_that_another_host_has_is_changed", conflict),
        trial("services_with_one_requested_name_get_different_names", alike),
        trial("a_flood_of_names_is_not_kept", flooded),
        trial("the_control_plane_may_have_a_name_in_the_local_network", control_plane),
    ]
}

const V4: &str = "10.42.0.150";
const V6: &str = "fd42::1150";

fn serve(lab: &ServiceLab, name: &str, addresses: &str, mdns: &str) -> Outcome {
    lab.create(name, addresses, json!({ "ports": [{ "name": "http", "port": 80, "protocol": "TCP" }] }))?;
    lab.annotate(name, json!({ "kube-vip.io/mdns": mdns }))?;
    lab.set_endpoints(name, "a", &["node-1", "node-2", "node-3"])?;
    Ok(())
}

fn wait_for_address(avahi: &Avahi, name: &str, family: &str, address: Option<&str>) -> Outcome {
    let what = format!("{name} to be {address:?}");
    wait_for(&what, 20, || (avahi.resolve(name, family).as_deref() == address).then_some(()))?;
    Ok(())
}

fn found() -> Outcome {
    let mut lab = services(&[])?;
    let avahi = Avahi::start(&lab.lab, "seeker", 246)?;
    let asker = lab.lab.machine("asker", 247)?;
    lab.start_agents()?;
    serve(&lab, "web", &format!("{V4},{V6}"), "shop.local")?;
    wait_for_address(&avahi, "shop.local", "-4", Some(V4))?;
    wait_for_address(&avahi, "shop.local", "-6", Some(V6))?;
    wait_for("the service to be browsed", 10, || {
        avahi.browse("_http._tcp").contains("shop;_http._tcp;local;shop.local;").then_some(())
    })?;
    wait_for("the annotation", 10, || {
        let service: Service = lab.objects().get("web").ok().flatten()?;
        (annotation(&service, "kube-vip.io/mdns-name") == "shop.local").then_some(())
    })?;
    let holder = lab.wait_for_holder(V4)?;
    let status = lab.lab.host(holder).namespace.run(&[crate::harness::PROGRAM, "status"])?;
    assert!(status.contains("name          default/web is shop.local"), "{status}");
    // Another node takes over: found there, too, and not again after a pause.
    lab.agent(holder).terminate();
    lab.agent(holder).wait(10)?;
    lab.wait_for_holder(V4)?;
    wait_for("another node to answer", 10, || {
        let (from, address) = query(&avahi.namespace, "shop.local").ok().flatten()?;
        (from != lab.lab.host(holder).v4 && address.to_string() == V4).then_some(())
    })?;
    wait_for_address(&avahi, "shop.local", "-4", Some(V4))?;
    // Avahi hears the IPv4 address over IPv6, and has it in both caches.
    wait_for("an answer over IPv6", 20, || query_aloud(&asker, "shop.local").ok().flatten())?;
    lab.delete("web")?;
    lab.wait_until_no_host_has(V4)?;
    wait_for_address(&avahi, "shop.local", "-4", None)?;
    // An invalid name is reported.
    serve(&lab, "wrong", V4, "shop.example.com")?;
    wait_for_event(&lab, "wrong", "AnnotationIgnored", "is not a host name")
}

fn conflict() -> Outcome {
    let mut lab = services(&[])?;
    let avahi = Avahi::start(&lab.lab, "shop", 246)?;
    let own = "10.42.0.246";
    wait_for_address(&avahi, "shop.local", "-4", Some(own))?;
    lab.start_agents()?;
    serve(&lab, "web", V4, "shop")?;
    wait_for_event(
        &lab,
        "web",
        "NameTaken",
        "another host has the name shop.local: published as shop-2.local",
    )?;
    wait_for_address(&avahi, "shop-2.local", "-4", Some(V4))?;
    wait_for_address(&avahi, "shop.local", "-4", Some(own))?;
    Ok(())
}

fn alike() -> Outcome {
    let mut lab = services(&[])?;
    let avahi = Avahi::start(&lab.lab, "seeker", 246)?;
    let other = "10.42.0.151";
    lab.start_agents()?;
    serve(&lab, "web", V4, "shop")?;
    wait_for_address(&avahi, "shop.local", "-4", Some(V4))?;
    serve(&lab, "more", other, "shop")?;
    wait_for_event(
        &lab,
        "more",
        "NameTaken",
        "another host has the name shop.local: published as shop-2.local",
    )?;
    wait_for_address(&avahi, "shop-2.local", "-4", Some(other))?;
    wait_for_address(&avahi, "shop.local", "-4", Some(V4))?;
    // It keeps its name when the other one is free.
    lab.delete("web")?;
    wait_for_address(&avahi, "shop.local", "-4", None)?;
    wait_for_address(&avahi, "shop-2.local", "-4", Some(other))
}

fn flooded() -> Outcome {
    let mut lab = services(&[])?;
    let machine = lab.lab.machine("seeker", 246)?;
    lab.start_agents()?;
    serve(&lab, "web", V4, "shop")?;
    let holder = lab.wait_for_holder(V4)?;
    wait_for("an answer", 20, || query(&machine, "shop.local").ok().flatten())?;
    flood(&machine, 40_000)?;
    lab.agent(holder).wait_for_log("other hosts have too many records in mDNS", 20)?;
    wait_for("an answer of the next responder", 60, || query(&machine, "shop.local").ok().flatten())?;
    Ok(())
}

fn control_plane() -> Outcome {
    let env = [("cp_enable", "true"), ("svc_enable", "false"), ("address", V4), ("vip_mdns", "k8s.local")];
    let mut lab = services(&env)?;
    let avahi = Avahi::start(&lab.lab, "seeker", 246)?;
    lab.start_agents()?;
    lab.wait_for_holder(V4)?;
    wait_for_address(&avahi, "k8s.local", "-4", Some(V4))
}
