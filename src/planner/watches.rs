//! The watches and DNS queries that the cache is filled from.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Endpoints as OldEndpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::watcher;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::cache::WatchEvent;
use super::dns;
use super::endpoints::{of_endpoints, of_slice};
use super::plan::PlanContext;
use crate::cluster::Api;
use crate::cluster::watch::{watch_objects, within};
use crate::config::DnsMode;
use crate::model::{Prefix, node, service};

#[derive(Debug, Clone)]
pub struct Options {
    /// Watch Endpoints instead of EndpointSlices.
    pub endpoints: bool,
    pub dns_mode: DnsMode,
    /// Watch Services of this namespace only.
    pub namespace: Option<String>,
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
    tasks.spawn(dns::look_up(names, options.dns_mode, WatchEvent::Names, events.clone()));
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
    if context.routes.as_ref().is_some_and(|rules| rules.service_cidrs) {
        let cidrs = kube::Api::<ServiceCIDR>::all;
        tasks.spawn(watch_objects(api(), cidrs, all(), prefixes, WatchEvent::Cidrs, events()));
    }
    tasks
}

/// The prefixes of a ServiceCIDR.
fn prefixes(object: ServiceCIDR) -> Option<(String, Vec<Prefix>)> {
    let cidrs = object.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
    Some((object.metadata.name?, cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect()))
}
