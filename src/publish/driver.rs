//! Publishes what has changed: writes, Events, labels, port mappings, names and the report.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::events::IssueReports;
use super::leases::Leases;
use super::names::TakenOver;
use super::node_labels::{self, ServiceLabels};
use super::port_mappings::MappingReports;
use super::report::Report;
use super::writes::{StatusWrites, Write};
use super::{Options, Sources};
use crate::bgp::fsm::FsmState;
use crate::bgp::status::{PeerStates, PeerStatus};
use crate::cluster::Api;
use crate::cluster::event::{Event, EventRecorder};
use crate::cluster::write::{Subresource, WriteResult, Writer};
use crate::dhcp::driver::Command;
use crate::dhcp::fsm::LossReason;
use crate::election::reporter::RefusedLeases;
use crate::mdns::records::{HostRecord, HostRecords, PublishedNames};
use crate::metrics::count;
use crate::model::{BootTime, HostStatus, Roles, Vip};
use crate::net::clock::{self, Timer};
use crate::planner::control_plane::ControlPlane;
use crate::planner::plan::Plan;
use crate::upnp::status::GatewayStatus;
use crate::upnp::table::DesiredMappings;
use crate::watch_ext;

/// The owner of the control plane's host record.
const CONTROL_PLANE: &str = "control plane";

pub struct Channels {
    pub plan: watch::Receiver<Arc<Plan>>,
    pub host: watch::Receiver<HostStatus>,
    pub roles: watch::Receiver<Roles>,
    /// The control plane's VIPs.
    pub vips: watch::Receiver<BTreeSet<Vip>>,
    pub leases: watch::Receiver<Leases>,
    pub refused: watch::Receiver<RefusedLeases>,
    pub peers: watch::Receiver<PeerStates>,
    pub dhcp: mpsc::Sender<Command>,
    pub gateways: (watch::Sender<DesiredMappings>, watch::Receiver<GatewayStatus>),
    pub mdns: (watch::Sender<HostRecords>, watch::Receiver<PublishedNames>),
    pub events: EventRecorder,
    /// None where nodes are not labelled.
    pub labels: Option<watch::Sender<ServiceLabels>>,
}

/// A write in flight.
type InFlight = Pin<Box<dyn Future<Output = (Write, WriteResult)> + Send>>;

/// The task.
pub struct Driver {
    api: Arc<Api>,
    writer: Arc<Writer>,
    control_plane: Option<ControlPlane>,
    channels: Channels,
    report: Report,
    sources: Sources,
    leases: Leases,
    /// Addresses of this node that hosts outside the cluster have.
    conflicts: BTreeSet<IpAddr>,
    writes: StatusWrites,
    in_flight: FuturesUnordered<InFlight>,
    issues: IssueReports,
    reported_at: BootTime,
    mappings: MappingReports,
    taken_over: TakenOver,
}

impl Driver {
    pub fn new(
        api: Arc<Api>,
        control_plane: Option<ControlPlane>,
        options: Options,
        channels: Channels,
        report: Report,
    ) -> Self {
        Self {
            api,
            writer: Arc::new(Writer::new("kube-vip", Subresource::Status)),
            control_plane,
            channels,
            report,
            sources: Sources { options, ..Sources::default() },
            leases: BTreeMap::new(),
            conflicts: BTreeSet::new(),
            writes: StatusWrites::default(),
            in_flight: FuturesUnordered::new(),
            issues: IssueReports::default(),
            reported_at: BootTime::default(),
            mappings: MappingReports::default(),
            taken_over: TakenOver::new(),
        }
    }

    /// Runs forever.
    pub async fn run(mut self) -> std::io::Result<()> {
        let mut timer = Timer::new()?;
        let named = self.control_plane.as_ref().is_some_and(|control_plane| control_plane.mdns.is_some());
        let mut now = clock::now();
        loop {
            // Everything that was due by then has been handled.
            let writes = self.writes.poll_timeout(now);
            let issues = self.issues.poll_timeout(self.reported_at);
            let mappings = self.mappings.poll_timeout(self.reported_at);
            let deadline = writes.into_iter().chain(issues).chain(mappings).min();
            tokio::select! {
                biased;
                Ok(()) = self.channels.host.changed() => self.on_host_status(),
                Some((write, result)) = self.in_flight.next() => self.on_written(write, result),
                Ok(()) = self.channels.plan.changed() => self.on_plan(),
                Ok(()) = self.channels.leases.changed() => self.on_leases(),
                Ok(()) = self.channels.refused.changed() => self.on_refused(),
                // The counters of peers change often, and no write depends on them.
                Ok(()) = self.channels.peers.changed() => {
                    self.on_peers();
                    continue;
                }
                Ok(()) = self.channels.gateways.1.changed() => self.on_gateways(),
                Ok(()) = self.channels.mdns.1.changed() => self.on_names(),
                // Roles change with every renewal, and only the control plane's name depends on them.
                Ok(()) = self.channels.roles.changed(), if named => {
                    self.publish_control_plane_name();
                    continue;
                }
                () = timer.until(deadline) => self.report_issues(),
            }
            now = clock::now();
            self.start_writes(now);
        }
    }

    fn on_plan(&mut self) {
        self.sources.plan = self.channels.plan.borrow_and_update().clone();
        let services = self.sources.plan.services.len();
        self.report.managed.set(count(services));
        let problem = self.sources.plan.node_problem.clone();
        let disabled = !self.sources.options.services;
        self.report.status.send_modify(|status| {
            (status.services, status.node_problem) = (services, problem);
            status.disabled = disabled;
        });
        self.writes.retain(clock::now(), &self.sources);
        self.publish_announced();
        self.label();
    }

