//! Watches of Kubernetes objects, converted to values of our own. Reads only.
//!
//! A watch is restarted as soon as any request to the same server times out: a dead server sends nothing on an open
//! watch for a long time.

use std::fmt::Debug;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt};
use kube::runtime::watcher::{self, Event, watcher};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cluster::{Api, ApiClient};
use crate::model::{Backoff, LogOnChange};

/// Limit for each page of the initial list.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(3);
/// The same for objects that may be missing or forbidden for good.
const OPTIONAL_BACKOFF_MAX: Duration = Duration::from_secs(300);
/// A stream resumes, or lists again, after an error response. After this many in a row another server may do better.
const ERRORS_MAX: u32 = 4;

/// Pause before a list when versions went back: an odd store must not be listed all the time.
const RESTORED_PAUSE: Duration = BACKOFF_MAX;

/// A change of the watched objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T> {
    /// The complete list: at the start, and whenever changes may have been missed.
    Reset(Vec<T>),
    Applied(T),
    Deleted(T),
}

/// Watches objects until the receiver of `changes` is dropped. The first change is a [`Change::Reset`].
///
/// `select` restricts a client to the objects; `convert` extracts what the receiver needs, and drops objects for which
/// it returns `None`; `wrap` makes a change the receiver's message.
pub async fn watch_objects<K, T, M>(
    api: Arc<Api>,
    select: impl Fn(kube::Client) -> kube::Api<K>,
    config: watcher::Config,
    convert: impl Fn(K) -> Option<T>,
    wrap: impl Fn(Change<T>) -> M,
    changes: mpsc::Sender<M>,
) where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watch(api, select, config, Watch::new::<K>(convert, wrap, changes)).await;
}

/// Watches objects that a role may lack the right for, or a server the kind, as [`watch_objects`]. Then there are none, without
/// a warning.
pub async fn watch_optional<K, T, M>(
    api: Arc<Api>,
    select: impl Fn(kube::Client) -> kube::Api<K>,
    config: watcher::Config,
    convert: impl Fn(K) -> Option<T>,
    wrap: impl Fn(Change<T>) -> M,
    changes: mpsc::Sender<M>,
) where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let optional = Watch {
        optional: true,
        backoff: Backoff::new(BACKOFF_MIN, OPTIONAL_BACKOFF_MAX),
        ..Watch::new::<K>(convert, wrap, changes)
    };
    watch(api, select, config, optional).await;
}

async fn watch<K, T, M, C, W>(
    api: Arc<Api>,
    select: impl Fn(kube::Client) -> kube::Api<K>,
    config: watcher::Config,
    mut watch: Watch<C, W, M>,
) where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + 'static,
    C: Fn(K) -> Option<T>,
    W: Fn(Change<T>) -> M,
{
    let changes = watch.changes.clone();
    while !changes.is_closed() {
        let ApiClient { client, server } = match api.client().await {
            Ok(client) => client,
            Err(error) => {
                watch.log(error.to_string());
                tokio::time::sleep(BACKOFF_MAX).await;
                continue;
            }
        };
        tokio::select! {
            biased;
            () = changes.closed() => {}
            () = api.until_failed(&server) => {}
            () = watch.forward(watcher(select(client), config.clone()), &api, &server) => {}
        }
    }
}

struct Watch<C, W, M> {
    kind: String,
    convert: C,
    wrap: W,
    changes: mpsc::Sender<M>,
    backoff: Backoff,
    problem: LogOnChange,
    optional: bool,
    /// There was a first [`Change::Reset`].
    listed: bool,
}

impl<C, W, M> Watch<C, W, M> {
    fn new<K: kube::Resource<DynamicType = ()>>(convert: C, wrap: W, changes: mpsc::Sender<M>) -> Self {
        let backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
        let kind = K::kind(&()).into_owned();
        Self {
            kind,
            convert,
            wrap,
            changes,
            backoff,
            problem: LogOnChange::default(),
            optional: false,
            listed: false,
        }
    }

    /// Forwards the events of one stream, until it ends or its server does not respond.
    async fn forward<K, T>(
        &mut self,
        stream: impl Stream<Item = Result<Event<K>, watcher::Error>>,
        api: &Api,
        server: &str,
    ) where
        K: kube::Resource,
        C: Fn(K) -> Option<T>,
        W: Fn(Change<T>) -> M,
    {
        let mut stream = pin!(stream);
        // The objects of the list in progress; none once it is complete.
        let mut list = Some(Vec::new());
        let mut newest = Newest::default();
        loop {
            let next = match list {
                Some(_) => timeout(LIST_TIMEOUT, stream.next()).await,
                None => Ok(stream.next().await),
            };
            let event = match next {
                Ok(Some(Ok(event))) => event,
                Ok(Some(Err(error))) => {
                    self.log(error.to_string());
                    if self.optional && !self.listed && is_rejection(&error) {
                        self.listed = true;
                        self.changes.send((self.wrap)(Change::Reset(Vec::new()))).await.ok();
                    }
                    tokio::time::sleep(self.backoff.next_pause()).await;
                    if is_failure(&error) {
                        return api.failed(server);
                    }
                    if self.backoff.attempts() >= ERRORS_MAX {
                        return;
                    }
                    continue;
                }
                Ok(None) => return,
                Err(_elapsed) => {
                    self.log(format!("{server} did not respond in time"));
                    return api.failed(server);
                }
            };
            // Emitted before the server is contacted.
            if !matches!(event, Event::Init) {
                self.backoff.reset();
            }
            if !newest.admits(&event) {
                self.log(format!(
                    "{server} delivered an older version than before, as after the restore of a backup"
                ));
                return tokio::time::sleep(RESTORED_PAUSE).await;
            }
            if let Some(change) = self.convert(event, &mut list)
                && self.changes.send((self.wrap)(change)).await.is_err()
            {
                return;
            }
        }
    }

