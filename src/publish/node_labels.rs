//! The labels of this node (`enable_node_labeling`), with one writer:
//!
//! * `kube-vip.io/has-ip=<VIPs>` while it holds the control plane's VIPs,
//! * `service-provided.kube-vip.io/<service>.<namespace>=<addresses>` for each Service that it announces.
//!
//! Names as in the Go program, values as the API server accepts them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::cluster::{Api, ApiClient};
use crate::election::status::{ElectionStatus, RoleName};
use crate::model::annotation::{HAS_IP, SERVICE_PROVIDED};
use crate::model::node::{self, label_value};
use crate::model::{Backoff, LogOnChange, ServiceKey};
use crate::planner::plan::{Plan, ServicePlan};

const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);
/// Limit of the API server for the part behind the slash.
const NAME_MAX: usize = 63;
/// After a write the watch needs this long to deliver the labels it made.
const SETTLE_TIME: Duration = Duration::from_millis(500);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// The labels for Services on this node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceLabels {
    /// What the Node has.
    pub observed: BTreeMap<String, String>,
    pub desired: BTreeMap<String, String>,
}

/// The labels that a node should have when it holds these addresses. A Service whose name is too long has none.
pub fn desired(plan: &Plan, held: &BTreeSet<IpAddr>) -> BTreeMap<String, String> {
    let label = |(key, service): (&ServiceKey, &ServicePlan)| {
        let here: Vec<IpAddr> = service.served().filter(|address| held.contains(address)).collect();
        let name = format!("{}.{}", key.name, key.namespace);
        let labelled = service.servable_here && !here.is_empty() && name.len() <= NAME_MAX;
        labelled.then(|| (format!("{SERVICE_PROVIDED}/{name}"), label_value(&here)))
    };
    plan.services.iter().filter_map(label).collect()
}

/// The patch for a node with the observed labels; none if it has the desired ones. `has_ip` is a change of that label.
fn patch(services: &ServiceLabels, has_ip: Option<(&str, Value)>) -> Option<Value> {
    let ServiceLabels { observed, desired } = services;
    let removed = observed.keys().filter(|name| !desired.contains_key(*name));
    let removed = removed.map(|name| (name.as_str(), Value::Null));
    let changed = desired.iter().filter(|(name, value)| observed.get(*name) != Some(value));
    let changed = changed.map(|(name, value)| (name.as_str(), json!(value)));
    let labels: BTreeMap<&str, Value> = removed.chain(changed).chain(has_ip).collect();
    (!labels.is_empty()).then(|| json!({ "metadata": { "labels": labels } }))
}

/// The label of the control plane's VIPs. It is left alone until this node first holds them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct HasIp {
    desired: Option<bool>,
    written: Option<bool>,
}

impl HasIp {
    fn update(&mut self, role: RoleName) {
        match role {
            RoleName::Leader | RoleName::ProvisionalLeader => self.desired = Some(true),
            RoleName::HandingOver => {}
            RoleName::Starting | RoleName::Follower => self.desired = self.desired.map(|_| false),
        }
    }

    fn change(self, vips: &str) -> Option<(&'static str, Value)> {
        let desired = self.desired.filter(|_| self.desired != self.written)?;
        Some((HAS_IP, if desired { json!(vips) } else { Value::Null }))
    }
}

/// The input of [`NodeLabels`].
pub struct Channels {
    pub election: watch::Receiver<ElectionStatus>,
    /// None where this process manages no Services.
    pub services: Option<watch::Receiver<ServiceLabels>>,
    /// True at shutdown: all labels are removed, and the writer returns.
    pub closing: watch::Receiver<bool>,
}

/// The only writer of this node's labels.
pub struct NodeLabels {
    api: Arc<Api>,
    node: String,
    channels: Channels,
    /// The value of `has-ip`.
    vips: String,
    has_ip: HasIp,
    backoff: Backoff,
    problem: LogOnChange,
}

impl NodeLabels {
    pub fn new(api: Arc<Api>, node: &str, vips: &[IpAddr], channels: Channels) -> Self {
        Self {
            api,
            node: node.to_owned(),
            channels,
            vips: label_value(vips),
            has_ip: HasIp::default(),
            backoff: Backoff::new(BACKOFF_MIN, BACKOFF_MAX),
            problem: LogOnChange::default(),
        }
    }

