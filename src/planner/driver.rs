//! Watches the cluster, plans, and passes the plan on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::cache::{Cache, WatchEvent};
use super::plan::{Plan, PlanContext, plan};
pub use super::watches::Options;
use super::{control_plane, dhcp_clients, watches};
use crate::cluster::Api;
use crate::dhcp::driver::{Command, Handles};
use crate::election::{LeaseMetadata, elections, elector};
use crate::host::HostWatch;
use crate::model::{ActualAddress, BootTime, Holder, LeaseName, LogOnChange, Roles, Vip, VipPlan};
use crate::net::clock::{self, Timer};
use crate::upnp::status::GatewayStatus;
use crate::watch_ext;

/// The longest pause between two plans.
const MAX_PAUSE: Duration = Duration::from_secs(5);

pub struct Channels {
    /// For the elections and the main loop.
    pub vip_plan: watch::Sender<Arc<VipPlan>>,
    /// For the publishers.
    pub plan: watch::Sender<Arc<Plan>>,
    /// The control plane's VIPs.
    pub vips: watch::Sender<BTreeSet<Vip>>,
    pub roles: watch::Receiver<Roles>,
    /// Metadata of the control plane's Lease.
    pub lease: watch::Receiver<LeaseMetadata>,
    pub elections: mpsc::Sender<elections::Input>,
    pub holders: watch::Receiver<BTreeMap<LeaseName, Holder>>,
    pub dhcp: Handles,
    pub gateways: watch::Receiver<GatewayStatus>,
}

/// The task.
pub struct Driver {
    api: Arc<Api>,
    context: PlanContext,
    options: Options,
    channels: Channels,
    host: HostWatch,
    cache: Cache,
    plan: Arc<Plan>,
    /// The cache has changed since the plan was computed.
    dirty: bool,
    not_before: BootTime,
    /// DNS names to resolve.
    names: watch::Sender<BTreeSet<String>>,
    /// Annotations of the control plane's Lease that were sent to its election.
    annotated: Vec<(&'static str, String)>,
    node_problem: LogOnChange,
}

impl Driver {
    /// `addresses` are those of this host when the process began.
    pub fn new(
        api: Arc<Api>,
        context: PlanContext,
        options: Options,
        channels: Channels,
        host: HostWatch,
        addresses: &[ActualAddress],
    ) -> Self {
        Self {
            api,
            context,
            options,
            channels,
            host,
            cache: Cache::new(addresses),
            plan: Arc::default(),
            dirty: true,
            not_before: BootTime::default(),
            names: watch::Sender::default(),
            annotated: Vec::new(),
            node_problem: LogOnChange::default(),
        }
    }

    /// Runs forever.
    pub async fn run(mut self) -> std::io::Result<()> {
        let mut timer = Timer::new()?;
        let (events_in, mut events) = mpsc::channel(256);
        let names = self.names.subscribe();
        let _watches = watches::start(&self.api, &self.context, &self.options, names, &events_in);
        loop {
            self.dirty |= self.cache.handle_timeout(clock::now());
            if self.dirty && clock::now() >= self.not_before {
                self.replan();
            }
            let deadline = self.dirty.then_some(self.not_before).into_iter().chain(self.cache.poll_timeout());
            let deadline = deadline.min();
            let Channels { roles, lease, holders, dhcp, gateways, .. } = &mut self.channels;
            tokio::select! {
                biased;
                Ok(()) = holders.changed() => {
                    self.cache.state.holders = holders.borrow_and_update().clone();
                    self.dirty = true;
                }
                Ok(()) = lease.changed() => {
                    self.cache.state.control_plane_lease = lease.borrow_and_update().clone();
                    self.dirty = true;
                }
                Ok(()) = dhcp.status.changed() => {
                    let leases = dhcp.status.borrow_and_update().clone();
                    self.dirty |= dhcp_clients::differ(&self.cache.state.leases, &leases);
                    self.cache.state.leases = leases;
                }
                Ok(()) = self.host.changed() => self.dirty |= self.note_host(),
                Ok(()) = gateways.changed() => {
                    let gateways = gateways.borrow_and_update().clone();
                    self.dirty |= self.cache.apply_gateways(clock::now(), gateways);
                }
                // Renewals change roles often, and nothing that is planned.
                Ok(()) = roles.changed(), if !self.plan.leases.is_empty() => {
                    let roles = roles.borrow_and_update();
                    let (context, plan) = (&self.context, &self.plan);
                    dhcp.specs.send_if_modified(|specs| dhcp_clients::activate(specs, context, plan, &roles, clock::now()));
                }
                Some(event) = events.recv() => {
                    self.apply(event);
                    // All events that have arrived are applied before planning.
                    while let Ok(event) = events.try_recv() {
                        self.apply(event);
                    }
                }
                () = timer.until(deadline) => {}
            }
        }
    }

