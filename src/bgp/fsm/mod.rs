//! Session state machine for one peer (RFC 4271 §8).
//!
//! ```text
//!           Start            Dial, Connected           OPEN              KEEPALIVE
//!   Idle ──────────► Connect ────────────────► OpenSent ────► OpenConfirm ────────► Established
//!    ▲                 │  ▲                       │                │                    │
//!    │        failed   ▼  │ retry                 └── NOTIFICATION, hold timer, closed ──┤
//!    │               Active                                                             │
//!    └──────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! RFC 4271 defines one state machine for each connection. A [`Peer`] combines both: it dials at most one connection,
//! accepts at most one from the peer, and resolves collisions by §6.8.

mod connection;
mod session;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::packet::{self, Notification, ReceivedUpdate};
use crate::model::hash::spread;
use crate::model::{Backoff, BootTime, Family};
use connection::{Connection, ConnectionEvent};
pub use session::Session;

/// ConnectRetryTimer. RFC 4271 §10 suggests two minutes; this value reaches a restarted router sooner.
pub const RETRY: Duration = Duration::from_millis(500);
/// IdleHoldTime after consecutive failed sessions.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// IdleHoldTime after a stable session or a connection collision.
const RECONNECT_PAUSE: Duration = Duration::from_millis(250);
/// A session that was established for this long counts as stable, however it ended.
const STABLE_AFTER: Duration = Duration::from_secs(10);
/// The same for a session that ended by loss of the peer or of the path: the path may be back at once.
const STABLE_AFTER_IF_LOST: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    pub local_as: u32,
    /// None accepts any AS.
    pub peer_as: Option<u32>,
    /// BGP identifier.
    pub identifier: Ipv4Addr,
    /// Proposed hold time in seconds: 0 (no limit), or 3 and more.
    pub hold_time: u16,
    /// Upper limit of the KEEPALIVE interval; a third of the negotiated hold time is the other one.
    pub keepalive: Duration,
    /// Only accept connections of the peer.
    pub passive: bool,
    /// Families to advertise.
    pub families: Vec<Family>,
    /// Offer IPv4 routes with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// Graceful Restart capability (RFC 4724).
    pub restart: Option<Restart>,
    /// Seed of the jitter of retries and KEEPALIVEs.
    pub seed: u64,
}

/// Graceful Restart as offered to the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// Restart time.
    pub seconds: u16,
    /// Forwarding State bit: the host forwarded packets during the restart.
    pub forwarding: bool,
}

/// Which end opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    Outgoing,
    Incoming,
}

impl Direction {
    const BOTH: [Self; 2] = [Self::Outgoing, Self::Incoming];

    fn other(self) -> Self {
        match self {
            Self::Outgoing => Self::Incoming,
            Self::Incoming => Self::Outgoing,
        }
    }
}

/// Session state (RFC 4271 §8.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum FsmState {
    #[default]
    Idle,
    Connect,
    Active,
    OpenSent,
    OpenConfirm,
    Established,
}

impl FsmState {
    pub const ALL: [Self; 6] =
        [Self::Idle, Self::Connect, Self::Active, Self::OpenSent, Self::OpenConfirm, Self::Established];
}

impl fmt::Display for FsmState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// A connection attempt failed, or a connection closed without NOTIFICATION.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionError {
    pub kind: io::ErrorKind,
    pub message: String,
}

impl From<io::Error> for ConnectionError {
    fn from(error: io::Error) -> Self {
        Self { kind: error.kind(), message: error.to_string() }
    }
}

