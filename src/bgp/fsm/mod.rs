//! A session with a peer: when to call, what to say, when it is over (RFC 4271 §8).
//!
//! ```text
//!           Start            Dial, Connected           OPEN              KEEPALIVE
//!   Idle ──────────► Connect ────────────────► OpenSent ────► OpenConfirm ────────► Established
//!    ▲                 │  ▲                       │                │                    │
//!    │        failed   ▼  │ retry                 └───── NOTIFICATION, hold timer, end ─┤
//!    │               Active                                                             │
//!    └──────────────────────────────────────────────────────────────────────────────────┘
//! ```
//!
//! RFC 4271 has one such machine for each connection. Here a [`Peer`] has one way to make a connection, and at most
//! two connections, one made by us and one by the peer, until §6.8 says which of them stays.

mod connection;
mod session;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

use super::packet::{self, Cease, Notification, Received};
use crate::model::hash::spread;
use crate::model::{BootTime, Family};
use connection::{Connection, Step};
pub use session::Session;

/// From one attempt to connect to the next. RFC 4271 proposes two minutes; a router that comes back is to be found.
pub const RETRY: Duration = Duration::from_millis(500);
/// How long a peer is left alone after a session that failed; doubled with each failure in a row.
const SHORTEST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A session that lasted for so long was a good one, whatever ended it.
const GOOD: Duration = Duration::from_secs(10);
/// One that nobody refused, and that only lost its way, was a good one sooner: its way may be back at once.
const GOOD_BUT_LOST: Duration = Duration::from_secs(1);

/// What a session is to be like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Our AS.
    pub local_as: u32,
    /// The peer's; none takes any.
    pub peer_as: Option<u32>,
    /// Our identifier.
    pub identifier: Ipv4Addr,
    /// Seconds of silence that end a session, as we propose it; 0 for never, else 3 or more.
    pub hold_time: u16,
    /// From one KEEPALIVE to the next, at most a third of the hold time that is agreed on.
    pub keepalive: Duration,
    /// Wait for the peer to connect.
    pub passive: bool,
    /// The families that we have routes of.
    pub families: Vec<Family>,
    /// We have IPv4 routes with an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// What we promise for the case that this process restarts (RFC 4724).
    pub restart: Option<Restart>,
    /// Spreads retries and KEEPALIVEs.
    pub seed: u64,
}

/// A promise to be back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restart {
    /// Within so many seconds.
    pub seconds: u16,
    /// Packets were taken all the while.
    pub forwarding: bool,
}

/// Who made a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// We did.
    Outgoing,
    /// The peer did.
    Incoming,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::Outgoing => Self::Incoming,
            Self::Incoming => Self::Outgoing,
        }
    }
}

/// How far things have got (RFC 4271 §8.2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Left alone.
    Idle,
    /// A connection is being made.
    Connect,
    /// Waiting for a connection, or for the next attempt.
    Active,
    /// Our OPEN is out.
    OpenSent,
    /// The peer's OPEN is in.
    OpenConfirm,
    /// Routes are exchanged.
    Established,
}

