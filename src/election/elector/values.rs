//! Parameters, input and output of an election.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::super::record::{Candidate, LeaseObject, Write};
use crate::election::health::Report;
use crate::model::BootTime;

/// Parameters of an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub candidate: Candidate,
    /// Other hosts wait this long after the last renewal that they observed.
    pub lease_duration: Duration,
    /// This host acts on a renewal for this long.
    pub renew_deadline: Duration,
    /// Interval of renewals.
    pub retry_period: Duration,
    /// Annotations of the Lease.
    pub annotations: BTreeMap<String, String>,
    /// Whether the address may be held while the API server still answers 403 (kubeadm's first minute).
    pub provisional: bool,
    /// Whether this host still has the address from an earlier process. Without it a Lease in this host's name is no
    /// proof: the process that wrote it may have ended before it added the address.
    pub resuming: bool,
    /// Jitter of retries.
    pub seed: u64,
}

/// Slack between the end of the lifetime of an address and the moment at which another host may acquire the Lease.
///
/// The kernel looks for addresses whose lifetime is over at most once a second for each address family and network
/// namespace, and rounds that to a quarter of a second: with other addresses of finite lifetimes on the host, it drops one
/// up to 1.25 s late.
const FENCE_MARGIN: Duration = Duration::from_millis(1300);
/// The same where the timings leave no room for it. It covers a host with a single such address: 0.0 to 0.3 s.
const SHORT_FENCE_MARGIN: Duration = Duration::from_millis(300);

impl Settings {
    /// See [`FENCE_MARGIN`].
    pub fn fence_margin(&self) -> Duration {
        let room = self.lease_duration.saturating_sub(self.renew_deadline);
        if room > FENCE_MARGIN { FENCE_MARGIN } else { SHORT_FENCE_MARGIN }
    }

    /// Lifetime of addresses of an earlier process until the Lease is read: another host may acquire it one duration after the
    /// last renewal, which was before this process began.
    pub fn adopted_lifetime(&self) -> Duration {
        self.lease_duration.saturating_sub(self.fence_margin())
    }

    /// Time without a renewal after which a holder is likely to have failed. The Leases of a failed host expire within a
    /// retry period of each other: all of them are overdue before the first, valid for `duration`, expires.
    pub fn overdue(&self, duration: Duration) -> Duration {
        let slack = self.retry_period.mul_f64(1.5);
        duration.saturating_sub(slack).max(slack).min(duration)
    }
}

/// A request to the API server. One at a time.
#[derive(Debug, Clone, PartialEq)]
pub enum LeaseRequest {
    Read,
    Create {
        write: Write,
        annotations: BTreeMap<String, String>,
    },
    /// Update, on the condition that the Lease is still at the `resourceVersion` in the metadata.
    Replace {
        write: Write,
        meta: Box<ObjectMeta>,
    },
}

/// The response to a [`LeaseRequest`].
#[derive(Debug, Clone, PartialEq)]
pub enum LeaseResponse {
    Object(Box<LeaseObject>),
    NotFound,
    /// Another client wrote first.
    Conflict,
    /// 403, or the namespace does not exist yet.
    Forbidden,
    /// Another 4xx: the same request will be rejected again.
    Rejected,
    /// No usable response: timeout, no connection, 429, 5xx.
    Failed {
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
}

/// Input of an [`Elector`](super::Elector).
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The response to the request in flight.
    Response {
        started: BootTime,
        response: LeaseResponse,
    },
    Watched(Box<LeaseObject>),
    WatchedDeletion,
    /// Whether the watch is open.
    Watching(bool),
    Health(Report),
    /// The result of a probe for the addresses.
    Probed {
        /// Another host answered.
        taken: bool,
    },
    /// Another host announces an address.
    AddressClaimed,
    /// The successor announces every address that this host was still keeping.
    Succeeded,
    /// Hand over, and remain a follower until [`Input::Undrain`] for the same reason.
    Drain(DrainReason),
    /// Be a candidate again, unless another reason remains.
    Undrain(DrainReason),
    /// Annotate the Lease from the next write on.
    Annotate(&'static str, String),
    /// Hand over and end.
    Stop,
}

/// Why this host hands over and stays a follower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainReason {
    /// `kube-vip drain`.
    Operator,
    /// The main interface is down: for Services after a second, for the control plane by `vip_loseleadership`.
    InterfaceDown,
    /// No endpoint on this host can serve the address.
    NotEligible,
    /// Other nodes elect Services by another scheme: this one gives up its heartbeat Lease, or its Services where it has none.
    OtherScheme,
}

/// Output of an [`Elector`](super::Elector).
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Send this request; its response is [`Input::Response`].
    Request(LeaseRequest),
    /// Drop the request in flight without waiting for its response.
    Cancel,
    /// Send frames on the segment.
    Segment(SegmentRequest),
    /// The watch was behind: open it again.
    RestartWatch,
    /// Another host writes records with this host's identity.
    DuplicateIdentity,
}

/// Frames that an election needs on the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentRequest {
    /// Probe for the addresses; the result is [`Input::Probed`].
    Probe,
    /// Announce the addresses, without holding them, to the host that answered the probe: a provisional holder yields to the Lease.
    Announce,
}
