//! Kubernetes Events on the Node: gain, loss and conflict. And the node's label.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, ObjectReference};
use kube::api::{Patch, PatchParams};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cluster::Api;
use crate::cluster::event::{Event, EventRecorder};

/// Something worth an Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// This node now holds the VIP.
    Gained {
        /// Without a Lease yet.
        provisional: bool,
    },
    /// This node does not hold it any more.
    Lost {
        /// It was handed over.
        planned: bool,
        /// Whom the Lease names.
        holder: String,
    },
    /// Another station claims the address.
    Conflict {
        /// The address.
        address: IpAddr,
        /// Its hardware address.
        station: String,
    },
    /// A BGP session is up.
    PeerUp {
        /// The peer.
        peer: String,
    },
    /// It is down.
    PeerDown {
        /// The peer.
        peer: String,
        /// Why.
        why: String,
    },
}

impl Notice {
    fn reason(&self) -> &'static str {
        match self {
            Self::Gained { .. } => "VIPGained",
            Self::Lost { planned: true, .. } => "VIPHandedOver",
            Self::Lost { .. } => "VIPLost",
            Self::Conflict { .. } => "VIPConflict",
            Self::PeerUp { .. } => "BGPSessionUp",
            Self::PeerDown { .. } => "BGPSessionDown",
        }
    }

    fn is_warning(&self) -> bool {
        !matches!(self, Self::Gained { .. } | Self::Lost { planned: true, .. } | Self::PeerUp { .. })
    }

    fn message(&self, vips: &str) -> String {
        match self {
            Self::Gained { provisional: false } => format!("this node now holds {vips}"),
            Self::Gained { provisional: true } => {
                format!("this node holds {vips} until the API server lets kube-vip at the Lease")
            }
            Self::Lost { planned: true, holder } => format!("handed {vips} over to {holder}"),
            Self::Lost { holder, .. } => format!("lost {vips}; the Lease names {holder}"),
            Self::Conflict { address, station } => format!(
                "{station} claims {address}, which kube-vip manages: find that station and take the address from it"
            ),
            Self::PeerUp { peer } => format!("the BGP session with {peer} is up"),
            Self::PeerDown { peer, why } => format!("the BGP session with {peer} is down: {why}"),
        }
    }
}

/// Where Events and labels go.
pub struct Reporter {
    /// API servers.
    pub api: Arc<Api>,
    /// This node.
    pub node: String,
    /// The VIPs as configured.
    pub vips: String,
    /// The label value, where nodes are labelled.
    pub label: Option<String>,
}

const PATIENCE: Duration = Duration::from_secs(5);
/// The label that the Go program puts on the holder's node.
const LABEL: &str = "kube-vip.io/has-ip";

impl Reporter {
    /// Report until nobody has anything to report.
    pub async fn run(self, mut notices: mpsc::Receiver<Notice>) {
        while let Some(notice) = notices.recv().await {
            let sent = timeout(PATIENCE, self.send(&notice)).await;
            if !matches!(sent, Ok(Ok(()))) {
                tracing::debug!(reason = notice.reason(), ?sent, "the Event could not be written");
            }
            let label = match &notice {
                Notice::Gained { .. } => self.label.clone(),
                Notice::Lost { .. } => None,
                Notice::Conflict { .. } | Notice::PeerUp { .. } | Notice::PeerDown { .. } => continue,
            };
            if self.label.is_some() {
                self.label_node(label).await;
            }
        }
    }

    async fn send(&self, notice: &Notice) -> Result<(), kube::Error> {
        let Ok(chosen) = self.api.client().await else { return Ok(()) };
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.node.clone()),
            // As the kubelet does it: Events of a Node are found by its name.
            uid: Some(self.node.clone()),
            ..ObjectReference::default()
        };
        let (reason, message) = (notice.reason(), notice.message(&self.vips));
        let author = EventRecorder { component: "kube-vip", host: self.node.clone() };
        author.post(chosen.client, Event { about, warning: notice.is_warning(), reason, message }).await
    }

    /// Set or remove the label. Tried a few times: a wrong label outlives the moment.
    pub async fn label_node(&self, value: Option<String>) {
        let patch = serde_json::json!({ "metadata": { "labels": { LABEL: value } } });
        for _ in 0..3 {
            let Ok(chosen) = self.api.client().await else { return };
            let nodes = kube::Api::<Node>::all(chosen.client);
            let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
            match timeout(PATIENCE, nodes.patch_metadata(&self.node, &params, &patch)).await {
                Ok(Ok(_)) => return,
                Ok(Err(kube::Error::Api(status))) if status.code == 404 => return,
                Ok(Err(error)) => tracing::warn!(node = self.node, %error, "cannot label the node"),
                Err(_) => tracing::warn!(node = self.node, "cannot label the node: no answer in time"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// A legal label value for these addresses: IPv6 as 32 hex digits, several joined by an underscore.
///
/// The Go program joins them by a comma, which the API server refuses.
pub fn label_value(addresses: &[IpAddr]) -> String {
    let one = |address: &IpAddr| match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => v6.octets().iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let mut value = addresses.iter().map(one).collect::<Vec<String>>().join("_");
    value.truncate(63);
    value.trim_end_matches(['_', '.']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_legal() {
        let table = [
            (&["192.0.2.1"][..], "192.0.2.1"),
            (&["2001:db8::1"], "20010db8000000000000000000000001"),
            (&["192.0.2.1", "2001:db8::1"], "192.0.2.1_20010db8000000000000000000000001"),
            (
                &["2001:db8::1", "2001:db8::2"],
                "20010db8000000000000000000000001_20010db800000000000000000000",
            ),
        ];
        for (addresses, expected) in table {
            let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(label_value(&addresses)[..expected.len()], *expected);
            assert!(label_value(&addresses).len() <= 63);
        }
    }
}
