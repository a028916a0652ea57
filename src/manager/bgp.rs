//! The BGP speaker, and what it has to know of this host.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::bgp::Announced;
use crate::bgp::driver::Farewell;
use crate::bgp::packet::Cease;
use crate::bgp::peers::{self, Host, resolve};
use crate::bgp::speaker::{Feeds, Speaker};
use crate::config::{Bgp, Config};
use crate::net::clock;
use crate::net::netlink::{Changes, Netlink};
use crate::telemetry::Telemetry;

/// How often this host is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// How long changes of this host are collected.
const CROWD: Duration = Duration::from_millis(200);

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
    announced: watch::Receiver<Announced>,
    telemetry: &Arc<Telemetry>,
) -> std::io::Result<Running> {
    // The kernel answers one question at a time on a connection: this one must not be in the main loop's way.
    let (netlink, changes) = Netlink::open()?;
    let (peers_in, peers) = watch::channel(Arc::default());
    let (questions_in, questions) = mpsc::channel(4);
    let (farewell, farewell_out) = watch::channel(None);
    telemetry.answer_questions_by(questions_in);
    let feeds = Feeds { peers, announced, questions, farewell: farewell_out, port: bgp.listen_port };
    let elected = bgp.elected || config.services.as_ref().is_some_and(|services| services.on_demand);
    let elected = elected
        || config
            .services
            .as_ref()
            .is_some_and(|services| services.election != crate::config::ServiceElection::EveryNode);
    let scout = Scout {
        node: config.node_name.clone(),
        bgp: bgp.clone(),
        elected,
        netlink,
        changes,
        peers: peers_in,
        told: Vec::new(),
    };
    tokio::spawn(scout.run());
    let speaker = Speaker::new(feeds, telemetry.clone());
    Ok(Running { farewell, task: tokio::spawn(speaker.run()) })
}

/// Finds out who the peers are, and how they are reached, for as long as there is a speaker.
struct Scout {
    node: String,
    bgp: Bgp,
    elected: bool,
    netlink: Netlink,
    changes: Changes,
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
                () = tokio::time::sleep(LOOK) => {}
            }
            while let Some(Some(_)) = self.changes.next().now_or_never() {}
        }
    }

    async fn look(&mut self) {
        let (links, addresses) = match (self.netlink.links().await, self.netlink.addresses().await) {
            (Ok(links), Ok(addresses)) => (links, addresses),
            (Err(error), _) | (_, Err(error)) => return tracing::error!("{error}; trying again"),
        };
        let host = Host {
            node: self.node.clone(),
            links,
            addresses,
            up_for: clock::now().since_boot(),
            ..Host::default()
        };
        let (peers, troubles) = resolve(&self.bgp, &host, self.elected);
        for trouble in troubles.iter().filter(|trouble| !self.told.contains(trouble)) {
            tracing::warn!("BGP: {trouble}");
        }
        self.told = troubles;
        self.peers.send_if_modified(|before| {
            let changed = **before != peers;
            if changed {
                *before = Arc::new(peers);
            }
            changed
        });
    }
}
