//! All BFD sessions of this host: their sockets and their clock, in a thread of their own. Whatever else this process
//! computes, a packet is never late for it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, watch};

use super::fsm::{Diagnostic, Output, Session, Settings, State};
use super::packet::Packet;
use crate::model::hash::{fnv1a, spread};
use crate::net::clock::{self, Timer};
use crate::net::udp::{self, Sender};

/// Where sessions over one hop are (RFC 5881 §4).
const SINGLE_HOP: u16 = 3784;
/// Where those over several are (RFC 5883 §5).
const MULTI_HOP: u16 = 4784;
/// Packets come from these ports (RFC 5881 §4).
const PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;
/// How soon a port that is taken is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// What is known of the way to another host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Path {
    /// Nothing: there was no session yet, or the other end has switched it off.
    #[default]
    Unknown,
    /// Packets get through, both ways.
    Up,
    /// They did, and do not any more.
    Down(Diagnostic),
}

/// Whom to watch, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The other host; a link-local address is on the interface with this index.
    pub address: IpAddr,
    /// The index of that interface.
    pub scope: u32,
    /// The address to come from.
    pub source: Option<IpAddr>,
    /// The interface to go by.
    pub interface: Option<String>,
    /// It may be more than one hop away.
    pub multihop: bool,
    /// How often we want to speak.
    pub transmit: Duration,
    /// How often we can hear.
    pub receive: Duration,
    /// So many packets may be lost.
    pub multiplier: u8,
}

/// The way to ask for sessions.
#[derive(Debug, Clone)]
pub struct Bfd {
    requests: mpsc::UnboundedSender<(Target, watch::Sender<Path>)>,
}

impl Bfd {
    /// Start the thread. It ends when nobody can ask for sessions any more and nobody watches one.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn start() -> io::Result<Self> {
        let (requests, requests_out) = mpsc::unbounded_channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("bfd".into()).spawn(move || {
            let ended = runtime.block_on(async { Driver::new(requests_out)?.run().await });
            if let Err(error) = ended {
                tracing::error!("BFD cannot be used: {error}");
            }
        })?;
        Ok(Self { requests })
    }

    /// Watch a host, for as long as the receiver is there.
    pub fn watch(&self, target: Target) -> watch::Receiver<Path> {
        let (path, out) = watch::channel(Path::Unknown);
        // Without the thread nothing is ever known, which its last words have said.
        self.requests.send((target, path)).ok();
        out
    }
}

struct Watched {
    target: Target,
    session: Session,
    discriminator: u32,
    socket: Option<Sender>,
    path: watch::Sender<Path>,
    /// What kept its packets from being sent, so that a lasting trouble is told once.
    trouble: Option<String>,
}

struct Driver {
    requests: mpsc::UnboundedReceiver<(Target, watch::Sender<Path>)>,
    timer: Timer,
    watched: Vec<Watched>,
    discriminators: u32,
    /// Where packets come in: by port and family, as far as it is needed.
    listeners: Vec<(u16, bool, UdpSocket)>,
    trouble: Option<String>,
    /// There are no more requests to come.
    closed: bool,
}

impl Driver {
    fn new(requests: mpsc::UnboundedReceiver<(Target, watch::Sender<Path>)>) -> io::Result<Self> {
        Ok(Self {
            requests,
            timer: Timer::new()?,
            watched: Vec::new(),
            // Another number after each restart: the other end may still have the old one.
            discriminators: fnv1a(&clock::now().since_boot().as_nanos().to_le_bytes()) as u32,
            listeners: Vec::new(),
            trouble: None,
            closed: false,
        })
    }

    async fn run(mut self) -> io::Result<()> {
        let mut buffer = [0; 256];
        while !(self.closed && self.watched.is_empty()) {
            self.forget();
            self.listen();
            let now = clock::now();
            for watched in &mut self.watched {
                if watched.session.poll_timeout().is_some_and(|at| now >= at) {
                    watched.session.handle_timeout(now);
                }
                watched.carry_out();
            }
            let next = self.watched.iter().filter_map(|watched| watched.session.poll_timeout()).min();
            // A receiver that is gone is noticed in time, and a port that was taken is tried again.
            let deadline = next.unwrap_or(now + RETRY).min(now + RETRY);
            tokio::select! {
                request = self.requests.recv(), if !self.closed => match request {
                    Some((target, path)) => self.add(target, path),
                    None => self.closed = true,
                },
                (length, from, port) = receive(&self.listeners, &mut buffer) => {
                    let bytes = buffer.get(..length).unwrap_or_default();
                    self.handle(bytes, from, port);
                }
                () = self.timer.until(Some(deadline)) => {}
            }
        }
        Ok(())
    }

    fn add(&mut self, target: Target, path: watch::Sender<Path>) {
        self.discriminators = self.discriminators.wrapping_add(1).max(1);
        let settings = Settings {
            transmit: target.transmit,
            receive: target.receive,
            multiplier: target.multiplier,
            discriminator: self.discriminators,
            seed: self.discriminators.into(),
        };
        self.watched.push(Watched {
            session: Session::new(settings, clock::now()),
            discriminator: self.discriminators,
            socket: None,
            target,
            path,
            trouble: None,
        });
    }

