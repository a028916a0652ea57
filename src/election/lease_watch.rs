//! The watch of one Lease, for the election that the rest of the process depends on: opened again at once, and given up
//! together with its API server.

use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{WatchEvent, WatchParams};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::elections;
use super::elector::Input;
use super::request::lease_object;
use crate::cluster::Api;
use crate::model::LeaseName;

/// The server ends a watch after this many seconds.
const WATCH_SECONDS: u32 = 290;
/// Pause before a broken watch is opened again.
const RETRY_INTERVAL: Duration = Duration::from_millis(300);

/// The watch of a Lease, until the receiver of its events is gone.
pub(super) struct LeaseWatch {
    pub(super) api: Arc<Api>,
    pub(super) lease: LeaseName,
    pub(super) events: mpsc::Sender<elections::Input>,
    /// Opens the watch again at once.
    pub(super) restart: mpsc::Receiver<()>,
    /// Limit for opening a watch.
    pub(super) request_timeout: Duration,
}

impl LeaseWatch {
    pub(super) async fn run(mut self) {
        loop {
            let (api, lease, events) = (self.api.clone(), self.lease.clone(), self.events.clone());
            let restarted = tokio::select! {
                _ = watch(api, lease, events, self.request_timeout) => false,
                requested = self.restart.recv() => requested.is_some(),
            };
            if send(&self.events, &self.lease, Input::Watching(false)).await.is_none() {
                return;
            }
            if !restarted {
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
        }
    }
}

async fn send(events: &mpsc::Sender<elections::Input>, lease: &LeaseName, input: Input) -> Option<()> {
    events.send(elections::Input::Elector(lease.clone(), input)).await.ok()
}

/// One watch, until it ends; none if it could not be opened.
async fn watch(
    api: Arc<Api>,
    lease: LeaseName,
    events: mpsc::Sender<elections::Input>,
    request_timeout: Duration,
) -> Option<()> {
    let server = api.client().await.ok()?;
    let leases = kube::Api::<Lease>::namespaced(server.client.clone(), &lease.namespace);
    let field = format!("metadata.name={}", lease.name);
    let params = WatchParams::default().fields(&field).timeout(WATCH_SECONDS).disable_bookmarks();
    // Without a resourceVersion the watch begins with the present state.
    let Ok(opened) = timeout(request_timeout, leases.watch(&params, "")).await else {
        api.failed(&server.server);
        return None;
    };
    let mut stream = opened.ok()?.boxed();
    send(&events, &lease, Input::Watching(true)).await?;
    let forward = async {
        while let Ok(Some(event)) = stream.try_next().await {
            let input = match event {
                WatchEvent::Added(lease) | WatchEvent::Modified(lease) => {
                    Input::Watched(Box::new(lease_object(lease)))
                }
                WatchEvent::Deleted(_) => Input::WatchedDeletion,
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(_) => return,
            };
            if send(&events, &lease, input).await.is_none() {
                return;
            }
        }
    };
    tokio::select! {
        () = forward => {}
        // A server that does not respond to other requests sends no events either.
        () = api.until_failed(&server.server) => {}
    }
    Some(())
}
