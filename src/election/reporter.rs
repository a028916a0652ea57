//! Reports the election of the control plane, or of all Services where there is none: log lines, metrics, Events and `kube-vip status`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::decide::ObservedLease;
use super::metrics::Metrics;
use super::observer::{FailedCall, FailureReason, Observer};
use super::status::ElectionStatus;
use crate::cluster::event::EventRecorder;
use crate::model::{BootTime, ClaimSource, Health, LeaseName, LogOnChange, Role};
use crate::net::clock;

/// A duplicate identity is reported this often.
const DUPLICATE_INTERVAL: Duration = Duration::from_secs(300);
/// A lasting problem is logged this often.
const REPEAT_INTERVAL: Duration = Duration::from_secs(30);

/// The observer of the reported election.
#[derive(Debug)]
pub struct Reporter {
    metrics: Metrics,
    events: EventRecorder,
    /// The VIPs as configured, for messages; empty where the election is that of Services.
    vips: String,
    status: watch::Sender<ElectionStatus>,
    refused: watch::Sender<RefusedLeases>,
    state: Mutex<State>,
}

/// Leases for which the API server refuses requests, each with the verb and the reason: without the permission, in a namespace
/// that does not exist, or against an admission policy.
pub type RefusedLeases = BTreeMap<LeaseName, (&'static str, String)>;

#[derive(Debug, Default)]
struct State {
    problem: LogOnChange,
    logged_at: BootTime,
    /// The last renewal by another holder.
    held_elsewhere: Option<BootTime>,
    lost_at: Option<BootTime>,
    /// The last report of a duplicate identity.
    duplicate_at: Option<BootTime>,
}

impl Reporter {
    /// `lease` is empty where there is no election.
    pub fn new(metrics: Metrics, events: EventRecorder, vips: String, node: &str, lease: &str) -> Arc<Self> {
        let (node, lease) = (node.to_owned(), lease.to_owned());
        let control_plane = !vips.is_empty();
        let status =
            ElectionStatus { node, lease, control_plane, since: clock::now(), ..ElectionStatus::default() };
        let (status, refused) = (watch::Sender::new(status), watch::Sender::default());
        Arc::new(Self { metrics, events, vips, status, refused, state: Mutex::default() })
    }

    pub fn refused(&self) -> watch::Receiver<RefusedLeases> {
        self.refused.subscribe()
    }

    pub fn status(&self) -> watch::Receiver<ElectionStatus> {
        self.status.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Any value is valid: a panic elsewhere cannot break it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Logs a problem when it changes, and every [`REPEAT_INTERVAL`].
    fn problem(&self, text: String, server: &str) {
        let now = clock::now();
        let mut state = self.lock();
        if now.since(state.logged_at) >= REPEAT_INTERVAL {
            state.problem.clear();
        }
        if state.problem.set(text.as_str()) {
            state.logged_at = now;
            tracing::warn!(server, "{text}");
        }
        drop(state);
        self.status.send_modify(|status| status.last_error = Some(text));
    }

    fn gained(&self, source: ClaimSource, now: BootTime) {
        let provisional = source == ClaimSource::Provisional;
        let mut state = self.lock();
        let since = state.held_elsewhere.take().or(state.lost_at);
        drop(state);
        let failover = since.map(|since| now.since(since));
        self.metrics.gained(failover);
        let failover_ms = failover.map(|failover| failover.as_millis() as u64);
        // Events about the addresses of Services are written to the Services.
        if self.vips.is_empty() {
            tracing::info!(failover_ms, "this node now leads the election of Services");
            return;
        }
        tracing::info!(provisional, failover_ms, "this node now holds the VIP");
        let vips = &self.vips;
        let message = match provisional {
            false => format!("this node now holds {vips}"),
            true => format!(
                "this node holds {vips} provisionally: the API server has not yet authorized access to the Lease"
            ),
        };
        self.events.record_on_node(false, "VIPGained", message);
    }

    fn lost(&self, planned: bool, holder: &str, now: BootTime) {
        self.lock().lost_at = Some(now);
        self.metrics.lost();
        if self.vips.is_empty() {
            tracing::info!(planned, holder, "this node no longer leads the election of Services");
            return;
        }
        let vips = &self.vips;
        if planned {
            tracing::info!(successor = holder, "handed the VIP over");
            self.events.record_on_node(false, "VIPHandedOver", format!("handed {vips} over to {holder}"));
        } else {
            tracing::warn!(holder, "this node lost the VIP");
            self.events.record_on_node(
                true,
                "VIPLost",
                format!("lost {vips}; holder of the Lease: {holder}"),
            );
        }
    }
}

impl Observer for Reporter {
    fn election(&self, seen: &ObservedLease, role: &Role, now: BootTime) {
        let claim = role.claim(now).map(|claim| claim.valid_until);
        self.metrics.set_claim(claim);
        if let ObservedLease::Present { lease, first_seen, .. } = seen
            && lease.record.holder != self.status.borrow().node
        {
            self.lock().held_elsewhere = Some(*first_seen);
        }
        self.status.send_modify(|status| {
            if let ObservedLease::Present { lease, .. } = seen {
                status.transitions = lease.record.transitions;
            }
            status.holder = seen.holder().map(str::to_owned);
            status.set_role(role, now);
        });
    }

    fn role_changed(&self, before: &Role, after: &Role, seen: &ObservedLease, now: BootTime) {
        let holder = seen.holder().unwrap_or("none");
        match (before, after) {
            (_, Role::Leader(claim)) => self.gained(claim.source, now),
            (Role::Leader(_), Role::HandingOver { .. }) if self.vips.is_empty() => {
                tracing::info!("handing the addresses of Services over");
            }
            (Role::Leader(_), Role::HandingOver { .. }) => tracing::info!("handing the VIP over"),
            (Role::Leader(_), _) => self.lost(false, holder, now),
            (Role::HandingOver { .. }, _) => self.lost(true, holder, now),
            (Role::Starting, _) if self.vips.is_empty() => {
                tracing::info!(holder, "following the leader of the election of Services");
            }
            (Role::Starting, _) => tracing::info!(holder, "following the holder of the VIP"),
            _ => {}
        }
    }

    fn health(&self, health: Health, server_warning: Option<String>) {
        self.status.send_modify(|status| {
            (status.api_server, status.api_server_warning) = (health, server_warning);
        });
    }

    fn no_access(&self, why: &str) {
        self.problem(format!("no access to an API server: {why}"), "");
    }

    fn call_failed(&self, failed: FailedCall<'_>) {
        let FailedCall { verb, lease, server, reason, why } = failed;
        self.metrics.error(verb, reason);
        if matches!(reason, FailureReason::Forbidden | FailureReason::Rejected) {
            self.refused.send_if_modified(|refused| {
                let known = refused.insert(lease.clone(), (verb, why.to_owned()));
                known.is_none_or(|known| known != (verb, why.to_owned()))
            });
        }
        if reason.is_expected() {
            tracing::debug!(verb, %lease, server, ?reason, "request for a Lease");
        } else {
            self.problem(format!("cannot {verb} Lease {lease}: {why}"), server);
        }
    }

    fn ended(&self, lease: &LeaseName) {
        self.refused.send_if_modified(|refused| refused.remove(lease).is_some());
    }

    fn duplicate_identity(&self, lease: &LeaseName) {
        let now = clock::now();
        let mut state = self.lock();
        if state.duplicate_at.is_some_and(|at| now.since(at) < DUPLICATE_INTERVAL) {
            return;
        }
        state.duplicate_at = Some(now);
        drop(state);
        let node = self.status.borrow().node.clone();
        let text = format!(
            "another host writes Lease {lease} as {node}, too: give each host a node name of its own (vip_nodename), or stop \
             the other process. The Lease's annotation kube-vip.io/written-by has the boot ID of that host"
        );
        tracing::error!("{text}");
        self.events.record_on_node(true, "DuplicateIdentity", text);
    }

    fn scheme_problem(&self, problem: Option<&str>) {
        let mut before = None;
        self.status.send_modify(|status| {
            before = std::mem::replace(&mut status.scheme_problem, problem.map(str::to_owned));
        });
        match (before, problem) {
            (None, Some(text)) => {
                tracing::warn!("{text}");
                self.events.record_on_node(true, "ElectionSchemeDiffers", text.to_owned());
            }
            (Some(_), None) => {
                tracing::info!("this node takes Services over: no node elects them by another scheme")
            }
            _ => {}
        }
    }

    fn call_succeeded(&self, verb: &'static str, lease: &LeaseName) {
        self.metrics.request(verb);
        self.refused.send_if_modified(|refused| {
            // A Lease that can be read may still be refused to a writer.
            let solved = refused.get(lease).is_some_and(|(refused, _)| verb != "get" || *refused == "get");
            solved && refused.remove(lease).is_some()
        });
        self.status.send_if_modified(|status| status.last_error.take().is_some());
        if self.lock().problem.clear() {
            tracing::info!("the API server responds again");
        }
    }
}