impl From<&str> for ConnectionError {
    fn from(message: &str) -> Self {
        Self { kind: io::ErrorKind::Other, message: message.to_owned() }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// ManualStart.
    Start,
    /// ManualStop, with the NOTIFICATION to send. The peer stays Idle until the next `Start`.
    Stop(Notification),
    /// A connection was established; there is no other one of this direction.
    Connected(Direction),
    /// The requested connection attempt failed.
    Failed(ConnectionError),
    /// Bytes arrived on a connection.
    Received(Direction, Vec<u8>),
    /// TcpConnectionFails.
    Closed(Direction, ConnectionError),
    /// BFD detected a path failure (RFC 5882).
    PathDown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Connect to the peer; aborts an attempt in progress.
    Dial,
    /// Append to the send buffer of the connection.
    Send(Direction, Vec<u8>),
    /// Close the connection once its send buffer is flushed.
    Close(Direction),
    /// The session is established on this connection.
    Up(Direction, Session),
    /// A session or an attempt at one ended.
    Down {
        /// The session was established.
        established: bool,
        reason: CloseReason,
    },
    /// An UPDATE arrived.
    Routes(Box<ReceivedUpdate>),
    /// ROUTE-REFRESH: re-advertise this family.
    Refresh(Family),
    /// State transition, for status and metrics.
    StateChanged(FsmState, FsmState),
}

/// Why a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// This end sent a NOTIFICATION.
    Sent(Notification),
    /// The peer sent a NOTIFICATION.
    Received(Notification),
    /// The connection closed without NOTIFICATION.
    Lost(ConnectionError),
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(notification) => write!(f, "closed by kube-vip: {notification}"),
            Self::Received(notification) => write!(f, "closed by the peer: {notification}"),
            Self::Lost(error) => f.write_str(&error.message),
        }
    }
}

impl CloseReason {
    /// The peer or the path to it disappeared; neither end rejected the other.
    fn is_loss(&self) -> bool {
        match self {
            Self::Lost(_) => true,
            Self::Sent(notification) => {
                [Notification::HOLD_TIMER_EXPIRED, Notification::BFD_DOWN].contains(notification)
            }
            Self::Received(_) => false,
        }
    }

    fn is_collision(&self) -> bool {
        matches!(self, Self::Sent(one) | Self::Received(one) if one.is_collision())
    }
}

/// State of the outgoing connection attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dial {
    /// Not started.
    Off,
    /// IdleHoldTimer: no attempt before this time.
    Pausing(BootTime),
    /// In progress; restarted at this time (ConnectRetryTimer).
    Dialling(BootTime),
    /// Next attempt at this time; None for a passive peer.
    Waiting(Option<BootTime>),
    /// Connected.
    Done,
}

/// State machine for one peer.
#[derive(Debug)]
pub struct Peer {
    settings: Settings,
    dial: Dial,
    connections: BTreeMap<Direction, Connection>,
    backoff: Backoff,
    established_at: BootTime,
    /// A session was established since this process started: the Restart State bit is no longer set.
    had_session: bool,
    /// The peer rejected capabilities (RFC 5492 §3).
    no_capabilities: bool,
    attempts: u64,
    reported_state: FsmState,
    outputs: VecDeque<Output>,
}

