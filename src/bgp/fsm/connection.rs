//! One TCP connection with a peer, from the first OPEN to the last NOTIFICATION (RFC 4271 §8.2.2, OpenSent to
//! Established).

use super::{Settings, State};
use crate::bgp::fsm::Session;
use crate::bgp::packet::{self, Agreed, Message, Notification, Open, Received};
use crate::model::hash::spread;
use crate::model::{BootTime, Family};
use std::time::Duration;

/// How long a peer may take for its OPEN. RFC 4271 proposes four minutes; a router that hangs is worth another try
/// sooner.
const OPEN_PATIENCE: Duration = Duration::from_secs(30);

/// A connection and how far it has got.
#[derive(Debug)]
pub(super) struct Connection {
    phase: Phase,
    /// What has arrived and is not a whole message yet.
    buffer: Vec<u8>,
    hold_at: Option<BootTime>,
    keepalive_at: Option<BootTime>,
    keepalives: u64,
}

#[derive(Debug)]
enum Phase {
    OpenSent,
    OpenConfirm(Session),
    Established(Session),
}

/// What came of a message.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing that anybody else has to know.
    Nothing,
    /// The peer said who it is: two connections may be one too many. The second one is what it said.
    Opened(Session),
    /// Routes can be exchanged.
    Established(Session),
    /// Routes came.
    Routes(Box<Received>),
    /// The peer asks for everything of a family.
    Refresh(Family),
    /// It is over, and this is what the peer is told.
    Refused(Notification),
    /// It is over, says the peer.
    Ended(Notification),
}

impl Connection {
    pub(super) fn new(now: BootTime) -> Self {
        Self {
            phase: Phase::OpenSent,
            buffer: Vec::new(),
            hold_at: Some(now + OPEN_PATIENCE),
            keepalive_at: None,
            keepalives: 0,
        }
    }

    pub(super) fn state(&self) -> State {
        match self.phase {
            Phase::OpenSent => State::OpenSent,
            Phase::OpenConfirm(_) => State::OpenConfirm,
            Phase::Established(_) => State::Established,
        }
    }

    pub(super) fn session(&self) -> Option<&Session> {
        match &self.phase {
            Phase::OpenSent => None,
            Phase::OpenConfirm(session) | Phase::Established(session) => Some(session),
        }
    }

    fn agreed(&self) -> Agreed {
        self.session().map(|session| session.agreed).unwrap_or_default()
    }

    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message of what has arrived.
    pub(super) fn next(&mut self) -> Result<Option<Message>, Notification> {
        match packet::decode(&self.buffer, self.agreed())? {
            None => Ok(None),
            Some((message, length)) => {
                self.buffer.drain(..length);
                Ok(Some(message))
            }
        }
    }

    /// Take in a message.
    pub(super) fn handle(
        &mut self,
        now: BootTime,
        message: Message,
        settings: &Settings,
        plain: bool,
    ) -> Step {
        match (&self.phase, message) {
            (_, Message::Notification(notification)) => Step::Ended(notification),
            (Phase::OpenSent, Message::Open(open)) => self.open(now, &open, settings, plain),
            (Phase::OpenConfirm(session), Message::Keepalive) => {
                let session = session.clone();
                self.hear(now);
                self.phase = Phase::Established(session.clone());
                Step::Established(session)
            }
            (Phase::Established(_), Message::Keepalive) => {
                self.hear(now);
                Step::Nothing
            }
            (Phase::Established(_), Message::Update(routes)) => {
                self.hear(now);
                Step::Routes(routes)
            }
            (Phase::Established(session), Message::Refresh { family, kind }) => {
                // The marks around an answer are for those who ask, and we do not.
                let known = family.filter(|family| kind == 0 && session.families.contains(family));
                known.map_or(Step::Nothing, Step::Refresh)
            }
            // RFC 6608: which state it was that the message has no place in.
            (Phase::OpenSent, _) => Step::Refused(Notification::unexpected(1)),
            (Phase::OpenConfirm(_), _) => Step::Refused(Notification::unexpected(2)),
            (Phase::Established(_), _) => Step::Refused(Notification::unexpected(3)),
        }
    }

    fn open(&mut self, now: BootTime, open: &Open, settings: &Settings, plain: bool) -> Step {
        match settings.negotiate(open, plain) {
            Err(notification) => Step::Refused(notification),
            Ok(session) => {
                self.phase = Phase::OpenConfirm(session.clone());
                self.hear(now);
                self.plan_keepalive(now, settings.seed);
                Step::Opened(session)
            }
        }
    }

    /// The peer is there.
    fn hear(&mut self, now: BootTime) {
        self.hold_at = self.session().and_then(|session| session.hold).map(|hold| now + hold);
    }

    /// RFC 4271 §10: a little earlier than agreed, so that not all speakers speak at once.
    fn plan_keepalive(&mut self, now: BootTime, seed: u64) {
        self.keepalives += 1;
        let factor = 0.75 + spread(seed, self.keepalives) / 4.0;
        let interval = self.session().and_then(|session| session.keepalive);
        self.keepalive_at = interval.map(|interval| now + interval.mul_f64(factor));
    }

    /// Whether the peer has been silent for too long.
    pub(super) fn is_silent(&self, now: BootTime) -> bool {
        self.hold_at.is_some_and(|at| now >= at)
    }

    /// Whether a KEEPALIVE is due; if so, the next one is planned.
    pub(super) fn keepalive_is_due(&mut self, now: BootTime, seed: u64) -> bool {
        let due = self.keepalive_at.is_some_and(|at| now >= at);
        if due {
            self.plan_keepalive(now, seed);
        }
        due
    }

    pub(super) fn poll_timeout(&self) -> Option<BootTime> {
        [self.hold_at, self.keepalive_at].into_iter().flatten().min()
    }
}
