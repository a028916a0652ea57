//! Access to the Kubernetes API: which server to use, watches, writes, Events.
//!
//! The server on this host comes first, by address: neither DNS nor the VIP is used, so the VIP does not depend on
//! itself. When it fails, the servers on other hosts are used, as learnt while one worked and verified by the same CA.
//! A server that failed is avoided for a while, and its connections are closed.

pub mod certificate;
mod correlator;
pub mod credentials;
pub mod event;
pub mod peers;
pub mod source;
pub mod watch;
pub mod write;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube::Client;
use tokio::sync::watch::Sender;

use crate::model::text::with_causes;
use crate::model::{BootTime, Family, PerFamily};
use crate::net::clock;
pub use source::{Endpoint, Environment, Source, SourceError};

/// A server that failed is avoided for this long, if there is another.
const PENALTY: Duration = Duration::from_secs(2);

/// Servers on other hosts that are remembered.
const REMEMBERED_MAX: usize = 16;

/// The API servers, and the connections of one runtime to them.
pub struct Api {
    shared: Arc<Shared>,
    connections: Mutex<Connections>,
}

/// What is known of the API servers.
struct Shared {
    settings: crate::config::Api,
    environment: Environment,
    state: Mutex<State>,
    failures: Sender<Option<String>>,
}

#[derive(Default)]
struct State {
    /// Credentials and CA; its server address is replaced by that of each endpoint.
    base: Option<kube::Config>,
    /// The client certificate of `base` as PEM, and the file that named it.
    certificate: Option<(String, String)>,
    /// How often it was renewed: connections with another one are not used again.
    renewals: u64,
    /// The credentials must be read again.
    stale: bool,
    servers: Vec<Server>,
    prefer_peers: bool,
    /// See [`Source::warning`].
    warning: Option<String>,
}

struct Server {
    endpoint: Endpoint,
    /// How often it failed: connections from before the last failure are not used again.
    failures: u64,
    avoid_until: Option<BootTime>,
}

/// A connection is driven by the runtime that opened it.
#[derive(Default)]
struct Connections {
    servers: Vec<Connection>,
    /// To the server on this host by each address family, for health checks only.
    by_family: PerFamily<Option<Connection>>,
}

struct Connection {
    endpoint: Endpoint,
    /// Failures of the server and renewals of the certificate until it was opened.
    version: (u64, u64),
    client: Client,
}

#[derive(Clone)]
pub struct ApiClient {
    pub client: Client,
    /// The server's URL, for [`Api::failed`].
    pub server: String,
}

/// Why a request has no result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestProblem {
    /// The HTTP status; none without a response.
    pub code: Option<u16>,
    pub why: String,
}

/// The result of a request within a limit of time.
pub async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, RequestProblem> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(kube::Error::Api(status))) => {
            Err(RequestProblem { code: Some(status.code), why: status.message.clone() })
        }
        Ok(Err(error)) => Err(RequestProblem { code: None, why: explain(&error) }),
        Err(_elapsed) => Err(RequestProblem { code: None, why: "no response in time".to_owned() }),
    }
}

/// An error with its causes, without the name that the client has for its layer.
pub fn explain(error: &kube::Error) -> String {
    with_causes(error).trim_start_matches("ServiceError: ").to_owned()
}

impl Api {
    /// Reads and opens nothing: that happens on first use.
    pub fn new(settings: crate::config::Api, environment: Environment) -> Arc<Self> {
        let state = Mutex::new(State::default());
        let shared = Shared { settings, environment, state, failures: Sender::new(None) };
        Arc::new(Self { shared: Arc::new(shared), connections: Mutex::default() })
    }

