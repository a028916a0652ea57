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

/// Waits until the claim lasts for so many seconds, and returns what was scraped then.
fn wait_for_claim(lab: &Lab, before: &Recording, lasts: std::ops::Range<f64>) -> Option<Recording> {
    let scraped = || {
        let mut recording = before.clone();
        recording.scrape(alerts::agents(lab));
        let claim = recording.last("kube_vip_claim_remaining_seconds")?;
        lasts.contains(&claim).then_some(recording)
    };
    wait_for("the claim", 5, scraped).ok()
}

fn slow() -> Outcome {
    let (lab, _agent) = single("node-1")?;
    Recording::begin(&lab)?.expect(&[])?;
    // A busy machine may miss the moment before the claim ends: then the server is slow once more. The last fifth of a claim is
    // less than a quarter of each first scrape.
    let recording = wait_for("a claim that is about to end", 60, || {
        let renewed = wait_for_claim(&lab, &Recording::default(), 2.4..3.0)?;
        lab.host(0).freeze_api_server();
        let short = wait_for_claim(&lab, &renewed, 0.01..0.6);
        lab.host(0).thaw_api_server();
        short
    })?;
    Ok(recording.expect(&["KubeVipClaimShort"])?)
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
