//! Access to the Kubernetes API: which server to use, watches, writes, Events.
//!
//! The server on this host comes first, by address: neither DNS nor the VIP is used, so the VIP does not depend on
//! itself. When it fails, the servers on other hosts are used, as learnt while one worked and verified by the same CA.
//! A server that failed is avoided for a while, and its connections are closed.

mod correlator;
pub mod event;
pub mod peers;
pub mod source;
pub mod watch;
pub mod write;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kube::Client;
use tokio::sync::watch::Sender;

use crate::model::{BootTime, Family, PerFamily};
use crate::net::clock;
pub use source::{Endpoint, Environment, Source, SourceError};

/// A server that failed is avoided for this long, if there is another.
const PENALTY: Duration = Duration::from_secs(2);

/// Servers on other hosts that are remembered.
const REMEMBERED_MAX: usize = 16;

/// The API servers, and a client for each.
pub struct Api {
    settings: crate::config::Api,
    environment: Environment,
    state: Mutex<State>,
    failures: Sender<Option<String>>,
}

#[derive(Default)]
struct State {
    /// Credentials and CA; its server address is replaced by that of each endpoint.
    base: Option<kube::Config>,
    /// The credentials must be read again.
    stale: bool,
    servers: Vec<Server>,
    /// The server on this host by each address family, for health checks only.
    by_family: PerFamily<Option<Server>>,
    prefer_peers: bool,
}

struct Server {
    endpoint: Endpoint,
    client: Option<Client>,
    avoid_until: Option<BootTime>,
}

#[derive(Clone)]
pub struct ApiClient {
    pub client: Client,
    /// The server's URL, for [`Api::failed`].
    pub server: String,
}

