//! All BFD sessions of this host, with their sockets and clock. They run in a thread of their own, so that computation
//! elsewhere in the process never delays a packet.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::TryFutureExt;
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use super::fsm::Input;
use super::packet::Packet;
use super::path::{ActiveSession, PathState, SINGLE_HOP, SessionSpec};
use crate::model::hash::fnv1a;
use crate::model::{Family, LogOnChange};
use crate::net::clock::{self, Timer};
use crate::net::{thread, udp};

/// Interval of checking for dropped receivers, and of listening again on a port in use.
const HOUSEKEEPING_INTERVAL: Duration = Duration::from_secs(1);

/// Requests that the thread has not taken yet; there is one for each BGP peer.
const REQUESTS: usize = 1024;

type Request = (SessionSpec, watch::Sender<PathState>);
/// Sockets by local port and address family.
type Listeners = BTreeMap<(u16, Family), UdpSocket>;

/// Requests sessions from the BFD thread.
#[derive(Debug, Clone)]
pub struct Bfd {
    requests: mpsc::Sender<Request>,
}

impl Bfd {
    /// Starts the thread. Its task ends when all handles and all receivers are dropped.
    pub fn start() -> io::Result<Self> {
        let (requests, requests_out) = mpsc::channel(REQUESTS);
        let run = async { Driver::new(requests_out)?.run().await };
        thread::start("bfd")?.spawn(run.inspect_err(|error| tracing::error!("BFD stopped: {error}")));
        Ok(Self { requests })
    }

    /// Runs a session until the receiver is dropped.
    pub fn monitor(&self, spec: SessionSpec) -> watch::Receiver<PathState> {
        let (path, out) = watch::channel(PathState::Unknown);
        // A thread that ended has logged why; one that takes no requests monitors no path either.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.requests.try_send((spec, path)) {
            tracing::error!("the BFD thread does not respond: a path is not monitored");
        }
        out
    }
}

struct Driver {
    requests: mpsc::Receiver<Request>,
    timer: Timer,
    sessions: Vec<ActiveSession>,
    next_discriminator: u32,
    /// Sockets that sessions use.
    listeners: Listeners,
    listen_errors: LogOnChange,
    /// All [`Bfd`] handles were dropped.
    closed: bool,
}

impl Driver {
    fn new(requests: mpsc::Receiver<Request>) -> io::Result<Self> {
        Ok(Self {
            requests,
            timer: Timer::new()?,
            sessions: Vec::new(),
            // Differs after each restart: the neighbour may still use the former discriminator.
            next_discriminator: fnv1a(&clock::now().since_boot().as_nanos().to_le_bytes()) as u32,
            listeners: Listeners::new(),
            listen_errors: LogOnChange::default(),
            closed: false,
        })
    }

    async fn run(mut self) -> io::Result<()> {
        let mut buffer = [0; 256];
        while !(self.closed && self.sessions.is_empty()) {
            self.remove_unused();
            self.listen();
            let now = clock::now();
            for session in &mut self.sessions {
                session.run_timers(now);
            }
            let next = self.sessions.iter().filter_map(|session| session.fsm.poll_timeout()).min();
            let housekeeping = now + HOUSEKEEPING_INTERVAL;
            let deadline = next.map_or(housekeeping, |next| next.min(housekeeping));
            tokio::select! {
                request = self.requests.recv(), if !self.closed => match request {
                    Some((spec, path)) => self.add(spec, path),
                    None => self.closed = true,
                },
                (length, from, port) = receive(&self.listeners, &mut buffer) => {
                    self.on_packet(buffer.get(..length).unwrap_or_default(), from, port);
                }
                () = self.timer.until(Some(deadline)) => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, spec: SessionSpec, path: watch::Sender<PathState>) {
        self.next_discriminator = self.next_discriminator.wrapping_add(1).max(1);
        self.sessions.push(ActiveSession::new(spec, self.next_discriminator, path));
    }

    /// Stops sessions whose receiver was dropped.
    fn remove_unused(&mut self) {
        for unused in self.sessions.iter_mut().filter(|session| session.is_unused()) {
            unused.handle_input(Input::Stop);
        }
        self.sessions.retain(|session| !session.is_unused());
    }

    fn listen(&mut self) {
        let peers = self.sessions.iter().map(|session| session.spec.peer);
        let used: BTreeSet<(u16, Family)> = peers.map(|peer| (peer.port(), Family::of(peer.ip()))).collect();
        self.listeners.retain(|key, _| used.contains(key));
        let mut errors = Vec::new();
        for (port, family) in used {
            let Entry::Vacant(listener) = self.listeners.entry((port, family)) else { continue };
            // GTSM: single-hop packets must arrive with a TTL of 255 (RFC 5881 §5).
            let least = (port == SINGLE_HOP).then_some(255);
            match udp::listen(SocketAddr::new(family.address(0), port), least) {
                Ok(socket) => drop(listener.insert(socket)),
                Err(error) => errors.push(format!("BFD cannot listen on port {port}: {error}; retrying")),
            }
        }
        for error in self.listen_errors.replace(errors) {
            tracing::error!("{error}");
        }
    }

    fn on_packet(&mut self, bytes: &[u8], from: SocketAddr, port: u16) {
        let packet = match Packet::from_bytes(bytes) {
            Ok(packet) => packet,
            Err(error) => return tracing::debug!(%from, "{error}"),
        };
        let address = from.ip().to_canonical();
        let session = self.sessions.iter_mut().find(|session| {
            (session.spec.peer.ip(), session.spec.peer.port()) == (address, port)
                && (packet.your_discriminator == 0 || packet.your_discriminator == session.fsm.discriminator)
        });
        if let Some(session) = session {
            session.handle_input(Input::Received(&packet));
        }
    }
}

/// The next packet of any socket.
async fn receive(listeners: &Listeners, buffer: &mut [u8]) -> (usize, SocketAddr, u16) {
    std::future::poll_fn(|context| {
        for ((port, _), socket) in listeners {
            let mut space = tokio::io::ReadBuf::new(buffer);
            // ICMP errors about sent packets are ignored: the detection time covers them.
            if let std::task::Poll::Ready(Ok(from)) = socket.poll_recv_from(context, &mut space) {
                return std::task::Poll::Ready((space.filled().len(), from, *port));
            }
        }
        std::task::Poll::Pending
    })
    .await
}
