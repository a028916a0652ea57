//! The watches and DNS queries that the cache is filled from.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Endpoints as OldEndpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::watcher;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::cache::{Published, WatchEvent};
use super::dns;
use super::endpoints::{of_endpoints, of_slice};
use super::plan::PlanContext;
use crate::cluster::Api;
use crate::cluster::watch::{watch_objects, watch_optional, within};
use crate::config::DnsMode;
use crate::model::annotation::VIPS;
use crate::model::{LeaseName, Prefix, node, service};

#[derive(Debug, Clone)]
pub struct Options {
    /// Watch Endpoints instead of EndpointSlices.
    pub endpoints: bool,
    pub dns_mode: DnsMode,
    /// Watch Services of this namespace only.
    pub namespace: Option<String>,
    /// Its holder publishes the control plane's VIPs: another process on this host may hold them.
    pub control_plane_lease: LeaseName,
}

/// Starts the tasks, which end when the set is dropped. `names` are the DNS names to resolve.
pub(super) fn start(
    api: &Arc<Api>,
    context: &PlanContext,
    options: &Options,
    names: watch::Receiver<BTreeSet<String>>,
    events: &mpsc::Sender<WatchEvent>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let control_plane = context.control_plane.as_ref().map(|it| it.names.clone()).unwrap_or_default();
    let mode = (options.dns_mode, control_plane);
    tasks.spawn(dns::look_up(names, mode, WatchEvent::Name, events.clone()));
    if !context.services {
        return tasks;
    }
    let all = watcher::Config::default;
    let (api, events) = (|| api.clone(), || events.clone());
    let namespace = options.namespace.clone();
    let services = move |client| within::<Service>(client, namespace.as_deref());
    tasks.spawn(watch_objects(api(), services, all(), service::view, WatchEvent::Services, events()));
    let namespace = options.namespace.clone();
    if options.endpoints {
        let endpoints = move |client| within::<OldEndpoints>(client, namespace.as_deref());
        tasks.spawn(watch_objects(api(), endpoints, all(), of_endpoints, WatchEvent::Endpoints, events()));
    } else {
        let slices = move |client| within::<EndpointSlice>(client, namespace.as_deref());
        tasks.spawn(watch_objects(api(), slices, all(), of_slice, WatchEvent::Endpoints, events()));
    }
    let nodes = kube::Api::<Node>::all;
    tasks.spawn(watch_objects(api(), nodes, all(), node::view, WatchEvent::Nodes, events()));
    let cidrs = kube::Api::<ServiceCIDR>::all;
    tasks.spawn(watch_optional(api(), cidrs, all(), prefixes, WatchEvent::Cidrs, events()));
    let named = |name: &str| all().fields(&format!("metadata.name={name}"));
    let public = |client| within::<ConfigMap>(client, Some("kube-public"));
    let published =
        |map: ConfigMap| Some(Vec::from_iter(node::of_cluster_info(map.data?.get("kubeconfig")?)));
    let wrap = |change| WatchEvent::ControlPlane(Published::ClusterInfo, change);
    tasks.spawn(watch_optional(api(), public, named("cluster-info"), published, wrap, events()));
    let LeaseName { namespace, name } = options.control_plane_lease.clone();
    let lease = move |client| within::<Lease>(client, Some(&namespace));
    let wrap = |change| WatchEvent::ControlPlane(Published::Lease, change);
    tasks.spawn(watch_optional(api(), lease, named(&name), published_vips, wrap, events()));
    tasks
}

/// The VIPs that the control plane's Lease names.
fn published_vips(lease: Lease) -> Option<Vec<IpAddr>> {
    let annotations = lease.metadata.annotations.unwrap_or_default();
    let list = annotations.get(VIPS).map(String::as_str).unwrap_or_default();
    Some(list.split(',').filter_map(|address| address.parse().ok()).collect())
}

/// The prefixes of a ServiceCIDR.
fn prefixes(object: ServiceCIDR) -> Option<(String, Vec<Prefix>)> {
    let cidrs = object.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
    Some((object.metadata.name?, cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect()))
}
