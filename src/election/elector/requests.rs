//! Requests to the API server, and what their responses and the watch show of the Lease.

use std::time::Duration;

use super::super::decide::{Decision, ObservedLease, decide};
use super::super::record::{LeaderElectionRecord, LeaseObject, Write, mark_unverified};
use super::state::{AddressState, Freshness, HANDOVER_WINDOW, Kind, Phase, State, Verification, Watch};
use super::{Elector, LeaseRequest, LeaseResponse, Output};
use crate::model::{BootTime, ClaimSource, Health};

/// A new API server is tried at least this often.
pub(super) const BACKOFF_MAX: Duration = Duration::from_millis(500);
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Pauses between writes that the API server rejects.
pub(super) const REJECTED_MIN: Duration = Duration::from_secs(1);
pub(super) const REJECTED_MAX: Duration = Duration::from_secs(60);

impl Elector {
    /// The next request and its time, unless one is in flight.
    pub(super) fn next_request(&self) -> Option<(BootTime, Kind)> {
        if self.in_flight.is_some() {
            return None;
        }
        let decision = if self.freshness != Freshness::Current {
            Decision::Read
        } else {
            decide(&self.observed, self.is_ours(), self.settings.lease_duration)
        };
        let soonest = |at: BootTime, kind| Some((at.max(self.not_before), kind));
        let hold = |at: BootTime| soonest(at.max(self.rejected_until), Kind::Hold);
        match (&self.state, decision) {
            (State::HandingOver(hand_over), decision) => match (hand_over.released, decision) {
                (false, Decision::Read) => soonest(self.not_before, Kind::Read),
                (false, Decision::Renew) => soonest(self.not_before, Kind::Release),
                // No successor: acquire again before the address has to be removed.
                (true, Decision::Acquire { .. })
                    if self.observed.record().is_some_and(LeaderElectionRecord::is_released)
                        && !self.gives_up()
                        && !self.held_back =>
                {
                    soonest(hand_over.until - HANDOVER_WINDOW / 2, Kind::Hold)
                }
                _ => None,
            },
            (State::Follower, Decision::Renew) if self.gives_up() => soonest(self.not_before, Kind::Release),
            // What was never read is not read for a stop.
            (State::Follower, _) if self.stopping.is_some() && self.freshness == Freshness::Current => None,
            (_, Decision::Read) => soonest(self.not_before, Kind::Read),
            (State::Follower, _) if !self.drains.is_empty() || self.held_back => self.poll(),
            (State::Leader(leader), Decision::Renew) if leader.claim.source == ClaimSource::Lease => {
                soonest(leader.renewed + self.settings.retry_period, Kind::Hold)
            }
            (State::Leader(_), _) => soonest(self.not_before, Kind::Hold),
            (State::Follower, Decision::Renew) => hold(self.not_before),
            (State::Follower, Decision::Acquire { at }) => {
                let take = hold(at + self.deferral());
                [take, self.poll()].into_iter().flatten().min_by_key(|(at, _)| *at)
            }
        }
    }

    /// This host is stopping or drained: it must not keep the Lease.
    pub(super) fn gives_up(&self) -> bool {
        self.stopping.is_some() || !self.drains.is_empty()
    }

    /// Without a watch the Lease is read once per retry period.
    pub(super) fn poll(&self) -> Option<(BootTime, Kind)> {
        (self.watch == Watch::Closed)
            .then(|| ((self.refreshed + self.settings.retry_period).max(self.not_before), Kind::Read))
    }

    /// A host whose API server fails gives other candidates a head start.
    pub(super) fn deferral(&self) -> Duration {
        let failing = self.health.local == Health::Failing;
        self.delay + if failing { self.settings.retry_period * 2 } else { Duration::ZERO }
    }

