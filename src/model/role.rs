//! The result of an election on this host: a role, and for the leader a claim that expires.

use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::BootTime;

/// The right to hold VIPs until a moment. It is checked wherever it is used: no task revokes it in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Start of this host's uninterrupted leadership.
    pub since: BootTime,
    /// This host may announce until then: start of the last successful renewal plus the renew deadline.
    pub valid_until: BootTime,
    /// No other host can hold the VIPs before then: the kernel must have dropped the addresses.
    pub fence_until: BootTime,
    pub source: ClaimSource,
}

/// Where a claim comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimSource {
    /// The Lease names this host.
    Lease,
    /// The API server is healthy but has not yet authorized access to the Lease, and no host answers for the address.
    Provisional,
    /// No election: every node may hold the VIPs at the same time, and routers choose.
    EveryNode,
}

impl Claim {
    /// A claim that never expires.
    pub fn of_every_node(since: BootTime) -> Self {
        let never = BootTime::from_boot(Duration::MAX);
        Self { since, valid_until: never, fence_until: never, source: ClaimSource::EveryNode }
    }
}

/// This host's role in a VIP group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Role {
    /// The Lease has not been read yet. Addresses of an earlier process may stay until the kernel drops them.
    #[default]
    Starting,
    /// Another host holds the VIPs, or none.
    Follower {
        /// The identity in the Lease.
        holder: Option<String>,
        /// No other host can hold what this host has just lost before then.
        fence_until: Option<BootTime>,
    },
    Leader(Claim),
    /// Announcements have stopped; packets are still accepted until the successor announces.
    HandingOver {
        /// The addresses are removed then, with or without a successor.
        until: BootTime,
    },
}

impl Role {
    /// A follower that knows of no holder.
    pub const FOLLOWER: Self = Self::Follower { holder: None, fence_until: None };

    /// The claim, if it is valid at `now`.
    pub fn claim(&self, now: BootTime) -> Option<&Claim> {
        match self {
            Self::Leader(claim) if now < claim.valid_until => Some(claim),
            _ => None,
        }
    }
}

/// Whether and how this host takes part in an election.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Candidacy {
    /// False: hand over, or stay a follower.
    pub eligible: bool,
    /// Extra wait before acquiring a free Lease, so that preferred candidates come first.
    pub delay: Duration,
    /// This host still has the addresses from an earlier process.
    pub resuming: bool,
    pub kind: CandidacyKind,
}

/// What an election is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CandidacyKind {
    /// Addresses of Services.
    #[default]
    Services,
    /// Heartbeat Lease of this node. At shutdown it is released before the Leases of groups, and after those of Services that
    /// are elected one by one.
    Heartbeat,
    /// VIPs of the control plane: follows the local API server's health, and may hold them provisionally.
    ControlPlane,
    /// Leadership of a controller; no address depends on it.
    Controller,
}

impl CandidacyKind {
    /// The rest of the process depends on this election: it has a watch of its own, and its requests are sent first.
    pub fn is_primary(self) -> bool {
        matches!(self, Self::ControlPlane | Self::Controller)
    }
}

/// The unexpired holder of a Lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    pub identity: String,
    /// The last renewal is not overdue.
    pub is_current: bool,
}

/// State of the local API server.
/// The greater, the better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Health {
    /// Not probed yet.
    #[default]
    Unknown,
    /// It has failed for as long as the settings require.
    Failing,
    /// It answers 401 or 403: alive, and not yet set up.
    Refusing,
    /// It reports itself alive.
    Serving,
}
