//! Watches Services and their endpoints, computes the plan, and publishes it.

mod leases;
mod names_told;
mod port_mappings;
mod tell;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::core::v1::{Endpoints as OldEndpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::ServiceCIDR;
use kube::runtime::watcher;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::endpoints::{Slice, of_endpoints, of_slice};
use super::plan::{ClusterState, Issue, Plan, PlanContext, ServicePlan, plan};
use super::reserved::Reserved;
use super::{control_plane, dns};
use crate::cluster::Api;
use crate::cluster::event::EventRecorder;
use crate::cluster::watch::{Change, watch_objects, within};
use crate::cluster::write::{Subresource, WriteResult as Written, Writer};
use crate::config::{DnsMode, UpnpPolicy};
use crate::dhcp::driver::Handles;
use crate::election::{LeaseMetadata, elections};
use crate::mdns::driver::{HostRecords, PublishedNames};
use crate::model::hash::{fnv1a, spread};
use crate::model::{BootTime, LeaseName, Prefix, ServiceKey, ServiceView, Vip, annotation, node, service};
use crate::model::{GroupId, Holder, Roles, VipPlan};
use crate::net::clock::{self, Timer};
use crate::publish::node_labels::{self, ServiceLabels};
use crate::publish::reporter::Reporter;
use crate::publish::status::{Change as Write, Here, change};
use crate::reconcile::host_status::HostStatus;
use crate::upnp::mapping::{MappingKey, PortMappings};
use crate::upnp::status::GatewayStatus;
use crate::upnp::table::DesiredMappings;
use crate::watch_ext;

/// Status writes in flight.
const MAX_WRITES: usize = 16;
/// Back-off after a failed write of a Service.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// After a change of the announced addresses writes that can wait leave the API server to the elections for this long.
const SETTLE_TIME: Duration = Duration::from_millis(300);
/// Spreads the writes of nodes that could all write the same status.
const WRITE_JITTER: Duration = Duration::from_millis(300);
/// Planning may use at most 1/MAX_CPU_FRACTION of wall time.
const MAX_CPU_FRACTION: u32 = 5;

/// An event of a watch or a look-up.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "they pass by one at a time, and most are of the largest kind")]
enum Observed {
    Services(Change<(ServiceKey, ServiceView)>),
    Slices(Change<Slice>),
    Nodes(Change<node::NodeView>),
    Names(BTreeMap<String, Vec<IpAddr>>),
    Cidrs(Change<(String, Vec<Prefix>)>),
}

pub struct Channels {
    pub plan: watch::Sender<Arc<VipPlan>>,
    /// The control plane's VIPs.
    pub vips: watch::Sender<BTreeSet<Vip>>,
    pub roles: watch::Receiver<Roles>,
    /// Metadata of the control plane's Lease.
    pub lease: watch::Receiver<LeaseMetadata>,
    pub elections: mpsc::Sender<elections::Input>,
    pub outcome: watch::Receiver<HostStatus>,
    pub holders: watch::Receiver<BTreeMap<LeaseName, Holder>>,
    pub dhcp: Handles,
    pub gateways: (watch::Sender<DesiredMappings>, watch::Receiver<GatewayStatus>),
    pub mdns: (watch::Sender<HostRecords>, watch::Receiver<PublishedNames>),
    pub events: EventRecorder,
    /// None where nodes are not labelled.
    pub labels: Option<watch::Sender<ServiceLabels>>,
}

#[derive(Debug, Clone)]
pub struct Options {
    /// Write status and annotations.
    pub publish: bool,
    /// Follow Endpoints instead of EndpointSlices.
    pub endpoints: bool,
    pub dns_mode: DnsMode,
    /// Watch Services of this namespace only.
    pub namespace: Option<String>,
    /// Publish a name of every Service by mDNS.
    pub names: bool,
    pub upnp: UpnpPolicy,
    /// Add external addresses of gateways to the status.
    pub upnp_status: bool,
}

/// A status write in flight, and whether it reports a gained address.
type Flight = Pin<Box<dyn Future<Output = (ServiceKey, Write, bool, Written)> + Send>>;

/// The task.
pub struct Driver {
    api: Arc<Api>,
    context: PlanContext,
    options: Options,
    channels: Channels,
    reporter: Arc<Reporter>,
    writer: Arc<Writer>,
    seen: ClusterState,
    nodes: BTreeMap<String, node::NodeView>,
    /// Prefixes of the cluster's ServiceCIDRs, by object.
    cidrs: BTreeMap<String, Vec<Prefix>>,
    /// Whether Services and endpoints are listed.
    listed: (bool, bool),
    /// Annotations of the control plane's Lease that were sent to its election.
    annotated: Vec<(&'static str, String)>,
    plan: Plan,
    dirty: bool,
    not_before: BootTime,
    names: watch::Sender<BTreeSet<String>>,
    writing: BTreeSet<ServiceKey>,
    flights: FuturesUnordered<Flight>,
    failures: BTreeMap<ServiceKey, (u32, BootTime)>,
    /// Start of this node's write where every node could write.
    postponed: BTreeMap<ServiceKey, BootTime>,
    told: BTreeMap<ServiceKey, BTreeSet<Issue>>,
    /// Addresses announced at the last change.
    held: BTreeSet<IpAddr>,
    /// Addresses in conflict with hosts outside the cluster.
    contested: BTreeSet<IpAddr>,
    /// Desired port mappings.
    mappings: PortMappings,
    open_ports: BTreeSet<MappingKey>,
    /// Deleted or deselected Services whose address stays until their port mappings are closed or the time is over, with the
    /// object that replaces them.
    departing: BTreeMap<ServiceKey, (BootTime, Option<ServiceView>)>,
    /// Services without permission for their mappings, and when that is reported.
    unopened: BTreeMap<ServiceKey, BootTime>,
    /// End of the last [`SETTLE_TIME`].
    moving_until: BootTime,
}

impl Driver {
    /// `left_over` are tagged addresses of an earlier process.
    pub fn new(
        api: Arc<Api>,
        context: PlanContext,
        options: Options,
        channels: Channels,
        reporter: Arc<Reporter>,
        left_over: BTreeSet<IpAddr>,
    ) -> Self {
        Self {
            api,
            context,
            options,
            channels,
            reporter,
            writer: Arc::new(Writer::new("kube-vip", Subresource::Status)),
            seen: ClusterState { left_over, ..ClusterState::default() },
            nodes: BTreeMap::new(),
            cidrs: BTreeMap::new(),
            listed: (false, false),
            annotated: Vec::new(),
            plan: Plan::default(),
            dirty: true,
            not_before: BootTime::default(),
            names: watch::Sender::new(BTreeSet::new()),
            writing: BTreeSet::new(),
            flights: FuturesUnordered::new(),
            failures: BTreeMap::new(),
            postponed: BTreeMap::new(),
            told: BTreeMap::new(),
            held: BTreeSet::new(),
            contested: BTreeSet::new(),
            mappings: PortMappings::default(),
            open_ports: BTreeSet::new(),
            departing: BTreeMap::new(),
            unopened: BTreeMap::new(),
            moving_until: BootTime::default(),
        }
    }

