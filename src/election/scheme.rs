//! The election scheme: which Lease guards the address of a Service.
//!
//! Exclusion by Leases holds among nodes that elect an address on the same one. While a rolling update changes the scheme, some
//! nodes elect it on another. Therefore each Lease of Services carries the scheme of its holder, and a node acquires none while
//! another node holds one by another scheme. What a node leads it keeps if its scheme has a heartbeat; with one election for all
//! it gives its addresses up once it sees another scheme.
//!
//! With groups, and with an election for each Service, every active node has a heartbeat Lease. A [`Gate`] opens
//! once the watch shows this node's own heartbeat and no other scheme: of two nodes that join at the same time by different
//! schemes, the one that wrote later is shown the other's Lease first. With one election for all, the leader's Lease is the
//! only one; its followers are unknown, and a node with another scheme waits for them to take over first.
//!
//! With an election for each Service, the Leases are in the namespaces of the Services, and no node watches all of those: only
//! the heartbeat shows this scheme. Such a node releases it last.

use std::collections::BTreeMap;
use std::time::Duration;

use super::record::LeaseObject;
use crate::config::{ClassRule, Config, ServiceElection};
use crate::model::annotation::ELECTION_SCHEME;
use crate::model::hash::fnv1a;
use crate::model::{BootTime, LeaseName};

const GLOBAL: &str = "global";
const PER_SERVICE: &str = "per-service";
const GROUPS: &str = "groups-";
const LOCAL: &str = "+local";

/// Followers of the one election for all acquire a free Lease well within this time.
const FOLLOWERS: Duration = Duration::from_millis(500);
/// Followers of the Go program read a free Lease after up to 2.2 retry periods (client-go's jitter factor is 1.2).
const GO_FOLLOWERS: f64 = 2.5;

/// The heartbeat Lease of a node.
pub fn member_of(base: &LeaseName, node: &str) -> LeaseName {
    LeaseName { namespace: base.namespace.clone(), name: format!("{}{node}", member_prefix(base)) }
}

pub fn member_prefix(base: &LeaseName) -> String {
    format!("{}-member-", base.name)
}

/// The scheme of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scheme {
    /// `svc_leasename`.
    pub base: LeaseName,
    /// This node's heartbeat Lease; none with one election for all.
    pub member: Option<LeaseName>,
    election: ServiceElection,
    local: bool,
    /// What decides the Lease of a Service: `global`, `per-service` or `groups-<count>`, and whether `+on-demand` and `+local`.
    kind: String,
    /// Which Services are elected. Other processes do not concern this one.
    scope: String,
    /// `base` is the control plane's Lease: that it is held does not show how Services are elected.
    shared: bool,
}

/// Nodes that elect the same Services by another scheme.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OtherSchemes {
    /// Each with its scheme.
    pub nodes: BTreeMap<String, String>,
    /// How long after they are gone further nodes may still take over from them.
    pub followers: Duration,
}

impl Scheme {
    /// A scheme of `node-1`, with Leases in `default`.
    #[cfg(test)]
    pub(in crate::election) fn example(kind: &str) -> Self {
        let base = LeaseName { namespace: "default".into(), name: "svcs".into() };
        let election = match kind.split('+').next().unwrap_or_default() {
            GLOBAL => ServiceElection::Global,
            PER_SERVICE => ServiceElection::PerService,
            groups => ServiceElection::Groups(groups.trim_start_matches(GROUPS).parse().unwrap()),
        };
        let member = (election != ServiceElection::Global).then(|| member_of(&base, "node-1"));
        let (local, kind) = (kind.contains(LOCAL), kind.to_owned());
        Self { base, member, election, local, kind, scope: "svcs for no class".into(), shared: false }
    }

