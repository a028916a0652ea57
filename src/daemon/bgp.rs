//! The BGP speaker, and what it has to know of this host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use k8s_openapi::api::core::v1::{Node, Secret};
use kube::runtime::watcher;
use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::DaemonError;
use crate::bgp::annotations::apply;
use crate::bgp::driver::Farewell;
use crate::bgp::lookup::Lookup;
use crate::bgp::packet::Cease;
use crate::bgp::peers::{self, Host, resolve};
use crate::bgp::provider;
use crate::bgp::speaker::{Feeds, Speaker};
use crate::cluster::Api;
use crate::cluster::watch::{Change, follow};
use crate::config::bgp::{PeerTarget, Provider, SecretName};
use crate::config::{Bgp, Config};
use crate::model::AdvertisedRoutes;
use crate::model::BootTime;
use crate::ndp;
use crate::ndp::routers::{Place, Routers};
use crate::net::clock;
use crate::net::netlink::{Changes, Netlink};
use crate::telemetry::Telemetry;
use crate::watch_ext;

/// How often this host is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// How long changes of this host are collected.
const CROWD: Duration = Duration::from_millis(200);

/// How often passwords are read again.
const SECRETS: Duration = Duration::from_secs(60);
/// How long reading one may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// A running speaker.
pub(super) struct Running {
    farewell: watch::Sender<Farewell>,
    task: JoinHandle<std::io::Result<()>>,
}

impl Running {
    /// Close all sessions, and say why.
    pub(super) async fn stop(self) {
        let reason = "kube-vip stops".to_owned();
        self.farewell.send_replace(Some((Cease::Shutdown, reason)));
        drop(self.task.await);
    }
}

/// Start the speaker.
pub(super) fn start(
    config: &Config,
    bgp: &Bgp,
    api: &Arc<Api>,
    announced: watch::Receiver<AdvertisedRoutes>,
    telemetry: &Arc<Telemetry>,
) -> Result<Running, DaemonError> {
    // The kernel answers one question at a time on a connection: this one must not be in the main loop's way.
    let (netlink, changes) = Netlink::open()?;
    let (peers_in, peers) = watch::channel(Arc::default());
    let (questions_in, questions) = mpsc::channel(4);
    let (farewell, farewell_out) = watch::channel(None);
    telemetry.answer_questions_by(questions_in);
    let feeds = Feeds { peers, announced, questions, farewell: farewell_out, port: bgp.listen_port };
    let wants_node = bgp.annotations.is_some() || bgp.peers.iter().any(|peer| !peer.node_selector.is_empty());
    let (node_in, node) = mpsc::channel(16);
    if wants_node {
        tokio::spawn(follow_node(api.clone(), config.node_name.clone(), node_in));
    }
    let (places, places_out) = watch::channel(Vec::new());
    let (routers_in, routers) = watch::channel(BTreeMap::new());
    let (answers, answer) = watch::channel(None);
    if let Some(provider) = &bgp.provider {
        tokio::spawn(Lookup::new(provider.clone()).map_err(DaemonError::Provider)?.run(answers));
    }
    let scout = Scout {
        answer,
        places,
        routers,
        bgp: bgp.clone(),
        elected: config.elects(),
        netlink,
        changes,
        node,
        host: Host { node: config.node_name.clone(), up_for: clock::now().since_boot(), ..Host::default() },
        annotations: None,
        api: api.clone(),
        passwords_due: BootTime::default(),
        peers: peers_in,
        told: Vec::new(),
    };
    tokio::spawn(ndp::routers::run(places_out, routers_in));
    tokio::spawn(scout.run());
    let speaker = Speaker::new(feeds, telemetry.clone());
    Ok(Running { farewell, task: tokio::spawn(speaker.run()) })
}

/// This host's Node, whenever it changes.
async fn follow_node(api: Arc<Api>, name: String, node: mpsc::Sender<Change<Node>>) {
    let this = watcher::Config::default().fields(&format!("metadata.name={name}"));
    follow(api, kube::Api::<Node>::all, this, Some, |change| change, node).await;
}

/// Finds out who the peers are, and how they are reached, for as long as there is a speaker.
struct Scout {
    /// Interfaces of unnumbered peers.
    places: watch::Sender<Vec<Place>>,
    /// The routers that were found there.
    routers: watch::Receiver<Routers>,
    bgp: Bgp,
    elected: bool,
    netlink: Netlink,
    changes: Changes,
    /// What the provider says, once it has.
    answer: watch::Receiver<Option<Value>>,
    /// This host's Node.
    node: mpsc::Receiver<Change<Node>>,
    host: Host,
    /// The annotations of the Node, once it is known.
    annotations: Option<BTreeMap<String, String>>,
    api: Arc<Api>,
    /// When the Secrets are read again.
    passwords_due: BootTime,
    peers: watch::Sender<Arc<Vec<peers::Config>>>,
    /// What was said about peers that cannot be talked to.
    told: Vec<String>,
}

