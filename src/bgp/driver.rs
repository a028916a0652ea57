//! One peer: its connections, its clock and its status.

use std::io;
use std::time::Duration;

use futures::future::OptionFuture;
use tokio::net::TcpStream;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::timeout;

use super::fsm::{CloseReason, ConnectionError, Direction, FsmState, Input, Output, Peer, Session};
use super::packet::{GracefulRestart, Notification, ReceivedUpdate};
use super::path::PathMonitor;
use super::peers::Config;
use super::rib_in::RibIn;
use super::rib_out::{Export, RibOut};
use super::speaker::{ShutdownReason, shutdown_requested};
use super::status::{PeerStatus, StatusPublisher, StatusRequest};
use super::transports::Transports;
use crate::bfd::driver::Bfd;
use crate::bfd::path::PathState;
use crate::model::{AdvertisedRoutes, BootTime};
use crate::net::clock::{self, Timer};
use crate::net::tcp::{self, Hops};

/// Limit for sending the last UPDATEs, and for flushing the connections, at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(300);

#[derive(Debug)]
pub(super) struct Channels {
    pub(super) announced: watch::Receiver<AdvertisedRoutes>,
    /// Connections opened by the peer.
    pub(super) accepted: mpsc::Receiver<TcpStream>,
    pub(super) status_requests: broadcast::Receiver<StatusRequest>,
    pub(super) shutdown: watch::Receiver<ShutdownReason>,
}

/// The connection of the established session.
struct Established {
    direction: Direction,
    restart: Option<GracefulRestart>,
    since: BootTime,
}

pub(super) struct Driver {
    config: Config,
    channels: Channels,
    publisher: StatusPublisher,
    peer: Peer,
    rib_out: RibOut,
    rib_in: RibIn,
    transports: Transports,
    established: Option<Established>,
    /// None without BFD.
    path: Option<PathMonitor>,
    status: PeerStatus,
}

impl Driver {
    pub(super) fn new(
        config: Config,
        channels: Channels,
        publisher: StatusPublisher,
        bfd: Option<&Bfd>,
    ) -> Self {
        let path = bfd.zip(config.bfd.clone()).map(|(bfd, session)| PathMonitor::new(bfd, session));
        let mut status = PeerStatus::new(&config.name, config.settings.peer_as);
        status.bfd = path.as_ref().map(|_| PathState::Unknown.to_string());
        Self {
            peer: Peer::new(config.settings.clone()),
            config,
            channels,
            publisher,
            rib_out: RibOut::default(),
            rib_in: RibIn::default(),
            transports: Transports::default(),
            established: None,
            path,
            status,
        }
    }

    /// Runs until shutdown.
    pub(super) async fn run(mut self) -> io::Result<()> {
        let mut timer = Timer::new()?;
        self.update_routes();
        self.publisher.update(&self.status);
        self.peer.handle_input(clock::now(), Input::Start);
        loop {
            self.execute();
            self.send_updates();
            let deadline = [self.peer.poll_timeout(), self.rib_in.poll_timeout()].into_iter().flatten().min();
            let path = OptionFuture::from(self.path.as_mut().map(PathMonitor::changed));
            tokio::select! {
                Some(state) = path => self.on_path_change(state),
                reason = shutdown_requested(&mut self.channels.shutdown) => {
                    return self.shutdown(reason).await;
                }
                Ok(()) = self.channels.announced.changed() => self.update_routes(),
                input = self.transports.next() => self.on_transport_event(input),
                Some(stream) = self.channels.accepted.recv() => self.on_accepted(stream),
                reply = self.channels.status_requests.recv() => {
                    // An error: this task was late, and the requests that wait are received next.
                    if let Ok(reply) = reply {
                        drop(reply.send(self.status.with_routes(&self.rib_in, &self.rib_out)));
                    }
                }
                () = timer.until(deadline) => {
                    self.peer.handle_timeout(clock::now());
                    self.rib_in.handle_timeout(clock::now());
                }
            }
        }
    }

    /// Sends the last route changes, then the NOTIFICATION.
    async fn shutdown(mut self, notification: Notification) -> io::Result<()> {
        self.update_routes();
        let synchronized = async {
            while self.established.is_some() {
                self.execute();
                self.send_updates();
                if self.rib_out.is_synchronized() && self.transports.is_flushed() {
                    break;
                }
                let input = self.transports.next().await;
                self.on_transport_event(input);
            }
        };
        drop(timeout(SHUTDOWN_TIMEOUT, synchronized).await);
        self.peer.handle_input(clock::now(), Input::Stop(notification));
        self.execute();
        self.publisher.remove(&self.config.name);
        drop(timeout(SHUTDOWN_TIMEOUT, self.transports.finish()).await);
        Ok(())
    }

    fn update_routes(&mut self) {
        let AdvertisedRoutes { routes, complete, .. } = self.channels.announced.borrow_and_update().clone();
        self.rib_out.set_desired(routes, complete);
    }

    /// Encodes UPDATEs only while the send buffer has room: pending routes can still change.
    fn send_updates(&mut self) {
        let Some(Established { direction, .. }) = self.established else { return };
        let before = self.rib_out.sent().len();
        while self.transports.has_room(direction) {
            let Some(bytes) = self.rib_out.poll_output() else { break };
            self.transports.send(direction, &bytes);
        }
        let sent = self.rib_out.sent().len();
        if sent != before || sent != self.status.sent {
            self.status.sent = sent;
            self.publisher.update(&self.status);
        }
    }

