//! Which API server to talk to.
//!
//! The one on this host first, by address: no name is looked up in DNS and the VIP is never used, so that the VIP
//! does not depend on itself. When it fails, the servers on the other hosts, remembered from better days and held
//! to the same CA. A server that failed once is passed over for a while, and its connections are dropped.

pub mod event;
pub mod peers;
pub mod source;
pub mod watch;
pub mod write;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use tokio::sync::watch::Sender;

use crate::model::{BootTime, Family, PerFamily};
use crate::net::clock;
pub use source::{Endpoint, Environment, Source, SourceError};

/// How long a server that failed is passed over while another one is to be had.
const PENALTY: Duration = Duration::from_secs(2);

/// How many servers of other hosts are remembered.
const REMEMBERED: usize = 16;

/// The API servers, and a client for each.
pub struct Api {
    settings: crate::config::Api,
    environment: Environment,
    state: Mutex<State>,
    failures: Sender<Option<String>>,
}

#[derive(Default)]
struct State {
    /// Credentials and CA; the server's address in it is replaced.
    base: Option<kube::Config>,
    /// The credentials have to be read again.
    stale: bool,
    servers: Vec<Server>,
    /// The server on this host by each family, where that is asked for: only to find out whether it answers there.
    by_family: PerFamily<Option<Server>>,
    prefer_peers: bool,
}

struct Server {
    endpoint: Endpoint,
    client: Option<Client>,
    avoid_until: Option<BootTime>,
}

/// A client, and the server it speaks to.
#[derive(Clone)]
pub struct ApiClient {
    /// The client.
    pub client: Client,
    /// Names the server in [`Api::failed`].
    pub server: String,
}

