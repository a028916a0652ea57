//! `cargo xtask demo home`: a cluster behind a home router, with addresses from DHCP.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube_vip_lab::avahi::Avahi;
use kube_vip_lab::home_router::{HomeRouter, OUTSIDE};
use kube_vip_lab::workload::{Caller, Workload, get_from, set_pods};
use kube_vip_lab::{DhcpServer, LabError, Provider, ServerKind, ServerOptions, ServiceLab, dhcp, wait_for};
use serde_json::Value;

use crate::setup;
use crate::sh::{Outcome, built, run as sh};

const MANIFEST: &str = include_str!("../../../examples/home-lab/web.yaml");
const URL: &str = "http://100.200.0.1:8080/";

/// DHCP, UPnP and mDNS together.
pub(crate) fn run() -> Outcome {
    setup::all()?;
    sh("cargo", &["build", "--workspace", "--locked"], &[])?;
    let program = built("debug", "kube-vip")?;
    let provider = built("debug", "kube-vip-cloud-provider")?;
    play(&program, &provider).map_err(|error| error.to_string())
}

fn play(program: &str, provider: &str) -> Result<(), LabError> {
    println!(
        "\n1. Three hosts with real API servers, and what a flat has: a router with DHCP (dnsmasq) and UPnP"
    );
    println!("   (miniupnpd, in secure mode), a desktop (avahi), and an external client at 100.200.0.2.");
    let mut lab = ServiceLab::start(program, &dhcp::addresses())?;
    let _dhcp = DhcpServer::start(&lab.lab, ServerOptions::new(ServerKind::Dnsmasq, 600))?;
    let mut router = HomeRouter::start(&lab.lab)?;
    router.switch_on("allow 1-65535 0.0.0.0/0 1-65535")?;
    let desktop = Avahi::start(&lab.lab, "desktop", 246)?;
    let _workload = Workload::start(&lab.lab)?;
    lab.start_agents()?;
    let _provider = Provider::start(&lab.lab, 0, provider, (10258, "system:masters"), &["--upnp"])?;
    println!("   kube-vip runs on each host, kube-vip-cloud-provider --upnp on one.");

    println!("\n2. kubectl apply -f examples/home-lab/web.yaml");
    let manifest: Value =
        serde_saphyr::from_str(MANIFEST).map_err(|error| LabError::Api(error.to_string()))?;
    let start = kube_vip_lab::now();
    lab.objects().create::<Service>("web", manifest)?;
    set_pods(lab.objects(), "web", &[0, 1, 2])?;
    wait_for("the port to be open", 30, || router.reaches(URL).then_some(()))?;
    println!(
        "   Reached from outside {:.1} s later. Its Events:",
        kube_vip_lab::now().since(start).as_secs_f64()
    );
    let events: BTreeSet<(String, String)> = lab.objects().events("web")?.into_iter().collect();
    events.iter().for_each(|(reason, text)| println!("   {reason:<22}{text}"));

    println!("\n3. On the desktop:");
    let found = wait_for("the name", 20, || desktop.resolve("web.local", "-4"))?;
    println!("   avahi-resolve -n web.local  →  {found}");
    let address: IpAddr = found.parse().map_err(|_| LabError::Api(format!("{found} is no address")))?;
    println!("   GET http://web.local/  →  {}", get_from(&desktop.namespace, address, 80)?);
    println!("   Outside:");
    println!("   GET {URL}  →  {}", get_from(&router.outside, OUTSIDE.into(), 8080)?);

    let holder = lab.wait_for_holder(&found)?;
    println!(
        "\n4. The agent on node-{} gets SIGTERM, while the desktop sends a request every 20 ms.",
        holder + 1
    );
    let caller = Caller::of(&desktop.namespace, address, 80);
    std::thread::sleep(Duration::from_secs(1));
    let start = kube_vip_lab::now();
    lab.agent(holder).terminate();
    lab.agent(holder).wait(10)?;
    let next = wait_for("another node to announce it", 20, || {
        lab.holders(&found).into_iter().find(|next| *next != holder)
    })?;
    std::thread::sleep(Duration::from_secs(2));
    println!(
        "   node-{} has {found} now, the same. Longest time without an answer: {:.3} s.",
        next + 1,
        caller.outage(start).as_secs_f64()
    );
    drop(caller);
    println!("   web.local  →  {}", desktop.resolve("web.local", "-4").unwrap_or_default());
    println!("   GET {URL}  →  {}", get_from(&router.outside, OUTSIDE.into(), 8080)?);
    let status = lab.lab.host(next).namespace.run(&[program, "status"])?;
    status.lines().filter(|line| line.contains("DHCP")).for_each(|line| println!("   {line}"));

    println!("\n5. kubectl delete service web");
    lab.delete("web")?;
    wait_for("the port to be closed", 20, || (!router.reaches(URL)).then_some(()))?;
    wait_for("the name to be gone", 20, || desktop.resolve("web.local", "-4").is_none().then_some(()))?;
    lab.wait_until_no_host_has(&found)?;
    println!("   The port is closed, the name gone, and the address back with the DHCP server.");
    Ok(())
}
