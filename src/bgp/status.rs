//! State of peers as published to `kube-vip status`, metrics and Events.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::timeout;

use super::fsm::{CloseReason, FsmState, Session};
use super::metrics::Metrics;
use super::rib_in::{ReceivedRoute, RibIn};
use super::rib_out::RibOut;
use crate::cluster::event::EventRecorder;
use crate::model::{BootTime, Family, PerFamily};

/// Asks every peer's task for its state including its routes.
pub type StatusRequest = mpsc::UnboundedSender<PeerStatus>;
pub type StatusRequests = broadcast::Sender<StatusRequest>;

/// Limit for the replies to a status request.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);

/// State of all peers, by name, without routes.
pub type PeerStates = BTreeMap<String, PeerStatus>;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    pub peer: String,
    /// None until an OPEN arrived, if any AS is accepted.
    pub asn: Option<u32>,
    pub state: FsmState,
    /// Time in this state.
    pub for_seconds: f64,
    /// Local address of the established session.
    pub local: Option<SocketAddr>,
    /// Address of the peer in the established session.
    pub remote: Option<SocketAddr>,
    /// Negotiated families with their next hops.
    pub families: Vec<String>,
    /// Negotiated hold time; None for no limit.
    pub hold_seconds: Option<u64>,
    /// Restart time of the peer (RFC 4724).
    pub restart_seconds: Option<u16>,
    /// Number of advertised routes.
    pub sent: usize,
    /// Number of received routes.
    pub received: usize,
    /// Why there is no session, or why the last one ended.
    pub last_error: Option<String>,
    /// State of the BFD session, if BFD is enabled.
    pub bfd: Option<String>,
    /// Advertised prefixes; only in replies to a [`StatusRequest`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub announced: Vec<String>,
    /// Received routes; only in replies to a [`StatusRequest`].
    #[serde(default, rename = "learnt", skip_serializing_if = "Vec::is_empty")]
    pub received_routes: Vec<PrefixStatus>,
    /// The peer sent more routes than are stored.
    #[serde(default)]
    pub truncated: bool,
    #[serde(skip)]
    state_since: BootTime,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefixStatus {
    pub prefix: String,
    #[serde(flatten)]
    pub route: ReceivedRoute,
}

impl PeerStatus {
    pub fn new(peer: &str, asn: Option<u32>) -> Self {
        Self { peer: peer.to_owned(), asn, ..Self::default() }
    }

    pub fn set_state(&mut self, state: FsmState, now: BootTime) {
        self.state = state;
        self.state_since = now;
    }

    pub fn session_up(
        &mut self,
        (local, remote): (SocketAddr, SocketAddr),
        session: &Session,
        next_hops: &PerFamily<Option<IpAddr>>,
    ) {
        self.asn = Some(session.asn);
        self.local = Some(local);
        self.remote = Some(remote);
        self.hold_seconds = session.hold.map(|hold| hold.as_secs());
        self.restart_seconds = session.restart.as_ref().map(|restart| restart.seconds);
        let family = |family: &Family| match next_hops[*family] {
            Some(hop) => format!("{family} via {hop}"),
            None => format!("{family} without a next hop"),
        };
        self.families = session.families.iter().map(family).collect();
    }

    pub fn session_down(&mut self) {
        self.local = None;
        self.remote = None;
        self.families.clear();
        self.hold_seconds = None;
        self.restart_seconds = None;
        self.sent = 0;
    }

    /// This status with the routes of the peer.
    pub(super) fn with_routes(&self, rib_in: &RibIn, rib_out: &RibOut) -> Self {
        let (routes, truncated) = rib_in.routes();
        let received =
            routes.iter().map(|(prefix, route)| PrefixStatus { prefix: prefix.to_string(), route: *route });
        Self {
            announced: rib_out.sent().map(ToString::to_string).collect(),
            received_routes: received.collect(),
            truncated,
            ..self.clone()
        }
    }

    /// Computes the time in this state.
    pub fn update_duration(&mut self, now: BootTime) {
        self.for_seconds = now.since(self.state_since).as_secs_f64();
    }

    /// A line, one for the last error, and one for each route.
    pub fn to_text(&self) -> String {
        let asn = self.asn.map_or_else(String::new, |asn| format!(" (AS {asn})"));
        let mut text = format!(
            "{}{asn}: {} for {:.1} s, {} sent, {} received",
            self.peer, self.state, self.for_seconds, self.sent, self.received
        );
        if !self.families.is_empty() {
            text.push_str(&format!("; {}", self.families.join(", ")));
        }
        if let Some(hold) = self.hold_seconds {
            text.push_str(&format!("; hold time {hold} s"));
        }
        if let Some(seconds) = self.restart_seconds {
            text.push_str(&format!(", graceful restart {seconds} s"));
        }
        if let Some(bfd) = &self.bfd {
            text.push_str(&format!("; BFD {bfd}"));
        }
        if let Some(error) = &self.last_error {
            let label = if self.state == FsmState::Established { "warning" } else { "last error" };
            text.push_str(&format!("\n  {label}: {error}"));
        }
        for prefix in &self.announced {
            text.push_str(&format!("\n  announced {prefix}"));
        }
        for PrefixStatus { prefix, route } in &self.received_routes {
            let via = route.next_hop.map_or_else(String::new, |hop| format!(" via {hop}"));
            let stale = if route.stale { " (stale)" } else { "" };
            text.push_str(&format!("\n  received {prefix}{via}{stale}"));
        }
        if self.truncated {
            text.push_str("\n  received more routes than are stored");
        }
        text
    }
}

/// The state of the peers that reply in time, with their routes.
pub async fn with_routes(requests: &StatusRequests) -> PeerStates {
    let (request, mut replies) = mpsc::unbounded_channel();
    // Fails only without peers.
    drop(requests.send(request));
    let mut states = PeerStates::new();
    let collect = async {
        while let Some(status) = replies.recv().await {
            states.insert(status.peer.clone(), status);
        }
    };
    drop(timeout(STATUS_TIMEOUT, collect).await);
    states
}

/// Publishes the state of peers. All tasks of the speaker share it; each writes only the entry of its peer.
#[derive(Debug, Clone)]
pub struct StatusPublisher {
    states: watch::Sender<PeerStates>,
    events: EventRecorder,
    metrics: Metrics,
}

impl StatusPublisher {
    pub fn new(metrics: Metrics, events: EventRecorder) -> Self {
        Self { states: watch::Sender::default(), events, metrics }
    }

    pub fn subscribe(&self) -> watch::Receiver<PeerStates> {
        self.states.subscribe()
    }

    pub(super) fn update(&self, status: &PeerStatus) {
        self.metrics.update(status);
        self.states.send_modify(|states| drop(states.insert(status.peer.clone(), status.clone())));
    }

    pub(super) fn remove(&self, peer: &str) {
        self.metrics.remove(peer);
        self.states.send_modify(|states| drop(states.remove(peer)));
    }

    pub(super) fn session_up(&self, peer: &str) {
        let message = format!("the BGP session with {peer} is up");
        self.events.record_on_node(false, "BGPSessionUp", message);
    }

    pub(super) fn session_down(&self, peer: &str, reason: &CloseReason) {
        self.metrics.session_lost(peer);
        let message = format!("the BGP session with {peer} is down: {reason}");
        self.events.record_on_node(true, "BGPSessionDown", message);
    }
}
