//! One election as a state machine.
//!
//! ```text
//!                 Lease free or expired: write        claim expires, or the Lease names another host
//!   Follower ─────────────────────────► Leader ─────────────────────────────► Follower
//!       ▲   ▲                              │ stop, drain, local API server fails
//!       │   └── 403 and address free ──────┤ (provisional)
//!       │                                  ▼
//!       └─── successor seen, or time up ── HandingOver   (no announcements, Lease released, address kept)
//! ```
//!
//! Safety rests on three facts. A claim counts from the *start* of the renewal that succeeded, so it ends before any
//! host that observed that renewal may acquire the Lease. Every write carries the `resourceVersion` that it was decided
//! on. Expiry is measured by this host's clock alone (see [`decide`](super::decide)).
//!
//! Contract: ARCHITECTURE.md, "State machines"; after every call read `role` again.

mod claims;
mod requests;
mod state;
mod values;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::decide::ObservedLease;
use super::health::Report;
use crate::model::{Backoff, BootTime, Role};
use state::{AddressState, Freshness, Kind, Phase, Probing, State, Verification, Watch};
pub use values::{DrainReason, Input, LeaseRequest, LeaseResponse, Output, SegmentRequest, Settings};

/// Pause after a hand-over without a successor.
const HANDOVER_COOLDOWN: Duration = Duration::from_secs(10);
/// Limit for the release at shutdown.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// The state machine. See the module's text for its contract.
#[derive(Debug)]
pub struct Elector {
    settings: Settings,
    phase: Phase,
    observed: ObservedLease,
    freshness: Freshness,
    /// When the Lease was last read, written or shown by the watch.
    refreshed: BootTime,
    watch: Watch,
    state: State,
    /// The request in flight.
    in_flight: Option<Kind>,
    /// No request before this moment.
    not_before: BootTime,
    /// After failed requests.
    backoff: Backoff,
    /// A follower does not write to the Lease before this moment, after writes that were rejected.
    rejected_until: BootTime,
    rejections: Backoff,
    /// Counts pauses between probes, so that each gets its own jitter.
    pauses: u64,
    health: Report,
    probing: Probing,
    address: AddressState,
    /// Start of the last request that was answered with 403.
    forbidden: Option<BootTime>,
    /// No other host can hold what this host has just lost before then.
    lost_fence: Option<BootTime>,
    handover_not_before: BootTime,
    /// Extra wait before acquiring a free Lease.
    delay: Duration,
    drains: BTreeSet<DrainReason>,
    /// See [`Self::set_held_back`].
    held_back: bool,
    stopping: Option<BootTime>,
    /// The stop was complete when time advanced last.
    stopped: bool,
    /// Of [`Input::Annotate`], until another host holds the Lease and writes its own.
    annotations: BTreeMap<String, String>,
    outputs: VecDeque<Output>,
}

impl Elector {
    /// An elector that has observed nothing.
    pub fn new(settings: Settings) -> Self {
        let zero = BootTime::default();
        Self {
            settings,
            phase: Phase::Starting,
            observed: ObservedLease::Unknown,
            freshness: Freshness::Current,
            refreshed: zero,
            watch: Watch::Closed,
            state: State::Follower,
            in_flight: None,
            not_before: zero,
            backoff: Backoff::new(requests::BACKOFF_MIN, requests::BACKOFF_MAX),
            rejected_until: zero,
            rejections: Backoff::new(requests::REJECTED_MIN, requests::REJECTED_MAX),
            pauses: 0,
            health: Report::default(),
            probing: Probing::Idle(zero),
            address: AddressState::Unknown,
            forbidden: None,
            lost_fence: None,
            handover_not_before: zero,
            delay: Duration::ZERO,
            drains: BTreeSet::new(),
            held_back: false,
            stopping: None,
            stopped: false,
            annotations: BTreeMap::new(),
            outputs: VecDeque::new(),
        }
    }

    /// This host's role at `now`.
    pub fn role(&self, now: BootTime) -> Role {
        match &self.state {
            State::Leader(leader)
                if leader.verification == Verification::Verified && now < leader.claim.valid_until =>
            {
                Role::Leader(leader.claim.clone())
            }
            State::HandingOver(hand_over) if now < hand_over.until => {
                Role::HandingOver { until: hand_over.until }
            }
            _ if self.phase == Phase::Starting => Role::Starting,
            _ => Role::Follower {
                holder: self.observed.holder().map(str::to_owned),
                fence_until: self.lost_fence.filter(|fence| now < *fence),
            },
        }
    }

    /// Whether a stop is complete: the Lease is released, or the time for that is over.
    pub fn is_stopped(&self, now: BootTime) -> bool {
        self.stopping
            .is_some_and(|deadline| self.is_idle() && self.state == State::Follower || now >= deadline)
    }

    /// Extra wait before acquiring a free Lease.
    pub fn set_delay(&mut self, delay: Duration) {
        self.delay = delay;
    }

    /// Held back, it acquires nothing, not even a Lease that an earlier process of this host left; it keeps what it leads.
    pub fn set_held_back(&mut self, held_back: bool) {
        self.held_back = held_back;
    }

