//! `kube-vip status`: the states of all components in one report.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::bgp::status::PeerStates;
use crate::cluster::credentials::CertificateStatus;
use crate::election::status::ElectionStatus;
use crate::model::{BootTime, GroupId, Prefix, Roles};
use crate::net::clock;
use crate::publish::report::ServicesStatus;
use crate::reconcile::reporter::AddressStatus;
use crate::route_table::status::TableStatus;
use crate::telemetry::socket::{self, StatusRequest};

/// Without an iteration of the main loop for this long, the process is unhealthy.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// Most lines `not announced` in the text.
const MAX_NOT_ANNOUNCED: usize = 50;

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
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_elections: Option<ServiceElections>,
    /// In routing-table mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routing_table: Option<TableStatus>,
    /// Where the kubeconfig has a client certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateStatus>,
    /// Ports that cannot be bound: setting, address and reason.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<String>,
    /// BGP peers by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub peers: PeerStates,
}

/// The elections of Services on Leases of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceElections {
    /// Leases of which this node is the leader.
    pub leading: usize,
    pub total: usize,
}

/// The components whose state is reported.
#[derive(Debug, Clone)]
pub struct Sources {
    pub mode: &'static str,
    pub election: watch::Receiver<ElectionStatus>,
    pub host: watch::Receiver<AddressStatus>,
    pub services: watch::Receiver<ServicesStatus>,
    pub certificate: watch::Receiver<Option<CertificateStatus>>,
    /// Problems of ports, by setting.
    pub ports: watch::Receiver<BTreeMap<&'static str, String>>,
    pub table: watch::Receiver<Option<TableStatus>>,
    pub roles: watch::Receiver<Roles>,
    /// Groups whose role is not counted in [`ServiceElections`].
    pub uncounted: BTreeSet<GroupId>,
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
            service_elections: self.service_elections(now),
            routing_table: self.table.borrow().clone(),
            certificate: self.certificate.borrow().clone(),
            ports: self.ports.borrow().values().cloned().collect(),
            peers,
        }
    }

    fn service_elections(&self, now: BootTime) -> Option<ServiceElections> {
        let roles = self.roles.borrow();
        let counted = roles
            .iter()
            .filter(|(group, _)| matches!(group, GroupId::Lease(_)) && !self.uncounted.contains(group));
        let leading = counted.clone().filter(|(_, role)| role.claim(now).is_some()).count();
        let total = counted.count();
        (total > 0).then_some(ServiceElections { leading, total })
    }

    /// `/healthz`.
    pub fn check_live(&self) -> Result<(), String> {
        let idle = clock::now().since(self.host.borrow().heartbeat);
        if idle < STUCK_AFTER { Ok(()) } else { Err("the main loop is stuck\n".to_owned()) }
    }

    /// `/readyz`: Services were listed, the role in the reported election is known, and the host was reconciled with both.
    ///
    /// # Errors
    /// The state of the process.
    pub fn check_ready(&self) -> Result<(), String> {
        if self.host.borrow().reconciled { Ok(()) } else { Err(self.status(PeerStates::new()).to_text()) }
    }
}

/// The routes of all agents on this host in the kernel's tables; none while one of them does not know its own.
pub async fn routes_of_agents() -> Option<BTreeSet<Prefix>> {
    let mut routes = BTreeSet::new();
    for reply in socket::request(StatusRequest::Status).await.ok()? {
        let status: Status = serde_json::from_str(&reply?).ok()?;
        let Some(table) = status.routing_table else { continue };
        if !table.complete {
            return None;
        }
        routes.extend(table.routes.iter().filter_map(|prefix| prefix.parse::<Prefix>().ok()));
    }
    Some(routes)
}

impl Status {
    /// The report as text, one fact a line.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| {
            let _infallible = writeln!(text, "{name:<13} {value}");
        };
        let Self { election, host, services, .. } = self;
        line("process", &format!("kube-vip {}, pid {}, mode {}", self.version, self.pid, self.mode));
        line("node", &election.node);
        services.node_problem.iter().for_each(|problem| line("node problem", problem));
        if election.is_elected() {
            line("role", &format!("{} for {:.1} s", election.role, election.for_seconds));
            let holder = election.holder.as_deref().unwrap_or("none");
            let transitions = election.transitions;
            line("lease", &format!("{}: holder {holder}, {transitions} transitions", election.lease));
        } else if self.service_elections.is_none() {
            line("election", "none: every node announces what it can serve");
        }
        if let Some(ServiceElections { leading, total }) = self.service_elections {
            line("elections", &format!("leader of {leading} of {total} Leases of Services"));
        }
        election.scheme_problem.iter().for_each(|problem| line("scheme", problem));
        if let Some(remaining) = election.claim_remaining_seconds {
            line("claim", &format!("valid for {remaining:.1} s without another renewal"));
        }
        for held in &host.addresses {
            let announced = if held.announced { "announced" } else { "not announced" };
            line("address", &format!("{} on interface {}, {announced}", held.address, held.interface));
        }
        if let Some(TableStatus { table, routes, .. }) = &self.routing_table {
            line("routes", &format!("{} in table {table}", routes.len()));
        }
        match services.services {
            0 if services.disabled => {
                line("Services", "not announced by this process: svc_enable is not set")
            }
            0 => {}
            count => line("Services", &count.to_string()),
        }
        services.not_announced.iter().take(MAX_NOT_ANNOUNCED).for_each(|it| line("not announced", it));
        if services.not_announced.len() > MAX_NOT_ANNOUNCED {
            let rest = services.not_announced.len() - MAX_NOT_ANNOUNCED;
            line("not announced", &format!("{rest} more Services (-o json lists all)"));
        }
        services.leases.iter().for_each(|lease| line("DHCP", &lease.line()));
        services.gateways.iter().for_each(|gateway| line("gateway", gateway));
        services.names.iter().for_each(|name| line("name", name));
        self.peers.values().for_each(|peer| line("BGP peer", &peer.to_text()));
        self.ports.iter().for_each(|problem| line("port", problem));
        if let Some(certificate) = &self.certificate {
            line("certificate", &certificate.line());
            certificate.problem.iter().for_each(|problem| line("renewal", problem));
        }
        if election.control_plane {
            line("API server", &election.api_server.to_string());
        }
        election.api_server_warning.iter().for_each(|warning| line("API server", warning));
        if let Some(error) = &election.last_error {
            line("last error", error);
        }
        if let Some(reason) = &host.blocked_by {
            line("blocked by", reason);
        }
        text
    }
}