    /// Writes labels as they change, and removes them at shutdown.
    pub async fn run(mut self) {
        while !*self.channels.closing.borrow_and_update() {
            self.has_ip.update(self.channels.election.borrow_and_update().role);
            let services = self.channels.services.as_mut();
            let services = services.map(|services| services.borrow_and_update().clone()).unwrap_or_default();
            let pause = match patch(&services, self.has_ip.change(&self.vips)) {
                Some(patch) => Some(self.write(&patch).await),
                None => None,
            };
            let Channels { election, services, closing } = &mut self.channels;
            let services_changed = async {
                match services {
                    Some(services) => services.changed().await,
                    None => std::future::pending().await,
                }
            };
            let pause_over = async {
                match pause {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Ok(()) = election.changed(), if pause.is_none() => {}
                Ok(()) = services_changed, if pause.is_none() => {}
                () = pause_over => {}
                changed = closing.changed() => if changed.is_err() { return },
            }
        }
        self.clear().await;
    }

    /// Removes all labels. Those for Services are read first: the watch may be behind.
    async fn clear(&mut self) {
        self.has_ip.update(self.channels.election.borrow().role);
        let observed = match self.channels.services {
            Some(_) => self.read().await,
            None => BTreeMap::new(),
        };
        let services = ServiceLabels { observed, desired: BTreeMap::new() };
        if let Some(patch) = patch(&services, self.has_ip.change(&self.vips)) {
            let _pause = self.write(&patch).await;
        }
    }

    /// The labels for Services that the Node has; empty if it cannot be read.
    async fn read(&self) -> BTreeMap<String, String> {
        let Ok(ApiClient { client, .. }) = self.api.client().await else { return BTreeMap::new() };
        let nodes = kube::Api::<Node>::all(client);
        match timeout(REQUEST_TIMEOUT, nodes.get(&self.node)).await {
            Ok(Ok(node)) => node::view(node).map(|view| view.provided).unwrap_or_default(),
            _ => BTreeMap::new(),
        }
    }

    /// Returns the pause before the next write.
    async fn write(&mut self, patch: &Value) -> Duration {
        let Ok(ApiClient { client, server }) = self.api.client().await else {
            return self.backoff.next_pause();
        };
        let nodes = kube::Api::<Node>::all(client);
        let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
        let problem = match timeout(REQUEST_TIMEOUT, nodes.patch_metadata(&self.node, &params, &patch)).await
        {
            Ok(Ok(_)) => {
                self.has_ip.written = self.has_ip.desired;
                self.problem.clear();
                self.backoff.reset();
                return SETTLE_TIME;
            }
            // A kubelet that has not registered its Node yet.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => return self.backoff.next_pause(),
            Ok(Err(error)) => {
                self.api.request_failed(&server, &error);
                error.to_string()
            }
            Err(_elapsed) => {
                self.api.failed(&server);
                format!("{server} did not respond in time")
            }
        };
        if self.problem.set(problem.as_str()) {
            tracing::warn!(node = self.node, "cannot write the labels of the Node: {problem}");
        }
        self.backoff.next_pause()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_valid_and_only_for_held_addresses() {
        let key = |name: &str| ServiceKey { namespace: "shop".into(), name: name.into() };
        let service = |address: &str| ServicePlan {
            addresses: vec![address.parse().unwrap()],
            servable_here: true,
            ..ServicePlan::default()
        };
        let long = "x".repeat(60);
        let services =
            [("web", "192.0.2.1"), ("six", "fd00::1"), (&long, "192.0.2.1"), ("gone", "192.0.2.9")];
        let services = services.map(|(name, address)| (key(name), service(address))).into();
        let plan = Plan { services, ..Plan::default() };
        let held = ["192.0.2.1", "fd00::1"].map(|address| address.parse().unwrap()).into();
        let desired = desired(&plan, &held);
        let expected = [
            ("service-provided.kube-vip.io/six.shop", "fd000000000000000000000000000001"),
            ("service-provided.kube-vip.io/web.shop", "192.0.2.1"),
        ];
        assert_eq!(
            desired.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>(),
            expected
        );
        let observed = [("service-provided.kube-vip.io/old.shop".to_owned(), "192.0.2.7".to_owned())].into();
        let change = patch(&ServiceLabels { observed, desired: desired.clone() }, None).unwrap();
        assert!(change["metadata"]["labels"]["service-provided.kube-vip.io/old.shop"].is_null());
        assert_eq!(change["metadata"]["labels"]["service-provided.kube-vip.io/web.shop"], "192.0.2.1");
        assert_eq!(patch(&ServiceLabels { observed: desired.clone(), desired }, None), None);
    }

    #[test]
    fn has_ip_is_written_on_gain_and_removed_on_loss() {
        let mut label = HasIp::default();
        label.update(RoleName::Follower);
        assert_eq!(label.change("192.0.2.1"), None);
        label.update(RoleName::Leader);
        assert_eq!(label.change("192.0.2.1"), Some((HAS_IP, json!("192.0.2.1"))));
        label.written = label.desired;
        assert_eq!(label.change("192.0.2.1"), None);
        label.update(RoleName::HandingOver);
        assert_eq!(label.change("192.0.2.1"), None);
        label.update(RoleName::Follower);
        assert_eq!(label.change("192.0.2.1"), Some((HAS_IP, Value::Null)));
    }
}
