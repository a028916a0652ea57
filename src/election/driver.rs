//! Connects [`Elections`] to API servers, the planner's candidacies and the main loop. The only task that elects.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::{AbortHandle, Abortable, Aborted};
use futures::stream::FuturesUnordered;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::channels::Channels;
use super::decide::ObservedLease;
use super::elections::{Config, Elections, Input, Output};
use super::elector::{self, LeaseRequest};
use super::lease_watch::LeaseWatch;
use super::record::MANAGED_BY;
use super::request::{self, lease_object};
use super::watches::Scope;
use super::{LeaseMetadata, Observer};
use crate::cluster::Api;
use crate::cluster::watch::{watch_objects, within};
use crate::model::{BootTime, Candidacy, CandidacyKind, GroupId, Health, LeaseName, Role};
use crate::net::clock::{self, Timer};
use crate::watch_ext;

type InFlight = Pin<Box<dyn Future<Output = Result<Input, Aborted>> + Send>>;

/// The task.
pub struct Driver {
    api: Arc<Api>,
    observer: Arc<dyn Observer>,
    elections: Elections,
    channels: Channels,
    request_timeout: Duration,
    candidacies: BTreeMap<GroupId, Candidacy>,
    in_flight: FuturesUnordered<InFlight>,
    cancel: BTreeMap<LeaseName, AbortHandle>,
    /// Of primary Leases.
    lease_watches: JoinSet<()>,
    /// Of many Leases, each with its task, which ends when it is dropped.
    watches: BTreeMap<Scope, JoinSet<()>>,
    /// Of watches.
    events: (mpsc::Sender<Input>, mpsc::Receiver<Input>),
    restart: BTreeMap<LeaseName, mpsc::Sender<()>>,
    /// Whether the watch of a primary Lease is open.
    watching: BTreeMap<LeaseName, bool>,
    /// The observer's last role of the control plane without election.
    anycast_role: Role,
    /// Since when a role is published that the main loop has not applied.
    unapplied: Option<BootTime>,
    stall_max: Duration,
    /// An election that is reported although nothing else depends on it.
    reported: Option<LeaseName>,
}

impl Driver {
    /// Elections that have not begun.
    pub fn new(config: Config, api: Arc<Api>, observer: Arc<dyn Observer>, channels: Channels) -> Self {
        let (events_in, events) = mpsc::channel(256);
        Self {
            api,
            observer,
            request_timeout: config.settings.retry_period.mul_f64(0.8),
            stall_max: config.settings.renew_deadline,
            elections: Elections::new(config),
            channels,
            candidacies: BTreeMap::new(),
            in_flight: FuturesUnordered::new(),
            cancel: BTreeMap::new(),
            lease_watches: JoinSet::new(),
            watches: BTreeMap::new(),
            events: (events_in, events),
            restart: BTreeMap::new(),
            watching: BTreeMap::new(),
            anycast_role: Role::Starting,
            unapplied: None,
            reported: None,
        }
    }

    /// Reports this election to the observer as well.
    #[must_use]
    pub fn reporting(self, reported: Option<LeaseName>) -> Self {
        Self { reported, ..self }
    }

    /// Takes part until stopped and every Lease is released.
    pub async fn run(mut self) -> std::io::Result<()> {
        let mut timer = Timer::new()?;
        let mut input = self.candidacies();
        loop {
            self.wait_for_main_loop().await;
            if let Some(Input::Elector(lease, elector::Input::Watching(up))) = &input {
                self.watching.insert(lease.clone(), *up);
            }
            match input {
                Some(input) => self.elections.handle_input(clock::now(), input),
                None => self.elections.handle_timeout(clock::now()),
            }
            while let Some(output) = self.elections.poll_output() {
                self.execute(output);
            }
            if self.elections.is_stopped(clock::now()) {
                return Ok(());
            }
            let deadline = self.elections.poll_timeout();
            let channels = &mut self.channels;
            input = tokio::select! {
                biased;
                Some(input) = channels.inputs.recv() => Some(input),
                Some(response) = self.in_flight.next() => response.ok(),
                Some(event) = self.events.1.recv() => Some(event),
                Ok(()) = channels.plan.changed() => self.candidacies(),
                Ok(()) = channels.drained.changed() => Some(Input::Drain(*channels.drained.borrow_and_update())),
                Ok(()) = channels.interface_down.changed() => {
                    Some(Input::InterfaceDown(*channels.interface_down.borrow_and_update()))
                }
                Ok(()) = channels.stopping.changed() => Some(Input::Stop),
                () = timer.until(deadline) => None,
            };
        }
    }