impl Api {
    /// Nothing is read or opened yet.
    pub fn new(settings: crate::config::Api, environment: Environment) -> Arc<Self> {
        let state = Mutex::new(State::default());
        Arc::new(Self { settings, environment, state, failures: Sender::new(None) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is whole between any two statements: a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client for the best server: the local one, then the others, those that failed lately last.
    ///
    /// # Errors
    /// If there are no credentials yet, or they cannot be used.
    pub async fn client(&self) -> Result<ApiClient, SourceError> {
        self.load().await?;
        let now = clock::now();
        let mut state = self.lock();
        let State { base, servers, prefer_peers, .. } = &mut *state;
        let best = servers
            .iter_mut()
            .min_by_key(|server| {
                let avoided = server.avoid_until.filter(|until| now < *until);
                (avoided.is_some(), server.endpoint.local == *prefer_peers, avoided)
            })
            .ok_or(SourceError::NoServer)?;
        best.chosen(base.as_ref())
    }

    /// A client for the server on this host.
    ///
    /// # Errors
    /// As for [`Api::client`].
    pub async fn local_client(&self) -> Result<ApiClient, SourceError> {
        self.load().await?;
        let mut state = self.lock();
        let State { base, servers, .. } = &mut *state;
        let server = servers.iter_mut().find(|server| server.endpoint.local);
        server.ok_or(SourceError::NoServer)?.chosen(base.as_ref())
    }

    /// A client for the server on this host by an address of this family: an address that was configured, whatever its
    /// family is, else one that was found, else loopback.
    ///
    /// # Errors
    /// As for [`Api::client`].
    pub async fn local_client_by(&self, family: Family) -> Result<ApiClient, SourceError> {
        self.load().await?;
        let configured = self.settings.address.is_some();
        let mut state = self.lock();
        let State { base, servers, by_family, .. } = &mut *state;
        let mut local = servers.iter().filter(|server| server.endpoint.local).map(|server| &server.endpoint);
        let first = local.clone().next().ok_or(SourceError::NoServer)?;
        let endpoint = match local.find(|endpoint| configured || endpoint.family() == Some(family)) {
            Some(endpoint) => endpoint.clone(),
            None => first.on_loopback(family, self.settings.port),
        };
        let known = by_family[family].take().filter(|server| server.endpoint == endpoint);
        let server = known.unwrap_or(Server { endpoint, client: None, avoid_until: None });
        by_family[family].insert(server).chosen(base.as_ref())
    }

    /// Clients for the servers on other hosts.
    pub fn peers(&self) -> Vec<ApiClient> {
        let mut state = self.lock();
        let State { base, servers, .. } = &mut *state;
        let peers = servers.iter_mut().filter(|server| !server.endpoint.local);
        peers.filter_map(|server| server.chosen(base.as_ref()).ok()).collect()
    }

    /// A call to `server` got no answer: drop its connections and pass it over for a while.
    pub fn failed(&self, server: &str) {
        let mut state = self.lock();
        for known in state.servers.iter_mut().filter(|known| known.endpoint.url == server) {
            known.client = None;
            known.avoid_until = Some(clock::now() + PENALTY);
        }
        // Credentials are replaced now and then; whatever fails may fail for that.
        state.stale = true;
        drop(state);
        self.failures.send_replace(Some(server.to_owned()));
    }

    /// Ends when `server` is next reported as failed.
    pub async fn until_failed(&self, server: &str) {
        let mut failures = self.failures.subscribe();
        // The sender lives as long as `self`: `changed` cannot fail.
        while failures.changed().await.is_ok() {
            if failures.borrow_and_update().as_deref() == Some(server) {
                return;
            }
        }
    }

    /// Whether to go to the servers on other hosts first, because the one here is known to be down.
    pub fn prefer_peers(&self, prefer: bool) {
        self.lock().prefer_peers = prefer;
    }

    /// Remember servers on other hosts, the latest [`REMEMBERED`] of them. Our own addresses are left out.
    pub fn remember(&self, servers: &[SocketAddr]) {
        let mut state = self.lock();
        let tls_name = state.servers.iter().find_map(|server| server.endpoint.tls_name.clone());
        let avoid = |ip: &IpAddr| self.environment.own.contains(ip) || self.environment.vips.contains(ip);
        for address in servers.iter().filter(|address| !avoid(&address.ip())) {
            let url = format!("https://{address}");
            if !state.servers.iter().any(|server| server.endpoint.url == url) {
                let endpoint = Endpoint { url, tls_name: tls_name.clone(), local: false, given: false };
                state.servers.push(Server { endpoint, client: None, avoid_until: None });
            }
        }
        let learnt = state.servers.iter().filter(|server| !server.endpoint.given).count();
        let mut surplus = learnt.saturating_sub(REMEMBERED);
        state.servers.retain(|server| {
            let forget = !server.endpoint.given && surplus > 0;
            surplus -= usize::from(forget);
            !forget
        });
    }

    /// Read the credentials, if they are not there or have to be read again.
    async fn load(&self) -> Result<(), SourceError> {
        let (known, stale) = {
            let state = self.lock();
            (state.base.is_some(), state.stale)
        };
        if known && !stale {
            return Ok(());
        }
        let loaded = Source::load(&self.settings, &self.environment).await;
        let mut state = self.lock();
        state.stale = false;
        let source = match loaded {
            Ok(source) => source,
            // A file in the middle of being replaced: what was read before may still be good.
            Err(_) if known => return Ok(()),
            Err(error) => return Err(error),
        };
        if !known {
            tracing::info!(credentials = %source.origin, servers = %source.list(), "found the API servers");
        }
        for endpoint in source.endpoints {
            if !state.servers.iter().any(|server| server.endpoint == endpoint) {
                state.servers.push(Server { endpoint, client: None, avoid_until: None });
            }
        }
        state.base = Some(source.base);
        Ok(())
    }
}

impl Server {
    fn chosen(&mut self, base: Option<&kube::Config>) -> Result<ApiClient, SourceError> {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => {
                let client = self.endpoint.connect(base.ok_or(SourceError::NoServer)?)?;
                self.client.insert(client).clone()
            }
        };
        Ok(ApiClient { client, server: self.endpoint.url.clone() })
    }
}
