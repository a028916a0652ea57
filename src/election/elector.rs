//! The election as a state machine: it gets answers and the time, and says what to ask next.
//!
//! ```text
//!               Lease free or expired: write        claim runs out, or the Lease names another
//!   Following ─────────────────────────► Holding ─────────────────────────────► Following
//!       ▲   ▲                              │ stop, drain, local API server fails
//!       │   └── refused + address free ────┤ (provisional)
//!       │                                  ▼
//!       └──── successor seen, or time up ── Leaving   (silent, Lease released, address still there)
//! ```
//!
//! Safety rests on three facts. A claim counts from the *start* of the renewal that succeeded, so it ends before
//! anybody who saw that renewal may take over. Every write carries the `resourceVersion` it was decided on. And
//! expiry is judged by this host's clock alone (see [`decide`](super::decide)).
//!
//! Contract: after every call to `handle_input` or `handle_timeout`, drain `poll_output`, then read `role`
//! and `poll_timeout` again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::FENCE_MARGIN;
use super::decide::{Decision, ObservedLease, decide};
use super::health::Report;
use super::record::{LeaderElectionRecord, LeaseObject, Write};
use crate::model::hash::spread;
use crate::model::{BootTime, Claim, ClaimSource, Health, Role};

/// How long a leaving holder waits for its successor once the Lease is released.
pub const HANDOVER_WINDOW: Duration = Duration::from_millis(500);
/// How long a leaving holder waits for the release itself.
const RELEASE_PATIENCE: Duration = Duration::from_secs(1);
/// How long after a hand-over that nobody answered the next may follow.
const HANDOVER_COOLDOWN: Duration = Duration::from_secs(10);
/// How long a stopping elector tries to release.
const STOP_PATIENCE: Duration = Duration::from_secs(3);
/// The longest pause between two attempts; a fresh API server is asked at least this often.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);

/// What an election is run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Our `holderIdentity`.
    pub identity: String,
    /// How long others stay away after our last renewal.
    pub lease_duration: Duration,
    /// How long we act on our last renewal.
    pub renew_deadline: Duration,
    /// From one renewal to the next.
    pub retry_period: Duration,
    /// Annotations to put on the Lease.
    pub annotations: BTreeMap<String, String>,
    /// Whether the address may be taken while the API server still refuses us (kubeadm's first minute).
    pub provisional: bool,
    /// Whether this host still has the address from an earlier process. Without it, a Lease in our name proves
    /// nothing: the process that wrote it may never have got as far.
    pub resuming: bool,
    /// Spreads the retries of different hosts.
    pub seed: u64,
}

impl Settings {
    /// The time without a renewal after which a holder is likely to be gone. With a host its Leases end one after the
    /// other, a retry period apart at most: all of them are overdue before the first, good for `duration`, ends.
    pub fn overdue(&self, duration: Duration) -> Duration {
        let slack = self.retry_period.mul_f64(1.5);
        duration.saturating_sub(slack).max(slack).min(duration)
    }
}

/// A call to the API server. One at a time.
#[derive(Debug, Clone, PartialEq)]
pub enum LeaseRequest {
    /// Get the Lease.
    Read,
    /// Create the Lease.
    Create(Write),
    /// Put the Lease, on the condition that it is still at the `resourceVersion` in the metadata.
    Replace {
        /// What to put into the record.
        write: Write,
        /// The metadata to keep.
        meta: Box<ObjectMeta>,
    },
}

/// What came of a [`LeaseRequest`].
#[derive(Debug, Clone, PartialEq)]
pub enum LeaseResponse {
    /// The Lease as it now is.
    Object(Box<LeaseObject>),
    /// There is no such Lease.
    NotFound,
    /// Another client wrote first.
    Conflict,
    /// The server works, but does not let us (403), or does not have the namespace yet.
    Forbidden,
    /// No usable answer: time-out, no connection, 5xx. With the server's wish when to come back.
    Failed {
        /// `Retry-After`, where the server sent one.
        retry_after: Option<Duration>,
    },
}

/// What the machine is told.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// The answer to the call under way.
    Response {
        /// When the call was started.
        started: BootTime,
        /// What came of it.
        response: LeaseResponse,
    },
    /// The watch shows the Lease in this form.
    Watched(Box<LeaseObject>),
    /// The watch shows that the Lease was deleted.
    WatchedDeletion,
    /// The watch stands, or does not.
    Watching(bool),
    /// The API servers' health.
    Health {
        /// The one on this host.
        local: Health,
        /// Whether one on another host answers as ready.
        peer_serving: bool,
    },
    /// The end of a probe for the address.
    Probed {
        /// Whether a station answered.
        taken: bool,
    },
    /// Another station announces the address.
    StationSeen,
    /// The successor was seen to announce everything that this host was still keeping.
    Succeeded,
    /// Hand over, and stay away until [`Input::Undrain`] for the same reason.
    Drain(DrainReason),
    /// Take part again, unless another reason is left.
    Undrain(DrainReason),
    /// The Lease is to carry this annotation from the next write on.
    Annotate(&'static str, String),
    /// Hand over and end.
    Stop,
}

