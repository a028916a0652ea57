//! Kubernetes Events: every component records into one queue, one task writes.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{Event as Object, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Client;
use kube::api::PostParams;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Api, ApiClient};
use crate::model::ServiceKey;

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The involved object. Events of an object without a namespace are written to `default`.
    pub about: ObjectReference,
    /// Type `Warning` instead of `Normal`.
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
}

/// Limit of the API server, in bytes.
const MESSAGE_MAX: usize = 1024;
/// Requests in flight.
const MAX_IN_FLIGHT: usize = 4;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Puts Events into the queue of an [`EventWriter`].
#[derive(Debug, Clone)]
pub struct EventRecorder {
    host: Arc<str>,
    queue: mpsc::Sender<Event>,
}

/// The only writer of Events of a process.
#[derive(Debug)]
pub struct EventWriter {
    component: &'static str,
    host: Arc<str>,
    queue: mpsc::Receiver<Event>,
}

/// A recorder for a program on a host, and the writer behind it. `capacity` is the length of the queue.
pub fn recorder(component: &'static str, host: &str, capacity: usize) -> (EventRecorder, EventWriter) {
    let host: Arc<str> = host.into();
    let (sender, queue) = mpsc::channel(capacity);
    (EventRecorder { host: host.clone(), queue: sender }, EventWriter { component, host, queue })
}

impl EventRecorder {
    /// Queues an Event. Never waits: an Event that finds the queue full is dropped.
    pub fn record(&self, event: Event) {
        self.queue.try_send(event).ok();
    }

    /// Queues an Event on the Node of this host.
    pub fn record_on_node(&self, warning: bool, reason: &'static str, message: String) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.host.to_string()),
            // As in the kubelet's Events: `kubectl describe node` selects by it.
            uid: Some(self.host.to_string()),
            ..ObjectReference::default()
        };
        self.record(Event { about, warning, reason, message });
    }
}

pub fn service_reference(key: &ServiceKey, uid: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Service".into()),
        namespace: Some(key.namespace.clone()),
        name: Some(key.name.clone()),
        uid,
        ..ObjectReference::default()
    }
}

impl EventWriter {
    /// Writes until all recorders are dropped, or until `closing` is ready; then what is queued is still written.
    /// An Event that cannot be written is dropped.
    pub async fn run(mut self, api: Arc<Api>, closing: impl Future<Output = ()>) {
        let (component, host) = (self.component, self.host.clone());
        let mut closing = pin!(closing.fuse());
        let events = futures::stream::poll_fn(|context| {
            if closing.as_mut().poll(context).is_ready() {
                self.queue.close();
            }
            self.queue.poll_recv(context)
        });
        let write = |event| {
            let (api, host) = (&api, &host);
            async move {
                let Ok(ApiClient { client, server }) = api.client().await else { return };
                match timeout(REQUEST_TIMEOUT, create(client, component, host, event)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        api.request_failed(&server, &error);
                        tracing::debug!(%error, "cannot write an Event");
                    }
                    Err(_elapsed) => api.failed(&server),
                }
            }
        };
        events.for_each_concurrent(MAX_IN_FLIGHT, write).await;
    }
}

async fn create(client: Client, component: &str, host: &str, event: Event) -> Result<(), kube::Error> {
    let now = Time(jiff::Timestamp::now());
    let namespace = event.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
    let name = event.about.name.as_deref().unwrap_or_default();
    let object = Object {
        metadata: ObjectMeta {
            generate_name: Some(format!("{name}.")),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: event.about,
        reason: Some(event.reason.to_owned()),
        message: Some(truncate(event.message)),
        type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
        source: Some(EventSource {
            component: Some(component.to_owned()),
            host: (!host.is_empty()).then(|| host.to_owned()),
        }),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        ..Object::default()
    };
    let events = kube::Api::<Object>::namespaced(client, &namespace);
    events.create(&PostParams::default(), &object).await.map(drop)
}

fn truncate(mut message: String) -> String {
    if message.len() > MESSAGE_MAX {
        message.truncate(message.floor_char_boundary(MESSAGE_MAX - 3));
        message.push_str("...");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_truncated_between_characters() {
        let long = truncate("é".repeat(600));
        assert!(long.len() <= MESSAGE_MAX && long.ends_with("é..."), "{long}");
        assert_eq!(truncate("short".into()), "short");
    }
}
