//! BGP peers in `kube-vip status` and in Events.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::Telemetry;
use super::events::Notice;
use crate::bgp::status::{PeerStates, PeerStatus, ReceivedRoute, SessionEvent, StatusRequest};

/// Source of the state of BGP peers.
#[derive(Debug)]
pub(super) struct Peers {
    pub(super) states: watch::Receiver<PeerStates>,
    requests: mpsc::Sender<StatusRequest>,
}

/// A line for each peer and one for its last error, then its routes.
pub fn text(status: &PeerStatus) -> String {
    let asn = status.asn.map_or_else(String::new, |asn| format!(" (AS {asn})"));
    let mut text = format!(
        "{}{asn}: {} for {:.1} s, {} sent, {} received",
        status.peer, status.state, status.for_seconds, status.sent, status.received
    );
    if !status.families.is_empty() {
        text.push_str(&format!("; {}", status.families.join(", ")));
    }
    if let Some(hold) = status.hold_seconds {
        text.push_str(&format!("; hold time {hold} s"));
    }
    if let Some(seconds) = status.restart_seconds {
        text.push_str(&format!(", graceful restart {seconds} s"));
    }
    if let Some(bfd) = &status.bfd {
        text.push_str(&format!("; BFD {bfd}"));
    }
    if let Some(error) = &status.last_error {
        let label = if status.is_established() { "warning" } else { "last error" };
        text.push_str(&format!("\n  {label}: {error}"));
    }
    for prefix in &status.announced {
        text.push_str(&format!("\n  announced {prefix}"));
    }
    for ReceivedRoute { prefix, next_hop, stale } in &status.received_routes {
        let via = next_hop.as_ref().map_or_else(String::new, |hop| format!(" via {hop}"));
        let stale = if *stale { " (stale)" } else { "" };
        text.push_str(&format!("\n  received {prefix}{via}{stale}"));
    }
    if status.truncated {
        text.push_str("\n  received more routes than are stored");
    }
    text
}

impl Telemetry {
    pub fn set_bgp(&self, states: watch::Receiver<PeerStates>, requests: mpsc::Sender<StatusRequest>) {
        self.lock().bgp = Some(Peers { states, requests });
    }

    /// The state of all peers including their routes.
    pub async fn peers_with_routes(&self) -> Vec<PeerStatus> {
        let (request, reply) = oneshot::channel();
        let Some(requests) = self.lock().bgp.as_ref().map(|bgp| bgp.requests.clone()) else {
            return Vec::new();
        };
        if requests.send(request).await.is_err() {
            return Vec::new();
        }
        reply.await.unwrap_or_default()
    }

    /// Turns session changes into Events until the speaker stops.
    pub async fn report_bgp_sessions(self: Arc<Self>, mut events: mpsc::Receiver<SessionEvent>) {
        while let Some(event) = events.recv().await {
            self.notice(match event {
                SessionEvent::Up { peer } => Notice::PeerUp { peer },
                SessionEvent::Down { peer, reason } => Notice::PeerDown { peer, why: reason.to_string() },
            });
        }
    }
}
