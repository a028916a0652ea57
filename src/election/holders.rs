//! Which host holds each Lease that the plan depends on.
//!
//! Expiry is measured by this host's clock, from the moment a record was first observed in its present form.

use std::collections::{BTreeMap, BTreeSet};

use super::Settings;
use super::record::LeaseObject;
use super::scheme::{OtherSchemes, Scheme, written};
use crate::model::{BootTime, Holder, LeaseName};

/// The Leases of candidacies, and all those of a namespace with heartbeat Leases: others are not kept, however many there are.
#[derive(Debug, Default)]
pub struct Holders {
    candidacies: BTreeSet<LeaseName>,
    /// Namespaces whose Leases are kept whole: they show the heartbeats of other nodes.
    heartbeats: BTreeSet<String>,
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

    /// Keeps these Leases, and forgets all others. True if there were any.
    pub fn follow(&mut self, candidacies: BTreeSet<LeaseName>, heartbeats: BTreeSet<String>) -> bool {
        (self.candidacies, self.heartbeats) = (candidacies, heartbeats);
        let before = self.leases.len();
        let (candidacies, heartbeats) = (&self.candidacies, &self.heartbeats);
        self.leases.retain(|lease, _| is_followed(candidacies, heartbeats, lease));
        self.leases.len() != before
    }

    /// Records a Lease. True if that changes the result of [`Self::current`] or [`Self::other_schemes`].
    pub fn observe(
        &mut self,
        lease: LeaseName,
        object: LeaseObject,
        settings: &Settings,
        now: BootTime,
    ) -> bool {
        if !is_followed(&self.candidacies, &self.heartbeats, &lease) {
            return false;
        }
        let Some((before, since)) = self.leases.get_mut(&lease) else {
            self.leases.insert(lease, (object, now));
            return true;
        };
        let other = before.record.holder != object.record.holder || written(before) != written(&object);
        let renewed = before.record != object.record;
        let overdue = now >= *since + settings.overdue(before.record.duration(settings.lease_duration));
        if renewed {
            *since = now;
        }
        *before = object;
        other || (renewed && overdue)
    }

    /// True if it was known.
    pub fn remove(&mut self, lease: &LeaseName) -> bool {
        self.leases.remove(lease).is_some()
    }

    /// Forgets all Leases but these.
    pub fn retain(&mut self, exists: impl Fn(&LeaseName) -> bool) {
        self.leases.retain(|lease, _| exists(lease));
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

    /// Nodes that hold unexpired Leases by another scheme.
    pub fn other_schemes(&self, scheme: &Scheme, settings: &Settings, now: BootTime) -> OtherSchemes {
        let mut others = OtherSchemes::default();
        let first = LeaseName { name: String::new(), ..scheme.base.clone() };
        let all =
            self.leases.range(first..).take_while(|(lease, _)| lease.namespace == scheme.base.namespace);
        for (lease, (object, since)) in all {
            let record = &object.record;
            let expired = now >= *since + record.duration(settings.lease_duration);
            if !expired && !record.holder.is_empty() && record.holder != settings.candidate.identity {
                scheme.compare(lease, object, settings.retry_period, &mut others);
            }
        }
        others
    }
}

fn is_followed(candidacies: &BTreeSet<LeaseName>, heartbeats: &BTreeSet<String>, lease: &LeaseName) -> bool {
    candidacies.contains(lease) || heartbeats.contains(&lease.namespace)
}
