//! One peer: its sockets, its clock, and what is told about it.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::fsm::{Ending, Input, Output, Peer, Session, Side, State};
use super::links::{Event, Links};
use super::packet::{Cease, NextHop};
use super::peers::Config;
use super::rib_in::RibIn;
use super::rib_out::{Export, RibOut};
use crate::bfd::driver::{Bfd, Path};
use crate::model::{AdvertisedRoutes, BootTime, Family, PerFamily};
use crate::net::clock::{self, Timer};
use crate::net::tcp::{self, Hops};
use crate::telemetry::Telemetry;
use crate::telemetry::bgp::{Learnt, PeerStatus};

/// How long a peer may take to hear of the last changes before the session is closed.
const FAREWELL: Duration = Duration::from_millis(300);

/// How soon a peer that restarted tells that its last BFD session is over, at the latest: those that are not up speak
/// once in a second (RFC 5880 §6.8.3).
const SECOND_LIFE: Duration = Duration::from_secs(1);

/// Why sessions are closed.
pub type Farewell = Option<(Cease, String)>;

/// Until somebody says farewell, or nobody is left to.
pub(super) async fn said(farewell: &mut watch::Receiver<Farewell>) -> (Cease, String) {
    let said = farewell.wait_for(Option::is_some).await;
    said.ok().and_then(|farewell| farewell.clone()).unwrap_or((Cease::Shutdown, String::new()))
}

/// What flows in.
#[derive(Debug)]
pub(super) struct Channels {
    pub(super) announced: watch::Receiver<AdvertisedRoutes>,
    /// Connections that the peer made.
    pub(super) accepted: mpsc::Receiver<TcpStream>,
    /// Who wants to know about it, and all of what the peer told us.
    pub(super) asked: mpsc::Receiver<oneshot::Sender<PeerStatus>>,
    pub(super) farewell: watch::Receiver<Farewell>,
}

type Dialling = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// A peer and its memory.
pub(super) struct Driver {
    config: Config,
    channels: Channels,
    telemetry: Arc<Telemetry>,
    peer: Peer,
    rib_out: RibOut,
    rib_in: RibIn,
    links: Links,
    dialling: Option<Dialling>,
    /// What BFD says of the way to the peer, where it is used.
    path: Option<watch::Receiver<Path>>,
    /// Since when BFD says that the way is there.
    path_since: BootTime,
    /// The connection that routes are exchanged on.
    up: Option<(Side, Session)>,
    /// Since when there is one.
    up_since: BootTime,
    status: PeerStatus,
}

impl Driver {
    pub(super) fn new(
        config: Config,
        channels: Channels,
        telemetry: Arc<Telemetry>,
        bfd: Option<&Bfd>,
    ) -> Self {
        let path = bfd.zip(config.bfd_target()).map(|(bfd, target)| bfd.watch(target));
        let mut status = PeerStatus::new(&config.name, config.settings.peer_as);
        status.bfd = path.as_ref().map(|_| "not up yet".to_owned());
        Self {
            peer: Peer::new(config.settings.clone()),
            config,
            channels,
            telemetry,
            rib_out: RibOut::default(),
            rib_in: RibIn::default(),
            links: Links::default(),
            dialling: None,
            path,
            path_since: BootTime::default(),
            up: None,
            up_since: BootTime::default(),
            status,
        }
    }