    /// Runs forever.
    ///
    /// # Errors
    /// If the kernel provides no timer.
    pub async fn run(mut self) -> std::io::Result<()> {
        let mut timer = Timer::new()?;
        let (observed_in, mut observed) = mpsc::channel(256);
        let _watches = self.start(&observed_in);
        // Renewals change nothing that is published.
        let mut look = true;
        loop {
            if self.dirty && clock::now() >= self.not_before {
                self.replan();
            }
            if look {
                self.publish();
                self.label();
                self.let_go();
            }
            look = true;
            let deadline = self.deadline();
            let follows_roles = self.follows_roles();
            tokio::select! {
                biased;
                Ok(()) = self.channels.outcome.changed() => {
                    self.channels.outcome.borrow_and_update();
                    self.tell_losses();
                    self.tell_stations();
                    self.map_ports();
                    self.name();
                    self.tell();
                }
                Some((key, write, gain, written)) = self.flights.next() => self.landed(key, &write, gain, written),
                Ok(()) = self.channels.holders.changed() => {
                    self.seen.holders = self.channels.holders.borrow_and_update().clone();
                    self.dirty = true;
                }
                Ok(()) = self.channels.lease.changed() => {
                    self.seen.control_plane_lease = self.channels.lease.borrow_and_update().clone();
                    self.dirty = true;
                }
                Ok(()) = self.channels.dhcp.status.changed() => self.take_leases(),
                Ok(()) = self.channels.gateways.1.changed() => self.take_gateways(),
                Ok(()) = self.channels.mdns.1.changed() => self.take_names(),
                Ok(()) = self.channels.roles.changed(), if follows_roles => {
                    self.channels.roles.mark_unchanged();
                    look = self.ask_as_elected();
                    self.name_control_plane();
                }
                Some(change) = observed.recv() => {
                    self.see(change);
                    // All events that have arrived are applied before planning.
                    while let Ok(change) = observed.try_recv() {
                        self.see(change);
                    }
                }
                () = timer.until(deadline) => self.tell(),
            }
        }
    }