impl Scout {
    async fn run(mut self) {
        while !self.peers.is_closed() {
            self.look().await;
            let changed = async {
                while self.changes.next().await.is_none() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                // Changes come in crowds.
                () = changed => tokio::time::sleep(CROWD).await,
                Some(change) = self.node.recv() => self.learn(change),
                Ok(()) = self.routers.changed() => {}
                Ok(()) = self.answer.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            while let Some(Some(_)) = self.changes.next().now_or_never() {}
        }
    }

    fn learn(&mut self, change: Change<Node>) {
        let node = match change {
            Change::Reset(nodes) => nodes.into_iter().next(),
            Change::Applied(node) => Some(node),
            // A Node that is gone for a moment takes no session with it.
            Change::Deleted(_) => None,
        };
        if let Some(node) = node {
            self.host.labels = Some(node.metadata.labels.unwrap_or_default());
            self.annotations = Some(node.metadata.annotations.unwrap_or_default());
        }
    }

    async fn look(&mut self) {
        match (self.netlink.interfaces().await, self.netlink.addresses().await) {
            (Ok(interfaces), Ok(addresses)) => {
                (self.host.interfaces, self.host.addresses) = (interfaces, addresses)
            }
            (Err(error), _) | (_, Err(error)) => return tracing::error!("{error}; trying again"),
        }
        self.read_passwords().await;
        self.place_unnumbered();
        self.host.routers = self.routers.borrow_and_update().clone();
        match self.configured() {
            Ok(bgp) => {
                let (peers, troubles) = resolve(&bgp, &self.host, self.elected);
                self.tell(troubles);
                self.peers.send_if_modified(|before| {
                    let changed = **before != peers;
                    if changed {
                        *before = Arc::new(peers);
                    }
                    changed
                });
            }
            // Annotations that are wrong for a moment take no session with them.
            Err(troubles) => self.tell(troubles),
        }
    }

    /// What was configured, with what the Node's annotations or the provider say.
    fn configured(&mut self) -> Result<Bgp, Vec<String>> {
        if let Some(prefix) = &self.bgp.annotations {
            return match &self.annotations {
                Some(annotations) => apply(&self.bgp, prefix, annotations),
                None => Err(vec![format!("waiting for Node {}", self.host.node)]),
            };
        }
        let Some(Provider { url, shape, .. }) = &self.bgp.provider else { return Ok(self.bgp.clone()) };
        match &*self.answer.borrow_and_update() {
            Some(answer) => provider::apply(&self.bgp, shape, answer).map_err(|wrong| {
                wrong.into_iter().map(|text| format!("the provider at {url}: {text}")).collect()
            }),
            // What our AS is may be for it to say: nobody is talked to before it has answered.
            None => Err(vec![format!("waiting for the provider at {url}")]),
        }
    }

    /// Routers are looked for on the interfaces of unnumbered peers, as far as those are there.
    fn place_unnumbered(&self) {
        let names = self.bgp.peers.iter().filter_map(|peer| match &peer.target {
            PeerTarget::Unnumbered(name) => Some(name),
            PeerTarget::Address(_) => None,
        });
        let place = |name: &String| {
            let interface = self.host.interfaces.iter().find(|interface| interface.name == *name)?;
            let mut own = self.host.addresses.iter().filter(|address| address.interface == interface.index);
            let own = own.find_map(|address| match address.vip.address {
                IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(v6),
                _ => None,
            })?;
            Some(Place { interface: interface.clone(), own })
        };
        let places: Vec<Place> = names.filter_map(place).collect();
        watch_ext::set(&self.places, places);
    }

    /// Read the Secrets that hold passwords. One that cannot be read keeps the password that it had.
    async fn read_passwords(&mut self) {
        let secrets: BTreeSet<SecretName> =
            self.bgp.peers.iter().filter_map(|peer| peer.password_secret.clone()).collect();
        let missing = secrets.iter().any(|secret| !self.host.passwords.contains_key(secret));
        if secrets.is_empty() || (!missing && clock::now() < self.passwords_due) {
            return;
        }
        self.passwords_due = clock::now() + SECRETS;
        let Ok(chosen) = self.api.client().await else { return };
        for secret in secrets {
            let all = kube::Api::<Secret>::namespaced(chosen.client.clone(), &secret.namespace);
            match timeout(PATIENCE, all.get(&secret.name)).await {
                Ok(Ok(found)) => {
                    let bytes = found.data.unwrap_or_default().remove("password").map(|value| value.0);
                    match bytes.and_then(|bytes| String::from_utf8(bytes).ok()) {
                        Some(password) => {
                            drop(self.host.passwords.insert(secret, password.trim().to_owned()))
                        }
                        None => tracing::warn!("BGP: Secret {secret} has no key `password`"),
                    }
                }
                Ok(Err(error)) => tracing::warn!("BGP: Secret {secret} cannot be read: {error}"),
                Err(_elapsed) => tracing::debug!("BGP: Secret {secret} cannot be read: no answer in time"),
            }
        }
    }

    fn tell(&mut self, troubles: Vec<String>) {
        for trouble in troubles.iter().filter(|trouble| !self.told.contains(trouble)) {
            tracing::warn!("BGP: {trouble}");
        }
        self.told = troubles;
    }
}
