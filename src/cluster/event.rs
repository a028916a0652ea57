//! Kubernetes Events: every component records into one queue, one task writes.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::{Event as Object, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Client;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::correlator::{Correlator, Occurrence};
use super::{Api, ApiClient};
use crate::model::{ServiceKey, text};
use crate::net::clock;

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The involved object. Events of an object without a namespace are written to `default`.
    pub about: ObjectReference,
    /// Type `Warning` instead of `Normal`.
    pub warning: bool,
    pub reason: &'static str,
    pub message: String,
    /// Several processes may record it: all of them write one object, whichever comes first.
    pub shared: bool,
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
        let message = truncate(text::printable(&event.message).into_owned());
        self.queue.try_send(Event { message, ..event }).ok();
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
        self.record(Event { about, warning, reason, message, shared: false });
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
    /// An Event that cannot be written is dropped, and so is one of too many about an object.
    pub async fn run(mut self, api: Arc<Api>, closing: impl Future<Output = ()>) {
        let (component, host) = (self.component, self.host.clone());
        let mut closing = pin!(closing.fuse());
        let events = futures::stream::poll_fn(|context| {
            if closing.as_mut().poll(context).is_ready() {
                self.queue.close();
            }
            self.queue.poll_recv(context)
        });
        let mut correlator = Correlator::default();
        let write = |event| {
            let (api, host) = (&api, &host);
            let occurrence = correlator.observe(clock::now(), jiff::Timestamp::now(), event);
            async move {
                let Some(occurrence) = occurrence else { return };
                let Ok(ApiClient { client, server }) = api.client().await else { return };
                match timeout(REQUEST_TIMEOUT, write(client, component, host, occurrence)).await {
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

async fn write(
    client: Client,
    component: &str,
    host: &str,
    mut occurrence: Occurrence,
) -> Result<(), kube::Error> {
    let namespace = occurrence.event.about.namespace.as_deref().unwrap_or("default");
    let events = kube::Api::<Object>::namespaced(client, namespace);
    if let (Some(name), 2..) = (&occurrence.name, occurrence.count) {
        let change = json!({ "count": occurrence.count, "lastTimestamp": Time(occurrence.last) });
        let error = match events.patch(name, &PatchParams::default(), &Patch::Merge(change)).await {
            Ok(_) => return Ok(()),
            Err(error) => error,
        };
        occurrence = match &error {
            kube::Error::Api(status) => occurrence.instead(status.code).ok_or(error)?,
            _ => return Err(error),
        };
    }
    let (shared, name, last) = (occurrence.event.shared, occurrence.name.clone(), occurrence.last);
    match events.create(&PostParams::default(), &object(component, host, occurrence)).await {
        // Another process, or an earlier one of this node, wrote it first.
        Err(kube::Error::Api(status)) if status.code == 409 && shared => {
            let change = json!({ "lastTimestamp": Time(last) });
            let patch = Patch::Merge(change);
            let name = name.unwrap_or_default();
            let result = events.patch(&name, &PatchParams::default(), &patch).await;
            result.map(drop).or_else(|error| match &error {
                // Roles of earlier versions lack the verb `patch`.
                kube::Error::Api(status) if status.code == 403 => Ok(()),
                _ => Err(error),
            })
        }
        // A later count of it came first.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        result => result.map(drop),
    }
}

fn object(component: &str, host: &str, occurrence: Occurrence) -> Object {
    let Occurrence { event, name, first, last, count } = occurrence;
    let generate_name =
        name.is_none().then(|| format!("{}.", event.about.name.as_deref().unwrap_or_default()));
    let namespace = event.about.namespace.clone().unwrap_or_else(|| "default".to_owned());
    Object {
        metadata: ObjectMeta { name, generate_name, namespace: Some(namespace), ..ObjectMeta::default() },
        involved_object: event.about,
        reason: Some(event.reason.to_owned()),
        message: Some(event.message),
        type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
        source: Some(EventSource {
            component: Some(component.to_owned()),
            host: (!host.is_empty()).then(|| host.to_owned()),
        }),
        first_timestamp: Some(Time(first)),
        last_timestamp: Some(Time(last)),
        count: Some(count),
        ..Object::default()
    }
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

    #[test]
    fn a_message_is_one_line() {
        let (recorder, mut writer) = recorder("kube-vip", "node-1", 1);
        recorder.record_on_node(true, "VIPLost", "x\n2026/01/01 \u{1b}[2J".into());
        assert_eq!(writer.queue.try_recv().unwrap().message, "x 2026/01/01  [2J");
    }
}
