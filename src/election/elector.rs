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

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::FENCE_MARGIN;
use super::decide::{Decision, ObservedLease, decide};
use super::health::Report;
use super::record::{LeaderElectionRecord, LeaseObject, Write};
use crate::model::hash::spread;
use crate::model::{BootTime, Claim, ClaimSource, Health, Role};

/// Wait for the successor once the Lease is released.
pub const HANDOVER_WINDOW: Duration = Duration::from_millis(500);
/// Limit for the release itself.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a hand-over without a successor.
const HANDOVER_COOLDOWN: Duration = Duration::from_secs(10);
/// Limit for the release at shutdown.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// A new API server is tried at least this often.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
const BACKOFF_MIN: Duration = Duration::from_millis(50);

/// Parameters of an election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// This host's `holderIdentity`.
    pub identity: String,
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

impl Settings {
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
    Create(Write),
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
    /// No usable response: timeout, no connection, 5xx.
    Failed {
        /// `Retry-After`.
        retry_after: Option<Duration>,
    },
}

/// Input of [`Elector`].
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
    /// See [`Report`].
    Health {
        local: Health,
        peer_serving: bool,
    },
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

/// Why this host is no candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainReason {
    /// `kube-vip drain`.
    Operator,
    /// `vip_loseleadership`.
    InterfaceDown,
    /// No endpoint on this host can serve the address.
    NotEligible,
}

/// Output of [`Elector`].
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
}

/// Frames that an election needs on the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentRequest {
    /// Probe for the addresses; the result is [`Input::Probed`].
    Probe,
    /// Announce the addresses once without holding them, so that a provisional holder yields to the Lease.
    Announce,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    /// Write this host into the Lease as observed.
    Hold,
    /// The same where there is no Lease: a creation has no precondition, and a Lease may have existed meanwhile.
    Create,
    Release,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Follower,
    Leader(LeaderState),
    HandingOver(HandOver),
}

/// Whether a claim counts yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verification {
    /// No host answers for the address.
    Verified,
    /// The Lease names this host, and the address is being probed.
    Probing,
}

#[derive(Debug, Clone, PartialEq)]
struct LeaderState {
    claim: Claim,
    /// Start of the last successful renewal.
    renewed: BootTime,
    verification: Verification,
}

#[derive(Debug, Clone, PartialEq)]
struct HandOver {
    since: BootTime,
    valid_until: BootTime,
    released: Option<BootTime>,
    held_since: BootTime,
}

impl HandOver {
    fn until(&self) -> BootTime {
        match self.released {
            Some(released) => released + HANDOVER_WINDOW,
            None => self.valid_until.min(self.since + RELEASE_TIMEOUT),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Probing {
    /// The next probe may start at this moment.
    Idle(BootTime),
    Running,
}

/// Whether the first read of the Lease is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing is known yet; addresses of an earlier process may stay.
    Starting,
    Running,
}

/// Whether the observed Lease is known to be out of date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Freshness {
    Current,
    Stale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    Open,
    Closed,
}

/// What is known of the address on the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AddressState {
    /// No holder was observed: a host that answers for the address is unexplained.
    Unknown,
    /// This host wrote itself into the Lease without knowing of a holder: the address is probed before the claim counts.
    Unverified,
    /// A holder was observed, or the address was probed and is free.
    Verified,
    /// Verified before; then the Lease named this host unexpectedly.
    Suspect,
}

impl AddressState {
    fn is_familiar(self) -> bool {
        matches!(self, Self::Verified | Self::Suspect)
    }

    fn needs_probe(self) -> bool {
        matches!(self, Self::Unverified | Self::Suspect)
    }

