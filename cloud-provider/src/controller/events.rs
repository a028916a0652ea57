//! Kubernetes Events on Services and on the ConfigMap.
//!
//! The Go program's reasons and texts are kept as parts of ours: people search for them, and scripts wait for them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube_vip::cluster::Api;
use kube_vip::cluster::event::{Event, EventRecorder};
use kube_vip::model::ServiceKey;
use tokio::sync::mpsc;

use crate::plan::News;
use crate::pools::Problem;

/// Events that wait: as many as Services may be served in one go.
const QUEUE: usize = 20_000;

/// An Event to be written.
#[derive(Debug)]
pub struct Told(Event);

impl Told {
    /// What happened to a Service.
    pub fn service(key: &ServiceKey, uid: &str, news: &News) -> Self {
        let (warning, reason, message) = match news {
            News::Ensured(addresses) => {
                (false, "EnsuredLoadBalancer", format!("Ensured load balancer: {}", addresses.join(", ")))
            }
            News::Remark(text) => (false, "EnsuredLoadBalancer", format!("Ensured load balancer: {text}")),
            News::Released => {
                (false, "DeletedLoadBalancer", "Deleted load balancer: its addresses are free".into())
            }
            News::Failed(reason) => (
                true,
                "SyncLoadBalancerFailed",
                format!("Error syncing load balancer: failed to ensure load balancer: {reason}"),
            ),
        };
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        Self(Event { about, warning, reason, message })
    }

    /// What is wrong with the ConfigMap.
    pub fn problem(config_map: &(String, String), uid: &str, problem: &Problem) -> Self {
        let reason = if problem.fatal { "InvalidPool" } else { "PoolWarning" };
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("ConfigMap".into()),
            namespace: Some(config_map.0.clone()),
            name: Some(config_map.1.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        Self(Event { about, warning: true, reason, message: problem.to_string() })
    }
}

/// Takes Events, and never waits.
#[derive(Debug, Clone)]
pub struct Teller(mpsc::Sender<Event>);

impl Teller {
    /// Events are a courtesy: when too many wait they are dropped.
    pub fn tell(&self, told: Told) {
        self.0.try_send(told.0).ok();
    }
}

/// A teller, and the task that writes for it until all tellers are gone.
pub fn start(api: Arc<Api>, host: String) -> (Teller, impl Future<Output = ()>) {
    let (teller, queue) = mpsc::channel(QUEUE);
    // As the Go program's framework calls itself: scripts select Events by it.
    let author = EventRecorder { component: "service-controller", host };
    (Teller(teller), author.post_all(api, queue))
}