    fn start(&self, observed: &mpsc::Sender<Observed>) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(dns::look_up(
            self.names.subscribe(),
            self.options.dns_mode,
            Observed::Names,
            observed.clone(),
        ));
        if !self.context.services {
            return tasks;
        }
        let all = watcher::Config::default;
        let api = || self.api.clone();
        let namespace = self.options.namespace.clone();
        let here = move |client| within::<Service>(client, namespace.as_deref());
        tasks.spawn(watch_objects(api(), here, all(), service::view, Observed::Services, observed.clone()));
        let namespace = self.options.namespace.clone();
        if self.options.endpoints {
            let here = move |client| within::<OldEndpoints>(client, namespace.as_deref());
            tasks.spawn(watch_objects(api(), here, all(), of_endpoints, Observed::Slices, observed.clone()));
        } else {
            let here = move |client| within::<EndpointSlice>(client, namespace.as_deref());
            tasks.spawn(watch_objects(api(), here, all(), of_slice, Observed::Slices, observed.clone()));
        }
        tasks.spawn(watch_objects(
            api(),
            kube::Api::<Node>::all,
            all(),
            node::view,
            Observed::Nodes,
            observed.clone(),
        ));
        if self.context.routes.as_ref().is_some_and(|rules| rules.service_cidrs) {
            let select = kube::Api::<ServiceCIDR>::all;
            tasks.spawn(watch_objects(api(), select, all(), networks, Observed::Cidrs, observed.clone()));
        }
        tasks
    }

    fn see(&mut self, observed: Observed) {
        self.dirty = true;
        match observed {
            Observed::Services(change) => {
                self.listed.0 = true;
                match change {
                    Change::Reset(all) => {
                        self.departing.clear();
                        self.seen.services = all.into_iter().collect();
                    }
                    Change::Applied((key, view)) => {
                        self.departing.remove(&key);
                        if self.context.rules.covers(&key, &view) || !self.stays_a_moment(&key, Some(&view)) {
                            self.seen.apply(key, view);
                        }
                    }
                    Change::Deleted((key, _)) => {
                        if !self.stays_a_moment(&key, None) {
                            self.seen.services.remove(&key);
                        }
                        self.failures.remove(&key);
                        self.postponed.remove(&key);
                        self.told.remove(&key);
                    }
                }
            }
            Observed::Slices(change) => {
                self.listed.1 = true;
                match change {
                    Change::Reset(all) => self.seen.endpoints.reset(all),
                    Change::Applied(slice) => self.seen.endpoints.apply(slice),
                    Change::Deleted(slice) => self.seen.endpoints.remove(&slice),
                }
            }
            Observed::Nodes(change) => {
                match change {
                    Change::Reset(all) => {
                        self.nodes = all.into_iter().map(|node| (node.name.clone(), node)).collect();
                    }
                    Change::Applied(node) => drop(self.nodes.insert(node.name.clone(), node)),
                    Change::Deleted(node) => drop(self.nodes.remove(&node.name)),
                }
                self.reserve();
            }
            Observed::Names(names) => self.seen.names = names,
            Observed::Cidrs(change) => {
                match change {
                    Change::Reset(all) => self.cidrs = all.into_iter().collect(),
                    Change::Applied((name, prefixes)) => drop(self.cidrs.insert(name, prefixes)),
                    Change::Deleted((name, _)) => drop(self.cidrs.remove(&name)),
                }
                self.seen.service_cidrs = self.cidrs.values().flatten().copied().collect();
            }
        }
    }