    fn convert<K, T>(&mut self, event: Event<K>, list: &mut Option<Vec<T>>) -> Option<Change<T>>
    where
        C: Fn(K) -> Option<T>,
    {
        match event {
            Event::Init => {
                *list = Some(Vec::new());
                None
            }
            Event::InitApply(object) => {
                list.get_or_insert_default().extend((self.convert)(object));
                None
            }
            Event::InitDone => {
                self.problem.clear();
                self.listed = true;
                let all = list.take().unwrap_or_default();
                tracing::debug!(kind = self.kind, count = all.len(), "listed objects");
                Some(Change::Reset(all))
            }
            Event::Apply(object) => (self.convert)(object).map(Change::Applied),
            Event::Delete(object) => (self.convert)(object).map(Change::Deleted),
        }
    }

    fn log(&mut self, problem: String) {
        if self.optional {
            tracing::debug!(kind = self.kind, "cannot watch objects: {problem}; trying again");
        } else if self.problem.set(problem.as_str()) {
            tracing::warn!(kind = self.kind, "cannot watch objects: {problem}; trying again");
        }
    }
}

/// The newest version that a watch has delivered. Versions increase through the whole store, unless it is restored from a
/// backup: then what is known has to be listed again, or it would be taken for newer.
#[derive(Debug, Default)]
struct Newest(u64);

impl Newest {
    /// Notes an event. False if it is older than the list, or than an event before.
    fn admits<K: kube::Resource>(&mut self, event: &Event<K>) -> bool {
        let version = |object: &K| object.meta().resource_version.as_deref()?.parse::<u64>().ok();
        match event {
            Event::Init => self.0 = 0,
            // The list is sorted by name.
            Event::InitApply(object) => self.0 = self.0.max(version(object).unwrap_or_default()),
            Event::Apply(object) => match version(object) {
                Some(version) if version < self.0 => return false,
                Some(version) => self.0 = version,
                None => {}
            },
            // Some servers deliver a deleted object as it was before.
            Event::InitDone | Event::Delete(_) => {}
        }
        true
    }
}

/// Objects of one namespace, or of all namespaces.
pub fn within<K>(client: kube::Client, namespace: Option<&str>) -> kube::Api<K>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => kube::Api::namespaced(client, namespace),
        None => kube::Api::all(client),
    }
}

fn is_failure(error: &watcher::Error) -> bool {
    cause(error).is_some_and(super::is_failure)
}

/// Whether the role lacks the right, or the server the kind.
fn is_rejection(error: &watcher::Error) -> bool {
    matches!(cause(error), Some(kube::Error::Api(status)) if matches!(status.code, 403 | 404))
}

fn cause(error: &watcher::Error) -> Option<&kube::Error> {
    use watcher::Error::{InitialListFailed, NoResourceVersion, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(error) | WatchStartFailed(error) | WatchFailed(error) => Some(error),
        WatchError(_) | NoResourceVersion => None,
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;

    use super::*;

    #[test]
    fn an_event_that_is_older_than_the_list_has_everything_listed_again() {
        let service = |version: u64| {
            let mut service = Service::default();
            service.metadata.resource_version = Some(version.to_string());
            service
        };
        let list = |newest: &mut Newest, versions: &[u64]| {
            newest.admits::<Service>(&Event::Init);
            assert!(versions.iter().all(|version| newest.admits(&Event::InitApply(service(*version)))));
            newest.admits::<Service>(&Event::InitDone);
        };
        let mut newest = Newest::default();
        list(&mut newest, &[900, 1000, 20]);
        for (event, admitted) in [
            (Event::Apply(service(1001)), true),
            (Event::Apply(service(1001)), true),
            (Event::Delete(service(900)), true),
            (Event::Apply(service(1003)), true),
            // The store was restored to version 500.
            (Event::Apply(service(501)), false),
            (Event::Apply(service(502)), false),
        ] {
            assert_eq!(newest.admits(&event), admitted, "{event:?}");
        }
        list(&mut newest, &[400, 20]);
        assert!(newest.admits(&Event::Apply(service(502))));
        // A version that is no number says nothing.
        assert!(newest.admits(&Event::Apply(Service::default())));
    }
}
