//! Alerts of monitoring/ that no other trial raises.

use kube_vip_lab::alerts::{self, Recording};
use kube_vip_lab::sampler::Sampler;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{Agent, AgentOptions, Lab, LabOptions, wait_for};

use crate::harness::PROGRAM;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_slow_api_server_raises_an_alert_before_the_claim_ends", slow),
        trial("two_clusters_that_look_like_one_raise_the_alert_of_two_holders", alike),
    ]
}

/// A host that holds the VIP of a cluster of its own, as this node.
fn single(node: &str) -> Result<(Lab, Agent), Failed> {
    let lab = Lab::start(LabOptions { hosts: 1, control_plane: true })?;
    let sampler = Sampler::start(&lab)?;
    let options = AgentOptions::new(&lab, PROGRAM).with("vip_nodename", node);
    let agent = Agent::start(lab.host(0), &options)?;
    sampler.wait_for_holder(20)?;
    Ok((lab, agent))
}

/// Seconds that the claim lasts, in the metrics of an agent.
fn remaining(lab: &Lab) -> Option<f64> {
    let metrics = lab.host(0).namespace.http_get(2112, "/metrics").ok()?;
    let line = metrics.lines().find(|line| line.starts_with("kube_vip_claim_remaining_seconds{"))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

fn slow() -> Outcome {
    let (lab, _agent) = single("node-1")?;
    Recording::begin(&lab)?.expect(&[])?;
    // A busy machine may miss the moment before the claim ends: then the server is slow once more.
    let raised = wait_for("a claim that is about to end", 60, || {
        wait_for("a renewed claim", 20, || remaining(&lab).filter(|time| *time > 1.5)).ok()?;
        let mut recording = Recording::begin(&lab).ok()?;
        lab.host(0).freeze_api_server();
        wait_for("the claim to become short", 5, || remaining(&lab).filter(|time| *time < 0.6)).ok();
        recording.scrape(alerts::agents(&lab));
        lab.host(0).thaw_api_server();
        recording.expect(&["KubeVipClaimShort"]).ok()
    });
    Ok(raised?)
}

/// Two clusters in one Prometheus without the label `cluster`.
fn alike() -> Outcome {
    let (one, _agent) = single("node-1")?;
    let (other, _other_agent) = single("node-2")?;
    Recording::begin(&one)?.expect(&[])?;
    let renamed = alerts::agents(&other).into_iter().map(|target| target.named("node-2"));
    let all = alerts::agents(&one).into_iter().chain(renamed).collect();
    Ok(alerts::expect(all, &["KubeVipTwoHolders"])?)
}
