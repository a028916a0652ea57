//! The API server: one Lease with optimistic locking, and its watches.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_vip::election::elector::{LeaseRequest, LeaseResponse};
use kube_vip::election::record::{Acquired, Write, sign};
use kube_vip::election::{LeaderElectionRecord, LeaseObject};

use crate::world::{News, World};

#[derive(Default)]
pub(crate) struct Store {
    pub(crate) lease: Option<LeaseObject>,
    version: u64,
    pub(crate) down_until: u64,
}

impl World {
    pub(crate) fn serve(&mut self, from: usize, request: LeaseRequest, wall: i64) -> LeaseResponse {
        let (write, mut meta) = match (request, &self.store.lease) {
            (LeaseRequest::Read, Some(lease)) => return LeaseResponse::Object(Box::new(lease.clone())),
            (LeaseRequest::Read | LeaseRequest::Replace { .. }, None) => return LeaseResponse::NotFound,
            (LeaseRequest::Create { .. }, Some(_)) => return LeaseResponse::Conflict,
            (LeaseRequest::Create { write, .. }, None) => (write, ObjectMeta::default()),
            (LeaseRequest::Replace { meta, .. }, Some(lease))
                if lease.meta.resource_version != meta.resource_version =>
            {
                return LeaseResponse::Conflict;
            }
            (LeaseRequest::Replace { write, meta }, Some(lease)) => {
                if write.holder.is_empty() && lease.host().is_some_and(|host| host != write.host) {
                    self.violation = Some(format!("host {from} releases what {:?} wrote", lease.host()));
                }
                (write, *meta)
            }
        };
        sign(&mut meta, &write.host, wall);
        let lease = self.put(LeaseObject { record: record(&write, wall), meta });
        LeaseResponse::Object(Box::new(lease))
    }

    /// Stores the Lease under a new version.
    pub(crate) fn put(&mut self, mut lease: LeaseObject) -> LeaseObject {
        self.store.version += 1;
        lease.meta.resource_version = Some(self.store.version.to_string());
        self.trace(|| format!("the Lease is now {:?}, written by {:?}", lease.record, lease.host()));
        self.store.lease = Some(lease.clone());
        self.notify();
        lease
    }

    pub(crate) fn delete(&mut self) {
        self.store.version += 1;
        self.store.lease = None;
        self.notify();
    }

    fn notify(&mut self) {
        for agent in 0..self.agents.len() {
            let delay = self.latency();
            if !self.mishap(30) {
                self.inform(delay, agent, News::Watched(self.store.lease.clone()));
            }
        }
    }
}

fn record(write: &Write, wall: i64) -> LeaderElectionRecord {
    LeaderElectionRecord {
        holder: write.holder.clone(),
        duration_seconds: write.duration_seconds,
        acquired: match write.acquired {
            Acquired::Now => Some(wall),
            Acquired::Keep(before) => before,
        },
        renewed: Some(wall),
        transitions: write.transitions,
    }
}
