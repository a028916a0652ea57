//! All peers: those that come are started, those that go are told so; connections that peers make find their task.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::driver::{Channels, Driver, Farewell, said};
use super::packet::Cease;
use super::peers::Config;
use crate::bfd::driver::Bfd;
use crate::model::AdvertisedRoutes;
use crate::model::Family;
use crate::net::tcp;
use crate::telemetry::Telemetry;
use crate::telemetry::bgp::{PeerStatus, Question};

/// How soon a port that is taken is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// How long all peers may take to end.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a peer's task may take to tell how it does.
const ANSWER: Duration = Duration::from_millis(500);

/// A connection that somebody made, and who it was.
type Accepted = (TcpStream, SocketAddr);

/// A task for one peer, as seen from outside.
#[derive(Debug)]
struct Handle {
    config: Config,
    accepted: mpsc::Sender<TcpStream>,
    asked: mpsc::Sender<oneshot::Sender<PeerStatus>>,
    farewell: watch::Sender<Farewell>,
    task: JoinHandle<io::Result<()>>,
}

/// What flows in.
#[derive(Debug)]
pub struct Feeds {
    /// Who is to be talked to.
    pub peers: watch::Receiver<Arc<Vec<Config>>>,
    /// What they are told.
    pub announced: watch::Receiver<AdvertisedRoutes>,
    /// Who wants to know how they do.
    pub questions: mpsc::Receiver<Question>,
    /// When and why all ends.
    pub farewell: watch::Receiver<Farewell>,
    /// Where peers may connect, if any is waited for.
    pub port: u16,
}

/// All peers.
#[derive(Debug)]
pub struct Speaker {
    feeds: Feeds,
    telemetry: Arc<Telemetry>,
    peers: BTreeMap<String, Handle>,
    bfd: Option<Bfd>,
    leaving: JoinSet<()>,
    listening: JoinSet<()>,
    accepted_in: mpsc::Sender<Accepted>,
    accepted: mpsc::Receiver<Accepted>,
}

impl Speaker {
    /// Nobody is talked to yet.
    pub fn new(feeds: Feeds, telemetry: Arc<Telemetry>) -> Self {
        let (accepted_in, accepted) = mpsc::channel(16);
        Self {
            feeds,
            telemetry,
            peers: BTreeMap::new(),
            bfd: None,
            leaving: JoinSet::new(),
            listening: JoinSet::new(),
            accepted_in,
            accepted,
        }
    }

    /// Until somebody says farewell.
    ///
    /// # Errors
    /// If a peer's task ends by itself: the kernel gives us no timer.
    pub async fn run(mut self) -> io::Result<()> {
        self.follow();
        loop {
            tokio::select! {
                farewell = said(&mut self.feeds.farewell) => {
                    self.say(farewell).await;
                    return Ok(());
                }
                Ok(()) = self.feeds.peers.changed() => self.follow(),
                Some((stream, from)) = self.accepted.recv() => self.pass_on(stream, from),
                Some(question) = self.feeds.questions.recv() => self.answer(question),
                Some(_) = self.leaving.join_next() => {}
            }
        }
    }

    async fn say(mut self, farewell: (Cease, String)) {
        self.listening.abort_all();
        for handle in self.peers.values() {
            handle.farewell.send_replace(Some(farewell.clone()));
        }
        let tasks = self.peers.into_values().map(|handle| handle.task);
        drop(timeout(PATIENCE, join_all(tasks)).await);
    }

    /// Start who is new, end who has gone; whose configuration changed is started anew.
    fn follow(&mut self) {
        let wanted = self.feeds.peers.borrow_and_update().clone();
        let find = |name: &str| wanted.iter().find(|config| config.name == name);
        let (stay, go): (BTreeMap<_, _>, BTreeMap<_, _>) =
            std::mem::take(&mut self.peers).into_iter().partition(|(name, handle)| {
                find(name).is_some_and(|config| *config == handle.config) && !handle.task.is_finished()
            });
        self.peers = stay;
        for (name, handle) in go {
            let why = if find(&name).is_some() { Cease::ConfigurationChange } else { Cease::Deconfigured };
            handle.farewell.send_replace(Some((why, String::new())));
            self.leaving.spawn(async move { drop(handle.task.await) });
        }
        for config in wanted.iter() {
            if !self.peers.contains_key(&config.name) {
                let handle = self.start(config.clone());
                self.peers.insert(config.name.clone(), handle);
            }
        }
        self.listen();
    }