    fn on_host_status(&mut self) {
        let host = self.channels.host.borrow_and_update().clone();
        let HostStatus { held: before, .. } = std::mem::replace(&mut self.sources.host, host);
        if before != self.sources.host.held {
            self.writes.settle(clock::now());
            let losses = self.sources.losses(&before, &self.channels.roles.borrow());
            self.record(losses);
        }
        self.decline_conflicts();
        self.publish_announced();
        self.label();
    }

    /// What depends on the announced addresses of each Service.
    fn publish_announced(&mut self) {
        self.mappings.update(clock::now(), &self.sources);
        watch_ext::set(&self.channels.gateways.0, self.sources.desired_mappings());
        let mut records = self.sources.host_records(&mut self.taken_over);
        records.extend(self.control_plane_record().map(|record| (CONTROL_PLANE.to_owned(), record)));
        watch_ext::set(&self.channels.mdns.0, records);
        self.report_issues();
    }

    /// Declines DHCP addresses of Services that a host outside the cluster has. The control plane's are defended.
    fn decline_conflicts(&mut self) {
        let HostStatus { conflicts, taken, .. } = &self.sources.host;
        let conflicts: BTreeSet<IpAddr> = conflicts.keys().chain(taken).copied().collect();
        for address in conflicts.difference(&self.conflicts) {
            for key in self.sources.leases_of_services(&self.leases, *address) {
                let why = LossReason::Conflict(*address).to_string();
                self.channels.dhcp.try_send(Command::Conflict(key.clone(), why)).ok();
            }
        }
        self.conflicts = conflicts;
    }

    fn on_leases(&mut self) {
        let leases = self.channels.leases.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.leases, leases);
        self.record(self.sources.lease_events(&before, &self.leases));
        let lines = self.sources.lease_lines(self.control_plane.as_ref(), &self.leases);
        self.report.status.send_modify(|status| status.leases = lines);
    }

    fn on_refused(&mut self) {
        self.sources.refused = self.channels.refused.borrow_and_update().clone();
        self.report_issues();
    }

    fn on_peers(&mut self) {
        let is_up = |peer: &PeerStatus| peer.state == FsmState::Established;
        let has_session = self.channels.peers.borrow_and_update().values().any(is_up);
        if std::mem::replace(&mut self.sources.has_session, has_session) != has_session {
            self.report_issues();
        }
    }

    fn on_gateways(&mut self) {
        self.sources.gateways = self.channels.gateways.1.borrow_and_update().clone();
        let lines = self.sources.gateways.lines();
        self.report.status.send_modify(|status| status.gateways = lines);
        let opened = self.mappings.opened(&self.sources);
        self.record(opened);
        self.report_issues();
    }

    fn on_names(&mut self) {
        self.sources.names = self.channels.mdns.1.borrow_and_update().clone();
        let lines = self.sources.name_lines();
        self.report.status.send_modify(|status| status.names = lines);
        self.record(self.sources.name_events());
        self.report_issues();
    }

    /// The control plane's host record, while this host is leader.
    fn control_plane_record(&self) -> Option<HostRecord> {
        let control_plane = self.control_plane.as_ref()?;
        let leads = control_plane.is_leader(&self.channels.roles.borrow(), clock::now());
        leads.then(|| control_plane.host_record(&self.channels.vips.borrow())).flatten()
    }

    fn publish_control_plane_name(&mut self) {
        self.channels.roles.mark_unchanged();
        let record = self.control_plane_record();
        self.channels.mdns.0.send_if_modified(|records| match record {
            Some(record) => {
                records.insert(CONTROL_PLANE.to_owned(), record.clone()).as_ref() != Some(&record)
            }
            None => records.remove(CONTROL_PLANE).is_some(),
        });
    }

    fn report_issues(&mut self) {
        self.reported_at = clock::now();
        for (service, event) in self.issues.update(self.reported_at, &self.sources, &self.mappings) {
            tracing::warn!(%service, "{}", event.message);
            self.channels.events.record(event);
        }
        let not_announced = self.issues.not_announced(&self.sources);
        self.report.status.send_if_modified(|status| {
            let changed = status.not_announced != not_announced;
            status.not_announced = not_announced;
            changed
        });
    }

    /// Publishes the labels of this node, once its Node is known.
    fn label(&self) {
        let Some(labels) = &self.channels.labels else { return };
        let plan = &self.sources.plan;
        let Some(observed) = plan.node_labels.clone() else { return };
        let desired = node_labels::desired(plan, &self.sources.host.held);
        watch_ext::set(labels, ServiceLabels { observed, desired });
    }

    fn start_writes(&mut self, now: BootTime) {
        if !self.sources.options.write_status {
            return;
        }
        for write in self.writes.start(now, &self.sources) {
            let (api, writer) = (self.api.clone(), self.writer.clone());
            self.in_flight.push(Box::pin(async move {
                let change = write.change.to_json(&Time(Timestamp::now()));
                let result = writer.write(&api, &write.key, &change).await;
                (write, result)
            }));
        }
    }

    fn on_written(&mut self, write: Write, result: WriteResult) {
        if let WriteResult::Refused(why) | WriteResult::Failed(why) = &result {
            tracing::debug!(service = %write.key, "cannot write the status: {why}");
        }
        let event = self.writes.finish(clock::now(), &self.sources, write, result);
        self.record(event);
    }

    fn record(&self, events: impl IntoIterator<Item = Event>) {
        events.into_iter().for_each(|event| self.channels.events.record(event));
    }
}