/// Who wants this host to stay away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DrainReason {
    /// `kube-vip drain`.
    Operator,
    /// `vip_loseleadership`.
    InterfaceDown,
    /// Nothing here can serve the address any more.
    NotEligible,
}

/// What the machine asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// Make this call; answer with [`Input::Response`].
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
    /// Put ourselves into the Lease, on the condition that it is as we saw it.
    Hold,
    /// The same where there is no Lease. There is no condition to put: it may have come and gone meanwhile.
    Create,
    Release,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Follower,
    Leader(LeaderState),
    HandingOver(HandOver),
}

/// Whether a claim counts already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verification {
    /// No host answers for the address.
    Verified,
    /// The Lease is ours, and the address is being probed.
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
            None => self.valid_until.min(self.since + RELEASE_PATIENCE),
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
    /// A machine that knows nothing. LeaseRequest `handle_timeout` to get its first outputs.
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

    /// Where this host stands at `now`.
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

    /// Whether a stop is complete: the Lease is not ours any more, or not to be had.
    pub fn is_stopped(&self, now: BootTime) -> bool {
        self.stopping.is_some_and(|deadline| {
            let idle = self.in_flight.is_none() && self.state == State::Follower && !self.is_ours();
            idle || now >= deadline
        })
    }

    /// HandOver a free Lease to others for this long.
    pub fn set_delay(&mut self, delay: Duration) {
        self.delay = delay;
    }

    /// Nothing is under way, and the Lease is not ours.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_none() && !self.is_ours()
    }

    /// What the Lease looked like last.
    pub fn observed(&self) -> &ObservedLease {
        &self.observed
    }

    /// The next thing to do, in order.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call `handle_timeout`, at the latest.
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

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: BootTime) {
        self.advance(now);
    }

    /// Something has happened.
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
                // A new watch may have missed a deletion, and an event older than what it starts from.
                if up && self.watch == Watch::Closed && self.observed != ObservedLease::Unknown {
                    self.freshness = Freshness::Stale;
                }
                self.watch = if up { Watch::Open } else { Watch::Closed };
            }
            Input::Health { local, peer_serving } => {
                self.health = Report { local, peer_serving };
            }
            Input::Probed { taken } => self.probed(now, taken),
            Input::StationSeen => self.station_seen(now),
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
                self.stopping.get_or_insert(now + STOP_PATIENCE);
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

    /// The next call and its moment, unless one is under way.
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
                // Nobody came: take it back before the address has to go.
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

    /// Without a watch, the Lease is read once per retry period.
    fn poll(&self) -> Option<(BootTime, Kind)> {
        (self.watch == Watch::Closed)
            .then(|| ((self.refreshed + self.settings.retry_period).max(self.not_before), Kind::Read))
    }

    /// A host whose own API server is down lets the others go first.
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
                // As long as a station answers for the address, nobody is to take it without a probe or a wait.
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
                // A read shows how things are. A write's answer may come after the news of another's later write.
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
        let step = SHORTEST_PAUSE.saturating_mul(1 << self.failures.min(5)).min(LONGEST_PAUSE);
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
            // A creation that was given up on has no precondition and may land at any time later. Whoever held
            // the Lease in between may still hold the address.
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
        // The Lease names another: stop at once. An empty one keeps everybody else away for as long as our own
        // claim is good, so we write ourselves into it again; a provisional claim takes whatever is free.
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

    /// Our write stands: the Lease names us.
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
            // A renewal that was under way when we began to leave: it will be released next.
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
        // Told to stay away while the write was under way.
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
        // The verdict of the probe is near, and what is proven free is there for the next at once.
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
        let somebody_is_better = self.health.local == Health::Failing && self.health.peer_serving;
        if somebody_is_better
            && now >= self.handover_not_before
            && matches!(&self.state, State::Leader(held) if held.claim.source == ClaimSource::Lease)
        {
            if self.in_flight.take().is_some() {
                // It waits for the server that has just failed, and its outcome is unknown.
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

    /// A provisional claim yields to any other station at once; two that yield to each other come back apart.
    fn station_seen(&mut self, now: BootTime) {
        if matches!(&self.state, State::Leader(held) if held.claim.source == ClaimSource::Provisional) {
            self.state = State::Follower;
            self.back_off_probing(now, Duration::from_secs(1));
        } else if self.probing == Probing::Running && self.is_provisional_candidate() {
            self.back_off_probing(now, Duration::from_secs(1));
        }
    }
}
