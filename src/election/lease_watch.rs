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
use crate::model::{Backoff, LeaseName};

/// The server ends a watch after this many seconds.
const WATCH_SECONDS: u32 = 290;
/// Pauses before a broken watch is opened again.
const BACKOFF_MIN: Duration = Duration::from_millis(300);
const BACKOFF_MAX: Duration = Duration::from_secs(3);

pub(super) struct LeaseWatch {
    pub(super) api: Arc<Api>,
    pub(super) lease: LeaseName,
    pub(super) events: mpsc::Sender<elections::Input>,
    pub(super) request_timeout: Duration,
}

impl LeaseWatch {
    /// Watches until the receiver of its events is gone. A message on `restart` opens the watch again at once.
    pub(super) async fn run(self, mut restart: mpsc::Receiver<()>) {
        let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
        loop {
            let restarted = tokio::select! {
                _ = self.watch(&mut backoff) => false,
                requested = restart.recv() => requested.is_some(),
            };
            if self.send(Input::Watching(false)).await.is_none() {
                return;
            }
            if !restarted {
                tokio::time::sleep(backoff.next_pause()).await;
            }
        }
    }

    async fn send(&self, input: Input) -> Option<()> {
        self.events.send(elections::Input::Elector(self.lease.clone(), input)).await.ok()
    }

    /// One watch, until it ends; none if it could not be opened.
    async fn watch(&self, backoff: &mut Backoff) -> Option<()> {
        let server = self.api.client().await.ok()?;
        let leases = kube::Api::<Lease>::namespaced(server.client.clone(), &self.lease.namespace);
        let field = format!("metadata.name={}", self.lease.name);
        let params = WatchParams::default().fields(&field).timeout(WATCH_SECONDS).disable_bookmarks();
        // Without a resourceVersion the watch begins with the present state.
        let Ok(opened) = timeout(self.request_timeout, leases.watch(&params, "")).await else {
            self.api.failed(&server.server);
            return None;
        };
        let opened = opened.inspect_err(|error| self.api.request_failed(&server.server, error));
        let mut stream = opened.ok()?.boxed();
        backoff.reset();
        self.send(Input::Watching(true)).await?;
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
                if self.send(input).await.is_none() {
                    return;
                }
            }
        };
        tokio::select! {
            () = forward => {}
            // A server that does not respond to other requests sends no events either.
            () = self.api.until_failed(&server.server) => {}
        }
        Some(())
    }
}