    /// The same servers and credentials with connections of its own, for another runtime.
    pub fn with_own_connections(&self) -> Arc<Self> {
        Arc::new(Self { shared: self.shared.clone(), connections: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }

    /// A client for the best server: the local one, then the others; servers that failed recently come last.
    ///
    /// # Errors
    /// If credentials are missing or invalid.
    pub async fn client(&self) -> Result<ApiClient, SourceError> {
        self.load().await?;
        let now = clock::now();
        let state = self.lock();
        let State { servers, prefer_peers, .. } = &*state;
        let best = servers
            .iter()
            .min_by_key(|server| {
                let avoided = server.avoid_until.filter(|until| now < *until);
                (avoided.is_some(), server.endpoint.local == *prefer_peers, avoided)
            })
            .ok_or(SourceError::NoServer)?;
        lock(&self.connections).client(best, &state)
    }

    /// A client for the server on this host; if a family is given, by an address of it: the configured address whatever
    /// its family, else a detected one, else loopback.
    pub async fn local_client(&self, family: Option<Family>) -> Result<ApiClient, SourceError> {
        self.load().await?;
        let settings = &self.shared.settings;
        let state = self.lock();
        let mut local = state.servers.iter().filter(|server| server.endpoint.local).peekable();
        let first = *local.peek().ok_or(SourceError::NoServer)?;
        let mut connections = lock(&self.connections);
        let Some(family) = family else { return connections.client(first, &state) };
        let configured = settings.address.is_some();
        let found = local.find(|server| configured || server.endpoint.family() == Some(family));
        let endpoint = match found {
            Some(server) => server.endpoint.clone(),
            None => first.endpoint.on_loopback(family, settings.port),
        };
        let server = Server::new(endpoint);
        let known = connections.by_family[family].take().filter(|known| known.is_to(&server, &state));
        let connection = match known {
            Some(known) => known,
            None => Connection::open(&server, &state)?,
        };
        Ok(connections.by_family[family].insert(connection).client())
    }

    /// Reads the credentials again, and returns the client certificate among them with its origin. New connections use a
    /// renewed one.
    pub async fn client_certificate(&self) -> Option<(String, String)> {
        // Former credentials stay; missing ones are reported by the requests that need them.
        self.reload().await.ok()?;
        self.lock().certificate.clone()
    }

    /// Why a configured server is not used, or not first.
    pub fn warning(&self) -> Option<String> {
        self.lock().warning.clone()
    }

    /// The addresses of all servers, but for loopback.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        let state = self.lock();
        let addresses = state.servers.iter().filter_map(|server| server.endpoint.address());
        addresses.filter(|address| !address.is_loopback()).collect()
    }

    pub fn peers(&self) -> Vec<ApiClient> {
        let state = self.lock();
        let mut connections = lock(&self.connections);
        let peers = state.servers.iter().filter(|server| !server.endpoint.local);
        peers.filter_map(|server| connections.client(server, &state).ok()).collect()
    }

    /// A request to `server` got no response: closes its connections and avoids it for a while.
    pub fn failed(&self, server: &str) {
        let mut state = self.lock();
        for known in state.servers.iter_mut().filter(|known| known.endpoint.url == server) {
            known.failures += 1;
            known.avoid_until = Some(clock::now() + PENALTY);
        }
        // Credentials are rotated, which may be the cause.
        state.stale = true;
        drop(state);
        self.shared.failures.send_replace(Some(server.to_owned()));
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
        let mut failures = self.shared.failures.subscribe();
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
        let environment = &self.shared.environment;
        let avoid = |ip: &IpAddr| environment.own.contains(ip) || environment.vips.contains(ip);
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
        let is_fresh = {
            let state = self.lock();
            state.base.is_some() && !state.stale
        };
        if is_fresh { Ok(()) } else { self.reload().await }
    }

    async fn reload(&self) -> Result<(), SourceError> {
        let loaded = Source::load(&self.shared.settings, &self.shared.environment).await;
        let mut state = self.lock();
        let known = state.base.is_some();
        state.stale = false;
        let source = match loaded {
            Ok(source) => source,
            // The file may be in the middle of a replacement, and the former credentials still valid.
            Err(_) if known => return Ok(()),
            Err(error) => return Err(error),
        };
        if state.warning != source.warning {
            source.warning.iter().for_each(|warning| tracing::warn!("{warning}"));
            state.warning = source.warning;
        }
        if !known {
            let urls: Vec<&str> = source.endpoints.iter().map(|endpoint| endpoint.url.as_str()).collect();
            let servers = urls.join(", ");
            tracing::info!(credentials = %source.origin, %servers, "found the API servers");
        }
        let is_current = |endpoint: &Endpoint| !endpoint.given || source.endpoints.contains(endpoint);
        state.servers.retain(|server| is_current(&server.endpoint));
        for endpoint in source.endpoints {
            if !state.servers.iter().any(|server| server.endpoint == endpoint) {
                state.servers.push(Server::new(endpoint));
            }
        }
        let certificate = source::client_certificate(&source.base.auth_info).map(|pem| (source.origin, pem));
        if known && state.certificate != certificate {
            tracing::info!("read new credentials");
            // The next requests use new connections; watches keep those they have.
            state.renewals += 1;
        }
        (state.base, state.certificate) = (Some(source.base), certificate);
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

/// What these mutexes guard is consistent between any two statements: a panic elsewhere cannot break it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, failures: 0, avoid_until: None }
    }
}

impl Connections {
    /// The connection to a server. Those that are out of date are closed.
    fn client(&mut self, server: &Server, state: &State) -> Result<ApiClient, SourceError> {
        self.servers.retain(|connection| state.servers.iter().any(|server| connection.is_to(server, state)));
        if let Some(open) = self.servers.iter().find(|connection| connection.is_to(server, state)) {
            return Ok(open.client());
        }
        let opened = Connection::open(server, state)?;
        let client = opened.client();
        self.servers.push(opened);
        Ok(client)
    }
}

impl Connection {
    fn open(server: &Server, state: &State) -> Result<Self, SourceError> {
        let base = state.base.as_ref().ok_or(SourceError::NoServer)?;
        let client = server.endpoint.connect(base)?;
        Ok(Self { endpoint: server.endpoint.clone(), version: (server.failures, state.renewals), client })
    }

