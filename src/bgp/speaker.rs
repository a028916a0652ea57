//! All peers: starts and stops their tasks as the configuration changes, and accepts connections for passive peers.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::driver::{self, Driver};
use super::packet::Notification;
use super::peers::Config;
use super::status::{StatusPublisher, StatusRequests};
use crate::bfd::driver::Bfd;
use crate::model::{AdvertisedRoutes, Family, LogOnChange};
use crate::net::tcp;

/// Pause before listening again on a port in use.
const LISTEN_RETRY: Duration = Duration::from_secs(1);
/// Limit for closing all sessions at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// The NOTIFICATION that closes sessions; None while the speaker runs.
pub type ShutdownReason = Option<Notification>;

/// Waits for a shutdown reason, or for the sender to be dropped.
pub(super) async fn shutdown_requested(shutdown: &mut watch::Receiver<ShutdownReason>) -> Notification {
    let reason = shutdown.wait_for(Option::is_some).await;
    reason.ok().and_then(|reason| reason.clone()).unwrap_or_else(|| Notification::shutdown(""))
}

type Accepted = (TcpStream, SocketAddr);

/// The task of one peer.
#[derive(Debug)]
struct PeerTask {
    config: Config,
    accepted: mpsc::Sender<TcpStream>,
    shutdown: watch::Sender<ShutdownReason>,
    task: JoinHandle<io::Result<()>>,
}

#[derive(Debug)]
pub struct Channels {
    pub peers: watch::Receiver<Arc<Vec<Config>>>,
    pub announced: watch::Receiver<AdvertisedRoutes>,
    pub status_requests: StatusRequests,
    pub shutdown: watch::Receiver<ShutdownReason>,
}

#[derive(Debug)]
pub struct Speaker {
    channels: Channels,
    /// For passive peers.
    listen_port: u16,
    publisher: StatusPublisher,
    peers: BTreeMap<String, PeerTask>,
    /// Started with the first peer that uses it.
    bfd: Option<Bfd>,
    background: JoinSet<()>,
    listeners: JoinSet<()>,
    accepted_in: mpsc::Sender<Accepted>,
    accepted: mpsc::Receiver<Accepted>,
}

impl Speaker {
    pub fn new(channels: Channels, listen_port: u16, publisher: StatusPublisher) -> Self {
        let (accepted_in, accepted) = mpsc::channel(16);
        Self {
            channels,
            listen_port,
            publisher,
            peers: BTreeMap::new(),
            bfd: None,
            background: JoinSet::new(),
            listeners: JoinSet::new(),
            accepted_in,
            accepted,
        }
    }

    /// Runs until shutdown.
    pub async fn run(mut self) {
        self.update_peers();
        loop {
            tokio::select! {
                reason = shutdown_requested(&mut self.channels.shutdown) => return self.shutdown(reason).await,
                Ok(()) = self.channels.peers.changed() => self.update_peers(),
                Some((stream, from)) = self.accepted.recv() => self.on_accepted(stream, from),
                Some(_) = self.background.join_next() => {}
            }
        }
    }

    async fn shutdown(mut self, reason: Notification) {
        self.listeners.abort_all();
        for peer in self.peers.values() {
            peer.shutdown.send_replace(Some(reason.clone()));
        }
        let tasks = self.peers.into_values().map(|peer| peer.task);
        drop(timeout(SHUTDOWN_TIMEOUT, join_all(tasks)).await);
    }

    /// Starts new peers, stops removed ones, and restarts those whose configuration changed.
    fn update_peers(&mut self) {
        let configured = self.channels.peers.borrow_and_update().clone();
        let find = |name: &str| configured.iter().find(|config| config.name == name);
        let obsolete =
            |name: &String, peer: &mut PeerTask| find(name) != Some(&peer.config) || peer.task.is_finished();
        for (name, peer) in self.peers.extract_if(.., obsolete) {
            let reason = match find(&name) {
                Some(_) => Notification::CONFIGURATION_CHANGE,
                None => Notification::DECONFIGURED,
            };
            peer.shutdown.send_replace(Some(reason));
            self.background.spawn(async move { drop(peer.task.await) });
        }
        for config in configured.iter() {
            if !self.peers.contains_key(&config.name) {
                let peer = self.start(config.clone());
                self.peers.insert(config.name.clone(), peer);
            }
        }
        self.listen();
    }

