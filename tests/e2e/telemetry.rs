//! Events, the node's label, health ports, JSON logs.

use k8s_openapi::api::core::v1::{Event, Node};
use kube_vip_lab::sampler::Sampler;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{Agent, AgentOptions, Lab, LabOptions};

use crate::harness::PROGRAM;

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("events_labels_health_and_json_logs_agree", story)]
}

fn label(lab: &Lab) -> Result<Option<String>, Failed> {
    let client = lab.client(0)?;
    let node =
        lab.host(0).namespace.block_on(async move { kube::Api::<Node>::all(client).get("node-1").await })?;
    Ok(node.metadata.labels.and_then(|labels| labels.get("kube-vip.io/has-ip").cloned()))
}

fn events(lab: &Lab) -> Result<Vec<String>, Failed> {
    let client = lab.client(0)?;
    let events = lab.host(0).namespace.block_on(async move {
        kube::Api::<Event>::namespaced(client, "default").list(&Default::default()).await
    })?;
    let ours =
        events.items.into_iter().filter(|event| event.involved_object.name.as_deref() == Some("node-1"));
    Ok(ours.filter_map(|event| event.reason).filter(|reason| reason.starts_with("VIP")).collect())
}

fn story() -> Outcome {
    let lab = Lab::start(LabOptions { hosts: 1, control_plane: true })?;
    let client = lab.client(0)?;
    lab.host(0).namespace.block_on(async move {
        let node: Node =
            serde_json::from_value(serde_json::json!({ "metadata": { "name": "node-1" } })).unwrap();
        kube::Api::<Node>::all(client).create(&Default::default(), &node).await
    })?;
    let sampler = Sampler::start(&lab)?;
    let options = AgentOptions::new(&lab, PROGRAM)
        .with("enable_node_labeling", "true")
        .with("health_check_port", "2113")
        .with("vip_logformat", "json");
    let mut agent = Agent::start(lab.host(0), &options)?;
    sampler.wait_for_holder(10)?;
    kube_vip_lab::wait_for("the Event of the gain", 10, || {
        events(&lab).ok().filter(|events| events == &["VIPGained"])
    })?;
    kube_vip_lab::wait_for("the node's label", 10, || {
        let value = label(&lab).ok().flatten();
        value.filter(|value| value == "10.42.0.100_fd420000000000000000000000000100")
    })?;
    for path in ["/healthz", "/readyz"] {
        let answer = lab.host(0).namespace.http_get(2113, path)?;
        assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("OK"), "{answer}");
    }
    agent.terminate();
    assert!(agent.wait(5)?.success(), "{}", agent.log());
    kube_vip_lab::wait_for("the label to go", 5, || label(&lab).ok().filter(Option::is_none))?;
    kube_vip_lab::wait_for("the Event of the hand-over", 5, || {
        events(&lab).ok().filter(|events| events.iter().any(|reason| reason == "VIPHandedOver"))
    })?;
    for line in agent.log().lines() {
        let value: serde_json::Value =
            serde_json::from_str(line).map_err(|error| format!("{error} in the log line {line}"))?;
        assert!(value["message"].is_string() && value["level"].is_string(), "{line}");
    }
    Ok(())
}
