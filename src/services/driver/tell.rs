//! What users are told of their Services: Events and log lines.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::ObjectReference;

use super::super::plan::Remark;
use super::{Driver, MOVING};
use crate::api::event::Event;
use crate::desired::Group;
use crate::leader::Standing;
use crate::model::ServiceKey;
use crate::net::clock;
use crate::reconcile::outcome::Outcome;

impl Driver {
    /// Tell users what they should know, once.
    pub(super) fn tell(&mut self) {
        self.telemetry.services(self.plan.services.len());
        let Outcome { obstacles, conflicts, .. } = self.channels.outcome.borrow().clone();
        for (key, handled) in &self.plan.services {
            let mut remarks: BTreeSet<Remark> = handled.remarks.iter().cloned().collect();
            let here = handled.addresses.iter().filter_map(|address| obstacles.get(address));
            remarks.extend(here.cloned().map(Remark::Obstacle));
            let contested = handled.addresses.iter().filter_map(|address| conflicts.get(address));
            remarks.extend(contested.cloned().map(Remark::Conflict));
            remarks.extend(self.name_remark(key).map(Remark::Annotation));
            remarks.extend(self.gateway_remarks(key).into_iter().map(Remark::Gateway));
            let told = self.told.get(key);
            for remark in remarks.iter().filter(|remark| told.is_none_or(|told| !told.contains(remark))) {
                let (reason, message) = match remark {
                    Remark::Refused(refusal) => ("AddressRefused", refusal.to_string()),
                    Remark::Annotation(text) => ("AnnotationIgnored", text.clone()),
                    Remark::Lease(text) => ("NoLease", format!("node {}: {text}", self.world.me)),
                    Remark::Gateway(text) => ("PortNotForwarded", text.clone()),
                    Remark::Obstacle(text) => {
                        ("AddressBlocked", format!("node {} cannot announce it: {text}", self.world.me))
                    }
                    Remark::Conflict(text) => (
                        "AddressConflict",
                        format!("node {} announces it, and so does {text}", self.world.me),
                    ),
                };
                tracing::warn!(service = %key, "{message}");
                self.event(key, true, reason, message);
            }
            if remarks.is_empty() {
                self.told.remove(key);
            } else {
                self.told.insert(key.clone(), remarks);
            }
        }
    }

    /// Tell of addresses that this node has lost without having handed them over.
    pub(super) fn tell_losses(&mut self) {
        let held = self.channels.outcome.borrow().held.clone();
        let lost: BTreeSet<IpAddr> = self.held.difference(&held).copied().collect();
        let now = clock::now();
        // Not again at once: what can wait must not wait for ever where an address comes and goes.
        if held != self.held && now >= self.moving_until + MOVING {
            self.moving_until = now + MOVING;
        }
        self.held = held;
        if lost.is_empty() {
            return;
        }
        let served = self.plan.services.iter().filter(|(_, handled)| handled.servable);
        for (key, handled) in served {
            let here: Vec<String> = handled
                .addresses
                .iter()
                .filter(|address| lost.contains(address))
                .map(IpAddr::to_string)
                .collect();
            let board = self.channels.board.borrow();
            let group = handled.lease.as_ref().and_then(|lease| Some((lease, board.groups.get(lease)?)));
            let Some((lease, Group { standing: Standing::Following { holder, .. }, .. })) = group else {
                continue;
            };
            if here.is_empty() {
                continue;
            }
            let me = &self.world.me;
            let why = match holder.as_ref().filter(|holder| *holder != me) {
                Some(holder) => format!("Lease {lease} names {holder}"),
                None => format!("Lease {lease} could not be renewed in time"),
            };
            let text = format!("node {me} no longer announces {}: {why}", here.join(", "));
            drop(board);
            self.event(key, true, "AddressLost", text);
        }
    }

    /// Events are a courtesy: when too many wait they are dropped.
    pub(super) fn event(&self, key: &ServiceKey, warning: bool, reason: &'static str, message: String) {
        let about = ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Service".into()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            uid: self.seen.services.get(key).map(|view| view.uid.clone()),
            ..ObjectReference::default()
        };
        self.channels.events.try_send(Event { about, warning, reason, message }).ok();
    }
}
