//! Who may hold the VIP: a claim that expires, won in an election.
//!
//! `record` is the Lease as client-go reads and writes it, `decide` says what a record allows, `elector` is the
//! state machine around both, `driver` carries its calls (`call`) to the API server, `elections` does so for many
//! Leases at once. Those three touch the world; everything else is pure.
//! Nothing outside this folder knows that a claim came from a Lease: it sees a [`Role`].

pub mod call;
pub mod decide;
pub mod driver;
pub mod elections;
pub mod elector;
pub mod health;
pub mod observer;
pub mod record;

use std::time::Duration;

use crate::model::BootTime;

pub use elector::{Elector, Settings};
pub use observer::Observer;
pub use record::{LeaderElectionRecord, LeaseObject, WallTime};

/// The right to hold the VIP until a moment.
///
/// The holder must check it wherever it acts on it; nobody takes it away in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Since when this host holds it without interruption.
    pub since: BootTime,
    /// Until when this host may announce: start of the last successful renewal plus the renew deadline.
    pub valid_until: BootTime,
    /// Until when nobody else can have it: the kernel must have dropped the address by then.
    pub fence_until: BootTime,
    /// What the claim rests on.
    pub source: ClaimSource,
}

/// What a claim rests on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimSource {
    /// The Lease names this host.
    Lease,
    /// The API server is healthy but does not let us at the Lease yet, and nobody answers for the address.
    Provisional,
    /// Nobody is elected: every node may have it at once, and routers choose.
    EveryNode,
}

impl Claim {
    /// A claim that never ends by itself.
    pub fn of_every_node(since: BootTime) -> Self {
        let never = BootTime::from_boot(Duration::MAX);
        Self { since, valid_until: never, fence_until: never, source: ClaimSource::EveryNode }
    }
}

/// Where this host stands in the election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Nothing is known yet. What an earlier process left may stay until the kernel drops it.
    Starting,
    /// Somebody else holds it, or nobody.
    Follower {
        /// The identity in the Lease, where there is one.
        holder: Option<String>,
        /// Until when nobody else can have what this host has just lost.
        fence_until: Option<BootTime>,
    },
    /// This host holds it.
    Leader(Claim),
    /// This host hands it over: silent, but still accepting packets.
    HandingOver {
        /// When the address goes, successor or not.
        until: BootTime,
    },
}

impl Role {
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
    /// It may hold what the election is about. Without that it hands over, or stays away.
    pub eligible: bool,
    /// How long it leaves a free Lease to others that are to have it first.
    pub delay: Duration,
    /// It still holds the addresses from an earlier process.
    pub resuming: bool,
    /// The Lease tells others that this host is there. Whoever stops gives it up first.
    pub is_membership: bool,
}

/// Whom a Lease names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The identity in the Lease.
    pub identity: String,
    /// The last renewal is not overdue.
    pub is_current: bool,
}

/// How the local API server does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// Not probed yet.
    #[default]
    Unknown,
    /// It reports itself alive.
    Serving,
    /// It answers, but not us (401 or 403): alive, and not yet set up.
    Refusing,
    /// It has failed for as long as the settings ask.
    Failing,
}

/// Slack between the moment the kernel is told to drop an address and the moment another host may take it.
///
/// The kernel's own delay was measured at 0.0 to 0.3 s.
pub const FENCE_MARGIN: Duration = Duration::from_millis(300);
