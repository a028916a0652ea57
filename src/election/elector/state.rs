//! The states of an election.

use std::time::Duration;

use crate::model::{BootTime, Claim};

/// Wait for the successor once the Lease is released.
pub(super) const HANDOVER_WINDOW: Duration = Duration::from_millis(500);
/// Limit for the release itself.
pub(super) const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    /// Write this host into the Lease as observed.
    Hold,
    /// The same where there is no Lease: a creation has no precondition, and a Lease may have existed meanwhile.
    Create,
    Release,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum State {
    Follower,
    Leader(LeaderState),
    HandingOver(HandOver),
}

/// Whether a claim counts yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verification {
    /// No host answers for the address.
    Verified,
    /// The Lease names this host, and the address is being probed.
    Probing,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct LeaderState {
    pub(super) claim: Claim,
    /// Start of the last successful renewal.
    pub(super) renewed: BootTime,
    pub(super) verification: Verification,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct HandOver {
    /// It ends then, with or without a successor.
    pub(super) until: BootTime,
    pub(super) released: bool,
    pub(super) held_since: BootTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probing {
    /// The next probe may start at this moment.
    Idle(BootTime),
    Running,
}

/// Whether the first read of the Lease is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing is known yet; addresses of an earlier process may stay.
    Starting,
    Running,
}

/// Whether the observed Lease is known to be out of date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    Current,
    Stale,
    /// This host's conditional write has no response: if the Lease names this host now, it follows from that write.
    Unanswered,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Watch {
    Open,
    Closed,
}

/// What is known of the address on the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AddressState {
    /// No holder was observed: a host that answers for the address is unexplained.
    Unknown,
    /// This host wrote itself into the Lease without knowing of a holder: the address is probed before the claim counts.
    Unverified,
    /// A holder was observed that knew the address to be free, or it was probed here.
    Verified,
    /// Verified before; then the Lease named this host unexpectedly. Or the last holder had not verified the address.
    Suspect,
}

impl AddressState {
    pub(super) fn is_familiar(self) -> bool {
        matches!(self, Self::Verified | Self::Suspect)
    }

    pub(super) fn needs_probe(self) -> bool {
        matches!(self, Self::Unverified | Self::Suspect)
    }

    /// The state after a write or an observation; `unexplained` if it does not follow from a known holder.
    #[must_use]
    pub(super) fn after(self, unexplained: bool) -> Self {
        match self {
            Self::Unknown if unexplained => Self::Unverified,
            Self::Verified if unexplained => Self::Suspect,
            _ => self,
        }
    }
}
