//! `kubeadm init`, in its order: the pod first, the API server later, its rights last.

use std::time::Duration;

use kube_vip_lab::note;
use kube_vip_lab::probe::Prober;
use kube_vip_lab::sampler::Sampler;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{Agent, AgentOptions, Kubeconfig, Lab, LabOptions};

use crate::harness::PROGRAM;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "before_the_cluster_exists_the_vip_comes_with_the_api_server_and_turns_into_a_lease",
            kubeadm_init,
        ),
        trial("two_hosts_that_are_refused_the_lease_end_with_one_holder", two_refused),
        trial("a_lease_holder_displaces_a_provisional_one", displaced),
    ]
}

pub(crate) fn empty_lab(hosts: u8) -> Result<Lab, Failed> {
    Ok(Lab::start(LabOptions { hosts, control_plane: false })?)
}

/// The narrowest credential, the container's exact rights, a read-only /proc/sys.
fn kubeadm_init() -> Outcome {
    let mut lab = empty_lab(1)?;
    let sampler = Sampler::start(&lab)?;
    let prober = Prober::start(&lab, &lab.client_host, lab.vip_v4.into())?;
    let options =
        AgentOptions { kubeconfig: Kubeconfig::Missing, confined: true, ..AgentOptions::new(&lab, PROGRAM) };
    let admin_conf = lab.host(0).folder.join("root/etc/kubernetes/admin.conf");

    // The kubelet mounts what does not exist yet as a directory.
    std::fs::create_dir_all(&admin_conf)?;
    let mut agent = Agent::start(lab.host(0), &options)?;
    agent.wait_for_log("is a directory, not a kubeconfig", 10)?;
    std::fs::remove_dir(&admin_conf)?;
    agent.wait_for_log("does not exist, and this process has no service account", 10)?;
    std::fs::copy(lab.path("admin.conf"), &admin_conf)?;
    agent.wait_for_log("found the API servers", 10)?;
    assert!(agent.ended().is_none(), "{}", agent.log());

    // Without an answering API server nothing may be claimed.
    std::thread::sleep(Duration::from_secs(1));
    let touched = sampler.samples().iter().any(|sample| sample.holds.iter().any(|held| !held.is_empty()));
    assert!(!touched, "the address was taken without any API server");

    lab.start_etcd()?;
    lab.start_api_server(0)?;
    lab.wait_for_api_server(0)?;
    let healthy = kube_vip_lab::now();
    sampler.wait_for_holder(10)?;
    prober.wait_for_answer(healthy, 10)?;
    note!("the VIP answered {:?} after the API server was ready", kube_vip_lab::now().since(healthy));
    agent.wait_for_log("this node now holds the VIP provisional=true", 5)?;

    lab.bind_admin(0)?;
    let bound = kube_vip_lab::now();
    let status = || -> Option<serde_json::Value> {
        let text = lab.host(0).namespace.run(&[PROGRAM, "status", "-o", "json"]).ok()?;
        let all: serde_json::Value = serde_json::from_str(&text).ok()?;
        all.get(0).filter(|status| status["role"] == "leader").cloned()
    };
    kube_vip_lab::wait_for("the claim to rest on the Lease", 10, status)?;
    note!("the Lease followed {:?} after the rights", kube_vip_lab::now().since(bound));
    // Nothing may happen to the address.
    std::thread::sleep(Duration::from_secs(1));
    let lost = sampler
        .since(healthy)
        .iter()
        .skip_while(|sample| sample.holds[0].len() < 2)
        .any(|sample| sample.holds[0].len() < 2);
    assert!(!lost, "the address was gone for a moment when the Lease came");
    assert!(prober.outage(bound) < Duration::from_secs(1), "{:?}", prober.outage(bound));
    agent.terminate();
    assert!(agent.wait(5)?.success());
    Ok(())
}

fn two_refused() -> Outcome {
    let mut lab = empty_lab(2)?;
    lab.start_etcd()?;
    lab.start_api_servers()?;
    let sampler = Sampler::start(&lab)?;
    let options = AgentOptions::new(&lab, PROGRAM);
    let start = kube_vip_lab::now();
    let agents = [Agent::start(lab.host(0), &options)?, Agent::start(lab.host(1), &options)?];
    let holder = sampler.wait_for_holder(15)?;
    std::thread::sleep(Duration::from_secs(8));
    assert_eq!(sampler.holder()?, holder, "the address wanders");
    let overlap = sampler.overlap(start);
    note!("two holders for {overlap:?} while they sorted it out");
    assert!(overlap < Duration::from_millis(500), "{overlap:?}");
    // Rights for both: the provisional holder takes the Lease, the other follows.
    lab.bind_admin(0)?;
    let other = 1 - holder;
    agents[other].wait_for_log("following the holder of the VIP", 10)?;
    sampler.wait_for_holder(5)?;
    let quiet = kube_vip_lab::now();
    std::thread::sleep(Duration::from_secs(1));
    sampler.wait_for_holder(5)?;
    assert_eq!(sampler.overlap(quiet), Duration::ZERO);
    Ok(())
}

fn displaced() -> Outcome {
    let mut lab = empty_lab(2)?;
    // With `arp_ignore=0` a node replies for the address from there, too, and maybe first.
    lab.add_interface(0, "eth1", "10.44.0.1/24")?;
    lab.start_etcd()?;
    lab.start_api_servers()?;
    let sampler = Sampler::start(&lab)?;
    let refused = AgentOptions::new(&lab, PROGRAM);
    let _first = Agent::start(lab.host(0), &refused)?;
    assert_eq!(sampler.wait_for_holder(15)?, 0);
    let entitled = AgentOptions { kubeconfig: Kubeconfig::File(lab.path("super-admin.conf")), ..refused };
    let start = kube_vip_lab::now();
    let _second = Agent::start(lab.host(1), &entitled)?;
    let moved = || sampler.holder().ok().filter(|holder| *holder == 1);
    kube_vip_lab::wait_for("the Lease's holder to have the address", 15, moved)?;
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(sampler.holder()?, 1);
    note!("two holders for {:?}", sampler.overlap(start));
    assert_eq!(sampler.overlap(start), Duration::ZERO);
    Ok(())
}
