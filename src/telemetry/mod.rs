//! What people and monitoring see: log lines, metrics, Events, the status report.
//!
//! The rest of the program says what happened; this folder decides how it is told.

pub mod bgp;
pub mod endpoints;
pub mod events;
pub mod http;
pub mod logging;
pub mod metrics;
pub mod register;
pub mod status;
pub mod upnp;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use crate::dhcp::status::LeaseStatus;
use crate::election::Observer;
use crate::election::decide::ObservedLease;
use crate::election::elector::LeaseResponse;
use crate::model::interface::hardware_text;
use crate::model::{BootTime, Vip};
use crate::model::{ClaimSource, Role};
use events::Notice;
use metrics::Metrics;
use status::Status;

/// How often the same trouble is logged.
const REPEAT: Duration = Duration::from_secs(30);

/// The one place that everything worth telling is told to.
#[derive(Debug)]
pub struct Telemetry {
    /// The metrics.
    pub metrics: Metrics,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    status: Status,
    /// None once no more Events are wanted.
    notices: Option<mpsc::Sender<Notice>>,
    bgp: Option<bgp::Peers>,
    /// What was logged last about the API, and when.
    trouble: Option<(String, BootTime)>,
    /// When somebody else was last seen to hold the Lease.
    held_elsewhere: Option<BootTime>,
    lost_at: Option<BootTime>,
}

impl Telemetry {
    /// For this node and Lease. The receiver gets what is worth a Kubernetes Event.
    pub fn new(node: &str, lease: &str, mode: &str) -> (Arc<Self>, mpsc::Receiver<Notice>) {
        let (notices, receiver) = mpsc::channel(64);
        let inner = Inner {
            status: Status::new(node, lease, mode),
            notices: Some(notices),
            bgp: None,
            trouble: None,
            held_elsewhere: None,
            lost_at: None,
        };
        (Arc::new(Self { metrics: Metrics::new(node, lease), inner: Mutex::new(inner) }), receiver)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Half-written telemetry is better than none.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notice(&self, notice: Notice) {
        // Events are a courtesy: when the API server is away they are dropped rather than kept.
        if let Some(notices) = &self.lock().notices {
            notices.try_send(notice).ok();
        }
    }

    /// Nothing more is going to happen: the writer of Events may finish.
    pub fn close(&self) {
        self.lock().notices = None;
    }

    /// There is no election that `kube-vip status` could tell of.
    pub fn nobody_is_elected(&self) {
        self.lock().status.lease.clear();
    }

    /// The report for `kube-vip status`.
    pub fn status(&self, now: BootTime) -> Status {
        let inner = self.lock();
        let mut status = inner.status.clone();
        status.peers = inner.bgp.as_ref().map(|bgp| bgp.states.borrow().clone()).unwrap_or_default();
        drop(inner);
        status.measure(now);
        status
    }

    /// Log trouble once, and again when it changes or after a while.
    fn trouble(&self, what: &str, server: &str, why: &str) {
        let now = crate::net::clock::now();
        let mut inner = self.lock();
        let text = format!("{what}: {why}");
        inner.status.trouble = Some(text.clone());
        let known =
            matches!(&inner.trouble, Some((before, at)) if *before == text && now.since(*at) < REPEAT);
        if !known {
            inner.trouble = Some((text, now));
            tracing::warn!(server, "{what}: {why}");
        }
    }

    /// The local API server's health changed.
    pub fn health(&self, health: crate::model::Health) {
        self.lock().status.api_server = format!("{health:?}").to_lowercase();
    }

    /// The address was put on an interface, or came back after somebody removed it.
    pub fn address_added(&self, vip: Vip, interface: &str, repaired: bool) {
        if repaired {
            self.metrics.repaired(vip.address);
            tracing::warn!(address = %vip, interface, "put the address back that somebody removed");
        } else {
            tracing::info!(address = %vip, interface, "added the address");
        }
    }

    /// The address was removed from an interface.
    pub fn address_removed(&self, vip: Vip, interface: &str) {
        self.metrics.forget(vip.address);
        tracing::info!(address = %vip, interface, "removed the address");
    }

    /// An announcement went out.
    pub fn announced(&self, address: IpAddr) {
        self.metrics.announced(address);
        tracing::debug!(%address, "announced");
    }

    /// Another station announces an address that we hold.
    pub fn conflict(&self, address: IpAddr, station: &[u8], defended: bool) {
        self.metrics.conflict(address);
        if defended {
            let station = hardware_text(station);
            tracing::warn!(%address, station, "another station announces our address; announcing it again");
            self.notice(Notice::Conflict { address, station });
        }
    }

    /// A station outside the cluster has a Service's address. Its user is told by an Event.
    pub fn occupied(&self, address: IpAddr, station: &[u8]) {
        self.metrics.conflict(address);
        tracing::debug!(%address, station = hardware_text(station), "another station has the address");
    }

    /// A station answers for an address that we want to take.
    pub fn taken(&self, address: IpAddr, station: &[u8]) {
        let station = hardware_text(station);
        self.metrics.conflict(address);
        let text = format!("address {address} is in use by {station}");
        let mut inner = self.lock();
        let repeated = inner.status.obstacle.as_deref() == Some(text.as_str());
        inner.status.obstacle = Some(text);
        drop(inner);
        if !repeated {
            tracing::warn!(%address, station, "a station answers for the address that this node is to take; waiting");
            self.notice(Notice::Conflict { address, station });
        }
    }

    /// What this host holds and announces now, and what somebody else configured here.
    pub fn held(&self, held: Vec<status::Held>, foreign: &BTreeSet<Vip>) {
        let mut inner = self.lock();
        let obstacle = foreign.first().map(|vip| {
            format!("{vip} is configured on this host by somebody else: remove it, or choose another VIP")
        });
        if let Some(text) = &obstacle
            && inner.status.obstacle != obstacle
        {
            tracing::error!("{text}");
        }
        if obstacle.is_some() || !held.is_empty() {
            inner.status.obstacle = obstacle;
        }
        inner.status.addresses = held;
        inner.status.reconciled = true;
    }

    /// So many Services are looked after.
    pub fn services(&self, count: usize) {
        self.metrics.services(count);
        self.lock().status.services = count;
    }

    /// The state of all DHCP leases.
    pub fn leases(&self, leases: Vec<LeaseStatus>) {
        self.lock().status.leases = leases;
    }

    /// How it goes with the network's gateways.
    pub fn gateways(&self, outcome: &crate::upnp::status::GatewayStatus) {
        self.lock().status.gateways = upnp::lines(outcome);
    }

    /// Which names are told here for Services.
    pub fn names(&self, names: Vec<String>) {
        self.lock().status.names = names;
    }

    /// The main loop made a round.
    pub fn heartbeat(&self, now: BootTime) {
        self.lock().status.heartbeat = now;
    }
}

impl Observer for Telemetry {
    fn election(&self, seen: &ObservedLease, role: &Role, now: BootTime) {
        let mut inner = self.lock();
        if let ObservedLease::Present { lease, first_seen } = seen
            && lease.record.holder != inner.status.node
        {
            inner.held_elsewhere = Some(*first_seen);
        }
        if let ObservedLease::Present { lease, .. } = seen {
            inner.status.transitions = lease.record.transitions;
        }
        inner.status.holder = seen.holder().map(str::to_owned);
        inner.status.set_role(role, now);
        self.metrics.set_claim(role.claim(now).map(|claim| claim.valid_until));
    }