    /// What is known of the address once this request is sent.
    pub(super) fn address_after(&self, kind: Kind) -> AddressState {
        let unexplained = match kind {
            Kind::Create => true,
            Kind::Hold => !self.is_ours() && !self.address.is_familiar(),
            Kind::Read | Kind::Release => false,
        };
        // A provisional claim has the address already.
        self.address.after(unexplained && self.state == State::Follower)
    }

    pub(super) fn request(&self, kind: Kind) -> Option<(Kind, LeaseRequest)> {
        let (me, duration) = (&self.settings.candidate, self.settings.lease_duration);
        let unverified = |kind| self.address_after(kind).needs_probe();
        match (kind, &self.observed) {
            (Kind::Read, _) => Some((kind, LeaseRequest::Read)),
            (Kind::Hold, ObservedLease::Present { lease, .. }) => {
                let mut meta = lease.meta.clone();
                let annotations = meta.annotations.get_or_insert_default();
                annotations.extend(self.annotations());
                mark_unverified(annotations, unverified(kind));
                let write = match self.is_ours() {
                    true => Write::renew(me, duration, &lease.record),
                    false => Write::acquire(me, duration, Some(&lease.record)),
                };
                Some((kind, LeaseRequest::Replace { write, meta: Box::new(meta) }))
            }
            (Kind::Hold, ObservedLease::Missing { .. }) => {
                let write = Write::acquire(me, duration, None);
                let mut annotations = self.annotations();
                mark_unverified(&mut annotations, unverified(Kind::Create));
                Some((Kind::Create, LeaseRequest::Create { write, annotations }))
            }
            (Kind::Release, ObservedLease::Present { lease, .. }) => {
                // While another host answers for the address, no host may acquire it without a probe or, since other programs
                // ignore the mark, the full duration.
                let mut write = Write::release(me, &lease.record);
                if self.address.needs_probe() {
                    write.duration_seconds = Write::acquire(me, duration, None).duration_seconds;
                }
                let mut meta = lease.meta.clone();
                mark_unverified(meta.annotations.get_or_insert_default(), unverified(kind));
                Some((kind, LeaseRequest::Replace { write, meta: Box::new(meta) }))
            }
            _ => None,
        }
    }

    pub(super) fn handle_response(&mut self, now: BootTime, started: BootTime, response: LeaseResponse) {
        let Some(kind) = self.in_flight else { return };
        match response {
            LeaseResponse::Object(lease) => {
                // What is read is current, whatever its version, unless the watch has shown something newer since the read
                // started. The response to a write may arrive after the watch has shown a later write.
                let current = kind == Kind::Read && started >= self.refreshed;
                // Conditional on a Lease that was deleted after this write: another host may have created it anew.
                let deleted = kind == Kind::Hold && matches!(self.observed, ObservedLease::Missing { .. });
                if current || !(deleted || self.is_behind(&lease)) {
                    self.observe_lease(now, *lease);
                }
                self.succeeded(now);
                self.rejections.reset();
                match kind {
                    Kind::Read => {}
                    Kind::Hold | Kind::Create => self.granted(now, started, kind),
                    Kind::Release => self.released(now),
                }
            }
            LeaseResponse::NotFound => {
                self.succeeded(now);
                self.observe_missing(now);
                if kind == Kind::Release {
                    self.released(now);
                }
            }
            LeaseResponse::Conflict => {
                self.freshness = Freshness::Stale;
                let first = self.backoff.attempts() == 0;
                self.pause(now, None);
                if first {
                    self.not_before = now;
                }
                if self.watch == Watch::Open {
                    self.outputs.push_back(Output::RestartWatch);
                }
            }
            LeaseResponse::Forbidden => {
                if self.settings.provisional {
                    self.pause(now, None);
                } else {
                    self.rejected(now);
                }
                self.forbidden = Some(started);
                if let State::Leader(leader) = &mut self.state
                    && leader.claim.source == ClaimSource::Provisional
                    && self.health.local == Health::Serving
                {
                    leader.claim.valid_until = started + self.settings.renew_deadline;
                    leader.claim.fence_until = leader.claim.valid_until;
                }
            }
            LeaseResponse::Rejected => self.rejected(now),
            LeaseResponse::Failed { retry_after } => {
                self.pause(now, retry_after);
                // The write may have taken effect.
                match kind {
                    Kind::Hold if self.gives_up() => self.freshness = Freshness::Unanswered,
                    Kind::Create if self.gives_up() => self.freshness = Freshness::Stale,
                    _ => {}
                }
            }
        }
        self.in_flight = None;
    }