    /// Whether it is to this server, of the time after its last failure, and with the present certificate.
    fn is_to(&self, server: &Server, state: &State) -> bool {
        self.endpoint == server.endpoint && self.version == (server.failures, state.renewals)
    }

    fn client(&self) -> ApiClient {
        ApiClient { client: self.client.clone(), server: self.endpoint.url.clone() }
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use kube::core::Status;
    use rcgen::{CertificateParams, KeyPair};
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn connections_to_servers_that_failed_or_are_gone_are_closed() {
        let server = |last: u8| {
            let url = format!("https://192.0.2.{last}:6443");
            Server::new(Endpoint { url, tls_name: None, local: false, given: true })
        };
        let key = KeyPair::generate().unwrap();
        let ca = CertificateParams::default().self_signed(&key).unwrap().der().to_vec();
        let mut config = kube::Config::new("https://192.0.2.1:6443".parse().unwrap());
        // Without it, that of the system, which may have none.
        config.root_cert = Some(vec![ca]);
        let mut state = State { base: Some(config), servers: vec![server(1), server(2)], ..State::default() };
        let mut connections = Connections::default();
        let mut open = |state: &State| -> Vec<(u64, u64)> {
            state.servers.iter().for_each(|server| drop(connections.client(server, state).unwrap()));
            connections.servers.iter().map(|connection| connection.version).collect()
        };
        assert_eq!(open(&state), [(0, 0), (0, 0)]);
        state.servers[0].failures += 1;
        assert_eq!(open(&state), [(0, 0), (1, 0)]);
        state.renewals += 1;
        assert_eq!(open(&state), [(1, 1), (0, 1)]);
        state.servers.pop();
        assert_eq!(open(&state), [(1, 1)]);
    }

    /// A kubeconfig, and the certificate in it.
    fn example() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().self_signed(&key).unwrap().pem();
        let data = |pem: &str| ByteString(pem.as_bytes().to_vec());
        let text = json!({
            "clusters": [{ "name": "c", "cluster": {
                "server": "https://192.0.2.1:6443", "certificate-authority-data": data(&certificate),
            } }],
            "users": [{ "name": "u", "user": {
                "client-certificate-data": data(&certificate), "client-key-data": data(&key.serialize_pem()),
            } }],
            "contexts": [{ "name": "x", "context": { "cluster": "c", "user": "u" } }],
            "current-context": "x",
        });
        (text.to_string(), certificate)
    }

    #[tokio::test]
    async fn a_renewed_certificate_is_used_for_new_connections() {
        rustls::crypto::ring::default_provider().install_default().ok();
        let path = std::env::temp_dir().join(format!("kube-vip-{}-renewed", std::process::id()));
        let (kubeconfig, names) = (path.to_string_lossy().into_owned(), crate::config::api::AGENT);
        let settings = crate::config::Api { kubeconfig, address: None, detect: false, port: 6443, names };
        let api = Api::new(settings, Environment::default());
        let ((first, old), (second, new)) = (example(), example());
        let half = &second[..second.len() / 2];
        std::fs::write(&path, &first).unwrap();
        for (text, certificate, connected) in [
            (first.as_str(), &old, true),
            // It is being written.
            (half, &old, true),
            ("", &old, true),
            (&second, &new, false),
            (&second, &new, true),
        ] {
            api.client().await.unwrap();
            std::fs::write(&path, text).unwrap();
            let found = api.client_certificate().await.map(|(_, pem)| pem);
            assert_eq!(found.as_ref(), Some(certificate));
            let state = api.lock();
            assert_eq!(lock(&api.connections).servers[0].is_to(&state.servers[0], &state), connected);
        }
        std::fs::remove_file(&path).unwrap();
    }

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