    fn role_changed(&self, before: &Role, after: &Role, seen: &ObservedLease, now: BootTime) {
        let holder = seen.holder().unwrap_or("nobody");
        match (before, after) {
            (_, Role::Leader(claim)) => {
                let provisional = claim.source == ClaimSource::Provisional;
                let mut inner = self.lock();
                let gap = inner.held_elsewhere.or(inner.lost_at).map(|since| now.since(since));
                inner.held_elsewhere = None;
                drop(inner);
                self.metrics.gained(gap);
                tracing::info!(
                    provisional,
                    failover_ms = gap.map(|gap| gap.as_millis() as u64),
                    "this node now holds the VIP"
                );
                self.notice(Notice::Gained { provisional });
            }
            (Role::Leader(_), Role::HandingOver { .. }) => {
                tracing::info!("handing the VIP over");
            }
            (Role::Leader(_) | Role::HandingOver { .. }, _) => {
                let planned = matches!(before, Role::HandingOver { .. });
                self.lock().lost_at = Some(now);
                self.metrics.lost();
                if planned {
                    tracing::info!(successor = holder, "handed the VIP over");
                } else {
                    tracing::warn!(holder, "this node lost the VIP");
                }
                self.notice(Notice::Lost { planned, holder: holder.to_owned() });
            }
            (Role::Starting, _) => tracing::info!(holder, "following the holder of the VIP"),
            _ => {}
        }
    }

    fn no_access(&self, why: &str) {
        self.trouble("no access to an API server", "", why);
    }

    fn call_failed(&self, verb: &'static str, server: &str, answer: &LeaseResponse, why: &str) {
        let reason = match answer {
            LeaseResponse::Conflict => "conflict",
            LeaseResponse::Forbidden => "forbidden",
            LeaseResponse::NotFound => "missing",
            _ if why == "no answer in time" => "timeout",
            _ => "error",
        };
        self.metrics.api_error(verb, reason);
        match answer {
            // Both are the election at work.
            LeaseResponse::Conflict | LeaseResponse::NotFound => {
                tracing::debug!(verb, server, reason, "the Lease")
            }
            _ => self.trouble(&format!("cannot {verb} the Lease"), server, why),
        }
    }

    fn call_succeeded(&self, verb: &'static str) {
        self.metrics.api_request(verb);
        let mut inner = self.lock();
        inner.status.trouble = None;
        if inner.trouble.take().is_some() {
            tracing::info!("the API server answers again");
        }
    }
}
