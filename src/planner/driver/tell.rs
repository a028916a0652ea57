//! Events and log lines about Services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::plan::Issue;
use super::{Driver, SETTLE_TIME};
use crate::cluster::event::{self, Event};
use crate::model::Role;
use crate::model::{GroupId, ServiceKey};
use crate::net::clock;
use crate::reconcile::host_status::HostStatus;

impl Driver {
    /// Reports each problem once.
    pub(super) fn tell(&mut self) {
        self.reporter.services(self.plan.services.len());
        let HostStatus { blocked, conflicts, .. } = self.channels.outcome.borrow().clone();
        for (key, handled) in &self.plan.services {
            let mut issues: BTreeSet<Issue> = handled.issues.iter().cloned().collect();
            let here = handled.addresses.iter().filter_map(|address| blocked.get(address));
            issues.extend(here.cloned().map(Issue::Obstacle));
            let contested = handled.addresses.iter().filter_map(|address| conflicts.get(address));
            issues.extend(contested.cloned().map(Issue::Conflict));
            issues.extend(self.name_remark(key).map(Issue::Annotation));
            issues.extend(self.gateway_remarks(key).into_iter().map(Issue::Gateway));
            let told = self.told.get(key);
            for issue in issues.iter().filter(|issue| told.is_none_or(|told| !told.contains(issue))) {
                let (reason, message) = match issue {
                    Issue::Refused(refusal) => ("AddressRefused", format!("{refusal}: {}", refusal.remedy())),
                    Issue::Annotation(text) => ("AnnotationIgnored", text.clone()),
                    Issue::Lease(text) => ("NoLease", format!("node {}: {text}", self.context.me)),
                    Issue::Gateway(text) => ("PortNotForwarded", text.clone()),
                    Issue::Obstacle(text) => {
                        ("AddressBlocked", format!("node {} cannot announce it: {text}", self.context.me))
                    }
                    Issue::Conflict(text) => (
                        "AddressConflict",
                        format!("node {} announces it, and so does {text}", self.context.me),
                    ),
                };
                tracing::warn!(service = %key, "{message}");
                self.event(key, true, reason, message);
            }
            if issues.is_empty() {
                self.told.remove(key);
            } else {
                self.told.insert(key.clone(), issues);
            }
        }
    }

    /// Reports addresses lost without a hand-over.
    pub(super) fn tell_losses(&mut self) {
        let held = self.channels.outcome.borrow().held.clone();
        let lost: BTreeSet<IpAddr> = self.held.difference(&held).copied().collect();
        let now = clock::now();
        // Not twice in a row: a flapping address must not postpone writes forever.
        if held != self.held && now >= self.moving_until + SETTLE_TIME {
            self.moving_until = now + SETTLE_TIME;
        }
        self.held = held;
        if lost.is_empty() {
            return;
        }
        let served = self.plan.services.iter().filter(|(_, handled)| handled.servable_here);
        for (key, handled) in served {
            let here: Vec<String> = handled
                .addresses
                .iter()
                .filter(|address| lost.contains(address))
                .map(IpAddr::to_string)
                .collect();
            let roles = self.channels.roles.borrow();
            let Some(lease) = handled.group.as_ref().and_then(GroupId::lease) else { continue };
            let Some(Role::Follower { holder, .. }) = roles.get(&lease.clone().into()) else { continue };
            if here.is_empty() {
                continue;
            }
            let me = &self.context.me;
            let why = match holder.as_ref().filter(|holder| *holder != me) {
                Some(holder) => format!("Lease {lease} names {holder}"),
                None => format!("Lease {lease} could not be renewed in time"),
            };
            let text = format!("node {me} no longer announces {}: {why}", here.join(", "));
            drop(roles);
            self.event(key, true, "AddressLost", text);
        }
    }

    /// Events are best effort: dropped when the queue is full.
    pub(super) fn event(&self, key: &ServiceKey, warning: bool, reason: &'static str, message: String) {
        let uid = self.seen.services.get(key).map(|view| view.uid.clone());
        let about = event::service_reference(key, uid);
        self.channels.events.record(Event { about, warning, reason, message });
    }
}
