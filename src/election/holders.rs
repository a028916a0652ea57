//! Which host holds each Lease of the watched namespaces.
//!
//! Expiry is measured by this host's clock, from the moment a record was first observed in its present form.

use std::collections::{BTreeMap, BTreeSet};

use super::Settings;
use super::record::LeaseObject;
use crate::model::{BootTime, Holder, LeaseName};

/// Every Lease of the watched namespaces.
#[derive(Debug, Default)]
pub struct Holders {
    leases: BTreeMap<LeaseName, (LeaseObject, BootTime)>,
    /// When the next holder is overdue, or its Lease expires.
    next_change: Option<BootTime>,
}

impl Holders {
    pub fn lease(&self, lease: &LeaseName) -> Option<&LeaseObject> {
        self.leases.get(lease).map(|(object, _)| object)
    }

    pub fn next_change(&self) -> Option<BootTime> {
        self.next_change
    }

    /// Records a Lease. True if that changes the result of [`Self::current`].
    pub fn observe(
        &mut self,
        lease: LeaseName,
        object: LeaseObject,
        settings: &Settings,
        now: BootTime,
    ) -> bool {
        let Some((before, since)) = self.leases.get_mut(&lease) else {
            self.leases.insert(lease, (object, now));
            return true;
        };
        let other = before.record.holder != object.record.holder;
        let renewed = before.record != object.record;
        let overdue = now >= *since + settings.overdue(before.record.duration(settings.lease_duration));
        if renewed {
            *since = now;
        }
        *before = object;
        other || (renewed && overdue)
    }

    pub fn remove(&mut self, lease: &LeaseName) {
        self.leases.remove(lease);
    }

    /// Forgets all Leases of a namespace but these.
    pub fn retain(&mut self, namespace: &str, listed: &BTreeSet<LeaseName>) {
        self.leases.retain(|lease, _| lease.namespace != namespace || listed.contains(lease));
    }

    /// The holders of all unexpired Leases at `now`; computes [`Self::next_change`] anew.
    pub fn current(&mut self, settings: &Settings, now: BootTime) -> BTreeMap<LeaseName, Holder> {
        let mut holders = BTreeMap::new();
        self.next_change = None;
        for (lease, (object, since)) in &self.leases {
            let duration = object.record.duration(settings.lease_duration);
            let (overdue, expiry) = (*since + settings.overdue(duration), *since + duration);
            if object.record.holder.is_empty() || expiry <= now {
                continue;
            }
            let is_current = now < overdue;
            let next = if is_current { overdue } else { expiry };
            self.next_change = Some(self.next_change.map_or(next, |before| before.min(next)));
            holders.insert(lease.clone(), Holder { identity: object.record.holder.clone(), is_current });
        }
        holders
    }
}