    /// Does nothing, like a suspended process, while the main loop has not applied a role for a renew deadline: another host
    /// takes over from a host that cannot act on its claims. A process without a main loop has no addresses.
    async fn wait_for_main_loop(&mut self) {
        while self.channels.applied.has_changed().is_ok() {
            let applied = *self.channels.applied.borrow_and_update();
            self.unapplied = self.unapplied.filter(|since| applied < *since);
            let Some(since) = self.unapplied.filter(|since| clock::now().since(*since) >= self.stall_max)
            else {
                return;
            };
            let seconds = clock::now().since(since).as_secs_f64();
            tracing::error!(
                "the main loop has applied no role for {seconds:.1} s: no Lease is renewed until it does"
            );
            self.channels.applied.changed().await.ok();
        }
    }

    /// The plan's candidacies, if they have changed and this host is not stopping.
    fn candidacies(&mut self) -> Option<Input> {
        let plan = self.channels.plan.borrow_and_update().clone();
        if *self.channels.stopping.borrow() {
            return None;
        }
        let candidacies: BTreeMap<GroupId, Candidacy> =
            plan.groups.iter().map(|(group, plan)| (group.clone(), plan.candidacy)).collect();
        if candidacies == self.candidacies {
            return None;
        }
        self.candidacies.clone_from(&candidacies);
        Some(Input::Candidacies(candidacies))
    }

    fn execute(&mut self, output: Output) {
        match output {
            Output::Request(lease, request) => self.send(lease, request),
            Output::Cancel(lease) => {
                if let Some(request) = self.cancel.remove(&lease) {
                    request.abort();
                }
            }
            // A full queue means that the main loop has stopped.
            Output::Segment(group, request) => drop(self.channels.segment.try_send((group, request))),
            Output::Watch(scope) => self.watch(scope),
            Output::Unwatch(scope) => drop(self.watches.remove(&scope)),
            Output::WatchLease(lease) => self.watch_lease(lease),
            Output::RestartWatch(lease) => {
                // A full queue means that a restart is already requested.
                self.restart.get(&lease).map(|restart| restart.try_send(()).ok());
            }
            Output::DuplicateIdentity(lease) => self.observer.duplicate_identity(&lease),
            Output::SchemeProblem(problem) => self.observer.scheme_problem(problem.as_deref()),
            Output::Role(group, role) => self.publish(group, role),
            Output::Holders(holders) => drop(watch_ext::set(&self.channels.holders, holders)),
            Output::Health(health) => {
                self.api.prefer_peers(self.elections.api_server_health() == Health::Failing);
                self.observer.health(health, self.api.warning());
            }
        }
    }

    fn send(&mut self, lease: LeaseName, request: LeaseRequest) {
        let (cancel, registration) = AbortHandle::new_pair();
        self.cancel.insert(lease.clone(), cancel);
        let (api, observer) = (self.api.clone(), self.observer.clone());
        let group = GroupId::Lease(lease.clone());
        let owner = self.channels.plan.borrow().groups.get(&group).and_then(|group| group.owner.clone());
        let response = request::send(api, lease.clone(), owner, self.request_timeout, observer, request);
        let input = async move { Input::Elector(lease, response.await) };
        self.in_flight.push(Box::pin(Abortable::new(input, registration)));
    }