    /// The scheme of these settings; none where Services are not elected.
    pub fn of(config: &Config) -> Option<Self> {
        let services = config.services.as_ref()?;
        let class = match &services.class {
            ClassRule::NamedOrNone(class) => format!("class {class} or none"),
            ClassRule::Named(class) => format!("class {class}"),
            ClassRule::None => "no class".to_owned(),
        };
        let namespace = services.namespace.iter().map(|namespace| format!(" in namespace {namespace}"));
        let scope = format!("{} for {class}{}", services.lease.name, namespace.collect::<String>());
        let base = services.lease.clone();
        let (kind, members) = match services.election {
            ServiceElection::EveryNode => return None,
            ServiceElection::Global => (GLOBAL.to_owned(), None),
            ServiceElection::Groups(count) => (format!("{GROUPS}{count}"), Some(base.clone())),
            // Processes for different Services may have the default name in common, and one node.
            ServiceElection::PerService => {
                let name = format!("{}-{:x}", base.name, fnv1a(scope.as_bytes()));
                (PER_SERVICE.to_owned(), Some(LeaseName { name, ..base.clone() }))
            }
        };
        let on_demand = services.on_demand && services.election != ServiceElection::PerService;
        let local = services.local_alone && services.election == ServiceElection::Global;
        let extra = [(on_demand, "+on-demand"), (local, LOCAL)];
        let extra = extra.into_iter().filter(|(applies, _)| *applies).map(|(_, text)| text);
        Some(Self {
            member: members.map(|members| member_of(&members, &config.node_name)),
            election: services.election,
            local,
            kind: std::iter::once(kind.as_str()).chain(extra).collect(),
            scope,
            shared: base == config.election.lease,
            base,
        })
    }

    /// Whether only the heartbeat shows other nodes that Services are elected by this scheme.
    pub fn is_shown_by_heartbeat_alone(&self) -> bool {
        self.election == ServiceElection::PerService
    }

    /// The annotation of its Leases.
    pub fn annotation(&self) -> (String, String) {
        (ELECTION_SCHEME.to_owned(), format!("{} of {}", self.kind, self.scope))
    }

    /// Adds the holder of a Lease if it elects the same Services by another scheme.
    pub fn compare(
        &self,
        name: &LeaseName,
        lease: &LeaseObject,
        retry_period: Duration,
        others: &mut OtherSchemes,
    ) {
        let is_base = *name == self.base;
        if name.namespace != self.base.namespace || (is_base && self.shared) {
            return;
        }
        let written = written(lease).and_then(|text| text.split_once(" of "));
        let kind = match written {
            Some((kind, scope)) if scope == self.scope => kind,
            Some(_) => return,
            // Of the Go program, or of version 0.1.0.
            None if is_base && (self.election != ServiceElection::Global || self.local) => GLOBAL,
            None if name.name.starts_with(&member_prefix(&self.base))
                && !matches!(self.election, ServiceElection::Groups(_)) =>
            {
                "groups"
            }
            None => return,
        };
        if kind == self.kind {
            return;
        }
        let followers = match written {
            Some(_) if is_base => FOLLOWERS,
            None if is_base => retry_period.mul_f64(GO_FOLLOWERS),
            _ => Duration::ZERO,
        };
        others.followers = others.followers.max(followers);
        others.nodes.insert(lease.record.holder.clone(), kind.to_owned());
    }

    /// For the operator of this node, while others prevent it from taking part.
    pub fn describe(&self, others: &OtherSchemes) -> String {
        let nodes = others.nodes.iter().map(|(node, kind)| format!("{node} ({kind})"));
        format!(
            "this node (scheme {}) takes over no Services, because of nodes that elect them by another scheme: {}; restart \
             kube-vip there with this node's svc_election, svc_election_groups, svc_local_election and per_service_election_on_demand, or here \
             with theirs",
            self.kind,
            nodes.collect::<Vec<_>>().join(", ")
        )
    }
}

/// What a holder wrote about its scheme.
pub fn written(lease: &LeaseObject) -> Option<&str> {
    lease.meta.annotations.as_ref()?.get(ELECTION_SCHEME).map(String::as_str)
}

/// This node's heartbeat Lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeat {
    /// The scheme has none.
    None,
    Lost,
    /// Held, and the watch does not show the last write yet.
    Written,
    /// Held, and everything that was written to Leases before is known.
    Shown,
}

