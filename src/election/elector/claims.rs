//! Claims: how one is gained, verified and given up.

use std::time::Duration;

use super::state::{
    AddressState, Freshness, HANDOVER_WINDOW, HandOver, Kind, LeaderState, Phase, Probing, RELEASE_TIMEOUT,
    State, Verification,
};
use super::{Elector, HANDOVER_COOLDOWN, Output, SegmentRequest};
use crate::model::hash::spread;
use crate::model::{BootTime, Claim, ClaimSource, Health};

impl Elector {
    /// A write succeeded: the Lease names this host.
    pub(super) fn granted(&mut self, now: BootTime, started: BootTime, kind: Kind) {
        let valid_until = started + self.settings.renew_deadline;
        if !self.is_ours() || now >= valid_until {
            return;
        }
        let before = match &self.state {
            State::Leader(leader) => Some((leader.claim.since, leader.verification)),
            State::HandingOver(hand_over) if hand_over.released => {
                self.handover_not_before = now + HANDOVER_COOLDOWN;
                Some((hand_over.held_since, Verification::Verified))
            }
            // A renewal that was in flight when the hand-over began: the release follows.
            State::HandingOver(_) => return,
            State::Follower => None,
        };
        let gained = before.is_none();
        self.address = self.address.after(kind == Kind::Create && gained);
        let required =
            if self.address.needs_probe() { Verification::Probing } else { Verification::Verified };
        let (since, verification) = before.unwrap_or((now, required));
        self.phase = Phase::Running;
        self.lost_fence = None;
        let margin = self.settings.fence_margin();
        let fence_until = (started + self.settings.lease_duration).max(valid_until + margin) - margin;
        let claim = Claim { since, valid_until, fence_until, source: ClaimSource::Lease };
        self.state = State::Leader(LeaderState { claim, renewed: started, verification });
        // Drained or held back while the write was in flight.
        if self.gives_up() || (gained && self.held_back) {
            self.hand_over(now);
        }
    }

    pub(super) fn released(&mut self, now: BootTime) {
        if let State::HandingOver(hand_over) = &mut self.state {
            hand_over.released = true;
            hand_over.until = now + HANDOVER_WINDOW;
        }
    }

    pub(super) fn hand_over(&mut self, now: BootTime) {
        let State::Leader(leader) = &self.state else { return };
        // The result of the probe is near, and a verified address is available to the successor at once.
        let answered = matches!(self.probing, Probing::Idle(again) if now < again);
        if leader.verification == Verification::Probing && !answered {
            return;
        }
        self.not_before = now;
        if leader.claim.source == ClaimSource::Provisional {
            self.state = State::Follower;
            return;
        }
        self.state = State::HandingOver(HandOver {
            until: leader.claim.valid_until.min(now + RELEASE_TIMEOUT),
            released: false,
            held_since: leader.claim.since,
        });
    }

    pub(super) fn hand_over_if_unhealthy(&mut self, now: BootTime) {
        let peer_is_better = self.health.local == Health::Failing && self.health.peer_serving;
        if peer_is_better
            && now >= self.handover_not_before
            && matches!(&self.state, State::Leader(leader) if leader.claim.source == ClaimSource::Lease)
        {
            if self.in_flight.take().is_some() {
                // It waits for the server that has just failed, and its result is unknown.
                self.outputs.push_back(Output::Cancel);
                self.freshness = Freshness::Stale;
            }
            self.hand_over(now);
        }
    }

    pub(super) fn is_provisional_candidate(&self) -> bool {
        self.settings.provisional
            && self.state == State::Follower
            && self.health.local == Health::Serving
            && self.forbidden.is_some()
            && self.observed.holder().is_none()
            && !self.address.is_familiar()
            && !self.gives_up()
    }

    pub(super) fn wants_probe(&self) -> bool {
        match &self.state {
            State::Leader(leader) => leader.verification == Verification::Probing,
            State::Follower => self.is_provisional_candidate(),
            State::HandingOver(_) => false,
        }
    }

    pub(super) fn probed(&mut self, now: BootTime, taken: bool) {
        if self.probing != Probing::Running {
            return;
        }
        self.probing = Probing::Idle(now);
        let candidate = self.is_provisional_candidate();
        match &mut self.state {
            State::Leader(leader) if leader.verification == Verification::Probing => {
                if taken {
                    self.outputs.push_back(Output::Segment(SegmentRequest::Announce));
                    self.back_off_probing(now, Duration::from_millis(200));
                } else {
                    leader.verification = Verification::Verified;
                    leader.claim.since = now;
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
        // A claim that was being probed is new.
        if self.gives_up() || self.held_back {
            self.hand_over(now);
        }
    }

    pub(super) fn back_off_probing(&mut self, now: BootTime, base: Duration) {
        self.pauses += 1;
        self.probing = Probing::Idle(now + base.mul_f64(1.0 + spread(self.settings.seed, self.pauses)));
    }

    /// A provisional claim yields to any other host at once; two that yield to each other retry apart.
    pub(super) fn address_claimed(&mut self, now: BootTime) {
        if matches!(&self.state, State::Leader(leader) if leader.claim.source == ClaimSource::Provisional) {
            self.state = State::Follower;
            self.back_off_probing(now, Duration::from_secs(1));
        } else if self.probing == Probing::Running && self.is_provisional_candidate() {
            self.back_off_probing(now, Duration::from_secs(1));
        }
    }
}
