//! Records when each Service got its address, and when its status had it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::{Mutex, MutexGuard, PoisonError};

use futures::StreamExt;
use k8s_openapi::api::core::v1::Service;
use kube::runtime::watcher;
use kube_vip::model::BootTime;
use tokio::task::JoinHandle;

use crate::objects::annotation;
use crate::{Lab, LabError, Result, now};

const LOAD_BALANCER_IPS: &str = "kube-vip.io/loadbalancerIPs";

/// A Service, as it was last seen.
#[derive(Debug, Clone, Default)]
pub struct Followed {
    /// The annotation with its addresses.
    pub addresses: String,
    /// When it had one for the first time.
    pub allocated: Option<BootTime>,
    /// When its status had one for the first time.
    pub published: Option<BootTime>,
    /// How many versions of it were seen.
    pub versions: usize,
}

type All = BTreeMap<String, Followed>;

/// Follows all Services by watch until it is dropped.
#[derive(Debug)]
pub struct Follower {
    all: Arc<Mutex<All>>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Follow through the API server of one host.
    pub fn start(lab: &Lab, host: usize) -> Result<Self> {
        let api = kube::Api::<Service>::all(lab.client(host)?);
        let all = Arc::new(Mutex::new(All::new()));
        let sink = all.clone();
        let task = lab.host(host).namespace.spawn(async move {
            let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()));
            while let Some(event) = stream.next().await {
                let mut all = lock(&sink);
                match event {
                    Ok(watcher::Event::Apply(service) | watcher::Event::InitApply(service)) => {
                        see(&mut all, &service);
                    }
                    Ok(watcher::Event::Delete(service)) => drop(all.remove(&name(&service))),
                    // It is tried again.
                    Ok(watcher::Event::Init | watcher::Event::InitDone) | Err(_) => {}
                }
            }
        });
        Ok(Self { all, task })
    }

    /// Everything known.
    pub fn all(&self) -> All {
        lock(&self.all).clone()
    }

    /// One Service.
    pub fn service(&self, name: &str) -> Option<Followed> {
        lock(&self.all).get(name).cloned()
    }

    /// Wait until so many Services satisfy a condition.
    pub fn wait_for(
        &self,
        what: &str,
        count: usize,
        seconds: u64,
        condition: impl Fn(&Followed) -> bool,
    ) -> Result<()> {
        let deadline = now() + std::time::Duration::from_secs(seconds);
        loop {
            let met = lock(&self.all).values().filter(|followed| condition(followed)).count();
            if met >= count {
                return Ok(());
            }
            if now() > deadline {
                return Err(LabError::Timeout { what: format!("{what}: {met} of {count}"), seconds });
            }
            std::thread::sleep(std::time::Duration::from_millis(if count > 1 { 10 } else { 1 }));
        }
    }
}

fn see(all: &mut All, service: &Service) {
    let followed = all.entry(name(service)).or_default();
    followed.versions += 1;
    followed.addresses = annotation(service, LOAD_BALANCER_IPS);
    if followed.addresses.is_empty() {
        followed.allocated = None;
    } else {
        followed.allocated.get_or_insert_with(now);
    }
    let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    if status.is_some_and(|status| status.ingress.as_ref().is_some_and(|ingress| !ingress.is_empty())) {
        followed.published.get_or_insert_with(now);
    } else {
        followed.published = None;
    }
}

fn name(service: &Service) -> String {
    let meta = &service.metadata;
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    format!("{namespace}/{}", meta.name.as_deref().unwrap_or_default())
}

fn lock(all: &Mutex<All>) -> MutexGuard<'_, All> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}