    fn reserve(&mut self) {
        self.seen.reserved = Reserved::new(self.nodes.values(), None);
    }

    fn replan(&mut self) {
        let began = clock::now();
        self.dirty = false;
        self.seen.listed = self.listed == (true, true);
        let vips = control_plane::vips(&self.context, &self.seen);
        self.seen.vips = vips.iter().map(|vip| vip.address).collect();
        watch_ext::set(&self.channels.vips, vips);
        let mut plan = plan(&self.context, &self.seen);
        let vip_plan = Arc::new(plan.take_vip_plan(self.seen.listed));
        self.channels.plan.send_if_modified(|before| {
            let changed = !before.holds_the_same(&vip_plan);
            *before = vip_plan;
            changed
        });
        watch_ext::set(&self.names, plan.names.clone());
        let before = std::mem::replace(&mut self.plan, plan);
        self.give_back(&before);
        self.decline(&before);
        self.ask();
        self.annotate_lease();
        self.map_ports();
        self.name();
        self.tell();
        self.not_before = clock::now() + clock::now().since(began) * (MAX_CPU_FRACTION - 1);
    }

    /// The next leader goes on with the control plane's DHCP leases: what it needs is written with the next renewal.
    fn annotate_lease(&mut self) {
        let Some(control_plane) = &self.context.control_plane else { return };
        let annotations = control_plane.lease_annotations(&self.seen);
        if annotations == self.annotated {
            return;
        }
        for (name, value) in &annotations {
            let input = elections::Input::Annotate(control_plane.lease.clone(), name, value.clone());
            self.channels.elections.try_send(input).ok();
        }
        self.annotated = annotations;
    }

    /// Whether a change of roles alone matters here; renewals change nothing.
    fn follows_roles(&self) -> bool {
        let control_plane = self.context.control_plane.as_ref();
        !self.plan.leases.is_empty()
            || control_plane.is_some_and(|control_plane| control_plane.mdns.is_some())
    }

    /// Starts status writes, up to [`MAX_WRITES`].
    fn publish(&mut self) {
        if !self.options.publish || self.flights.len() >= MAX_WRITES {
            return;
        }
        let now = clock::now();
        let outcome = self.channels.outcome.borrow();
        let mut writes = Vec::new();
        for (key, handled) in &self.plan.services {
            if self.flights.len() + writes.len() >= MAX_WRITES {
                break;
            }
            let paused = self.failures.get(key).is_some_and(|(_, until)| now < *until);
            if paused || self.writing.contains(key) {
                continue;
            }
            let Some(view) = self.seen.services.get(key) else { continue };
            let anycast = handled.group == Some(GroupId::EveryNode);
            let mut further = self.lease_annotations(view, handled);
            further.extend(self.told_name(key, view).map(|text| (annotation::MDNS_NAME, text)));
            let (outside, entries) = self.outside(key, view);
            further.extend(outside.map(|text| (annotation::UPNP_EXTERNAL_IP, text)));
            let here = Here { held: &outcome.held, me: &self.context.me, anycast, external: entries };
            let Some(write) = change(view, handled, here, further) else {
                self.postponed.remove(key);
                continue;
            };
            // One node's write is enough.
            let mine = view.annotation(annotation::VIP_HOST) == Some(&self.context.me);
            if anycast && !mine {
                let seed = fnv1a(format!("{}/{key}", self.context.me).as_bytes());
                let due =
                    self.postponed.entry(key.clone()).or_insert(now + WRITE_JITTER.mul_f64(spread(seed, 0)));
                if now < *due {
                    continue;
                }
            }
            // With the same address only the node's name changes: no traffic depends on it.
            if write.ingress == view.status && now < self.moving_until {
                continue;
            }
            let gain = view.annotation(annotation::VIP_HOST) != write.host.as_deref();
            writes.push((key.clone(), write, gain));
        }
        drop(outcome);
        for (key, write, gain) in writes {
            self.writing.insert(key.clone());
            let (api, writer) = (self.api.clone(), self.writer.clone());
            self.flights.push(Box::pin(async move {
                let written = writer.write(&api, &key, &write.to_json()).await;
                (key, write, gain, written)
            }));
        }
    }

