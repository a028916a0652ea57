//! One BFD session with its socket: the state of the path to another host.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::sync::watch;

use super::fsm::{Diagnostic, Input, Output, Session, State};
use crate::config::bgp::Bfd;
use crate::model::hash::spread;
use crate::model::{BootTime, LogOnChange};
use crate::net::clock;
use crate::net::udp::{self, Sender};

/// Destination port of single-hop sessions (RFC 5881 §4).
pub const SINGLE_HOP: u16 = 3784;
/// Destination port of multihop sessions (RFC 5883 §5).
pub const MULTI_HOP: u16 = 4784;
/// Source ports (RFC 5881 §4).
const PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;

/// State of the path to another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PathState {
    /// The session was not up yet, or is administratively down at the other end.
    #[default]
    Unknown,
    Up,
    /// The session was up and failed.
    Down(Diagnostic),
}

impl fmt::Display for PathState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("not up yet"),
            Self::Up => f.write_str("up"),
            Self::Down(diagnostic) => write!(f, "down: {diagnostic}"),
        }
    }
}

/// Parameters of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionSpec {
    /// With the port [`SINGLE_HOP`] or [`MULTI_HOP`].
    pub peer: SocketAddr,
    /// Source address.
    pub source: Option<IpAddr>,
    /// Interface to bind to.
    pub interface: Option<String>,
    pub settings: Bfd,
}

pub(super) struct ActiveSession {
    pub(super) spec: SessionSpec,
    pub(super) fsm: Session,
    socket: Option<Sender>,
    path: watch::Sender<PathState>,
    send_errors: LogOnChange,
}

impl SessionSpec {
    /// Opens a socket with a random free source port.
    fn connect(&self, discriminator: u32) -> io::Result<Sender> {
        let count = u32::from(PORTS.end() - PORTS.start());
        let mut last = io::Error::other("no free source port");
        for attempt in 0..16 {
            let offset = (spread(discriminator.into(), attempt) * f64::from(count)) as u16;
            match udp::connect(self.peer, self.source, PORTS.start() + offset, self.interface.as_deref()) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl ActiveSession {
    pub(super) fn new(spec: SessionSpec, discriminator: u32, path: watch::Sender<PathState>) -> Self {
        let fsm = Session::new(spec.settings, discriminator, clock::now());
        Self { spec, fsm, socket: None, path, send_errors: LogOnChange::default() }
    }

    /// The receiver of the path state was dropped.
    pub(super) fn is_unused(&self) -> bool {
        self.path.is_closed()
    }

    pub(super) fn run_timers(&mut self, now: BootTime) {
        if self.fsm.poll_timeout().is_some_and(|at| now >= at) {
            self.fsm.handle_timeout(now);
        }
        self.execute();
    }

    pub(super) fn handle_input(&mut self, input: Input<'_>) {
        self.fsm.handle_input(clock::now(), input);
        self.execute();
    }

    fn execute(&mut self) {
        while let Some(output) = self.fsm.poll_output() {
            match output {
                Output::Send(packet) => self.send(&packet.to_bytes()),
                Output::StateChanged(before, after, diagnostic) => {
                    self.on_state_change(before, after, diagnostic);
                }
            }
        }
    }

    fn on_state_change(&mut self, before: State, after: State, diagnostic: Diagnostic) {
        let path = match (after, diagnostic) {
            (State::Up, _) => PathState::Up,
            (State::Down, Diagnostic::ADMINISTRATIVELY_DOWN) | (State::AdminDown, _) => PathState::Unknown,
            (State::Down, diagnostic) if before == State::Up => PathState::Down(diagnostic),
            _ => return,
        };
        let address = self.spec.peer.ip();
        match path {
            PathState::Down(diagnostic) => tracing::warn!(%address, "BFD: down: {diagnostic}"),
            PathState::Up => tracing::info!(%address, "BFD: up"),
            PathState::Unknown => tracing::info!(%address, "BFD: administratively down"),
        }
        self.path.send_replace(path);
    }

    /// After an error the socket is opened anew for the next packet: its address or interface may have changed.
    fn send(&mut self, bytes: &[u8]) {
        let socket = self.socket.take().map_or_else(|| self.spec.connect(self.fsm.discriminator), Ok);
        match socket.and_then(|socket| socket.send(bytes).map(|_| socket)) {
            Ok(socket) => {
                self.send_errors.clear();
                self.socket = Some(socket);
            }
            Err(error) => {
                if self.send_errors.set(error.to_string()) {
                    tracing::debug!(address = %self.spec.peer.ip(), "cannot send a BFD packet: {error}");
                }
            }
        }
    }
}
