//! `kube-vip status`: the states of all components in one report.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::bgp::status::PeerStates;
use crate::election::status::{ElectionStatus, RoleName};
use crate::net::clock;
use crate::publish::report::ServicesStatus;
use crate::reconcile::reporter::AddressStatus;

/// Without an iteration of the main loop for this long, the process is unhealthy.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// The state of a process.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub version: String,
    pub pid: u32,
    /// How addresses are announced: `arp`, `bgp`, `table`.
    pub mode: String,
    #[serde(flatten)]
    pub election: ElectionStatus,
    #[serde(flatten)]
    pub host: AddressStatus,
    #[serde(flatten)]
    pub services: ServicesStatus,
    /// BGP peers by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub peers: PeerStates,
}

/// The components whose state is reported.
#[derive(Debug, Clone)]
pub struct Sources {
    pub mode: &'static str,
    pub election: watch::Receiver<ElectionStatus>,
    pub host: watch::Receiver<AddressStatus>,
    pub services: watch::Receiver<ServicesStatus>,
}

impl Sources {
    /// The state now.
    pub fn status(&self, mut peers: PeerStates) -> Status {
        let now = clock::now();
        peers.values_mut().for_each(|peer| peer.update_duration(now));
        let election = self.election.borrow().at(now);
        let mut host = self.host.borrow().clone();
        host.blocked_by = host.blocked_by.or_else(|| election.blocked_by());
        Status {
            version: crate::VERSION.to_owned(),
            pid: std::process::id(),
            mode: self.mode.to_owned(),
            election,
            host,
            services: self.services.borrow().clone(),
            peers,
        }
    }

    /// `/healthz`.
    pub fn check_live(&self) -> Result<(), String> {
        let idle = clock::now().since(self.host.borrow().heartbeat);
        if idle < STUCK_AFTER { Ok(()) } else { Err("the main loop is stuck\n".to_owned()) }
    }

    /// `/readyz`: the Lease was read and the host reconciled.
    ///
    /// # Errors
    /// The state of the process.
    pub fn check_ready(&self) -> Result<(), String> {
        let started = self.election.borrow().role != RoleName::Starting;
        if started && self.host.borrow().reconciled {
            Ok(())
        } else {
            Err(self.status(PeerStates::new()).to_text())
        }
    }
}

impl Status {
    /// The report as text, one fact a line.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            let _infallible = writeln!(text, "{name:<12} {value}");
        };
        let Self { election, host, services, .. } = self;
        line("process", &format!("kube-vip {}, pid {}, mode {}", self.version, self.pid, self.mode));
        line("node", &election.node);
        if election.is_elected() {
            line("role", &format!("{} for {:.1} s", election.role, election.for_seconds));
            let holder = election.holder.as_deref().unwrap_or("none");
            let transitions = election.transitions;
            line("lease", &format!("{}: holder {holder}, {transitions} transitions", election.lease));
        } else {
            line("election", "none: every node announces what it can serve");
        }
        if let Some(remaining) = election.claim_remaining_seconds {
            line("claim", &format!("valid for {remaining:.1} s without another renewal"));
        }
        for held in &host.addresses {
            let announced = if held.announced { "announced" } else { "not announced" };
            line("address", &format!("{} on interface {}, {announced}", held.address, held.interface));
        }
        if services.services > 0 {
            line("Services", &services.services.to_string());
        }
        services.leases.iter().for_each(|lease| line("DHCP", &lease.line()));
        services.gateways.iter().for_each(|gateway| line("gateway", gateway));
        services.names.iter().for_each(|name| line("name", name));
        self.peers.values().for_each(|peer| line("BGP peer", &peer.to_text()));
        line("API server", &election.api_server.to_string());
        if let Some(error) = &election.last_error {
            line("last error", error);
        }
        if let Some(reason) = &host.blocked_by {
            line("blocked by", reason);
        }
        text
    }
}
