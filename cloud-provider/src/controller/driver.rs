//! Drives one [`LeaderSession`]: watches in; writes, Events and DHCP requests out.

use std::pin::Pin;
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube_vip::cluster::Api;
use kube_vip::cluster::event::EventRecorder;
use kube_vip::cluster::write::{Subresource, WriteResult, Writer};
use kube_vip::dhcp;
use kube_vip::dhcp::driver::{Command, Handles};
use kube_vip::host::HostWatch;
use kube_vip::model::{PerFamily, ServiceKey};
use kube_vip::net::clock::{self, Timer};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::events;
use super::leader_session::{Input, LeaderSession, Output};
use super::watches;
use super::{Leadership, MANAGER};
use crate::cli::Options;
use crate::plan::Planner;
use crate::telemetry::{Component, Telemetry};

/// DISCOVER rounds without a reply before a DHCP server is tried less often.
const DHCP_ATTEMPTS: u32 = 3;

type InFlight = Pin<Box<dyn Future<Output = (ServiceKey, String, WriteResult)> + Send>>;

pub struct Driver {
    api: Arc<Api>,
    writer: Arc<Writer>,
    conditions: Arc<Writer>,
    telemetry: Arc<Telemetry>,
    events: EventRecorder,
    config_map: (String, String),
    any_hardware_address: bool,
    session: LeaderSession,
    writes: FuturesUnordered<InFlight>,
    /// The interface for DHCP, and the state of the host.
    dhcp_host: Option<(String, HostWatch)>,
    /// The DHCP clients, where this process runs them.
    dhcp: Option<Handles>,
}

impl Driver {
    pub fn new(
        options: &Options,
        api: Arc<Api>,
        writer: Arc<Writer>,
        telemetry: Arc<Telemetry>,
        events: EventRecorder,
    ) -> Self {
        let mut planner = Planner::new(options.class.clone());
        if options.upnp {
            planner.enable_upnp();
        }
        Self {
            api,
            writer,
            conditions: Arc::new(Writer::new(MANAGER, Subresource::Status)),
            telemetry,
            events,
            config_map: options.config_map.clone(),
            any_hardware_address: options.any_hardware_address,
            session: LeaderSession::new(planner, options.writes),
            writes: FuturesUnordered::new(),
            dhcp_host: None,
            dhcp: None,
        }
    }

    /// Runs DHCP clients on this interface.
    pub fn with_dhcp(self, dhcp_host: Option<(String, HostWatch)>) -> Self {
        Self { dhcp_host, ..self }
    }

    /// Allocates addresses until the claim is lost. On `stopping`, writes in flight are awaited first.
    pub async fn run(
        mut self,
        leadership: &mut Leadership,
        stopping: &mut watch::Receiver<bool>,
    ) -> std::io::Result<()> {
        let (sender, mut watch_events) = mpsc::channel(256);
        let mut tasks = watches::start(&self.api, &self.config_map, &sender);
        self.start_dhcp(&mut tasks);
        let mut timer = Timer::new()?;
        self.telemetry.set_leading(self.session.missing());
        while leadership.is_valid() {
            let stopped = *stopping.borrow_and_update();
            if stopped {
                self.handle_input(Input::Stop);
                if self.session.is_idle() {
                    break;
                }
            }
            self.execute_outputs();
            if self.session.is_active() {
                self.publish_lease_requests();
                // The requests may have made Services due.
                self.execute_outputs();
            }
            let timeout = self.session.poll_timeout();
            tokio::select! {
                biased;
                () = leadership.changed() => {}
                _ = stopping.changed(), if !stopped => {}
                Some((key, version, result)) = self.writes.next() => self.handle_written(key, version, result),
                Some(event) = watch_events.recv() => {
                    self.handle_input(Input::Watch(event));
                    // All queued events are applied before the next decision.
                    while let Ok(event) = watch_events.try_recv() {
                        self.handle_input(Input::Watch(event));
                    }
                    self.telemetry.set_leading(self.session.missing());
                }
                running = leases_changed(&mut self.dhcp) => self.take_leases(running),
                () = timer.until(timeout) => self.session.handle_timeout(clock::now()),
            }
        }
        self.telemetry.clear_leading();
        Ok(())
    }