/// What a step of the gate depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Facts {
    /// This host is a candidate for Leases of Services, and has read one of them.
    pub wanted: bool,
    /// The Leases of the scheme's namespace are known.
    pub listed: bool,
    pub heartbeat: Heartbeat,
    /// Another scheme is in use; see [`OtherSchemes::followers`].
    pub others: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Finding out whether there is another scheme. The gate opens at `until` whatever is still unknown; `again`: the heartbeat
    /// has worked before, and is waited for.
    Joining { until: Option<BootTime>, listed: bool, again: bool },
    /// There is; or it is gone, and its followers have until then to take over.
    Waiting { followers: Duration, until: Option<BootTime> },
    /// This node's scheme is in use. `member`: by its heartbeat.
    Open { member: bool },
}

/// What a [`Gate`] permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Nothing: the Leases are not known yet.
    Closed,
    /// Another scheme is in use: the heartbeat Lease is released.
    Waiting,
    /// The heartbeat Lease may be acquired.
    Joining,
    /// Leases of Services may be acquired, too.
    Open,
}

impl Permission {
    pub fn may_join(self) -> bool {
        matches!(self, Self::Joining | Self::Open)
    }
}

/// Whether this node may acquire Leases of Services. What it leads it keeps if its scheme has a heartbeat.
#[derive(Debug)]
pub struct Gate {
    state: State,
    /// At the last step.
    heartbeat: Heartbeat,
    /// See [`State::Joining`].
    timeout: Duration,
}

impl Gate {
    /// What is unknown for as long as `timeout`, a lease duration, does not keep the gate closed.
    pub fn new(timeout: Duration) -> Self {
        let state = State::Joining { until: None, listed: false, again: false };
        Self { state, heartbeat: Heartbeat::Lost, timeout }
    }

    pub fn permission(&self) -> Permission {
        match self.state {
            State::Joining { listed: false, .. } => Permission::Closed,
            State::Joining { listed: true, .. } => Permission::Joining,
            State::Waiting { .. } => Permission::Waiting,
            State::Open { .. } => Permission::Open,
        }
    }

    /// Returns whether a heartbeat that was lost has been written again, and has to be shown.
    pub fn step(&mut self, now: BootTime, facts: Facts) -> bool {
        let before = std::mem::replace(&mut self.heartbeat, facts.heartbeat);
        let rejoined = matches!(self.state, State::Joining { again: true, .. })
            && (before, facts.heartbeat) == (Heartbeat::Lost, Heartbeat::Written);
        let held = matches!(facts.heartbeat, Heartbeat::Written | Heartbeat::Shown);
        let joining = |again| State::Joining { until: None, listed: false, again };
        self.state = match (self.state, facts.others) {
            // The heartbeat keeps other schemes away. A node that joined by another one at the same time yields.
            (State::Open { .. }, _) if held => State::Open { member: true },
            (_, Some(followers)) => State::Waiting { followers, until: None },
            // Without it, nodes with another scheme may have taken over meanwhile.
            (State::Open { member: true }, None) => joining(true),
            (State::Waiting { followers, until: None }, None) if !followers.is_zero() => {
                State::Waiting { followers, until: Some(now + followers) }
            }
            (State::Waiting { until: Some(until), .. }, None) if now >= until => joining(false),
            (State::Waiting { until: None, .. }, None) => joining(false),
            (same, None) => same,
        };
        if let State::Joining { until, listed, again } = &mut self.state {
            let due = until.unwrap_or(now + self.timeout);
            // Where no Leases can be listed, the heartbeat would wait forever.
            *until = (facts.wanted && !(*again && facts.listed)).then_some(due);
            *listed = facts.listed;
            let complete = facts.listed && matches!(facts.heartbeat, Heartbeat::None | Heartbeat::Shown);
            if complete || until.is_some_and(|until| now >= until) {
                self.state = State::Open { member: held };
            }
        }
        rejoined
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        match self.state {
            State::Joining { until, .. } | State::Waiting { until, .. } => until,
            State::Open { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests;