    /// The state after a write or an observation; `unexplained` if it does not follow from a known holder.
    #[must_use]
    fn after(self, unexplained: bool) -> Self {
        match self {
            Self::Unknown if unexplained => Self::Unverified,
            Self::Verified if unexplained => Self::Suspect,
            _ => self,
        }
    }
}

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
    /// Failed requests in a row.
    failures: u32,
    /// Counts pauses, so that each gets its own jitter.
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
    stopping: Option<BootTime>,
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
            failures: 0,
            pauses: 0,
            health: Report::default(),
            probing: Probing::Idle(zero),
            address: AddressState::Unknown,
            forbidden: None,
            lost_fence: None,
            handover_not_before: zero,
            delay: Duration::ZERO,
            drains: BTreeSet::new(),
            stopping: None,
            outputs: VecDeque::new(),
        }
    }

    /// This host's role at `now`.
    pub fn role(&self, now: BootTime) -> Role {
        match &self.state {
            State::Leader(held)
                if held.verification == Verification::Verified && now < held.claim.valid_until =>
            {
                Role::Leader(held.claim.clone())
            }
            State::HandingOver(leave) if now < leave.until() => Role::HandingOver { until: leave.until() },
            _ if self.phase == Phase::Starting => Role::Starting,
            _ => Role::Follower {
                holder: self.observed.holder().map(str::to_owned),
                fence_until: self.lost_fence.filter(|fence| now < *fence),
            },
        }
    }

    /// Whether a stop is complete: the Lease is released, or the time for that is over.
    pub fn is_stopped(&self, now: BootTime) -> bool {
        self.stopping.is_some_and(|deadline| {
            let idle = self.in_flight.is_none() && self.state == State::Follower && !self.is_ours();
            idle || now >= deadline
        })
    }

    /// Extra wait before acquiring a free Lease.
    pub fn set_delay(&mut self, delay: Duration) {
        self.delay = delay;
    }

    /// No request is in flight, and the Lease names another host or none.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_none() && !self.is_ours()
    }

    pub fn observed(&self) -> &ObservedLease {
        &self.observed
    }

    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    pub fn poll_timeout(&self) -> Option<BootTime> {
        let call = self.next_call().map(|(at, _)| at);
        let role = match &self.state {
            State::Leader(held) => Some(held.claim.valid_until),
            State::HandingOver(leave) => Some(leave.until()),
            State::Follower => self.lost_fence,
        };
        let probe = match self.probing {
            Probing::Idle(at) if self.wants_probe() => Some(at),
            _ => None,
        };
        [call, role, probe, self.stopping].into_iter().flatten().min()
    }

    pub fn handle_timeout(&mut self, now: BootTime) {
        self.advance(now);
    }

    pub fn handle_input(&mut self, now: BootTime, input: Input) {
        match input {
            Input::Response { started, response } => self.answered(now, started, response),
            Input::Watched(lease) => {
                if !self.is_behind(&lease) {
                    self.learn(now, *lease);
                }
            }
            Input::WatchedDeletion => self.learn_missing(now),
            Input::Watching(up) => {
                // A deletion may have happened between two watches.
                if up && self.watch == Watch::Closed && self.observed != ObservedLease::Unknown {
                    self.freshness = Freshness::Stale;
                }
                self.watch = if up { Watch::Open } else { Watch::Closed };
            }
            Input::Health { local, peer_serving } => {
                self.health = Report { local, peer_serving };
            }
            Input::Probed { taken } => self.probed(now, taken),
            Input::AddressClaimed => self.address_claimed(now),
            Input::Succeeded => {
                if matches!(&self.state, State::HandingOver(leave) if leave.released.is_some()) {
                    self.state = State::Follower;
                }
            }
            Input::Annotate(name, value) => {
                self.settings.annotations.insert(name.to_owned(), value);
            }
            Input::Drain(reason) => {
                self.drains.insert(reason);
                self.leave(now);
            }
            Input::Undrain(reason) => {
                self.drains.remove(&reason);
            }
            Input::Stop => {
                self.stopping.get_or_insert(now + STOP_TIMEOUT);
                self.leave(now);
            }
        }
        self.advance(now);
    }

    fn advance(&mut self, now: BootTime) {
        match &self.state {
            State::Leader(held) if now >= held.claim.valid_until => {
                self.lost_fence = Some(held.claim.fence_until);
                self.state = State::Follower;
            }
            State::HandingOver(leave) if now >= leave.until() => {
                if self.observed.holder().is_none_or(|holder| holder == self.settings.identity) {
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
        if let Some((at, kind)) = self.next_call()
            && now >= at
            && let Some((kind, call)) = self.call(kind)
        {
            let unexplained = match kind {
                Kind::Create => self.state == State::Follower,
                Kind::Hold => !self.is_ours() && !self.address.is_familiar(),
                Kind::Read | Kind::Release => false,
            };
            self.address = self.address.after(unexplained);
            self.in_flight = Some(kind);
            self.outputs.push_back(Output::Request(call));
        }
    }

    /// The next request and its time, unless one is in flight.
    fn next_call(&self) -> Option<(BootTime, Kind)> {
        if self.in_flight.is_some() {
            return None;
        }
        let decision = if self.freshness == Freshness::Stale {
            Decision::Read
        } else {
            decide(&self.observed, &self.settings.identity, self.settings.lease_duration)
        };
        let soonest = |at: BootTime, kind| Some((at.max(self.not_before), kind));
        match (&self.state, decision) {
            (State::HandingOver(leave), decision) => match (leave.released, decision) {
                (None, Decision::Read) => soonest(self.not_before, Kind::Read),
                (None, Decision::Renew) => soonest(self.not_before, Kind::Release),
                // No successor: acquire again before the address has to be removed.
                (Some(released), Decision::Acquire { .. })
                    if self.observed.record().is_some_and(LeaderElectionRecord::is_released)
                        && self.stopping.is_none()
                        && self.drains.is_empty() =>
                {
                    soonest(released + HANDOVER_WINDOW / 2, Kind::Hold)
                }
                _ => None,
            },
            (State::Follower, _) if self.stopping.is_some() => {
                self.is_ours().then_some((self.not_before, Kind::Release))
            }
            (_, Decision::Read) => soonest(self.not_before, Kind::Read),
            (State::Follower, _) if !self.drains.is_empty() => self.poll(),
            (State::Leader(held), Decision::Renew) if held.claim.source == ClaimSource::Lease => {
                soonest(held.renewed + self.settings.retry_period, Kind::Hold)
            }
            (State::Leader(_), _) | (_, Decision::Renew) => soonest(self.not_before, Kind::Hold),
            (State::Follower, Decision::Acquire { at }) => {
                let take = soonest(at + self.deferral(), Kind::Hold);
                [take, self.poll()].into_iter().flatten().min_by_key(|(at, _)| *at)
            }
        }
    }

    /// Without a watch the Lease is read once per retry period.
    fn poll(&self) -> Option<(BootTime, Kind)> {
        (self.watch == Watch::Closed)
            .then(|| ((self.refreshed + self.settings.retry_period).max(self.not_before), Kind::Read))
    }

    /// A host whose API server fails gives other candidates a head start.
    fn deferral(&self) -> Duration {
        let ailing = self.health.local == Health::Failing;
        self.delay + if ailing { self.settings.retry_period * 2 } else { Duration::ZERO }
    }

    fn call(&self, kind: Kind) -> Option<(Kind, LeaseRequest)> {
        let write = |record| Write::hold(&self.settings.identity, self.settings.lease_duration, record);
        match (kind, &self.observed) {
            (Kind::Read, _) => Some((kind, LeaseRequest::Read)),
            (Kind::Hold, ObservedLease::Present { lease, .. }) => {
                let mut meta = lease.meta.clone();
                if !self.settings.annotations.is_empty() {
                    meta.annotations.get_or_insert_default().extend(self.settings.annotations.clone());
                }
                Some((
                    kind,
                    LeaseRequest::Replace { write: write(Some(&lease.record)), meta: Box::new(meta) },
                ))
            }
            (Kind::Hold, ObservedLease::Missing { .. }) => {
                Some((Kind::Create, LeaseRequest::Create(write(None))))
            }
            (Kind::Release, ObservedLease::Present { lease, .. }) => {
                // While another host answers for the address, no host may acquire it without a probe or the full duration.
                let write = if self.address.needs_probe() {
                    Write { duration_seconds: write(None).duration_seconds, ..Write::release(&lease.record) }
                } else {
                    Write::release(&lease.record)
                };
                Some((kind, LeaseRequest::Replace { write, meta: Box::new(lease.meta.clone()) }))
            }
            _ => None,
        }
    }

    fn answered(&mut self, now: BootTime, started: BootTime, response: LeaseResponse) {
        let Some(kind) = self.in_flight else { return };
        match response {
            LeaseResponse::Object(lease) => {
                self.succeeded(now);
                // A read is current. The response to a write may arrive after the watch has shown a later write.
                if kind == Kind::Read || !self.is_behind(&lease) {
                    self.learn(now, *lease);
                }
                match kind {
                    Kind::Read => {}
                    Kind::Hold | Kind::Create => self.granted(now, started, kind),
                    Kind::Release => self.released(now),
                }
            }
            LeaseResponse::NotFound => {
                self.succeeded(now);
                self.learn_missing(now);
                if kind == Kind::Release {
                    self.released(now);
                }
            }
            LeaseResponse::Conflict => {
                self.freshness = Freshness::Stale;
                self.failures += 1;
                if self.failures > 1 {
                    self.pause(now, None);
                }
                if self.watch == Watch::Open {
                    self.outputs.push_back(Output::RestartWatch);
                }
            }
            LeaseResponse::Forbidden => {
                self.failures += 1;
                self.pause(now, None);
                self.forbidden = Some(started);
                if let State::Leader(held) = &mut self.state
                    && held.claim.source == ClaimSource::Provisional
                    && self.health.local == Health::Serving
                {
                    held.claim.valid_until = started + self.settings.renew_deadline;
                    held.claim.fence_until = held.claim.valid_until;
                }
            }
            LeaseResponse::Failed { retry_after } => {
                self.failures += 1;
                self.pause(now, retry_after);
            }
        }
        self.in_flight = None;
    }

    fn is_behind(&self, lease: &LeaseObject) -> bool {
        matches!(&self.observed, ObservedLease::Present { lease: known, .. } if known.is_newer_than(lease))
    }

    fn succeeded(&mut self, now: BootTime) {
        self.failures = 0;
        self.not_before = now;
        self.forbidden = None;
        self.freshness = Freshness::Current;
    }

    fn pause(&mut self, now: BootTime, asked: Option<Duration>) {
        self.pauses += 1;
        let step = BACKOFF_MIN.saturating_mul(1 << self.failures.min(5)).min(BACKOFF_MAX);
        let spread = step.mul_f64(0.5 + spread(self.settings.seed, self.pauses) / 2.0);
        let asked = asked.unwrap_or_default().min(self.settings.retry_period);
        self.not_before = now + spread.max(asked);
    }

    fn learn(&mut self, now: BootTime, lease: LeaseObject) {
        self.refreshed = now;
        let was_ours = self.is_ours();
        self.observed = std::mem::replace(&mut self.observed, ObservedLease::Unknown).observe(lease, now);
        let Some(record) = self.observed.record() else { return };
        if record.holder == self.settings.identity {
            // A creation that timed out has no precondition and may take effect at any later time. The holder in between
            // may still hold the address.
            let writing = matches!(self.in_flight, Some(Kind::Hold | Kind::Create));
            let unexpected = !was_ours && self.state == State::Follower && !writing;
            let resumed = self.phase == Phase::Starting && self.settings.resuming;
            self.address = self.address.after(unexpected && !resumed);
            return;
        }
        self.phase = Phase::Running;
        let (vacant, released) = (record.holder.is_empty(), record.is_released());
        if !vacant {
            self.address = AddressState::Verified;
        }
        // The Lease names another host: stop at once. A holder emptied by hand keeps other hosts away for as long as this
        // host's claim is valid, so this host writes itself into it again; a provisional claim acquires any free Lease.
        if let State::Leader(held) = &self.state
            && !(vacant && (!released || held.claim.source == ClaimSource::Provisional))
        {
            self.state = State::Follower;
        }
    }

    fn learn_missing(&mut self, now: BootTime) {
        self.refreshed = now;
        self.phase = Phase::Running;
        let seen = std::mem::replace(&mut self.observed, ObservedLease::Unknown);
        self.observed = seen.missing(self.settings.lease_duration, now);
    }

    /// A write succeeded: the Lease names this host.
    fn granted(&mut self, now: BootTime, started: BootTime, kind: Kind) {
        let valid_until = started + self.settings.renew_deadline;
        if !self.is_ours() || now >= valid_until {
            return;
        }
        let before = match &self.state {
            State::Leader(held) => Some((held.claim.since, held.verification)),
            State::HandingOver(leave) if leave.released.is_some() => {
                self.handover_not_before = now + HANDOVER_COOLDOWN;
                Some((leave.held_since, Verification::Verified))
            }
            // A renewal that was in flight when the hand-over began: the release follows.
            State::HandingOver(_) => return,
            State::Follower => None,
        };
        self.address = self.address.after(kind == Kind::Create && before.is_none());
        let required =
            if self.address.needs_probe() { Verification::Probing } else { Verification::Verified };
        let (since, verification) = before.unwrap_or((now, required));
        self.phase = Phase::Running;
        self.lost_fence = None;
        let fence_until =
            (started + self.settings.lease_duration).max(valid_until + FENCE_MARGIN) - FENCE_MARGIN;
        let claim = Claim { since, valid_until, fence_until, source: ClaimSource::Lease };
        self.state = State::Leader(LeaderState { claim, renewed: started, verification });
        // Drained while the write was in flight.
        if !self.drains.is_empty() || self.stopping.is_some() {
            self.leave(now);
        }
    }

    fn released(&mut self, now: BootTime) {
        if let State::HandingOver(leave) = &mut self.state {
            leave.released = Some(now);
        }
    }

    fn leave(&mut self, now: BootTime) {
        let State::Leader(held) = &self.state else { return };
        // The result of the probe is near, and a verified address is available to the successor at once.
        let answered = matches!(self.probing, Probing::Idle(again) if now < again);
        if held.verification == Verification::Probing && !answered {
            return;
        }
        self.not_before = now;
        if held.claim.source == ClaimSource::Provisional {
            self.state = State::Follower;
            return;
        }
        self.state = State::HandingOver(HandOver {
            since: now,
            valid_until: held.claim.valid_until,
            released: None,
            held_since: held.claim.since,
        });
    }

    fn hand_over_if_unhealthy(&mut self, now: BootTime) {
        let peer_is_better = self.health.local == Health::Failing && self.health.peer_serving;
        if peer_is_better
            && now >= self.handover_not_before
            && matches!(&self.state, State::Leader(held) if held.claim.source == ClaimSource::Lease)
        {
            if self.in_flight.take().is_some() {
                // It waits for the server that has just failed, and its result is unknown.
                self.outputs.push_back(Output::Cancel);
                self.freshness = Freshness::Stale;
            }
            self.leave(now);
        }
    }

    fn is_ours(&self) -> bool {
        self.observed.holder() == Some(self.settings.identity.as_str())
    }

    fn is_provisional_candidate(&self) -> bool {
        self.settings.provisional
            && self.state == State::Follower
            && self.health.local == Health::Serving
            && self.forbidden.is_some()
            && self.observed.holder().is_none()
            && !self.address.is_familiar()
            && self.drains.is_empty()
            && self.stopping.is_none()
    }

    fn wants_probe(&self) -> bool {
        match &self.state {
            State::Leader(held) => held.verification == Verification::Probing,
            State::Follower => self.is_provisional_candidate(),
            State::HandingOver(_) => false,
        }
    }

    fn probed(&mut self, now: BootTime, taken: bool) {
        if self.probing != Probing::Running {
            return;
        }
        self.probing = Probing::Idle(now);
        let candidate = self.is_provisional_candidate();
        match &mut self.state {
            State::Leader(held) if held.verification == Verification::Probing => {
                if taken {
                    self.outputs.push_back(Output::Segment(SegmentRequest::Announce));
                    self.back_off_probing(now, Duration::from_millis(200));
                } else {
                    held.verification = Verification::Verified;
                    held.claim.since = now;
                    self.address = AddressState::Verified;
                }
            }
            State::Follower if candidate && taken => self.back_off_probing(now, Duration::from_secs(1)),
            State::Follower if candidate => {
                let valid_until = self.forbidden.unwrap_or(now) + self.settings.renew_deadline;
                let claim = Claim {
                    since: now,
                    valid_until,
                    fence_until: valid_until,
                    source: ClaimSource::Provisional,
                };
                self.phase = Phase::Running;
                self.state =
                    State::Leader(LeaderState { claim, renewed: now, verification: Verification::Verified });
            }
            _ => {}
        }
        if !self.drains.is_empty() || self.stopping.is_some() {
            self.leave(now);
        }
    }

    fn back_off_probing(&mut self, now: BootTime, base: Duration) {
        self.pauses += 1;
        self.probing = Probing::Idle(now + base.mul_f64(1.0 + spread(self.settings.seed, self.pauses)));
    }

    /// A provisional claim yields to any other host at once; two that yield to each other retry apart.
    fn address_claimed(&mut self, now: BootTime) {
        if matches!(&self.state, State::Leader(held) if held.claim.source == ClaimSource::Provisional) {
            self.state = State::Follower;
            self.back_off_probing(now, Duration::from_secs(1));
        } else if self.probing == Probing::Running && self.is_provisional_candidate() {
            self.back_off_probing(now, Duration::from_secs(1));
        }
    }
}