    fn on_transport_event(&mut self, input: Option<Input>) {
        if let Some(input) = input {
            self.peer.handle_input(clock::now(), input);
        }
    }

    fn on_accepted(&mut self, stream: TcpStream) {
        // A peer that reconnects has to wait until its former connection is known to be dead.
        if self.transports.contains(Direction::Incoming) {
            return;
        }
        let Ok(peer) = stream.peer_addr() else { return };
        if let Err(error) = tcp::adopt(&stream, peer, &self.config.route) {
            return self.report_error(format!("cannot configure the connection opened by the peer: {error}"));
        }
        self.transports.insert(Direction::Incoming, stream);
        self.peer.handle_input(clock::now(), Input::Connected(Direction::Incoming));
    }

    fn execute(&mut self) {
        while let Some(output) = self.peer.poll_output() {
            match output {
                Output::Dial => self.transports.dial(self.config.address, self.config.route.clone()),
                Output::Send(direction, bytes) => self.transports.send(direction, &bytes),
                Output::Close(direction) => self.transports.close(direction),
                Output::Up(direction, session) => self.session_up(direction, session),
                Output::Down { established: true, reason } => self.session_down(reason),
                Output::Down { established: false, reason } => {
                    self.report_error(describe(&reason, self.config.route.hops));
                }
                Output::Routes(update) => self.on_update(&update),
                Output::Refresh(family) => self.rib_out.refresh(family),
                Output::StateChanged(before, after) => self.on_state_change(before, after),
            }
        }
    }

    fn on_update(&mut self, update: &ReceivedUpdate) {
        self.rib_in.handle_update(update);
        self.status.received = self.rib_in.routes().0.len();
        if !update.malformed.is_empty() {
            self.report_error(format!(
                "UPDATE with malformed attributes (types {:?}): its routes are withdrawn",
                update.malformed
            ));
        }
    }

    fn on_path_change(&mut self, state: PathState) {
        self.status.bfd = Some(state.to_string());
        let now = clock::now();
        let established = self.established.as_ref().map(|established| established.since);
        if self.path.as_ref().is_some_and(|path| path.closes_session(state, established, now)) {
            self.peer.handle_input(now, Input::PathDown);
        }
        self.publisher.update(&self.status);
    }

    fn session_up(&mut self, direction: Direction, session: Session) {
        let Some(addresses) = self.transports.addresses(direction) else { return };
        let export = Export::new(
            self.config.settings.local_as,
            addresses.0.ip(),
            &self.config.next_hops,
            &session,
            self.config.defaults.clone(),
        );
        self.status.session_up(addresses, &session, &export.next_hops);
        for family in session.families.iter().filter(|family| export.next_hops[**family].is_none()) {
            tracing::warn!(
                peer = self.config.name,
                "BGP: {family} routes are not advertised: no {family} next hop; set mpbgp_nexthop"
            );
        }
        self.rib_in.session_up(session.restart.as_ref());
        let restart = session.restart.clone();
        self.established = Some(Established { direction, restart, since: clock::now() });
        self.rib_out.session_up(session, export);
    }

    fn session_down(&mut self, reason: CloseReason) {
        let established = self.established.take();
        // A NOTIFICATION ends graceful restart (RFC 4724 §4.2).
        let established = established.filter(|_| matches!(reason, CloseReason::Lost(_)));
        let restart = established.and_then(|established| established.restart);
        self.rib_in.session_down(clock::now(), restart.as_ref());
        self.rib_out.session_down();
        self.status.session_down();
        self.status.received = self.rib_in.routes().0.len();
        tracing::warn!(peer = self.config.name, %reason, "the BGP session is down");
        self.status.last_error = Some(reason.to_string());
        self.publisher.session_down(&self.config.name, &reason);
    }

    /// Logs and publishes an error that does not end an established session, unless it is the last one already.
    fn report_error(&mut self, text: String) {
        if self.status.last_error.as_ref() != Some(&text) {
            tracing::warn!(peer = self.config.name, state = %self.status.state, "BGP: {text}");
            self.status.last_error = Some(text);
        }
    }

    fn on_state_change(&mut self, before: FsmState, after: FsmState) {
        self.status.set_state(after, clock::now());
        if after == FsmState::Established {
            self.status.last_error = None;
            let families = self.status.families.join(", ");
            tracing::info!(peer = self.config.name, asn = self.status.asn, families, "the BGP session is up");
            self.publisher.session_up(&self.config.name);
        } else {
            tracing::debug!(peer = self.config.name, from = %before, to = %after, "BGP");
        }
        self.publisher.update(&self.status);
    }
}

/// Why an attempt failed, with a hint about the most likely cause.
fn describe(reason: &CloseReason, hops: Hops) -> String {
    match (reason, hops) {
        (CloseReason::Lost(ConnectionError { kind: io::ErrorKind::TimedOut, message }), Hops::Direct) => {
            format!("{message}; a peer that is not on the same network needs multihop")
        }
        (reason, _) => reason.to_string(),
    }
}
