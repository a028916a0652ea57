//! Kubernetes objects, followed by list and watch, as values of our own.
//!
//! Reads only. A connection is given up with the first call of anybody's that gets no answer on it: a dead API
//! server says nothing on a watch for a long time.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cluster::Api;

/// Time for a page of the first list.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pauses between attempts.
const SHORTEST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// What happened to the objects that are followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T> {
    /// These are all there are: at the beginning, and after changes may have been missed.
    Reset(Vec<T>),
    /// One came or changed.
    Applied(T),
    /// One is gone.
    Deleted(T),
}

/// Follow objects for ever, or until nobody listens. The first change is a [`Change::Reset`].
///
/// `select` narrows a client down to the objects, `convert` takes from each what is of interest, and drops those of
/// no interest; `wrap` makes it the listener's own.
pub async fn follow<K, T, M>(
    api: Arc<Api>,
    select: impl Fn(kube::Client) -> kube::Api<K>,
    config: watcher::Config,
    convert: impl Fn(K) -> Option<T>,
    wrap: impl Fn(Change<T>) -> M,
    changes: mpsc::Sender<M>,
) where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let mut pause = SHORTEST_PAUSE;
    let mut trouble = String::new();
    let mut tell = |text: String| {
        if trouble != text {
            tracing::warn!(kind = %K::kind(&()), "cannot follow objects: {text}; trying again");
            trouble = text;
        }
    };
    loop {
        let chosen = match api.client().await {
            Ok(chosen) => chosen,
            Err(error) => {
                tell(error.to_string());
                tokio::time::sleep(LONGEST_PAUSE).await;
                continue;
            }
        };
        let mut stream = pin!(watcher(select(chosen.client.clone()), config.clone()));
        let failed = api.until_failed(&chosen.server);
        let mut failed = pin!(failed);
        let mut listing: Option<Vec<T>> = Some(Vec::new());
        loop {
            let next = async {
                match listing {
                    Some(_) => timeout(PATIENCE, stream.next()).await,
                    None => Ok(stream.next().await),
                }
            };
            let next = tokio::select! {
                biased;
                () = changes.closed() => return,
                () = &mut failed => break,
                next = next => next,
            };
            let event = match next {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(error))) => {
                    tell(error.to_string());
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    if is_answer(&error) {
                        // The watcher knows where to go on, or begins anew by itself.
                        continue;
                    }
                    api.failed(&chosen.server);
                    break;
                }
                Ok(None) => break,
                Err(_elapsed) => {
                    tell(format!("{} does not answer in time", chosen.server));
                    api.failed(&chosen.server);
                    break;
                }
            };
            pause = SHORTEST_PAUSE;
            let change = match event {
                Event::Init => {
                    listing = Some(Vec::new());
                    continue;
                }
                Event::InitApply(object) => {
                    listing.get_or_insert_default().extend(convert(object));
                    continue;
                }
                Event::InitDone => {
                    let all = listing.take().unwrap_or_default();
                    tracing::debug!(kind = %K::kind(&()), count = all.len(), "listed");
                    Some(Change::Reset(all))
                }
                Event::Apply(object) => convert(object).map(Change::Applied),
                Event::Delete(object) => convert(object).map(Change::Deleted),
            };
            if let Some(change) = change
                && changes.send(wrap(change)).await.is_err()
            {
                return;
            }
        }
    }
}

/// Objects of one namespace, or of all.
pub fn within<K>(client: kube::Client, namespace: Option<&str>) -> kube::Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => kube::Api::namespaced(client, namespace),
        None => kube::Api::all(client),
    }
}

/// The server answered, if not as we wish: there is nothing wrong with the connection.
fn is_answer(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => {
            // Credentials are read again when a server is given up.
            matches!(error, kube::Error::Api(status) if status.code != 401)
        }
        WatchError(_) | NoResourceVersion => true,
    }
}
