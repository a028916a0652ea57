//! Addresses that no Service may have: the nodes' own, and the control plane's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube_vip::model::node;

/// The addresses of a node, each with whose it is, in words.
pub fn of_node(node: Node) -> Option<(String, BTreeMap<IpAddr, String>)> {
    let view = node::view(node)?;
    let own = view.own.into_iter().map(|address| (address, format!("node {}'s own", view.name)));
    let all = own.chain(view.vips.into_iter().map(|address| (address, control_plane())));
    let all = all.collect();
    Some((view.name, all))
}

/// The server in kubeadm's `kube-public/cluster-info`, where it is given by address.
pub fn of_cluster_info(info: &ConfigMap) -> Option<IpAddr> {
    node::of_cluster_info(info.data.as_ref()?.get("kubeconfig")?)
}

/// Whose the control plane's address is.
pub fn control_plane() -> String {
    "the control plane's".to_owned()
}
