//! `cargo xtask demo`: the main job, for somebody who sees it for the first time.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube_vip_lab::{Cluster, LabError};

use crate::setup;
use crate::sh::{Outcome, built, run as sh};

/// Three hosts, a VIP, the death of its holder.
pub(crate) fn run(keep: bool) -> Outcome {
    setup::all()?;
    // The whole workspace, so that this build shares its parts with that of the tests.
    sh("cargo", &["build", "--workspace", "--locked"], &[])?;
    let program = built("debug", "kube-vip")?;
    play(&program, keep).map_err(|error| error.to_string())
}

fn play(program: &str, keep: bool) -> Result<(), LabError> {
    println!(
        "\n1. Three hosts on one segment, each with a real etcd and kube-apiserver. This takes a few seconds."
    );
    let mut cluster = Cluster::start(program)?;
    for host in &cluster.lab.hosts {
        println!("   {}  {}  {}", host.name, host.v4, host.v6);
    }

    let vips = format!("{},{}", cluster.lab.vip_v4, cluster.lab.vip_v6);
    let command = ["manifest", "pod", "--interface", "eth0", "--address", &vips, "--controlplane", "--arp"];
    let leases =
        ["--leaderElection", "--leaseDuration", "5", "--leaseRenewDuration", "3", "--leaseRetry", "1"];
    println!("\n2. The static pod for each of them, as it would go to /etc/kubernetes/manifests:");
    println!("   kube-vip {} {}", command.join(" "), leases.join(" "));
    cluster.options.env = environment(program, &[&command[..], &leases[..]].concat())?;
    cluster.heal()?;
    let holder = cluster.sampler.wait_for_holder(10)?;
    println!("   {} was elected and holds {vips}.", cluster.lab.host(holder).name);

    println!("\n3. An administrator on another machine asks the API server behind the VIP:");
    println!("   GET https://{}:6443/version  →  {}", cluster.lab.vip_v4, cluster.lab.version_through_vip()?);
    let status = cluster.lab.host(holder).namespace.run(&[program, "status"])?;
    status.lines().for_each(|line| println!("   {line}"));

    println!("\n4. A planned hand-over: the agent on {} gets SIGTERM.", cluster.lab.host(holder).name);
    let start = kube_vip_lab::now();
    cluster.agent(holder).terminate();
    cluster.agent(holder).wait(10)?;
    std::thread::sleep(Duration::from_secs(1));
    let next = cluster.sampler.wait_for_holder(20)?;
    tell(&cluster, start, next);
    cluster.heal()?;

    let holder = cluster.sampler.wait_for_holder(10)?;
    println!(
        "\n5. The whole host {} dies: cable, agent, API server and etcd at once.",
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
    tell(&cluster, start, next);
    println!("   Nobody could know it was dead before its lease of 5 s had run out.");
    println!("   GET https://{}:6443/version  →  {}", cluster.lab.vip_v4, cluster.lab.version_through_vip()?);

    if keep {
        linger(&cluster);
    }
    Ok(())
}

/// What a client saw that opens a TLS connection every 20 ms.
fn tell(cluster: &Cluster, start: kube_vip::model::BootTime, next: usize) {
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
    println!("\n6. Everything stays up until you press Enter. Look around from another terminal:");
    println!("   ip netns exec {client} kubectl --kubeconfig {} get leases -A", kubeconfig.display());
    for host in &cluster.lab.hosts {
        println!("   ip netns exec {} ip address show eth0", host.namespace.name());
        println!("   less {}", host.folder.join("kube-vip.log").display());
    }
    drop(std::io::stdin().read_line(&mut String::new()));
}