    /// Until somebody says farewell.
    pub(super) async fn run(mut self) -> io::Result<()> {
        let mut timer = Timer::new()?;
        self.learn_routes();
        self.telemetry.peer(&self.status);
        self.peer.handle_input(clock::now(), Input::Start);
        loop {
            self.carry_out();
            self.fill();
            let deadline = [self.peer.poll_timeout(), self.rib_in.poll_timeout()].into_iter().flatten().min();
            let dialled = async {
                match &mut self.dialling {
                    Some(dialling) => dialling.await,
                    None => std::future::pending().await,
                }
            };
            let path = async {
                match &mut self.path {
                    Some(path) => path.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                alive = path => if alive { self.follow_path() } else { self.path = None },
                farewell = said(&mut self.channels.farewell) => return self.say(farewell).await,
                Ok(()) = self.channels.announced.changed() => self.learn_routes(),
                event = self.links.next() => self.handle(event),
                dialled = dialled => {
                    self.dialling = None;
                    self.dialled(dialled);
                }
                Some(stream) = self.channels.accepted.recv() => self.accept(stream),
                Some(asked) = self.channels.asked.recv() => drop(asked.send(self.detail())),
                () = timer.until(deadline) => {
                    self.peer.handle_timeout(clock::now());
                    self.rib_in.handle_timeout(clock::now());
                }
            }
        }
    }

    /// Tell the peer the last changes, then that and why it ends.
    async fn say(mut self, (cease, reason): (Cease, String)) -> io::Result<()> {
        self.learn_routes();
        let told = async {
            while self.up.is_some() {
                self.carry_out();
                self.fill();
                if self.rib_out.is_done() && self.links.is_flushed() {
                    break;
                }
                let event = self.links.next().await;
                self.handle(event);
            }
        };
        drop(timeout(FAREWELL, told).await);
        self.peer.handle_input(clock::now(), Input::Stop(cease, &reason));
        self.carry_out();
        self.telemetry.peer_gone(&self.config.name);
        drop(timeout(FAREWELL, self.links.finish()).await);
        Ok(())
    }

    fn learn_routes(&mut self) {
        let AdvertisedRoutes { routes, complete, .. } = self.channels.announced.borrow_and_update().clone();
        self.rib_out.desire(routes, complete);
    }

    /// Routes go into the buffer while there is room: what has not gone there can still change.
    fn fill(&mut self) {
        let Some((side, _)) = self.up else { return };
        let before = self.rib_out.sent().len();
        while self.links.has_room(side) {
            let Some(bytes) = self.rib_out.poll() else { break };
            self.links.send(side, &bytes);
        }
        let sent = self.rib_out.sent().len();
        if sent != before || sent != self.status.sent {
            self.status.sent = sent;
            self.telemetry.peer(&self.status);
        }
    }

    fn handle(&mut self, event: Event) {
        let now = clock::now();
        match event {
            Event::Received(side, bytes) => self.peer.handle_input(now, Input::Received(side, &bytes)),
            Event::Closed(side, why) => self.peer.handle_input(now, Input::Closed(side, why)),
            Event::Room => {}
        }
    }

    fn dialled(&mut self, dialled: io::Result<TcpStream>) {
        let now = clock::now();
        match dialled {
            Ok(stream) => {
                self.links.add(Side::Outgoing, stream);
                self.peer.handle_input(now, Input::Connected(Side::Outgoing));
            }
            Err(error) => self.peer.handle_input(now, Input::Failed(error.to_string())),
        }
    }

    fn accept(&mut self, stream: TcpStream) {
        // A peer that comes back while its last connection is still there has to wait until that is seen to be dead.
        if self.links.has(Side::Incoming) {
            return;
        }
        let Ok(peer) = stream.peer_addr() else { return };
        if let Err(error) = tcp::adopt(&stream, peer, &self.config.route) {
            return self.trouble(&format!("cannot use the connection that the peer made: {error}"));
        }
        self.links.add(Side::Incoming, stream);
        self.peer.handle_input(clock::now(), Input::Connected(Side::Incoming));
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.peer.poll_output() {
            match output {
                Output::Dial => self.dial(),
                Output::Send(side, bytes) => self.links.send(side, &bytes),
                Output::HangUp(side) => self.links.hang_up(side),
                Output::Up(side, session) => self.begin(side, session),
                Output::Down { established, why } => self.end(established, &why),
                Output::Routes(routes) => {
                    self.rib_in.learn(&routes);
                    if !routes.faults.is_empty() {
                        self.trouble(&format!(
                            "the peer sends attributes that cannot be (types {:?}); their routes are left out",
                            routes.faults
                        ));
                    }
                    self.status.received = self.rib_in.routes().0.len();
                }
                Output::Refresh(family) => self.rib_out.refresh(family),
                Output::Changed(before, after) => self.changed(before, after),
            }
        }
    }

    /// A way that was there and is not any more takes the session with it, at once. One that has never been seen to be
    /// there says nothing (RFC 5882 §4.3): the peer may not have BFD.
    fn follow_path(&mut self) {
        let Some(path) = self.path.as_mut().map(|path| *path.borrow_and_update()) else { return };
        self.status.bfd = Some(match path {
            Path::Unknown => "not up yet".to_owned(),
            Path::Up => "up".to_owned(),
            Path::Down(why) => format!("down: {why}"),
        });
        let now = clock::now();
        match path {
            Path::Up => self.path_since = now,
            Path::Down(_) if !self.is_about_the_former_life(now) => {
                self.peer.handle_input(now, Input::PathDown);
            }
            Path::Down(_) | Path::Unknown => {}
        }
        self.telemetry.peer(&self.status);
    }

    /// A peer that restarts can be back before its last BFD session is seen to have ended: that one says nothing of the
    /// BGP session that came after it.
    fn is_about_the_former_life(&self, now: BootTime) -> bool {
        let detection =
            self.config.bfd.map(|bfd| bfd.receive * u32::from(bfd.multiplier)).unwrap_or_default();
        self.up.is_some()
            && self.path_since < self.up_since
            && now.since(self.up_since) < detection + SECOND_LIFE
    }

    fn dial(&mut self) {
        let peer = self.config.address();
        let route = self.config.route.clone();
        self.dialling = Some(Box::pin(async move { tcp::connect(peer, &route).await }));
    }

    fn begin(&mut self, side: Side, session: Session) {
        let Some((local, remote)) = self.links.ends(side) else { return };
        let export = Export {
            local_as: self.config.settings.local_as,
            next_hops: next_hops(local.ip(), &self.config.next_hops, &session),
            defaults: self.config.defaults.clone(),
        };
        self.status.describe(local, remote, &session, &export.next_hops);
        for family in session.families.iter().filter(|family| export.next_hops[**family].is_none()) {
            tracing::warn!(
                peer = self.config.name,
                "no {family} routes are announced: there is no {family} next hop (mpbgp_nexthop)"
            );
        }
        self.rib_in.begin(session.restart.as_ref());
        self.rib_out.begin(session.clone(), export);
        self.up = Some((side, session));
        self.up_since = clock::now();
    }

    fn end(&mut self, established: bool, why: &Ending) {
        let text = match (why, self.config.route.hops) {
            (Ending::Lost(text), Hops::Direct) if text.contains("timed out") => {
                format!("{text}; a peer that is not on the same link needs multihop")
            }
            (why, _) => why.to_string(),
        };
        if established {
            let promise = match why {
                // A NOTIFICATION ends the grace (RFC 4724 §4.2).
                Ending::Lost(_) => self.up.as_ref().and_then(|(_, session)| session.restart.clone()),
                Ending::Sent(_) | Ending::Received(_) => None,
            };
            self.rib_in.end(clock::now(), promise.as_ref());
            self.rib_out.end();
            self.up = None;
            self.status.undescribe();
            self.status.received = self.rib_in.routes().0.len();
            self.status.trouble = Some(text.clone());
            self.telemetry.peer_down(&self.status, &text);
        } else {
            self.trouble(&text);
        }
    }

    /// Something went wrong that is no change of the session.
    fn trouble(&mut self, text: &str) {
        if self.status.trouble.as_deref() != Some(text) {
            self.status.trouble = Some(text.to_owned());
            self.telemetry.peer_trouble(&self.status, text);
        }
    }

    fn changed(&mut self, before: State, after: State) {
        self.status.enter(after, clock::now());
        if after == State::Established {
            self.status.trouble = None;
            self.telemetry.peer_up(&self.status);
        } else {
            tracing::debug!(peer = self.config.name, from = %before, to = %after, "BGP");
        }
        self.telemetry.peer(&self.status);
    }

    /// Everything, for somebody who wants to see it.
    fn detail(&self) -> PeerStatus {
        let (routes, truncated) = self.rib_in.routes();
        let learnt = routes.iter().map(|(prefix, route)| Learnt {
            prefix: prefix.to_string(),
            next_hop: route.next_hop.map(|address| address.to_string()),
            stale: route.stale,
        });
        let mut status = self.status.clone();
        status.announced = self.rib_out.sent().map(ToString::to_string).collect();
        status.learnt = learnt.collect();
        status.truncated = truncated;
        status
    }
}

/// Where packets for our routes are to go. A session's own address serves its own family; and IPv4 as well, where both
/// sides speak RFC 8950.
fn next_hops(
    local: IpAddr,
    configured: &PerFamily<Option<IpAddr>>,
    session: &Session,
) -> PerFamily<Option<NextHop>> {
    let hop = |address: IpAddr| NextHop { address, link_local: None };
    let of = |family: Family| {
        let own = family == Family::of(local) || (family == Family::V4 && session.extended_next_hop);
        configured[family].or(own.then_some(local)).map(hop)
    };
    PerFamily { v4: of(Family::V4), v6: of(Family::V6) }
}
