//! One election, shared with Go programs, and with a machine of the same name: client-go's own elector competes for the
//! same Lease.

use std::time::Duration;

use kube_vip_lab::note;
use kube_vip_lab::process::Process;
use kube_vip_lab::sampler::Sampler;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{Agent, AgentOptions, Lab, LabOptions, binaries};

use crate::harness::{PROGRAM, services};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("client_go_and_kube_vip_hand_one_lease_to_each_other", client_go),
        trial("services_move_between_client_go_and_kube_vip", services_with_client_go),
        trial("two_hosts_with_one_node_name_hold_the_vip_one_after_the_other", clones),
    ]
}

fn elector(lab: &Lab, identity: &str, more: &[&str]) -> Result<Process, Failed> {
    let host = lab.host(0);
    let kubeconfig =
        std::fs::read_to_string(lab.path("super-admin.conf"))?.replace(&lab.vip_v4.to_string(), "127.0.0.1");
    let path = lab.path("elector.conf");
    std::fs::write(&path, kubeconfig)?;
    let (program, path) = (binaries::find("elector")?, path.to_string_lossy());
    let command = [&[program.as_str(), "--identity", identity, "--kubeconfig", &path], more].concat();
    Ok(Process::start(&host.namespace, &command, &[], &lab.path(&format!("{identity}.log")))?)
}

fn leads(elector: &Process) -> bool {
    let log = elector.log();
    let last = log.lines().rfind(|line| *line == "leading" || *line == "lost");
    last == Some("leading")
}

/// A rolling migration, there and back: released, killed, released.
fn client_go() -> Outcome {
    let lab = Lab::start(LabOptions { hosts: 1, control_plane: true })?;
    let sampler = Sampler::start(&lab)?;
    let options = AgentOptions::new(&lab, PROGRAM);
    let unheld = || sampler.latest().is_some_and(|sample| sample.holds[0].is_empty());

    let mut go = elector(&lab, "go-program", &[])?;
    kube_vip_lab::wait_for("client-go to lead", 10, || leads(&go).then_some(()))?;
    let mut agent = Agent::start(lab.host(0), &options)?;
    std::thread::sleep(Duration::from_secs(7));
    assert!(leads(&go) && unheld(), "a healthy lease was stolen");

    // The Go program releases the Lease: the agent takes over at once.
    go.signal(nix::sys::signal::Signal::SIGTERM);
    go.wait(5)?;
    let released = kube_vip_lab::now();
    sampler.wait_for_holder(5)?;
    note!("taken over {:?} after client-go's release", kube_vip_lab::now().since(released));

    // It comes back and waits its turn.
    let mut go = elector(&lab, "go-program-2", &[])?;
    std::thread::sleep(Duration::from_secs(7));
    assert!(!leads(&go) && sampler.holder().is_ok(), "client-go stole a healthy lease");
    agent.terminate();
    agent.wait(5)?;
    kube_vip_lab::wait_for("client-go to lead after our release", 10, || leads(&go).then_some(()))?;
    assert!(unheld());

    // It dies: we wait for the lease to expire, no longer, no shorter.
    let agent = Agent::start(lab.host(0), &options)?;
    let followed =
        || agent.log().matches("following the holder of the VIP holder=\"go-program-2\"").next().map(drop);
    kube_vip_lab::wait_for("kube-vip to follow client-go", 10, followed)?;
    go.kill();
    let killed = kube_vip_lab::now();
    sampler.wait_for_holder(10)?;
    let took = kube_vip_lab::now().since(killed);
    note!("taken over {took:?} after client-go's death");
    assert!(took > Duration::from_secs(3), "{took:?}");
    Ok(())
}

/// Cloned machines: each is another holder for the other one.
fn clones() -> Outcome {
    let lab = Lab::start(LabOptions { hosts: 2, control_plane: true })?;
    let sampler = Sampler::start(&lab)?;
    let start = kube_vip_lab::now();
    let options = AgentOptions::new(&lab, PROGRAM).with("vip_nodename", "clone");
    let mut first = Agent::start(lab.host(0), &options)?;
    sampler.wait_for_holder(15)?;
    let second = Agent::start(lab.host(1), &options)?;
    let reported = |agent: &Agent| {
        agent.wait_for_log("another host writes Lease kube-system/plndr-cp-lock as clone", 10)
    };
    reported(&second)?;
    assert_eq!(sampler.holder()?, 0, "the second host acquired the Lease of the first one");

    first.kill();
    let killed = kube_vip_lab::now();
    kube_vip_lab::wait_for("the second host to hold the VIP", 10, || {
        sampler.holder().ok().filter(|it| *it == 1)
    })?;
    note!("taken over {:?} after the kill", kube_vip_lab::now().since(killed));
    let first = Agent::start(lab.host(0), &options)?;
    reported(&first)?;
    assert_eq!((sampler.holder()?, sampler.overlap(start)), (1, Duration::ZERO));
    Ok(())
}

/// An agent of the Go program has the Services, releases them, takes them again, and is killed: by one election and by
/// one for each.
fn services_with_client_go() -> Outcome {
    let kinds = [
        (&[][..], ["--namespace", "kube-system", "--name", "plndr-svcs-lock"], ["go-all", "go-all-2"]),
        (
            &[("svc_election", "true")],
            ["--namespace", "default", "--name", "kubevip-web"],
            ["go-each", "go-each-2"],
        ),
    ];
    for (env, lease, [first, second]) in kinds {
        let mut lab = services(env)?;
        let lead = |go: &Process| {
            kube_vip_lab::wait_for("client-go to lead", 10, || leads(go).then_some(())).map_err(Failed::from)
        };
        let mut go = elector(&lab.lab, first, &lease)?;
        lead(&go)?;
        lab.start_agents()?;
        lab.serve("web", "10.43.0.1")?;
        std::thread::sleep(Duration::from_secs(7));
        assert!(leads(&go) && lab.holders("10.43.0.1").is_empty(), "a healthy lease was stolen");
        go.signal(nix::sys::signal::Signal::SIGTERM);
        go.wait(5)?;
        lab.wait_for_holder("10.43.0.1")?;

        let mut go = elector(&lab.lab, second, &lease)?;
        lab.stop_agents()?;
        lead(&go)?;
        lab.wait_until_no_host_has("10.43.0.1")?;
        lab.start_agents()?;
        go.kill();
        let killed = kube_vip_lab::now();
        lab.wait_for_holder("10.43.0.1")?;
        let took = kube_vip_lab::now().since(killed);
        note!("taken over {took:?} after client-go's death");
        assert!(took > Duration::from_secs(3), "{took:?}");
    }
    Ok(())
}