impl Peer {
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            dial: Dial::Off,
            connections: BTreeMap::new(),
            backoff: Backoff::new(BACKOFF_MIN, BACKOFF_MAX),
            established_at: BootTime::default(),
            had_session: false,
            no_capabilities: false,
            attempts: 0,
            reported_state: FsmState::Idle,
            outputs: VecDeque::new(),
        }
    }

    pub fn state(&self) -> FsmState {
        self.connections.values().map(Connection::state).max().unwrap_or(match self.dial {
            Dial::Off | Dial::Pausing(_) | Dial::Done => FsmState::Idle,
            Dial::Dialling(_) => FsmState::Connect,
            Dial::Waiting(_) => FsmState::Active,
        })
    }

    /// The established session.
    pub fn session(&self) -> Option<&Session> {
        self.connections.values().find(|connection| connection.state() == FsmState::Established)?.session()
    }

    /// Processes an event. Poll outputs and the timeout afterwards.
    pub fn handle_input(&mut self, now: BootTime, input: Input) {
        match input {
            Input::Start if self.dial == Dial::Off => self.dial(now),
            Input::Start => {}
            Input::Stop(notification) => {
                for direction in Direction::BOTH {
                    self.notify_and_close(now, direction, notification.clone());
                }
                self.dial = Dial::Off;
                self.backoff.reset();
            }
            Input::Connected(direction) => self.connected(now, direction),
            Input::Failed(error) => {
                if matches!(self.dial, Dial::Dialling(_)) {
                    let reason = CloseReason::Lost(error);
                    self.outputs.push_back(Output::Down { established: false, reason });
                    self.dial = Dial::Waiting(Some(now + self.jitter(RETRY)));
                }
            }
            Input::Received(direction, bytes) => self.received(now, direction, &bytes),
            Input::Closed(direction, error) => self.closed(now, direction, CloseReason::Lost(error)),
            Input::PathDown => {
                for direction in Direction::BOTH {
                    self.notify_and_close(now, direction, Notification::BFD_DOWN);
                }
            }
        }
        self.report_state();
    }

    /// Runs expired timers. Poll outputs and the timeout afterwards.
    pub fn handle_timeout(&mut self, now: BootTime) {
        match self.dial {
            Dial::Pausing(at) | Dial::Dialling(at) | Dial::Waiting(Some(at)) if now >= at => self.dial(now),
            _ => {}
        }
        for direction in Direction::BOTH {
            let seed = self.settings.seed;
            let Some(connection) = self.connections.get_mut(&direction) else { continue };
            if connection.hold_timer_expired(now) {
                self.notify_and_close(now, direction, Notification::HOLD_TIMER_EXPIRED);
            } else if connection.keepalive_due(now, seed) {
                self.outputs.push_back(Output::Send(direction, packet::keepalive()));
            }
        }
        self.report_state();
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let dial = match self.dial {
            Dial::Pausing(at) | Dial::Dialling(at) | Dial::Waiting(Some(at)) => Some(at),
            Dial::Off | Dial::Waiting(None) | Dial::Done => None,
        };
        self.connections.values().filter_map(Connection::poll_timeout).chain(dial).min()
    }

    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn report_state(&mut self) {
        let state = self.state();
        if state != self.reported_state {
            self.outputs.push_back(Output::StateChanged(self.reported_state, state));
            self.reported_state = state;
        }
    }

    /// Jitter of RFC 4271 §10: 75 to 100 percent of the interval.
    fn jitter(&mut self, interval: Duration) -> Duration {
        self.attempts += 1;
        interval.mul_f64(0.75 + spread(self.settings.seed, self.attempts) / 4.0)
    }

    fn dial(&mut self, now: BootTime) {
        if self.settings.passive {
            self.dial = Dial::Waiting(None);
            return;
        }
        self.outputs.push_back(Output::Dial);
        self.dial = Dial::Dialling(now + self.jitter(RETRY));
    }

    fn connected(&mut self, now: BootTime, direction: Direction) {
        let expected = match direction {
            Direction::Outgoing => matches!(self.dial, Dial::Dialling(_)),
            // RFC 4271 §8.2.2: "In this state, BGP FSM refuses all incoming BGP connections for this peer."
            Direction::Incoming => !matches!(self.dial, Dial::Off | Dial::Pausing(_)),
        };
        if !expected {
            return self.outputs.push_back(Output::Close(direction));
        }
        if direction == Direction::Outgoing {
            self.dial = Dial::Done;
        }
        self.connections.insert(direction, Connection::new(now));
        let open = self.settings.open(!self.had_session, self.no_capabilities);
        self.outputs.push_back(Output::Send(direction, open.encode()));
    }

    fn received(&mut self, now: BootTime, direction: Direction, bytes: &[u8]) {
        if let Some(connection) = self.connections.get_mut(&direction) {
            connection.receive(bytes);
        }
        loop {
            let Some(connection) = self.connections.get_mut(&direction) else { return };
            let event = match connection.poll(now, &self.settings, self.no_capabilities) {
                Ok(Some(event)) => event,
                Ok(None) => return,
                Err(notification) => return self.notify_and_close(now, direction, notification),
            };
            match event {
                ConnectionEvent::None => {}
                ConnectionEvent::Opened(session) => self.opened(now, direction, &session),
                ConnectionEvent::Established(session) => {
                    self.had_session = true;
                    self.established_at = now;
                    self.dial = Dial::Done;
                    self.outputs.push_back(Output::Up(direction, session));
                    // The state change precedes routes that arrived in the same segment.
                    self.report_state();
                    self.notify_and_close(now, direction.other(), Notification::COLLISION);
                }
                ConnectionEvent::Routes(routes) => self.outputs.push_back(Output::Routes(routes)),
                ConnectionEvent::Refresh(family) => self.outputs.push_back(Output::Refresh(family)),
                ConnectionEvent::Notification(notification) => {
                    self.outputs.push_back(Output::Close(direction));
                    return self.closed(now, direction, CloseReason::Received(notification));
                }
            }
        }
    }

    /// Collision detection on OPEN (RFC 4271 §6.8): the connection opened by the speaker with the higher identifier
    /// stays. An established one always stays, unless the peer restarted (RFC 4724 §4.2).
    fn opened(&mut self, now: BootTime, direction: Direction, session: &Session) {
        let other = direction.other();
        let redundant = match self.connections.get(&other).map(Connection::state) {
            None | Some(FsmState::OpenSent) => None,
            Some(FsmState::Established) if session.restart.is_some() => {
                self.connections.remove(&other);
                self.outputs.push_back(Output::Close(other));
                let reason = CloseReason::Lost("the peer restarted and opened another connection".into());
                self.outputs.push_back(Output::Down { established: true, reason });
                None
            }
            Some(FsmState::Established) => Some(direction),
            Some(_) => {
                let ours = (self.settings.identifier, self.settings.local_as);
                let theirs = (session.identifier, session.asn);
                Some(if ours > theirs { Direction::Incoming } else { Direction::Outgoing })
            }
        };
        if let Some(redundant) = redundant {
            self.notify_and_close(now, redundant, Notification::COLLISION);
        }
        if redundant != Some(direction) {
            self.outputs.push_back(Output::Send(direction, packet::keepalive()));
        }
    }

    fn notify_and_close(&mut self, now: BootTime, direction: Direction, notification: Notification) {
        if self.connections.contains_key(&direction) {
            self.outputs.push_back(Output::Send(direction, notification.encode()));
            self.outputs.push_back(Output::Close(direction));
            self.closed(now, direction, CloseReason::Sent(notification));
        }
    }

    fn closed(&mut self, now: BootTime, direction: Direction, reason: CloseReason) {
        let Some(connection) = self.connections.remove(&direction) else { return };
        let established = connection.state() == FsmState::Established;
        let collision = reason.is_collision();
        if let CloseReason::Received(notification) = &reason
            && notification.is_about_capabilities()
        {
            self.no_capabilities = true;
        } else if established {
            self.no_capabilities = false;
        }
        let no_open_received =
            connection.state() == FsmState::OpenSent && matches!(reason, CloseReason::Lost(_));
        let stable_after = if reason.is_loss() { STABLE_AFTER_IF_LOST } else { STABLE_AFTER };
        if !collision || established {
            self.outputs.push_back(Output::Down { established, reason });
        }
        if self.connections.contains_key(&direction.other()) {
            return;
        }
        // OpenSent and TcpConnectionFails: to Active, without back-off (RFC 4271 §8.2.2). The peer is not ready yet.
        if no_open_received {
            let next = now + self.jitter(RETRY);
            self.dial = Dial::Waiting((!self.settings.passive).then_some(next));
            return;
        }
        let stable = established && now.since(self.established_at) >= stable_after;
        let pause = if stable || collision {
            self.backoff.reset();
            RECONNECT_PAUSE
        } else {
            self.backoff.next_pause()
        };
        self.dial = Dial::Pausing(now + self.jitter(pause));
    }
}
