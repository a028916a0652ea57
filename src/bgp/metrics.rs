//! Prometheus metrics of BGP sessions.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::fsm::FsmState;
use super::status::PeerStatus;
use crate::metrics::{add, count};

/// The label `peer`, and the labels `state` and `peer`.
type Peer = [(&'static str, String); 1];
type PeerState = [(&'static str, String); 2];

#[derive(Debug, Clone)]
pub struct Metrics {
    states: Family<PeerState, Gauge>,
    losses: Family<Peer, Counter>,
    routes_sent: Family<Peer, Gauge>,
    routes_received: Family<Peer, Gauge>,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            states: add(registry, "manager_bgp_session_info", "1 for the current state of the BGP session"),
            losses: add(registry, "bgp_session_losses", "Established BGP sessions that ended"),
            routes_sent: add(registry, "bgp_routes_sent", "Routes advertised to the BGP peer"),
            routes_received: add(registry, "bgp_routes_received", "Routes received from the BGP peer"),
        }
    }

    pub(super) fn update(&self, status: &PeerStatus) {
        for state in FsmState::ALL {
            let gauge = self.states.get_or_create(&state_label(&status.peer, state));
            gauge.set(i64::from(state == status.state));
        }
        let label = [("peer", status.peer.clone())];
        self.routes_sent.get_or_create(&label).set(count(status.sent));
        self.routes_received.get_or_create(&label).set(count(status.received));
        self.losses.get_or_create(&label).inc_by(0);
    }

    pub(super) fn session_lost(&self, peer: &str) {
        self.losses.get_or_create(&[("peer", peer.to_owned())]).inc();
    }

    pub(super) fn remove(&self, peer: &str) {
        for state in FsmState::ALL {
            self.states.remove(&state_label(peer, state));
        }
        let label = [("peer", peer.to_owned())];
        self.losses.remove(&label);
        self.routes_sent.remove(&label);
        self.routes_received.remove(&label);
    }
}

/// State names as in the Go program, whose library is GoBGP.
fn state_label(peer: &str, state: FsmState) -> PeerState {
    let state = format!("SESSION_STATE_{}", state.to_string().to_uppercase());
    [("state", state), ("peer", peer.to_owned())]
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::model::BootTime;

    #[test]
    fn names_and_labels_are_those_of_the_go_program() {
        let mut registry = Registry::with_prefix("kube_vip");
        let metrics = Metrics::register(&mut registry);
        let mut status = PeerStatus::new("192.0.2.1:179", None);
        status.set_state(FsmState::Established, BootTime::default());
        metrics.update(&status);
        metrics.session_lost("192.0.2.1:179");
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            "kube_vip_manager_bgp_session_info{state=\"SESSION_STATE_ESTABLISHED\",peer=\"192.0.2.1:179\"} 1",
            "kube_vip_manager_bgp_session_info{state=\"SESSION_STATE_IDLE\",peer=\"192.0.2.1:179\"} 0",
            "kube_vip_bgp_session_losses_total{peer=\"192.0.2.1:179\"} 1",
            "kube_vip_bgp_routes_sent{peer=\"192.0.2.1:179\"} 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        metrics.remove("192.0.2.1:179");
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        assert!(!text.contains("192.0.2.1"), "{text}");
    }
}