    /// Sessions that nobody watches any more are switched off.
    fn forget(&mut self) {
        for watched in self.watched.iter_mut().filter(|watched| watched.path.is_closed()) {
            watched.session.stop(clock::now());
            watched.carry_out();
        }
        self.watched.retain(|watched| !watched.path.is_closed());
    }

    fn listen(&mut self) {
        let needs = |port: u16, ipv4: bool| {
            let here =
                |watched: &Watched| watched.target.port() == port && watched.target.address.is_ipv4() == ipv4;
            self.watched.iter().any(here)
        };
        let wanted: Vec<(u16, bool)> =
            [(SINGLE_HOP, true), (SINGLE_HOP, false), (MULTI_HOP, true), (MULTI_HOP, false)]
                .into_iter()
                .filter(|(port, ipv4)| needs(*port, *ipv4))
                .collect();
        self.listeners.retain(|(port, ipv4, _)| wanted.contains(&(*port, *ipv4)));
        for (port, ipv4) in wanted {
            if self.listeners.iter().any(|(has, family, _)| (*has, *family) == (port, ipv4)) {
                continue;
            }
            let any: IpAddr = if ipv4 { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
            // What has come through a router is not from the neighbour (RFC 5881 §5).
            let least = (port == SINGLE_HOP).then_some(255);
            match udp::listen(SocketAddr::new(any, port), least) {
                Ok(socket) => self.listeners.push((port, ipv4, socket)),
                Err(error) => {
                    let text = format!("BFD cannot listen on port {port}: {error}; trying again");
                    if self.trouble.as_ref() != Some(&text) {
                        tracing::error!("{text}");
                        self.trouble = Some(text);
                    }
                }
            }
        }
    }

    fn handle(&mut self, bytes: &[u8], from: SocketAddr, port: u16) {
        let packet = match Packet::from_bytes(bytes) {
            Ok(packet) => packet,
            Err(error) => return tracing::debug!(%from, "{error}"),
        };
        let is_it = |watched: &&mut Watched| {
            let target = &watched.target;
            target.address == from.ip().to_canonical()
                && target.port() == port
                && (packet.yours == 0 || packet.yours == watched.discriminator)
        };
        if let Some(watched) = self.watched.iter_mut().find(is_it) {
            watched.session.handle_input(clock::now(), &packet);
            watched.carry_out();
        }
    }
}

/// The next packet of any socket.
async fn receive(listeners: &[(u16, bool, UdpSocket)], buffer: &mut [u8]) -> (usize, SocketAddr, u16) {
    std::future::poll_fn(|context| {
        for (port, _, socket) in listeners {
            let mut space = tokio::io::ReadBuf::new(buffer);
            // An error is about a packet of ours that did not get through: silence tells that, too.
            if let std::task::Poll::Ready(Ok(from)) = socket.poll_recv_from(context, &mut space) {
                return std::task::Poll::Ready((space.filled().len(), from, *port));
            }
        }
        std::task::Poll::Pending
    })
    .await
}

impl Target {
    fn port(&self) -> u16 {
        if self.multihop { MULTI_HOP } else { SINGLE_HOP }
    }

    /// A socket for its packets.
    fn connect(&self, discriminator: u32) -> io::Result<Sender> {
        let peer = match self.address {
            IpAddr::V4(_) => SocketAddr::new(self.address, self.port()),
            IpAddr::V6(address) => std::net::SocketAddrV6::new(address, self.port(), 0, self.scope).into(),
        };
        let count = u32::from(PORTS.end() - PORTS.start());
        let mut last = io::Error::other("no port is free");
        for attempt in 0..16 {
            let offset = (spread(discriminator.into(), attempt) * f64::from(count)) as u16;
            match udp::connect(peer, self.source, PORTS.start() + offset, self.interface.as_deref()) {
                Ok(socket) => return Ok(socket),
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

impl Watched {
    fn carry_out(&mut self) {
        while let Some(output) = self.session.poll_output() {
            match output {
                Output::Send(packet) => {
                    let sent = self.send(&packet.to_bytes());
                    let trouble = sent.err().map(|error| error.to_string());
                    if trouble.is_some() && self.trouble != trouble {
                        let text = trouble.clone().unwrap_or_default();
                        tracing::debug!(address = %self.target.address, "cannot send a BFD packet: {text}");
                    }
                    self.trouble = trouble;
                }
                Output::Changed(before, after, why) => {
                    let path = match (after, why) {
                        (State::Up, _) => Path::Up,
                        (State::Down, Diagnostic::AdministrativelyDown) | (State::AdminDown, _) => {
                            Path::Unknown
                        }
                        (State::Down, why) if before == State::Up => Path::Down(why),
                        _ => continue,
                    };
                    let address = self.target.address;
                    match path {
                        Path::Down(why) => tracing::warn!(%address, "BFD: down: {why}"),
                        Path::Up => tracing::info!(%address, "BFD: up"),
                        Path::Unknown => tracing::info!(%address, "BFD: switched off"),
                    }
                    self.path.send_replace(path);
                }
            }
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => self.target.connect(self.discriminator)?,
        };
        // A socket whose address or interface went is made anew for the next packet.
        socket.send(bytes)?;
        self.socket = Some(socket);
        Ok(())
    }
}