impl State {
    /// All of them, in their order.
    pub const ALL: [Self; 6] =
        [Self::Idle, Self::Connect, Self::Active, Self::OpenSent, Self::OpenConfirm, Self::Established];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// What happens to a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input<'a> {
    /// Begin.
    Start,
    /// End, and say why. Nothing is done until the next start.
    Stop(Cease, &'a str),
    /// There is a connection, where there was none of this side.
    Connected(Side),
    /// The connection asked for cannot be made.
    Failed(String),
    /// Bytes came.
    Received(Side, &'a [u8]),
    /// The connection is gone.
    Closed(Side, String),
    /// The way to the peer is broken, as BFD tells (RFC 5882).
    PathDown,
}

/// What has to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Make a connection; one that is being made is given up.
    Dial,
    /// Send this after what was to be sent before.
    Send(Side, Vec<u8>),
    /// Close the connection, when all is sent.
    HangUp(Side),
    /// Routes can be exchanged on this connection.
    Up(Side, Session),
    /// A session, or an attempt at one, is over.
    Down {
        /// Routes were exchanged.
        established: bool,
        /// Why.
        why: Ending,
    },
    /// Routes came.
    Routes(Box<Received>),
    /// The peer wants everything of a family again.
    Refresh(Family),
    /// Something to tell.
    Changed(State, State),
}

/// Why a session is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// We told the peer so.
    Sent(Notification),
    /// The peer told us.
    Received(Notification),
    /// The connection is gone.
    Lost(String),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sent(notification) => write!(f, "we closed the session: {notification}"),
            Self::Received(notification) => write!(f, "the peer closed the session: {notification}"),
            Self::Lost(why) => f.write_str(why),
        }
    }
}

impl Ending {
    /// Nobody refused anything: the peer, or the way to it, was not there any more.
    fn is_loss(&self) -> bool {
        match self {
            Self::Lost(_) => true,
            Self::Sent(notification) => {
                [Notification::hold_timer_expired(), Notification::bfd_down()].contains(notification)
            }
            Self::Received(_) => false,
        }
    }
}

/// How a connection of ours comes about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dial {
    /// Not started.
    Off,
    /// Not before this moment.
    Pausing(BootTime),
    /// Being made; made anew at this moment.
    Dialling(BootTime),
    /// The next attempt is at this moment; without one the peer has to connect.
    Waiting(Option<BootTime>),
    /// There is a connection.
    Done,
}

/// A session with one peer.
#[derive(Debug)]
pub struct Peer {
    settings: Settings,
    dial: Dial,
    outgoing: Option<Connection>,
    incoming: Option<Connection>,
    /// Failures in a row.
    failures: u32,
    since: BootTime,
    /// There was a session since this process began.
    seasoned: bool,
    /// The peer does not take capabilities.
    plain: bool,
    attempts: u64,
    shown: State,
    outputs: VecDeque<Output>,
}

