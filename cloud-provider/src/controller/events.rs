//! Kubernetes Events on Services and on the ConfigMap.
//!
//! The Go program's reasons and messages are kept as parts of these: scripts wait for them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ObjectReference;
use kube_vip::cluster::Api;
use kube_vip::cluster::event::{self, Event, EventRecorder};
use kube_vip::model::ServiceKey;

use crate::plan::ServiceEvent;
use crate::pools::Problem;

/// Events that wait to be posted: as many as Services may be allocated in one burst.
const QUEUE: usize = 20_000;

pub fn of_service(key: &ServiceKey, uid: &str, event: &ServiceEvent) -> Event {
    let (warning, reason, message) = match event {
        ServiceEvent::Allocated(addresses) => {
            (false, "EnsuredLoadBalancer", format!("Ensured load balancer: {}", addresses.join(", ")))
        }
        ServiceEvent::AllocatedWithNote(note) => {
            (false, "EnsuredLoadBalancer", format!("Ensured load balancer: {note}"))
        }
        ServiceEvent::Released => {
            (false, "DeletedLoadBalancer", "Deleted load balancer: its addresses are free".into())
        }
        ServiceEvent::Failed(reason) => (
            true,
            "SyncLoadBalancerFailed",
            format!("Error syncing load balancer: failed to ensure load balancer: {reason}"),
        ),
    };
    let about = reference("Service", &key.namespace, &key.name, uid);
    Event { about, warning, reason, message, shared: false }
}

pub fn of_config_map((namespace, name): &(String, String), uid: &str, problem: &Problem) -> Event {
    let reason = if problem.fatal { "InvalidPool" } else { "PoolWarning" };
    let about = reference("ConfigMap", namespace, name, uid);
    Event { about, warning: true, reason, message: problem.to_string(), shared: false }
}

fn reference(kind: &str, namespace: &str, name: &str, uid: &str) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some(kind.to_owned()),
        namespace: Some(namespace.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    }
}

/// A recorder, and the writer of its Events, which ends when all clones of the recorder are dropped.
pub fn start(api: Arc<Api>, host: &str) -> (EventRecorder, impl Future<Output = ()> + use<>) {
    // The component name of the Go program's framework, by which scripts select Events.
    let (recorder, writer) = event::recorder("service-controller", host, QUEUE);
    (recorder, writer.run(api, std::future::pending()))
}