    fn apply(&mut self, event: WatchEvent) {
        self.dirty |= self.cache.apply(clock::now(), event, &self.context, &self.plan);
    }

    /// Returns whether the addresses that this host needs have changed.
    fn note_host(&mut self) -> bool {
        let host = self.host.borrow_and_update();
        self.cache.state.note_host(&self.context.host_uses, &host, self.api.addresses())
    }

    fn replan(&mut self) {
        let began = clock::now();
        self.dirty = false;
        let state = &mut self.cache.state;
        let vips = control_plane::vips(&self.context, state);
        state.vips = vips.iter().map(|vip| vip.address).collect();
        watch_ext::set(&self.channels.vips, vips);
        state.note_services(&self.context.rules, &self.plan);
        self.note_host();
        let state = &self.cache.state;
        let mut plan = plan(&self.context, state);
        plan.node_problem = self.check_node_name();
        let vip_plan = Arc::new(plan.take_vip_plan(&self.context.me, self.cache.state.listed));
        self.channels.vip_plan.send_if_modified(|before| {
            let changed = !before.holds_the_same(&vip_plan);
            *before = vip_plan;
            changed
        });
        watch_ext::set(&self.names, plan.names.clone());
        let before = std::mem::replace(&mut self.plan, Arc::new(plan));
        // Before the clients start: the publishers know the owner of each lease.
        self.channels.plan.send_replace(self.plan.clone());
        self.update_leases(&before);
        self.annotate_lease();
        self.not_before = clock::now() + clock::pause_after(began, MAX_PAUSE);
    }

    fn check_node_name(&mut self) -> Option<String> {
        let own = self.host.borrow().foreign_addresses().collect();
        let problem = self.cache.node_problem(&self.context.me, &own);
        for problem in self.node_problem.replace(problem.clone()) {
            tracing::warn!("{problem}");
        }
        problem
    }

    /// Passes the desired leases to the DHCP clients, and declines conflicting ones.
    fn update_leases(&self, before: &Plan) {
        let (plan, state, dhcp) = (&self.plan, &self.cache.state, &self.channels.dhcp);
        let released = dhcp_clients::released(before, plan, state).map(Command::Release);
        let conflicts =
            plan.lease_conflicts.iter().filter(|(key, _)| !before.lease_conflicts.contains_key(*key));
        let conflicts = conflicts.map(|(key, text)| Command::Conflict(key.clone(), text.clone()));
        for command in released.chain(conflicts) {
            dhcp.commands.try_send(command).ok();
        }
        let mut specs = plan.leases.clone();
        dhcp_clients::activate(&mut specs, &self.context, plan, &self.channels.roles.borrow(), clock::now());
        watch_ext::set(&dhcp.specs, specs);
    }

    /// The next leader continues the control plane's DHCP leases: what it needs is written with the next renewal.
    fn annotate_lease(&mut self) {
        let Some(control_plane) = &self.context.control_plane else { return };
        let annotations = control_plane.lease_annotations(&self.cache.state);
        if annotations == self.annotated {
            return;
        }
        for (name, value) in &annotations {
            let input = elector::Input::Annotate(name, value.clone());
            let input = elections::Input::Elector(control_plane.lease.clone(), input);
            self.channels.elections.try_send(input).ok();
        }
        self.annotated = annotations;
    }
}