    /// Publishes the labels of this node, once it is known.
    fn label(&self) {
        let Some(labels) = &self.channels.labels else { return };
        let Some(node) = self.nodes.get(&self.context.me) else { return };
        let desired = node_labels::desired(&self.plan, &self.channels.outcome.borrow().held);
        watch_ext::set(labels, ServiceLabels { observed: node.provided.clone(), desired });
    }

    fn landed(&mut self, key: ServiceKey, write: &Write, gain: bool, written: Written) {
        self.writing.remove(&key);
        match written {
            Written::Done(view) => {
                self.failures.remove(&key);
                self.seen.written(key.clone(), *view);
                self.dirty = true;
                let addresses = |handled: Option<&ServicePlan>| {
                    let addresses = handled.map(|handled| handled.addresses.as_slice()).unwrap_or_default();
                    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                };
                let addresses = addresses(self.plan.services.get(&key));
                match &write.host {
                    Some(me) if gain => {
                        self.event(&key, false, "AddressGained", format!("node {me} announces {addresses}"));
                    }
                    None => {
                        let text = format!("withdrew {addresses}: the Service has no ready endpoints");
                        self.event(&key, true, "AddressWithdrawn", text);
                    }
                    Some(_) => {}
                }
            }
            Written::Gone => drop(self.failures.remove(&key)),
            Written::Conflict => self.pause(key),
            Written::Refused(why) | Written::Failed(why) => {
                tracing::debug!(service = %key, "cannot write the status: {why}");
                self.pause(key);
            }
        }
    }

    fn pause(&mut self, key: ServiceKey) {
        let entry = self.failures.entry(key).or_insert((0, clock::now()));
        let pause = BACKOFF_MIN.saturating_mul(1 << entry.0.min(10)).min(BACKOFF_MAX);
        *entry = (entry.0 + 1, clock::now() + pause);
    }

    fn deadline(&self) -> Option<BootTime> {
        let now = clock::now();
        let replan = self.dirty.then_some(self.not_before);
        let retry = self.failures.values().map(|(_, until)| *until).filter(|until| *until > now);
        let moved = (self.moving_until > now).then_some(self.moving_until);
        let turn = self.postponed.values().copied().filter(|due| *due > now);
        let retry = retry.chain(turn);
        let leaving = self.departing.values().map(|(until, _)| *until);
        let unopened = self.unopened.values().copied().filter(|at| *at > now);
        retry.chain(replan).chain(moved).chain(leaving).chain(unopened).min()
    }
}

/// The prefixes of a ServiceCIDR.
fn networks(object: ServiceCIDR) -> Option<(String, Vec<Prefix>)> {
    let cidrs = object.spec.and_then(|spec| spec.cidrs).unwrap_or_default();
    Some((object.metadata.name?, cidrs.iter().filter_map(|cidr| cidr.parse().ok()).collect()))
}
