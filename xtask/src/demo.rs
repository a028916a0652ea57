//! `cargo xtask demo`: the main job, for newcomers.

pub(crate) mod home;

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service};
use kube_vip_lab::objects::annotation;
use kube_vip_lab::services::create_nodes;
use kube_vip_lab::workload::{Caller, Workload, get, set_pods};
use kube_vip_lab::{Administrator, Cluster, LabError, Objects, Provider, wait_for};
use serde_json::json;

use crate::setup;
use crate::sh::{Outcome, built, run as sh};

/// Three hosts, a VIP, a Service, the death of the VIP's holder.
pub(crate) fn run(keep: bool) -> Outcome {
    setup::all()?;
    // The whole workspace, so that this build shares its parts with that of the tests.
    sh("cargo", &["build", "--workspace", "--locked"], &[])?;
    let program = built("debug", "kube-vip")?;
    let provider = built("debug", "kube-vip-cloud-provider")?;
    play(&program, &provider, keep).map_err(|error| error.to_string())
}

fn play(program: &str, provider: &str, keep: bool) -> Result<(), LabError> {
    println!(
        "\n1. Three hosts on one segment, each with a real etcd and kube-apiserver. This takes a few seconds."
    );
    let mut cluster = Cluster::start(program)?;
    for host in &cluster.lab.hosts {
        println!("   {}  {}  {}", host.name, host.v4, host.v6);
    }

    let vips = format!("{},{}", cluster.lab.vip_v4, cluster.lab.vip_v6);
    let command = [
        "manifest",
        "pod",
        "--interface",
        "eth0",
        "--address",
        &vips,
        "--controlplane",
        "--services",
        "--arp",
    ];
    let leases =
        ["--leaderElection", "--leaseDuration", "5", "--leaseRenewDuration", "3", "--leaseRetry", "1"];
    println!("\n2. The static pod for each of them, as it would go to /etc/kubernetes/manifests:");
    println!("   kube-vip {} {}", command.join(" "), leases.join(" "));
    cluster.options.env = environment(program, &[&command[..], &leases[..]].concat())?;
    cluster.heal()?;
    let holder = cluster.sampler.wait_for_holder(10)?;
    println!("   {} was elected and holds {vips}.", cluster.lab.host(holder).name);

    println!("\n3. An administrator on another machine queries the API server behind the VIP:");
    println!("   GET https://{}:6443/version  →  {}", cluster.lab.vip_v4, cluster.lab.version_through_vip()?);
    let status = cluster.lab.host(holder).namespace.run(&[program, "status"])?;
    status.lines().for_each(|line| println!("   {line}"));

    println!("\n4. A planned hand-over: the agent on {} gets SIGTERM.", cluster.lab.host(holder).name);
    let start = kube_vip_lab::now();
    cluster.agent(holder).terminate();
    cluster.agent(holder).wait(10)?;
    std::thread::sleep(Duration::from_secs(1));
    let next = cluster.sampler.wait_for_holder(20)?;
    report(&cluster, start, next);
    cluster.heal()?;

    let (_provider, _workload) = serve(&mut cluster, provider)?;

    println!("\n   kube-vip doctor on node-1, with the settings of its agent:");
    let (_, text) = cluster.options.run(cluster.lab.host(0), &["doctor"])?;
    text.lines().for_each(|line| println!("   {line}"));

    let holder = cluster.sampler.wait_for_holder(10)?;
    println!(
        "\n6. The whole host {} dies: cable, agent, API server and etcd at once.",
        cluster.lab.host(holder).name
    );
    let start = kube_vip_lab::now();
    cluster.lab.segment.pull_cable(cluster.lab.host(holder).number)?;
    cluster.agent(holder).kill();
    let host = cluster.lab.host_mut(holder);
    host.kill_api_server();
    host.etcd = None;
    kube_vip_lab::wait_for("another host to take over", 30, || {
        cluster.sampler.holder().ok().filter(|next| *next != holder)
    })?;
    std::thread::sleep(Duration::from_secs(1));
    let next = cluster.sampler.wait_for_holder(20)?;
    report(&cluster, start, next);
    println!("   No other host may take over before its lease of 5 s has expired.");
    println!("   GET https://{}:6443/version  →  {}", cluster.lab.vip_v4, cluster.lab.version_through_vip()?);

    if keep {
        linger(&cluster);
    }
    Ok(())
}

