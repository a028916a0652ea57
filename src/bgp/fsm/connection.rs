//! One TCP connection with a peer: OpenSent, OpenConfirm and Established (RFC 4271 §8.2.2).

use std::time::Duration;

use super::{FsmState, Settings};
use crate::bgp::fsm::Session;
use crate::bgp::packet::{self, Message, Notification, ReceivedUpdate};
use crate::model::hash::spread;
use crate::model::{BootTime, Family};

/// Hold timer in OpenSent. RFC 4271 §8.2.2 suggests four minutes; this value retries a hung router sooner.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(super) struct Connection {
    phase: Phase,
    /// Received bytes of an incomplete message.
    buffer: Vec<u8>,
    hold_at: Option<BootTime>,
    keepalive_at: Option<BootTime>,
    /// KEEPALIVEs scheduled so far; varies the jitter.
    keepalives: u64,
}

#[derive(Debug)]
enum Phase {
    OpenSent,
    OpenConfirm(Session),
    Established(Session),
}

/// Result of a received message.
#[derive(Debug)]
pub(super) enum ConnectionEvent {
    None,
    /// OPEN accepted, to OpenConfirm.
    Opened(Session),
    Established(Session),
    Routes(Box<ReceivedUpdate>),
    Refresh(Family),
    /// The NOTIFICATION of the peer.
    Notification(Notification),
}

impl Connection {
    pub(super) fn new(now: BootTime) -> Self {
        Self {
            phase: Phase::OpenSent,
            buffer: Vec::new(),
            hold_at: Some(now + OPEN_TIMEOUT),
            keepalive_at: None,
            keepalives: 0,
        }
    }

    pub(super) fn state(&self) -> FsmState {
        match self.phase {
            Phase::OpenSent => FsmState::OpenSent,
            Phase::OpenConfirm(_) => FsmState::OpenConfirm,
            Phase::Established(_) => FsmState::Established,
        }
    }

    pub(super) fn session(&self) -> Option<&Session> {
        match &self.phase {
            Phase::OpenSent => None,
            Phase::OpenConfirm(session) | Phase::Established(session) => Some(session),
        }
    }

    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Processes the next complete message of the receive buffer; None without one.
    ///
    /// # Errors
    /// The NOTIFICATION to send before closing.
    pub(super) fn poll(
        &mut self,
        now: BootTime,
        settings: &Settings,
        no_capabilities: bool,
    ) -> Result<Option<ConnectionEvent>, Notification> {
        let negotiated = self.session().map(|session| session.negotiated).unwrap_or_default();
        let Some((message, length)) = packet::decode(&self.buffer, negotiated)? else { return Ok(None) };
        self.buffer.drain(..length);
        if matches!(message, Message::Keepalive | Message::Update(_)) {
            self.restart_hold_timer(now);
        }
        Ok(Some(match (&self.phase, message) {
            (_, Message::Notification(notification)) => ConnectionEvent::Notification(notification),
            (Phase::OpenSent, Message::Open(open)) => {
                let session = settings.negotiate(&open, no_capabilities)?;
                self.phase = Phase::OpenConfirm(session.clone());
                self.restart_hold_timer(now);
                self.schedule_keepalive(now, settings.seed);
                ConnectionEvent::Opened(session)
            }
            (Phase::OpenConfirm(session), Message::Keepalive) => {
                let session = session.clone();
                self.phase = Phase::Established(session.clone());
                ConnectionEvent::Established(session)
            }
            (Phase::Established(_), Message::Keepalive) => ConnectionEvent::None,
            (Phase::Established(_), Message::Update(routes)) => ConnectionEvent::Routes(routes),
            (Phase::Established(session), Message::Refresh { family, kind }) => {
                // Kinds 1 and 2 delimit the reply to a request (RFC 7313), and this speaker sends none.
                let requested = family.filter(|family| kind == 0 && session.families.contains(family));
                requested.map_or(ConnectionEvent::None, ConnectionEvent::Refresh)
            }
            // FSM error subcodes of RFC 6608.
            (Phase::OpenSent, _) => return Err(Notification::unexpected(1)),
            (Phase::OpenConfirm(_), _) => return Err(Notification::unexpected(2)),
            (Phase::Established(_), _) => return Err(Notification::unexpected(3)),
        }))
    }

    fn restart_hold_timer(&mut self, now: BootTime) {
        self.hold_at = self.session().and_then(|session| session.hold).map(|hold| now + hold);
    }

    /// Jitter of RFC 4271 §10: 75 to 100 percent of the interval.
    fn schedule_keepalive(&mut self, now: BootTime, seed: u64) {
        self.keepalives += 1;
        let factor = 0.75 + spread(seed, self.keepalives) / 4.0;
        let interval = self.session().and_then(|session| session.keepalive);
        self.keepalive_at = interval.map(|interval| now + interval.mul_f64(factor));
    }

    pub(super) fn hold_timer_expired(&self, now: BootTime) -> bool {
        self.hold_at.is_some_and(|at| now >= at)
    }

    /// Whether a KEEPALIVE is due; if so, schedules the next one.
    pub(super) fn keepalive_due(&mut self, now: BootTime, seed: u64) -> bool {
        let due = self.keepalive_at.is_some_and(|at| now >= at);
        if due {
            self.schedule_keepalive(now, seed);
        }
        due
    }

    #[must_use]
    pub(super) fn poll_timeout(&self) -> Option<BootTime> {
        [self.hold_at, self.keepalive_at].into_iter().flatten().min()
    }
}