    fn start(&mut self, config: Config) -> PeerTask {
        let (accepted, accepted_out) = mpsc::channel(4);
        let (shutdown, shutdown_out) = watch::channel(None);
        let channels = driver::Channels {
            announced: self.channels.announced.clone(),
            accepted: accepted_out,
            status_requests: self.channels.status_requests.subscribe(),
            shutdown: shutdown_out,
        };
        let driver = Driver::new(config.clone(), channels, self.publisher.clone(), self.bfd(&config));
        PeerTask { config, accepted, shutdown, task: tokio::spawn(driver.run()) }
    }

    fn bfd(&mut self, config: &Config) -> Option<&Bfd> {
        if config.bfd.is_some() && self.bfd.is_none() {
            match Bfd::start() {
                Ok(bfd) => self.bfd = Some(bfd),
                Err(error) => tracing::error!("cannot start BFD: {error}"),
            }
        }
        self.bfd.as_ref()
    }

    /// Listens for each family that has a passive peer.
    fn listen(&mut self) {
        self.listeners.abort_all();
        for family in Family::BOTH {
            let peers: Vec<&Config> = self.peers.values().map(|peer| &peer.config).collect();
            let is_passive =
                |peer: &&Config| peer.settings.passive && Family::of(peer.address.ip()) == family;
            if !peers.iter().any(is_passive) {
                continue;
            }
            let passwords = passwords(&peers, family);
            let address = SocketAddr::new(family.address(0), self.listen_port);
            self.listeners.spawn(accept(address, passwords, self.accepted_in.clone()));
        }
    }

    fn on_accepted(&self, stream: TcpStream, from: SocketAddr) {
        let from_address = from.ip().to_canonical();
        match self.peers.values().find(|peer| peer.config.address.ip() == from_address) {
            Some(peer) => drop(peer.accepted.try_send(stream)),
            None => tracing::debug!(%from, "BGP: closing a connection of an address that is not a peer"),
        }
    }
}

/// Segments of every peer with a password have to be signed, also of those that this host connects to: a connection from the
/// address of a peer is accepted as the peer's.
fn passwords(peers: &[&Config], family: Family) -> Vec<(IpAddr, String)> {
    let password = |peer: &&Config| Some((peer.address.ip(), peer.route.password.clone()?));
    let of_family = peers.iter().filter(|peer| Family::of(peer.address.ip()) == family);
    of_family.filter_map(password).collect()
}

/// Accepts connections until aborted; listens again after errors.
async fn accept(address: SocketAddr, passwords: Vec<(IpAddr, String)>, accepted: mpsc::Sender<Accepted>) {
    let mut logged = LogOnChange::default();
    loop {
        match tcp::listen(address, &passwords) {
            Ok((listener, unsigned)) => {
                for (peer, error) in &unsigned {
                    tracing::error!(%peer, "BGP: no connection from this peer is accepted: {error}");
                }
                while let Ok(connection) = listener.accept().await {
                    if unsigned.contains_key(&connection.1.ip().to_canonical()) {
                        continue;
                    }
                    if accepted.send(connection).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                if logged.set(error.to_string()) {
                    tracing::error!(%address, "cannot listen for BGP peers: {error}; retrying");
                }
            }
        }
        tokio::time::sleep(LISTEN_RETRY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bgp::peers::tests::{bgp, host};

    #[test]
    fn a_listener_knows_the_passwords_of_all_peers() {
        let text = r#"[{"address": "192.0.2.1", "as": 65001, "passive": true},
            {"address": "192.0.2.2", "as": 65001, "password": "secret"}]"#;
        let (peers, problems) = crate::bgp::peers::resolve(&bgp(text), &host(), false);
        assert_eq!((peers.len(), problems.len()), (2, 0), "{problems:?}");
        let peers: Vec<&Config> = peers.iter().collect();
        let signed = vec![("192.0.2.2".parse().unwrap(), "secret".to_owned())];
        assert_eq!(passwords(&peers, Family::V4), signed);
    }
}