    fn watch(&mut self, scope: Scope) {
        let convert = |lease: Lease| {
            let meta = &lease.metadata;
            let name = LeaseName { namespace: meta.namespace.clone()?, name: meta.name.clone()? };
            Some((name, Box::new(lease_object(lease))))
        };
        let (namespace, config) = match &scope {
            Scope::Namespace(namespace) => (Some(namespace.clone()), watcher::Config::default()),
            Scope::Labelled => {
                let (label, value) = MANAGED_BY;
                (None, watcher::Config::default().labels(&format!("{label}={value}")))
            }
        };
        let select = move |client| within(client, namespace.as_deref());
        let wrap = {
            let scope = scope.clone();
            move |change| Input::Leases(scope.clone(), change)
        };
        let mut task = JoinSet::new();
        task.spawn(watch_objects(self.api.clone(), select, config, convert, wrap, self.events.0.clone()));
        self.watches.insert(scope, task);
    }

    fn watch_lease(&mut self, lease: LeaseName) {
        let (restart, restart_out) = mpsc::channel(1);
        self.restart.insert(lease.clone(), restart);
        let watch = LeaseWatch {
            api: self.api.clone(),
            lease,
            events: self.events.0.clone(),
            request_timeout: self.request_timeout,
        };
        self.lease_watches.spawn(watch.run(restart_out));
    }

    fn publish(&mut self, group: GroupId, role: Option<Role>) {
        let now = clock::now();
        let before = self.channels.roles.borrow().get(&group).cloned().unwrap_or_default();
        match (&group, &role) {
            (GroupId::Lease(lease), Some(role)) => self.observe(lease, &before, role, now),
            (GroupId::Lease(lease), None) => {
                self.cancel.remove(lease);
                self.observer.ended(lease);
            }
            _ => {}
        }
        let changed = self.channels.roles.send_if_modified(|roles| match role {
            Some(role) => roles.insert(group, role.clone()).as_ref() != Some(&role),
            None => roles.remove(&group).is_some(),
        });
        if changed {
            self.unapplied.get_or_insert(now);
        }
        self.observe_anycast(now);
    }

    /// Reports a role of an elected group.
    fn observe(&self, lease: &LeaseName, before: &Role, role: &Role, now: BootTime) {
        let changed = std::mem::discriminant(before) != std::mem::discriminant(role);
        if changed {
            tracing::debug!(%lease, ?before, after = ?role, "role");
        }
        let reported = |kind: &CandidacyKind| kind.is_primary() || self.reported.as_ref() == Some(lease);
        let Some(kind) = self.elections.kind(lease).filter(reported) else { return };
        let Some(observed) = self.elections.observed(lease) else { return };
        self.observer.election(observed, role, now);
        if changed {
            self.observer.role_changed(before, role, observed, now);
        }
        if kind != CandidacyKind::ControlPlane {
            return;
        }
        if let ObservedLease::Present { lease, .. } = observed {
            let annotations = lease.meta.annotations.clone().unwrap_or_default();
            watch_ext::set(&self.channels.lease, LeaseMetadata { uid: lease.meta.uid.clone(), annotations });
        }
        // The watch of a follower fails with its API server; any other host has to probe.
        let watching = self.watching.get(lease).copied().unwrap_or_default();
        watch_ext::set(&self.channels.probe_health, !matches!(role, Role::Follower { .. }) || !watching);
    }

    /// Reports the control plane's role without election: leader while it leads any of its groups.
    fn observe_anycast(&mut self, now: BootTime) {
        let Some(role) = self.elections.anycast_control_plane() else { return };
        if std::mem::discriminant(role) != std::mem::discriminant(&self.anycast_role) {
            self.observer.role_changed(&self.anycast_role, role, &ObservedLease::Unknown, now);
            self.observer.election(&ObservedLease::Unknown, role, now);
        }
        self.anycast_role = role.clone();
    }
}