    /// What each write adds to the annotations of the Lease.
    fn annotations(&self) -> BTreeMap<String, String> {
        self.settings
            .annotations
            .iter()
            .chain(&self.annotations)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    }

    /// No request is in flight, and the Lease is known to name another host or none.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_none() && !self.is_ours() && self.freshness == Freshness::Current
    }

    /// Whether this host may have the addresses, or acquires the Lease.
    pub fn may_hold(&self, now: BootTime) -> bool {
        let has_role = matches!(self.role(now), Role::Leader(_) | Role::HandingOver { .. });
        let writes = matches!(self.in_flight, Some(Kind::Hold | Kind::Create | Kind::Release));
        has_role || writes || self.lost_fence.is_some()
    }

    pub fn observed(&self) -> &ObservedLease {
        &self.observed
    }

    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let request = self.next_request().map(|(at, _)| at);
        let role = match &self.state {
            State::Leader(leader) => Some(leader.claim.valid_until),
            State::HandingOver(hand_over) => Some(hand_over.until),
            State::Follower => self.lost_fence,
        };
        let probe = match self.probing {
            Probing::Idle(at) if self.wants_probe() => Some(at),
            _ => None,
        };
        [request, role, probe, self.stopping.filter(|_| !self.stopped)].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, now: BootTime) {
        self.advance(now);
    }

    pub fn handle_input(&mut self, now: BootTime, input: Input) {
        match input {
            Input::Response { started, response } => self.handle_response(now, started, response),
            Input::Watched(lease) => {
                if !self.is_behind(&lease) {
                    self.observe_lease(now, *lease);
                } else if self.state == State::Follower
                    && self.freshness == Freshness::Current
                    && now >= self.refreshed + self.settings.retry_period
                {
                    // A stale watch, or a store that was restored from a backup: a read tells. A leader's write does.
                    self.freshness = Freshness::Stale;
                }
            }
            Input::WatchedDeletion => self.observe_missing(now),
            Input::Watching(up) => {
                // A deletion may have happened between two watches.
                if up && self.watch == Watch::Closed && self.observed != ObservedLease::Unknown {
                    self.freshness = Freshness::Stale;
                }
                self.watch = if up { Watch::Open } else { Watch::Closed };
            }
            Input::Health(report) => self.health = report,
            Input::Probed { taken } => self.probed(now, taken),
            Input::AddressClaimed => self.address_claimed(now),
            Input::Succeeded => {
                if matches!(&self.state, State::HandingOver(hand_over) if hand_over.released) {
                    self.state = State::Follower;
                }
            }
            Input::Annotate(name, value) => {
                self.annotations.insert(name.to_owned(), value);
            }
            Input::Drain(reason) => {
                self.drains.insert(reason);
                self.hand_over(now);
            }
            Input::Undrain(reason) => {
                self.drains.remove(&reason);
            }
            Input::Stop => {
                self.stopping.get_or_insert(now + STOP_TIMEOUT);
                self.hand_over(now);
            }
        }
        self.advance(now);
    }

    fn advance(&mut self, now: BootTime) {
        match &self.state {
            State::Leader(leader) if now >= leader.claim.valid_until => {
                self.lost_fence = Some(leader.claim.fence_until);
                self.state = State::Follower;
            }
            State::HandingOver(hand_over) if now >= hand_over.until => {
                if self.observed.holder().is_none() || self.is_ours() {
                    self.handover_not_before = now + HANDOVER_COOLDOWN;
                }
                self.state = State::Follower;
            }
            _ => {}
        }
        if self.lost_fence.is_some_and(|fence| now >= fence) {
            self.lost_fence = None;
        }
        self.hand_over_if_unhealthy(now);
        if self.wants_probe() && matches!(self.probing, Probing::Idle(at) if now >= at) {
            self.probing = Probing::Running;
            self.outputs.push_back(Output::Segment(SegmentRequest::Probe));
        }
        if let Some((at, kind)) = self.next_request()
            && now >= at
            && let Some((kind, request)) = self.request(kind)
        {
            self.address = self.address_after(kind);
            if kind == Kind::Release && self.state == State::Follower {
                // The next holder does not wait: addresses of an earlier process or claim have to go.
                self.phase = Phase::Running;
                self.lost_fence = None;
            }
            self.in_flight = Some(kind);
            self.outputs.push_back(Output::Request(request));
        }
        self.stopped = self.is_stopped(now);
    }

    /// Whether the Lease names this host. A record with this host's identity that another host wrote is another holder's. One
    /// of unknown origin, by the Go program or by hand, is that of an earlier process of this host if the address is here
    /// when this process begins, else another holder's.
    fn is_ours(&self) -> bool {
        let ObservedLease::Present { lease, .. } = &self.observed else { return false };
        let me = &self.settings.candidate;
        let inherits = self.phase == Phase::Starting && self.settings.resuming;
        lease.record.holder == me.identity && lease.host().map_or(inherits, |host| host == me.host)
    }
}