    pub(super) fn is_behind(&self, lease: &LeaseObject) -> bool {
        matches!(&self.observed, ObservedLease::Present { lease: known, .. } if known.is_newer_than(lease))
    }

    pub(super) fn succeeded(&mut self, now: BootTime) {
        self.backoff.reset();
        self.not_before = now;
        self.forbidden = None;
        self.freshness = Freshness::Current;
    }

    pub(super) fn pause(&mut self, now: BootTime, asked: Option<Duration>) {
        let pause = self.backoff.next_pause_with_jitter(self.settings.seed);
        let asked = asked.unwrap_or_default().min(self.settings.retry_period);
        self.not_before = now + pause.max(asked);
    }

    /// The server rejects a request for what it is. A host that leads goes on, since nothing else keeps its claim.
    fn rejected(&mut self, now: BootTime) {
        self.pause(now, None);
        if self.state == State::Follower {
            self.rejected_until = now + self.rejections.next_pause_with_jitter(self.settings.seed);
        }
    }

    pub(super) fn observe_lease(&mut self, now: BootTime, lease: LeaseObject) {
        self.refreshed = now;
        let was_ours = self.is_ours();
        // After the restore of etcd: other hosts may have written what is gone now.
        let older = self.is_behind(&lease);
        let unknown = self.observed == ObservedLease::Unknown;
        let renewed = self.observed.record().and_then(|record| record.renewed);
        let unverified = lease.is_unverified();
        let verified_release = lease.record.is_released() && !unverified && lease.host().is_some();
        self.observed.observe(lease, now);
        let Some(record) = self.observed.record() else { return };
        if self.is_ours() {
            // A creation that timed out has no precondition and may take effect at any later time. The holder in between
            // may still hold the address.
            let writing = matches!(self.in_flight, Some(Kind::Hold | Kind::Create))
                || self.freshness == Freshness::Unanswered;
            let unexpected = (!was_ours || older) && self.state == State::Follower && !writing;
            let resumed = self.phase == Phase::Starting && self.settings.resuming;
            self.address = self.address.after(unexpected && !resumed);
            return;
        }
        self.phase = Phase::Running;
        self.rejections.reset();
        // The first record may be of this host before it booted.
        if record.holder == self.settings.candidate.identity && !unknown && record.renewed != renewed {
            self.outputs.push_back(Output::DuplicateIdentity);
        }
        let (vacant, released) = (record.holder.is_empty(), record.is_released());
        // Emptied by hand: this host knows more than its last record.
        let leads =
            matches!(&self.state, State::Leader(leader) if leader.verification == Verification::Verified);
        if unverified && !(vacant && leads) {
            self.address = AddressState::Suspect;
        } else if !vacant || (verified_release && self.address == AddressState::Suspect) {
            self.address = AddressState::Verified;
        }
        if !vacant {
            self.annotations.clear();
        }
        // The Lease names another host: stop at once. A holder emptied by hand keeps other hosts away for as long as this
        // host's claim is valid, so this host writes itself into it again; a provisional claim acquires any free Lease.
        if let State::Leader(leader) = &self.state
            && !(vacant && (!released || leader.claim.source == ClaimSource::Provisional))
        {
            self.state = State::Follower;
        }
    }

    pub(super) fn observe_missing(&mut self, now: BootTime) {
        self.refreshed = now;
        self.phase = Phase::Running;
        self.observed.observe_missing(self.settings.lease_duration, now);
    }
}