impl Api {
    /// Reads and opens nothing: that happens on first use.
    pub fn new(settings: crate::config::Api, environment: Environment) -> Arc<Self> {
        let state = Mutex::new(State::default());
        Arc::new(Self { settings, environment, state, failures: Sender::new(None) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is consistent between any two statements: a panic elsewhere cannot break it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client for the best server: the local one, then the others; servers that failed recently come last.
    ///
    /// # Errors
    /// If credentials are missing or invalid.
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
        best.client(base.as_ref())
    }

    /// A client for the server on this host; if a family is given, by an address of it: the configured address whatever
    /// its family, else a detected one, else loopback.
    pub async fn local_client(&self, family: Option<Family>) -> Result<ApiClient, SourceError> {
        self.load().await?;
        let configured = self.settings.address.is_some();
        let mut state = self.lock();
        let State { base, servers, by_family, .. } = &mut *state;
        let mut local = servers.iter_mut().filter(|server| server.endpoint.local).peekable();
        let first = local.peek_mut().ok_or(SourceError::NoServer)?;
        let Some(family) = family else { return first.client(base.as_ref()) };
        let on_loopback = first.endpoint.on_loopback(family, self.settings.port);
        let found = local.find(|server| configured || server.endpoint.family() == Some(family));
        let endpoint = found.map_or(on_loopback, |server| server.endpoint.clone());
        let known = by_family[family].take().filter(|server| server.endpoint == endpoint);
        by_family[family].insert(known.unwrap_or_else(|| Server::new(endpoint))).client(base.as_ref())
    }

    /// The addresses of all servers, but for loopback.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let state = self.lock();
        let addresses = state.servers.iter().filter_map(|server| server.endpoint.address());
        addresses.filter(|address| !address.is_loopback()).collect()
    }

    pub fn peers(&self) -> Vec<ApiClient> {
        let mut state = self.lock();
        let State { base, servers, .. } = &mut *state;
        let peers = servers.iter_mut().filter(|server| !server.endpoint.local);
        peers.filter_map(|server| server.client(base.as_ref()).ok()).collect()
    }

    /// A request to `server` got no response: closes its connections and avoids it for a while.
    pub fn failed(&self, server: &str) {
        let mut state = self.lock();
        for known in state.servers.iter_mut().filter(|known| known.endpoint.url == server) {
            known.client = None;
            known.avoid_until = Some(clock::now() + PENALTY);
        }
        // Credentials are rotated, which may be the cause.
        state.stale = true;
        drop(state);
        self.failures.send_replace(Some(server.to_owned()));
    }

    /// A request to `server` ended with this error. The server has failed only if that is no response of it.
    pub fn request_failed(&self, server: &str, error: &kube::Error) {
        if is_failure(error) {
            self.failed(server);
        }
    }

    /// Prefers other servers for a while: `server` responds, but cannot serve a request that must not wait. Its connections
    /// and watches stay.
    pub fn avoid(&self, server: &str) {
        let until = clock::now() + PENALTY;
        let mut state = self.lock();
        for known in state.servers.iter_mut().filter(|known| known.endpoint.url == server) {
            known.avoid_until = Some(until);
        }
    }

    /// Waits until `server` is next reported as failed.
    pub async fn until_failed(&self, server: &str) {
        let mut failures = self.failures.subscribe();
        // The sender lives as long as `self`: `changed` cannot fail.
        while failures.changed().await.is_ok() {
            if failures.borrow_and_update().as_deref() == Some(server) {
                return;
            }
        }
    }

    /// Whether servers on other hosts come first, because the local one is known to be down.
    pub fn prefer_peers(&self, prefer: bool) {
        self.lock().prefer_peers = prefer;
    }

    /// Remembers servers on other hosts, the latest `REMEMBERED_MAX` of them. Addresses of this host are ignored.
    pub fn remember(&self, servers: &[SocketAddr]) {
        let mut state = self.lock();
        let tls_name = state.servers.iter().find_map(|server| server.endpoint.tls_name.clone());
        let avoid = |ip: &IpAddr| self.environment.own.contains(ip) || self.environment.vips.contains(ip);
        for address in servers.iter().filter(|address| !avoid(&address.ip())) {
            let url = format!("https://{address}");
            if !state.servers.iter().any(|server| server.endpoint.url == url) {
                let tls_name = tls_name.clone();
                state.servers.push(Server::new(Endpoint { url, tls_name, local: false, given: false }));
            }
        }
        let learnt = state.servers.iter().filter(|server| !server.endpoint.given).count();
        let mut surplus = learnt.saturating_sub(REMEMBERED_MAX);
        state.servers.retain(|server| {
            let forget = !server.endpoint.given && surplus > 0;
            surplus -= usize::from(forget);
            !forget
        });
    }

    /// Reads the credentials, if they are missing or stale.
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
            // The file may be in the middle of a replacement, and the former credentials still valid.
            Err(_) if known => return Ok(()),
            Err(error) => return Err(error),
        };
        if !known {
            let urls: Vec<&str> = source.endpoints.iter().map(|endpoint| endpoint.url.as_str()).collect();
            let servers = urls.join(", ");
            tracing::info!(credentials = %source.origin, %servers, "found the API servers");
        }
        for endpoint in source.endpoints {
            if !state.servers.iter().any(|server| server.endpoint == endpoint) {
                state.servers.push(Server::new(endpoint));
            }
        }
        state.base = Some(source.base);
        Ok(())
    }
}

/// Whether a request failed because of its server: there was no response, or the credentials have to be read again (401).
/// Any other status is a response, 429 and 5xx included: watches that end because of it would add their lists to the load
/// of an overloaded server.
pub fn is_failure(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code == 401,
        kube::Error::SerdeError(_) | kube::Error::BuildRequest(_) | kube::Error::HttpError(_) => false,
        _ => true,
    }
}

impl Server {
    fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, client: None, avoid_until: None }
    }

    fn client(&mut self, base: Option<&kube::Config>) -> Result<ApiClient, SourceError> {
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

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_response_is_no_failure_of_the_server() {
        for (code, failed) in [(400, false), (401, true), (403, false), (409, false), (422, false)] {
            let status = Status { code, ..Status::failure("", "") };
            assert_eq!(is_failure(&kube::Error::Api(Box::new(status))), failed, "{code}");
        }
        for code in [429, 500, 503, 504] {
            let status = Status { code, ..Status::failure("", "") };
            assert!(!is_failure(&kube::Error::Api(Box::new(status))), "{code}");
        }
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert!(is_failure(&kube::Error::Service(Box::new(refused))));
        let parse = serde_json::from_str::<u8>("x").unwrap_err();
        assert!(!is_failure(&kube::Error::SerdeError(parse)));
    }
}
