//! Feeds the [`PeerResolver`] with the host, the Node, Secrets, routers and the provider, and publishes its peers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Secret};
use kube::runtime::watcher;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::lookup::Lookup;
use super::resolver::PeerResolver;
use super::{Config, Host};
use crate::cluster::Api;
use crate::cluster::watch::{Change, watch_objects};
use crate::config::Bgp;
use crate::host::HostWatch;
use crate::model::{BootTime, LogOnChange};
use crate::ndp;
use crate::ndp::routers::{LinkLocalInterface, Routers};
use crate::net::clock;
use crate::net::https::ClientError;
use crate::watch_ext;

/// Interval of resolving peers without a change.
const RESYNC_INTERVAL: Duration = Duration::from_secs(5);
/// Changes of the host within this time are handled together.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// Interval of reading Secrets.
const SECRET_INTERVAL: Duration = Duration::from_secs(60);
const SECRET_TIMEOUT: Duration = Duration::from_secs(3);

struct Driver {
    resolver: PeerResolver,
    host: HostWatch,
    api: Arc<Api>,
    node: mpsc::Receiver<Change<Node>>,
    replies: watch::Receiver<Option<Value>>,
    router_interfaces: watch::Sender<Vec<LinkLocalInterface>>,
    routers: watch::Receiver<Routers>,
    secrets_due: BootTime,
    peers: watch::Sender<Arc<Vec<Config>>>,
    logged: LogOnChange,
}

/// Starts the tasks that find peers. They end when the receiver is dropped.
///
/// # Errors
/// If the CA of the provider cannot be read.
pub fn start(
    bgp: &Bgp,
    node_name: &str,
    elected: bool,
    api: &Arc<Api>,
    watch: HostWatch,
) -> Result<watch::Receiver<Arc<Vec<Config>>>, ClientError> {
    let host = Host { node: node_name.to_owned(), up_for: clock::now().since_boot(), ..Host::default() };
    let resolver = PeerResolver::new(bgp.clone(), elected, host);
    let (replies_in, replies) = watch::channel(None);
    if let Some(provider) = &bgp.provider {
        tokio::spawn(Lookup::new(provider.clone())?.run(replies_in));
    }
    let (node_in, node) = mpsc::channel(16);
    if resolver.needs_node() {
        tokio::spawn(watch_node(api.clone(), node_name.to_owned(), node_in));
    }
    let (router_interfaces, router_interfaces_out) = watch::channel(Vec::new());
    let (routers_in, routers) = watch::channel(BTreeMap::new());
    tokio::spawn(ndp::routers::run(router_interfaces_out, routers_in));
    let (peers, peers_out) = watch::channel(Arc::default());
    let driver = Driver {
        resolver,
        host: watch,
        api: api.clone(),
        node,
        replies,
        router_interfaces,
        routers,
        secrets_due: BootTime::default(),
        peers,
        logged: LogOnChange::default(),
    };
    tokio::spawn(driver.run());
    Ok(peers_out)
}

async fn watch_node(api: Arc<Api>, name: String, node: mpsc::Sender<Change<Node>>) {
    let this = watcher::Config::default().fields(&format!("metadata.name={name}"));
    watch_objects(api, kube::Api::<Node>::all, this, Some, |change| change, node).await;
}

impl Driver {
    async fn run(mut self) {
        while !self.peers.is_closed() {
            self.update().await;
            tokio::select! {
                Ok(()) = self.host.changed() => tokio::time::sleep(DEBOUNCE).await,
                Some(change) = self.node.recv() => self.on_node_change(change),
                Ok(()) = self.routers.changed() => {}
                Ok(()) = self.replies.changed() => {}
                () = tokio::time::sleep(RESYNC_INTERVAL) => {}
            }
        }
    }

    fn on_node_change(&mut self, change: Change<Node>) {
        let node = match change {
            Change::Reset(nodes) => nodes.into_iter().next(),
            Change::Applied(node) => Some(node),
            // A Node that is recreated keeps its sessions.
            Change::Deleted(_) => None,
        };
        if let Some(node) = node {
            let (labels, annotations) = (node.metadata.labels, node.metadata.annotations);
            self.resolver.set_node(labels.unwrap_or_default(), annotations.unwrap_or_default());
        }
    }

    async fn update(&mut self) {
        self.resolver.host.state.clone_from(&self.host.borrow_and_update());
        self.read_secrets().await;
        watch_ext::set(&self.router_interfaces, self.resolver.router_interfaces());
        self.resolver.host.routers.clone_from(&self.routers.borrow_and_update());
        self.resolver.reply.clone_from(&self.replies.borrow_and_update());
        let problems = match self.resolver.resolve() {
            Ok((peers, problems)) => {
                watch_ext::set(&self.peers, Arc::new(peers));
                problems
            }
            Err(problems) => problems,
        };
        for problem in self.logged.replace(problems) {
            tracing::warn!("BGP: {problem}");
        }
    }

    /// Reads the Secrets that contain passwords. A Secret that cannot be read keeps its last password.
    async fn read_secrets(&mut self) {
        let secrets = self.resolver.secrets();
        let passwords = &mut self.resolver.host.passwords;
        let missing = secrets.iter().any(|secret| !passwords.contains_key(secret));
        if secrets.is_empty() || (!missing && clock::now() < self.secrets_due) {
            return;
        }
        self.secrets_due = clock::now() + SECRET_INTERVAL;
        let Ok(chosen) = self.api.client().await else { return };
        for secret in secrets {
            let all = kube::Api::<Secret>::namespaced(chosen.client.clone(), &secret.namespace);
            match timeout(SECRET_TIMEOUT, all.get(&secret.name)).await {
                Ok(Ok(found)) => {
                    let bytes = found.data.unwrap_or_default().remove("password").map(|value| value.0);
                    match bytes.and_then(|bytes| String::from_utf8(bytes).ok()) {
                        Some(password) => drop(passwords.insert(secret, password.trim().to_owned())),
                        None => tracing::warn!("BGP: Secret {secret} has no key `password`: add it"),
                    }
                }
                Ok(Err(error)) => tracing::warn!("BGP: Secret {secret} cannot be read: {error}"),
                Err(_elapsed) => {
                    tracing::debug!(
                        "BGP: Secret {secret} cannot be read: no reply from the API server in time"
                    );
                }
            }
        }
    }
}
