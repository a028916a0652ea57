//! BGP peers, for people and monitoring.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use super::Telemetry;
use super::events::Notice;
use crate::bgp::fsm::{Session, State};
use crate::bgp::packet::NextHop;
use crate::model::{BootTime, Family, PerFamily};

/// Who wants to know about all peers.
pub type Question = oneshot::Sender<Vec<PeerStatus>>;

/// How it goes with a peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerStatus {
    /// What users call it.
    pub peer: String,
    /// Its AS, where it is known.
    pub asn: Option<u32>,
    /// The state of RFC 4271.
    pub state: String,
    /// For how many seconds that has been so.
    pub for_seconds: f64,
    /// Our address and port, while routes are exchanged.
    pub local: Option<String>,
    /// Its address and port, while routes are exchanged.
    pub remote: Option<String>,
    /// The families of routes, each with where packets are to go.
    pub families: Vec<String>,
    /// Seconds of silence that end the session; none for never.
    pub hold_seconds: Option<u64>,
    /// The peer keeps our routes for so many seconds when this process restarts.
    pub restart_seconds: Option<u16>,
    /// Routes that it has been told of.
    pub sent: usize,
    /// Routes that it has told us of.
    pub received: usize,
    /// Why there is no session, or why the last one ended.
    pub trouble: Option<String>,
    /// What BFD says of the way there, where it is used.
    pub bfd: Option<String>,
    /// The routes that it has been told of, where they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub announced: Vec<String>,
    /// The routes that it has told us of, where they were asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub learnt: Vec<Learnt>,
    /// There are more of those.
    #[serde(default)]
    pub truncated: bool,
    #[serde(skip)]
    since: BootTime,
}

/// A route that a peer has told us of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Learnt {
    /// Its prefix.
    pub prefix: String,
    /// Where the peer sends its packets.
    pub next_hop: Option<String>,
    /// From before the peer restarted.
    pub stale: bool,
}

impl PeerStatus {
    /// Nothing has happened yet.
    pub fn new(peer: &str, asn: Option<u32>) -> Self {
        Self {
            peer: peer.to_owned(),
            asn,
            state: State::Idle.to_string(),
            for_seconds: 0.0,
            local: None,
            remote: None,
            families: Vec::new(),
            hold_seconds: None,
            restart_seconds: None,
            sent: 0,
            received: 0,
            trouble: None,
            bfd: None,
            announced: Vec::new(),
            learnt: Vec::new(),
            truncated: false,
            since: BootTime::default(),
        }
    }

    /// It is in another state.
    pub fn enter(&mut self, state: State, now: BootTime) {
        self.state = state.to_string();
        self.since = now;
    }

    /// What was agreed on.
    pub fn describe(
        &mut self,
        local: SocketAddr,
        remote: SocketAddr,
        session: &Session,
        hops: &PerFamily<Option<NextHop>>,
    ) {
        self.asn = Some(session.asn);
        self.local = Some(local.to_string());
        self.remote = Some(remote.to_string());
        self.hold_seconds = session.hold.map(|hold| hold.as_secs());
        self.restart_seconds = session.restart.as_ref().map(|restart| restart.seconds);
        let family = |family: &Family| match hops[*family] {
            Some(hop) => format!("{family} via {}", hop.address),
            None => format!("{family} without a next hop"),
        };
        self.families = session.families.iter().map(family).collect();
    }

    /// There is no session any more.
    pub fn undescribe(&mut self) {
        self.local = None;
        self.remote = None;
        self.families.clear();
        self.hold_seconds = None;
        self.restart_seconds = None;
        self.sent = 0;
    }

    /// Fill in what depends on the moment of asking.
    pub(super) fn measure(&mut self, now: BootTime) {
        self.for_seconds = now.since(self.since).as_secs_f64();
    }

    /// Whether routes are exchanged.
    pub fn is_up(&self) -> bool {
        self.state == State::Established.to_string()
    }

    /// For people: a line, and one for what is wrong.
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
        if let Some(trouble) = &self.trouble {
            let tense = if self.is_up() { "warning" } else { "last error" };
            text.push_str(&format!("\n  {tense}: {trouble}"));
        }
        for prefix in &self.announced {
            text.push_str(&format!("\n  announced {prefix}"));
        }
        for Learnt { prefix, next_hop, stale } in &self.learnt {
            let via = next_hop.as_ref().map_or_else(String::new, |hop| format!(" via {hop}"));
            let stale = if *stale { " (stale)" } else { "" };
            text.push_str(&format!("\n  received {prefix}{via}{stale}"));
        }
        if self.truncated {
            text.push_str("\n  received more that is not remembered");
        }
        text
    }
}

impl Telemetry {
    /// Questions about peers' routes go there.
    pub fn answer_questions_by(&self, speaker: mpsc::Sender<Question>) {
        self.lock().speaker = Some(speaker);
    }

    /// Everything about all peers, their routes included.
    pub async fn peers_with_routes(&self) -> Vec<PeerStatus> {
        let (question, answer) = oneshot::channel();
        let Some(speaker) = self.lock().speaker.clone() else { return Vec::new() };
        if speaker.send(question).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    /// How it goes with a peer now.
    pub fn peer(&self, status: &PeerStatus) {
        self.metrics.peer(&status.peer, &status.state, status.sent, status.received);
        self.lock().status.peers.insert(status.peer.clone(), status.clone());
    }

    /// A peer is not talked to any more.
    pub fn peer_gone(&self, peer: &str) {
        self.metrics.peer_gone(peer);
        self.lock().status.peers.remove(peer);
    }

    /// Routes are exchanged with a peer.
    pub fn peer_up(&self, status: &PeerStatus) {
        let families = status.families.join(", ");
        tracing::info!(peer = status.peer, asn = status.asn, families, "the BGP session is up");
        self.notice(Notice::PeerUp { peer: status.peer.clone() });
    }

    /// No more.
    pub fn peer_down(&self, status: &PeerStatus, why: &str) {
        self.metrics.peer_lost(&status.peer);
        tracing::warn!(peer = status.peer, why, "the BGP session is down");
        self.notice(Notice::PeerDown { peer: status.peer.clone(), why: why.to_owned() });
    }

    /// There is no session yet, or not all is well with it.
    pub fn peer_trouble(&self, status: &PeerStatus, why: &str) {
        tracing::warn!(peer = status.peer, state = status.state, "BGP: {why}");
    }
}
