//! What the provider follows in the cluster.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Service};
use kube::runtime::watcher;
use kube_vip::cluster::Api;
use kube_vip::cluster::watch::{Change, follow};
use kube_vip::model::node::{self, NodeView};
use kube_vip::model::{ServiceKey, ServiceView, service};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What was seen.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "they pass by one at a time, and most are of the largest kind")]
pub enum Seen {
    /// Services.
    Services(Change<(ServiceKey, ServiceView)>),
    /// The ConfigMap with the pools.
    Pools(Change<Config>),
    /// Nodes, each with addresses that are not for Services.
    Nodes(Change<NodeView>),
    /// Namespaces.
    Namespaces(Change<String>),
    /// kubeadm's note of where the control plane is.
    ClusterInfo(Change<IpAddr>),
}

/// The ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Its UID.
    pub uid: String,
    /// Its data.
    pub data: BTreeMap<String, String>,
}

/// Follow everything for as long as the set lives.
pub fn start(api: &Arc<Api>, config_map: &(String, String), seen: &mpsc::Sender<Seen>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let all = watcher::Config::default;
    let named = |name: &str| all().fields(&format!("metadata.name={name}"));
    let (namespace, name) = config_map.clone();
    tasks.spawn(follow(
        api.clone(),
        kube::Api::<Service>::all,
        all(),
        service::view,
        Seen::Services,
        seen.clone(),
    ));
    tasks.spawn(follow(
        api.clone(),
        move |client| kube::Api::<ConfigMap>::namespaced(client, &namespace),
        named(&name),
        |map| Some(Config { uid: map.metadata.uid.unwrap_or_default(), data: map.data.unwrap_or_default() }),
        Seen::Pools,
        seen.clone(),
    ));
    tasks.spawn(follow(api.clone(), kube::Api::<Node>::all, all(), node::view, Seen::Nodes, seen.clone()));
    let of_namespace = |namespace: Namespace| namespace.metadata.name;
    tasks.spawn(follow(
        api.clone(),
        kube::Api::<Namespace>::all,
        all(),
        of_namespace,
        Seen::Namespaces,
        seen.clone(),
    ));
    tasks.spawn(follow(
        api.clone(),
        |client| kube::Api::<ConfigMap>::namespaced(client, "kube-public"),
        named("cluster-info"),
        |map| node::of_cluster_info(map.data?.get("kubeconfig")?),
        Seen::ClusterInfo,
        seen.clone(),
    ));
    tasks
}