/// A Service: created, given an address, answering, moved.
fn serve(cluster: &mut Cluster, program: &str) -> Result<(Provider, Workload), LabError> {
    println!(
        "\n5. A Service of type LoadBalancer, with a pod on each host, a real kube-proxy, and the cloud provider:"
    );
    let admin = Administrator::new(&cluster.lab, 0)?;
    let objects = admin.objects(&cluster.lab);
    create_nodes(&cluster.lab, objects)?;
    let workload = Workload::start(&cluster.lab)?;
    let provider = Provider::start(&cluster.lab, 0, program, (10258, "system:masters"), &[])?;
    objects.create::<ConfigMap>(
        "kube-system/kubevip",
        json!({ "data": { "range-global": "10.42.0.200-10.42.0.210" } }),
    )?;
    println!("   ConfigMap kube-system/kubevip: range-global: 10.42.0.200-10.42.0.210");
    set_pods(objects, "web", &[0, 1, 2])?;
    let start = kube_vip_lab::now();
    let ports = json!([{ "name": "tcp", "port": 80, "targetPort": 8080 }]);
    objects.create::<Service>("web", json!({ "spec": { "type": "LoadBalancer", "ports": ports } }))?;
    let published = |objects: Objects<'_>| -> Option<(IpAddr, String)> {
        let service: Service = objects.get("web").ok()??;
        let host = annotation(&service, "kube-vip.io/vipHost");
        let address = service.status?.load_balancer?.ingress?.first()?.ip.clone()?.parse().ok()?;
        Some((address, host))
    };
    let (address, host) = wait_for("the Service to have an address", 30, || published(objects))?;
    let took = kube_vip_lab::now().since(start).as_secs_f64();
    println!("   Service default/web has {address}, announced by {host}, {took:.3} s after it was created.");
    let answer = wait_for("an answer", 30, || get(&cluster.lab, address, 80).ok())?;
    println!("   GET http://{address}/  →  {answer}");
    let caller = Caller::start(&cluster.lab, address, 80);
    std::thread::sleep(Duration::from_secs(1));
    let index = cluster.lab.hosts.iter().position(|candidate| candidate.name == host).unwrap_or(0);
    println!("   The agent on {host} gets SIGTERM, while a client sends a request every 20 ms.");
    let start = kube_vip_lab::now();
    cluster.agent(index).terminate();
    cluster.agent(index).wait(10)?;
    let objects = admin.objects(&cluster.lab);
    let moved = || published(objects).filter(|(_, now)| *now != host);
    let (_, next) = wait_for("another node to announce it", 30, moved)?;
    let requests = caller.since(start);
    let lost = requests.iter().filter(|one| !one.answered).count();
    println!(
        "   {next} announces it now. {lost} of {} requests failed, longest time without an answer {:.3} s.",
        requests.len(),
        caller.outage(start).as_secs_f64()
    );
    cluster.heal()?;
    Ok((provider, workload))
}

/// What a client saw that opens a TLS connection every 20 ms.
fn report(cluster: &Cluster, start: kube_vip::model::BootTime, next: usize) {
    println!(
        "   {} has the VIP now. Longest time without an answer: IPv4 {:.3} s, IPv6 {:.3} s; on two hosts for {:.3} s.",
        cluster.lab.host(next).name,
        cluster.v4.outage(start).as_secs_f64(),
        cluster.v6.outage(start).as_secs_f64(),
        cluster.sampler.overlap(start).as_secs_f64()
    );
}

/// The environment of the container in the pod that the program prints; the node's name is the lab's to fill in.
fn environment(program: &str, args: &[&str]) -> Result<std::collections::BTreeMap<String, String>, LabError> {
    let yaml = kube_vip_lab::run(&[&[program], args].concat())?;
    let pod: Pod = serde_saphyr::from_str(&yaml).map_err(|error| LabError::Api(error.to_string()))?;
    let containers = pod.spec.map(|spec| spec.containers).unwrap_or_default();
    let list = containers.into_iter().flat_map(|container| container.env.unwrap_or_default());
    Ok(list.filter_map(|variable| Some((variable.name, variable.value?))).collect())
}

fn linger(cluster: &Cluster) {
    let client = cluster.lab.client_host.name();
    let kubeconfig = cluster.lab.path("admin.conf");
    println!("\n7. Everything stays up until you press Enter. Look around from another terminal:");
    println!("   ip netns exec {client} kubectl --kubeconfig {} get leases -A", kubeconfig.display());
    for host in &cluster.lab.hosts {
        println!("   ip netns exec {} ip address show eth0", host.namespace.name());
        println!("   less {}", host.folder.join("kube-vip.log").display());
    }
    drop(std::io::stdin().read_line(&mut String::new()));
}
