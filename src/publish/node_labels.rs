//! Labels on the node for the Services that it announces (`enable_node_labeling`).
//!
//! `service-provided.kube-vip.io/<service>.<namespace>=<addresses>`, as the Go program has it, with values that the
//! API server accepts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::cluster::Api;
use crate::model::annotation::SERVICE_PROVIDED;
use crate::model::node;
use crate::planner::plan::Plan;
use crate::telemetry::events::label_value;

const PATIENCE: Duration = Duration::from_secs(4);
/// The longest name behind the slash.
const LONGEST: usize = 63;

/// The labels that a node should have when it holds these addresses. A Service whose name is too long has none.
pub fn wanted(plan: &Plan, held: &BTreeSet<IpAddr>) -> BTreeMap<String, String> {
    let label = |(key, handled): (&crate::model::ServiceKey, &crate::planner::plan::ServicePlan)| {
        let here: Vec<IpAddr> =
            handled.addresses.iter().copied().filter(|address| held.contains(address)).collect();
        let name = format!("{}.{}", key.name, key.namespace);
        let wanted = handled.servable_here && !here.is_empty() && name.len() <= LONGEST;
        wanted.then(|| (format!("{SERVICE_PROVIDED}/{name}"), label_value(&here)))
    };
    plan.services.iter().filter_map(label).collect()
}

/// What has to be written so that a node with the first labels has the second; none if nothing.
pub fn difference(has: &BTreeMap<String, String>, wanted: &BTreeMap<String, String>) -> Option<Value> {
    let gone = has.keys().filter(|name| !wanted.contains_key(*name)).map(|name| (name, Value::Null));
    let new = wanted.iter().filter(|(name, value)| has.get(*name) != Some(value));
    let labels: BTreeMap<&String, Value> =
        gone.chain(new.map(|(name, value)| (name, json!(value)))).collect();
    (!labels.is_empty()).then(|| json!({ "metadata": { "labels": labels } }))
}

/// Write a difference. Says whether it was written.
pub async fn write(api: &Api, me: &str, change: &Value) -> bool {
    let Ok(chosen) = api.client().await else { return false };
    let nodes = kube::Api::<Node>::all(chosen.client);
    let (params, patch) = (PatchParams::default(), Patch::Merge(change));
    match timeout(PATIENCE, nodes.patch_metadata(me, &params, &patch)).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            tracing::warn!(node = me, %error, "cannot label the node");
            false
        }
        Err(_elapsed) => {
            api.failed(&chosen.server);
            false
        }
    }
}

/// Remove all of them: the process ends.
pub async fn clear(api: &Api, me: &str) {
    let Ok(chosen) = api.client().await else { return };
    let nodes = kube::Api::<Node>::all(chosen.client);
    let Ok(Ok(node)) = timeout(PATIENCE, nodes.get(me)).await else { return };
    let has = node::view(node).map(|view| view.provided).unwrap_or_default();
    if let Some(change) = difference(&has, &BTreeMap::new()) {
        write(api, me, &change).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ServiceKey;
    use crate::planner::plan::ServicePlan;

    #[test]
    fn labels_are_legal_and_only_for_what_is_held() {
        let key = |name: &str| ServiceKey { namespace: "shop".into(), name: name.into() };
        let handled = |address: &str| ServicePlan {
            addresses: vec![address.parse().unwrap()],
            servable_here: true,
            ..ServicePlan::default()
        };
        let long = "x".repeat(60);
        let services =
            [("web", "192.0.2.1"), ("six", "fd00::1"), (&long, "192.0.2.1"), ("gone", "192.0.2.9")];
        let services = services.map(|(name, address)| (key(name), handled(address))).into();
        let plan = Plan { services, ..Plan::default() };
        let held = ["192.0.2.1", "fd00::1"].map(|address| address.parse().unwrap()).into();
        let labels = wanted(&plan, &held);
        let expected = [
            ("service-provided.kube-vip.io/six.shop", "fd000000000000000000000000000001"),
            ("service-provided.kube-vip.io/web.shop", "192.0.2.1"),
        ];
        assert_eq!(
            labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>(),
            expected
        );
        let before = [("service-provided.kube-vip.io/old.shop".to_owned(), "192.0.2.7".to_owned())].into();
        let change = difference(&before, &labels).unwrap();
        assert!(change["metadata"]["labels"]["service-provided.kube-vip.io/old.shop"].is_null());
        assert_eq!(change["metadata"]["labels"]["service-provided.kube-vip.io/web.shop"], "192.0.2.1");
        assert_eq!(difference(&labels, &labels), None);
    }
}
