//! Kubernetes Events: what users read with `kubectl describe`.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event as Object, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::Client;
use kube::api::PostParams;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Api;

/// Something to tell about an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What it is about. Events of an object without a namespace go to `default`.
    pub about: ObjectReference,
    /// A `Warning` rather than `Normal`.
    pub warning: bool,
    /// One word, for machines.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
}

/// The API server takes no more than this many bytes.
const LONGEST_MESSAGE: usize = 1024;
/// Events under way at once, and how long each may take.
const AT_ONCE: usize = 4;
const PATIENCE: Duration = Duration::from_secs(5);

/// Whom Events come from.
#[derive(Debug, Clone)]
pub struct EventRecorder {
    /// The program.
    pub component: &'static str,
    /// The node.
    pub host: String,
}

impl EventRecorder {
    /// Write an Event.
    ///
    /// # Errors
    /// What the API server says.
    pub async fn post(&self, client: Client, event: Event) -> Result<(), kube::Error> {
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
            message: Some(shortened(event.message)),
            type_: Some(if event.warning { "Warning" } else { "Normal" }.to_owned()),
            source: Some(EventSource {
                component: Some(self.component.to_owned()),
                host: Some(self.host.clone()).filter(|host| !host.is_empty()),
            }),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            count: Some(1),
            ..Object::default()
        };
        let events = kube::Api::<Object>::namespaced(client, &namespace);
        events.create(&PostParams::default(), &object).await.map(drop)
    }
}

impl EventRecorder {
    /// Write Events as they come, a few at a time, until nobody has any to tell. One that cannot be written is
    /// dropped: Events are a courtesy.
    pub async fn post_all(self, api: Arc<Api>, mut queue: mpsc::Receiver<Event>) {
        let events = futures::stream::poll_fn(|context| queue.poll_recv(context));
        let post = |event| {
            let (api, author) = (&api, &self);
            async move {
                let Ok(chosen) = api.client().await else { return };
                match timeout(PATIENCE, author.post(chosen.client, event)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "the Event could not be written"),
                    Err(_elapsed) => api.failed(&chosen.server),
                }
            }
        };
        events.for_each_concurrent(AT_ONCE, post).await;
    }
}

fn shortened(mut message: String) -> String {
    if message.len() > LONGEST_MESSAGE {
        message.truncate(message.floor_char_boundary(LONGEST_MESSAGE - 3));
        message.push_str("...");
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_between_characters() {
        let long = shortened("é".repeat(600));
        assert!(long.len() <= LONGEST_MESSAGE && long.ends_with("é..."), "{long}");
        assert_eq!(shortened("short".into()), "short");
    }
}
