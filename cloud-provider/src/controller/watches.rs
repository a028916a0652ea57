//! Watches of the objects that allocation depends on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Service};
use kube::runtime::watcher;
use kube_vip::cluster::Api;
use kube_vip::cluster::watch::{Change, watch_objects, watch_optional};
use kube_vip::model::node::{self, NodeView};
use kube_vip::model::{ServiceKey, ServiceView, service};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "they pass by one at a time, and most are of the largest kind")]
pub enum WatchEvent {
    Services(Change<(ServiceKey, ServiceView)>),
    /// The ConfigMap with the pools.
    Pools(Change<PoolsConfig>),
    Nodes(Change<NodeView>),
    Namespaces(Change<String>),
    /// The control plane's address in kubeadm's `kube-public/cluster-info`.
    ClusterInfo(Change<IpAddr>),
}

/// UID and data of the ConfigMap with the pools.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolsConfig {
    pub uid: String,
    pub data: BTreeMap<String, String>,
}

/// Starts all watches. They end when the set is dropped.
pub fn start(
    api: &Arc<Api>,
    config_map: &(String, String),
    events: &mpsc::Sender<WatchEvent>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let all = watcher::Config::default;
    let named = |name: &str| all().fields(&format!("metadata.name={name}"));
    let (namespace, name) = config_map.clone();
    tasks.spawn(watch_objects(
        api.clone(),
        kube::Api::<Service>::all,
        all(),
        service::view,
        WatchEvent::Services,
        events.clone(),
    ));
    tasks.spawn(watch_objects(
        api.clone(),
        move |client| kube::Api::<ConfigMap>::namespaced(client, &namespace),
        named(&name),
        |map| {
            let (uid, data) = (map.metadata.uid.unwrap_or_default(), map.data.unwrap_or_default());
            Some(PoolsConfig { uid, data })
        },
        WatchEvent::Pools,
        events.clone(),
    ));
    tasks.spawn(watch_objects(
        api.clone(),
        kube::Api::<Node>::all,
        all(),
        node::view,
        WatchEvent::Nodes,
        events.clone(),
    ));
    // For warnings about pools. The Go program's role has no rights for them.
    tasks.spawn(watch_optional(
        api.clone(),
        kube::Api::<Namespace>::all,
        all(),
        |namespace| namespace.metadata.name,
        WatchEvent::Namespaces,
        events.clone(),
    ));
    tasks.spawn(watch_optional(
        api.clone(),
        |client| kube::Api::<ConfigMap>::namespaced(client, "kube-public"),
        named("cluster-info"),
        |map| node::of_cluster_info(map.data?.get("kubeconfig")?),
        WatchEvent::ClusterInfo,
        events.clone(),
    ));
    tasks
}