    fn start(&mut self, config: Config) -> Handle {
        let (accepted, accepted_out) = mpsc::channel(4);
        let (asked, asked_out) = mpsc::channel(4);
        let (farewell, farewell_out) = watch::channel(None);
        let channels = Channels {
            announced: self.feeds.announced.clone(),
            accepted: accepted_out,
            asked: asked_out,
            farewell: farewell_out,
        };
        let driver = Driver::new(config.clone(), channels, self.telemetry.clone(), self.bfd(&config));
        Handle { config, accepted, asked, farewell, task: tokio::spawn(driver.run()) }
    }

    /// BFD, where the peer is watched by it. Its thread is there once somebody needs it.
    fn bfd(&mut self, config: &Config) -> Option<&Bfd> {
        if config.bfd.is_some() && self.bfd.is_none() {
            match Bfd::start() {
                Ok(bfd) => self.bfd = Some(bfd),
                Err(error) => tracing::error!("BFD cannot be used: {error}"),
            }
        }
        self.bfd.as_ref()
    }

    /// Listen where a peer is to connect to us.
    fn listen(&mut self) {
        self.listening.abort_all();
        let passive = self.peers.values().filter(|handle| handle.config.settings.passive);
        let peers: Vec<&Handle> = passive.collect();
        for family in Family::BOTH {
            let of_family = peers.iter().filter_map(|handle| {
                let address = handle.config.address;
                (Family::of(address) == family).then_some((address, handle.config.route.password.clone()))
            });
            let of_family: Vec<(IpAddr, Option<String>)> = of_family.collect();
            if of_family.is_empty() {
                continue;
            }
            let passwords =
                of_family.into_iter().filter_map(|(address, password)| Some((address, password?))).collect();
            let any: IpAddr = match family {
                Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
                Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
            };
            let address = SocketAddr::new(any, self.feeds.port);
            self.listening.spawn(accept(address, passwords, self.accepted_in.clone()));
        }
    }

    fn pass_on(&self, stream: TcpStream, from: SocketAddr) {
        let is_it = |handle: &&Handle| handle.config.address == from.ip().to_canonical();
        match self.peers.values().find(is_it) {
            Some(handle) => drop(handle.accepted.try_send(stream)),
            None => tracing::debug!(%from, "closing a connection of somebody who is no BGP peer"),
        }
    }

    fn answer(&mut self, question: Question) {
        let asks: Vec<_> = self
            .peers
            .values()
            .filter_map(|handle| {
                let (ask, answer) = oneshot::channel();
                handle.asked.try_send(ask).ok().map(|()| timeout(ANSWER, answer))
            })
            .collect();
        self.leaving.spawn(async move {
            let answers = join_all(asks).await.into_iter();
            drop(question.send(answers.filter_map(|answer| answer.ok()?.ok()).collect()));
        });
    }
}

/// Accept connections for ever; a port that is taken is tried again.
async fn accept(address: SocketAddr, passwords: Vec<(IpAddr, String)>, accepted: mpsc::Sender<Accepted>) {
    let mut told = None;
    loop {
        match tcp::listen(address, &passwords) {
            Ok(listener) => pass_all(&listener, &accepted).await,
            Err(error) => {
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    tracing::error!(%address, "cannot wait for BGP peers to connect: {text}; trying again");
                    told = Some(text);
                }
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn pass_all(listener: &TcpListener, accepted: &mpsc::Sender<Accepted>) {
    while let Ok(connection) = listener.accept().await {
        if accepted.send(connection).await.is_err() {
            return;
        }
    }
}