    fn handle_input(&mut self, input: Input) {
        self.session.handle_input(clock::now(), input);
    }

    fn handle_written(&mut self, key: ServiceKey, version: String, result: WriteResult) {
        self.telemetry.count_write(&result);
        match &result {
            WriteResult::Done(_) => self.telemetry.clear_problem(Component::Writes),
            WriteResult::Refused(why) => {
                let text = format!("the API server rejected a write to Service {key}: {why}");
                self.telemetry.set_problem(Component::Writes, text);
            }
            WriteResult::Failed(why) => {
                let text = format!("a write to Service {key} failed: {why}");
                self.telemetry.set_problem(Component::Writes, text);
            }
            WriteResult::Conflict | WriteResult::Gone => {}
        }
        self.handle_input(Input::Written { key, version, result });
    }

    fn execute_outputs(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Write { key, patch } => {
                    tracing::debug!(service = %key, ?patch, "writing");
                    let (writer, change) = match patch.condition() {
                        None => (self.writer.clone(), patch.to_json()),
                        Some(delegated) => {
                            let now = Time(k8s_openapi::jiff::Timestamp::now());
                            (self.conditions.clone(), patch.condition_to_json(delegated, &now))
                        }
                    };
                    let api = self.api.clone();
                    self.writes.push(Box::pin(async move {
                        let result = writer.write(&api, &key, &change).await;
                        (key, patch.resource_version, result)
                    }));
                }
                Output::ServiceEvent { key, uid, event } => {
                    tracing::debug!(service = %key, ?event, "posting an Event");
                    self.events.record(events::of_service(&key, &uid, &event));
                }
                Output::PoolsRead { pools, problems } => {
                    tracing::info!(pools, problems, "read the ConfigMap");
                }
                Output::Problems { uid, all, new } => {
                    for problem in &new {
                        tracing::warn!("{}/{}: {problem}", self.config_map.0, self.config_map.1);
                        self.events.record(events::of_config_map(&self.config_map, &uid, problem));
                    }
                    self.telemetry.set_config_problems(&all);
                }
                Output::Allocated(after) => self.telemetry.observe_allocation(after),
                Output::Report => self.telemetry.report_pools(self.session.planner()),
            }
        }
    }

    fn start_dhcp(&mut self, tasks: &mut JoinSet<()>) {
        let Some((interface, host)) = &self.dhcp_host else { return };
        let (channels, handles) = dhcp::driver::channels();
        let counts = self.telemetry.dhcp.clone();
        let clients =
            dhcp::driver::Driver::start(channels, host.clone(), counts, DHCP_ATTEMPTS, PerFamily::default());
        self.session.planner_mut().enable_dhcp(interface, self.any_hardware_address);
        self.dhcp = Some(handles);
        tasks.spawn(async move {
            if let Err(error) = clients.await {
                tracing::error!("the DHCP clients ended: {error}");
            }
        });
    }

    /// Publishes which leases are requested, and releases those that are not requested any more.
    fn publish_lease_requests(&mut self) {
        let Some(handles) = &self.dhcp else { return };
        let planner = self.session.planner_mut();
        for (key, owner) in planner.take_lease_conflicts() {
            handles.commands.try_send(Command::Conflict(key, owner)).ok();
        }
        let requests = planner.lease_requests();
        handles.specs.send_if_modified(|before| {
            for gone in before.keys().filter(|key| !requests.contains_key(key)) {
                handles.commands.try_send(Command::Release(gone.clone())).ok();
            }
            let changed = *before != requests;
            *before = requests;
            changed
        });
    }

    fn take_leases(&mut self, running: bool) {
        let Some(handles) = self.dhcp.as_mut().filter(|_| running) else {
            // The next session starts the DHCP clients again.
            self.dhcp = None;
            return;
        };
        let leases = handles.status.borrow_and_update().clone();
        self.handle_input(Input::Leases(leases));
    }
}

/// Returns when leases have changed, with false when the DHCP clients have ended; never returns without clients.
async fn leases_changed(dhcp: &mut Option<Handles>) -> bool {
    match dhcp {
        Some(handles) => handles.status.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}