impl Peer {
    /// A peer that nothing has been done about.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            dial: Dial::Off,
            outgoing: None,
            incoming: None,
            failures: 0,
            since: BootTime::default(),
            seasoned: false,
            plain: false,
            attempts: 0,
            shown: State::Idle,
            outputs: VecDeque::new(),
        }
    }

    /// How far things have got.
    pub fn state(&self) -> State {
        let connections = [&self.outgoing, &self.incoming].into_iter().flatten().map(Connection::state).max();
        connections.unwrap_or(match self.dial {
            Dial::Off | Dial::Pausing(_) | Dial::Done => State::Idle,
            Dial::Dialling(_) => State::Connect,
            Dial::Waiting(_) => State::Active,
        })
    }

    /// What was agreed on, while routes are exchanged.
    pub fn session(&self) -> Option<&Session> {
        let up = |connection: &&Connection| connection.state() == State::Established;
        [&self.outgoing, &self.incoming].into_iter().flatten().find(up).and_then(Connection::session)
    }

    /// Take in what happened. Afterwards ask for outputs and for the next deadline.
    pub fn handle_input(&mut self, now: BootTime, input: Input<'_>) {
        match input {
            Input::Start if self.dial == Dial::Off => self.dial(now),
            Input::Start => {}
            Input::Stop(cease, reason) => {
                for side in [Side::Outgoing, Side::Incoming] {
                    self.refuse(now, side, Notification::cease(cease, reason));
                }
                self.dial = Dial::Off;
                self.failures = 0;
            }
            Input::Connected(side) => self.connected(now, side),
            Input::Failed(why) => {
                if matches!(self.dial, Dial::Dialling(_)) {
                    self.outputs.push_back(Output::Down { established: false, why: Ending::Lost(why) });
                    self.dial = Dial::Waiting(Some(now + self.spread(RETRY)));
                }
            }
            Input::Received(side, bytes) => self.received(now, side, bytes),
            Input::Closed(side, why) => self.end(now, side, Ending::Lost(why)),
            Input::PathDown => {
                for side in [Side::Outgoing, Side::Incoming] {
                    self.refuse(now, side, Notification::bfd_down());
                }
            }
        }
        self.tell();
    }

    /// Do what is due by now. Afterwards ask for outputs and for the next deadline.
    pub fn handle_timeout(&mut self, now: BootTime) {
        match self.dial {
            Dial::Pausing(at) | Dial::Dialling(at) | Dial::Waiting(Some(at)) if now >= at => self.dial(now),
            _ => {}
        }
        for side in [Side::Outgoing, Side::Incoming] {
            let seed = self.settings.seed;
            let Some(connection) = self.connection(side) else { continue };
            if connection.is_silent(now) {
                self.refuse(now, side, Notification::hold_timer_expired());
            } else if connection.keepalive_is_due(now, seed) {
                self.outputs.push_back(Output::Send(side, packet::keepalive()));
            }
        }
        self.tell();
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let dial = match self.dial {
            Dial::Pausing(at) | Dial::Dialling(at) | Dial::Waiting(Some(at)) => Some(at),
            Dial::Off | Dial::Waiting(None) | Dial::Done => None,
        };
        let connections = [&self.outgoing, &self.incoming].into_iter().flatten();
        connections.filter_map(Connection::poll_timeout).chain(dial).min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn slot(&mut self, side: Side) -> &mut Option<Connection> {
        match side {
            Side::Outgoing => &mut self.outgoing,
            Side::Incoming => &mut self.incoming,
        }
    }

    fn connection(&mut self, side: Side) -> Option<&mut Connection> {
        self.slot(side).as_mut()
    }

    fn tell(&mut self) {
        let state = self.state();
        if state != self.shown {
            self.outputs.push_back(Output::Changed(self.shown, state));
            self.shown = state;
        }
    }

    /// A little less than so long, so that not all do the same at once (RFC 4271 §10).
    fn spread(&mut self, duration: Duration) -> Duration {
        self.attempts += 1;
        duration.mul_f64(0.75 + spread(self.settings.seed, self.attempts) / 4.0)
    }

    fn dial(&mut self, now: BootTime) {
        if self.settings.passive {
            self.dial = Dial::Waiting(None);
            return;
        }
        self.outputs.push_back(Output::Dial);
        self.dial = Dial::Dialling(now + self.spread(RETRY));
    }

    fn connected(&mut self, now: BootTime, side: Side) {
        let wanted = match side {
            Side::Outgoing => matches!(self.dial, Dial::Dialling(_)),
            // Whoever is idle refuses connections (RFC 4271 §8.2.2).
            Side::Incoming => !matches!(self.dial, Dial::Off | Dial::Pausing(_)),
        };
        if !wanted {
            return self.outputs.push_back(Output::HangUp(side));
        }
        if side == Side::Outgoing {
            self.dial = Dial::Done;
        }
        *self.slot(side) = Some(Connection::new(now));
        let open = self.settings.open(!self.seasoned, self.plain);
        self.outputs.push_back(Output::Send(side, open.encode()));
    }

    fn received(&mut self, now: BootTime, side: Side, bytes: &[u8]) {
        if let Some(connection) = self.connection(side) {
            connection.receive(bytes);
        }
        loop {
            let slot = match side {
                Side::Outgoing => &mut self.outgoing,
                Side::Incoming => &mut self.incoming,
            };
            let Some(connection) = slot else { return };
            let step = match connection.next() {
                Ok(None) => return,
                Ok(Some(message)) => connection.handle(now, message, &self.settings, self.plain),
                Err(notification) => Step::Refused(notification),
            };
            match step {
                Step::Nothing => {}
                Step::Opened(session) => self.opened(now, side, &session),
                Step::Established(session) => {
                    self.seasoned = true;
                    self.since = now;
                    self.dial = Dial::Done;
                    self.outputs.push_back(Output::Up(side, session));
                    // What else has arrived with it comes after the news.
                    self.tell();
                    // One more connection than is needed.
                    self.refuse(now, side.other(), Notification::cease(Cease::Collision, ""));
                }
                Step::Routes(routes) => self.outputs.push_back(Output::Routes(routes)),
                Step::Refresh(family) => self.outputs.push_back(Output::Refresh(family)),
                Step::Refused(notification) => return self.refuse(now, side, notification),
                Step::Ended(notification) => {
                    self.outputs.push_back(Output::HangUp(side));
                    return self.end(now, side, Ending::Received(notification));
                }
            }
        }
    }

    /// The peer said who it is. Of two connections the one stays that the speaker with the higher identifier made
    /// (RFC 4271 §6.8); the one that routes are exchanged on stays in any case, unless the peer has just restarted
    /// (RFC 4724 §4.2).
    fn opened(&mut self, now: BootTime, side: Side, session: &Session) {
        let other = side.other();
        let collision = || Notification::cease(Cease::Collision, "");
        let goes = match self.connection(other).map(|connection| connection.state()) {
            None | Some(State::OpenSent) => None,
            Some(State::Established) if session.restart.is_some() => {
                self.slot(other).take();
                self.outputs.push_back(Output::HangUp(other));
                let why = Ending::Lost("the peer came back on another connection".into());
                self.outputs.push_back(Output::Down { established: true, why });
                None
            }
            Some(State::Established) => Some(side),
            Some(_) => {
                let ours = (self.settings.identifier, self.settings.local_as);
                let stays =
                    if ours > (session.identifier, session.asn) { Side::Outgoing } else { Side::Incoming };
                Some(stays.other())
            }
        };
        if let Some(goes) = goes {
            self.refuse(now, goes, collision());
        }
        if goes != Some(side) {
            self.outputs.push_back(Output::Send(side, packet::keepalive()));
        }
    }

    /// End a connection, and tell the peer why.
    fn refuse(&mut self, now: BootTime, side: Side, notification: Notification) {
        if self.connection(side).is_some() {
            self.outputs.push_back(Output::Send(side, notification.encode()));
            self.outputs.push_back(Output::HangUp(side));
            self.end(now, side, Ending::Sent(notification));
        }
    }

    /// A connection is over.
    fn end(&mut self, now: BootTime, side: Side, why: Ending) {
        let Some(connection) = self.slot(side).take() else { return };
        let established = connection.state() == State::Established;
        let collision = matches!(&why, Ending::Sent(one) | Ending::Received(one) if one.is_collision());
        if let Ending::Received(notification) = &why
            && notification.is_about_capabilities()
        {
            self.plain = true;
        } else if established {
            self.plain = false;
        }
        let unanswered = connection.state() == State::OpenSent && matches!(why, Ending::Lost(_));
        let lasting = if why.is_loss() { GOOD_BUT_LOST } else { GOOD };
        if !collision || established {
            self.outputs.push_back(Output::Down { established, why });
        }
        // The other connection goes on.
        if self.connection(side.other()).is_some() {
            return;
        }
        // It took the connection and gave it back: it is not ready yet, and said nothing against us (RFC 4271 §8.2.2).
        if unanswered {
            let next = now + self.spread(RETRY);
            self.dial = Dial::Waiting((!self.settings.passive).then_some(next));
            return;
        }
        let good = established && now.since(self.since) >= lasting;
        self.failures = if good || collision { 0 } else { self.failures.saturating_add(1) };
        let pause = SHORTEST_PAUSE * 2_u32.saturating_pow(self.failures.min(10));
        let pause = self.spread(pause.min(LONGEST_PAUSE));
        self.dial = Dial::Pausing(now + pause);
    }
}
