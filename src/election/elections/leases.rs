//! What watches and responses show of the Leases.

use std::collections::BTreeMap;

use super::{Elections, Output};
use crate::cluster::watch::Change;
use crate::election::elector::{self, LeaseResponse};
use crate::election::record::LeaseObject;
use crate::election::watches::{Scope, Watches};
use crate::model::{Candidacy, CandidacyKind, LeaseName};

impl Elections {
    /// Watches the Leases of these candidacies, and no longer those of others.
    pub(super) fn watch_leases(&mut self, wanted: &BTreeMap<LeaseName, Candidacy>) {
        let watched = || wanted.iter().filter(|(_, candidacy)| !candidacy.kind.is_primary());
        let of_scheme = self.config.scheme.as_ref().map(|scheme| scheme.base.namespace.clone());
        let namespaces = watched().map(|(lease, _)| lease.namespace.clone()).chain(of_scheme.clone());
        let changes = self.watches.cover(namespaces.collect(), of_scheme.as_deref());
        if !changes.ended.is_empty() {
            for lease in self.watched(|watches, lease| watches.of(lease).is_none()) {
                self.input(&lease, elector::Input::Watching(false));
            }
        }
        self.outputs.extend(changes.ended.into_iter().map(Output::Unwatch));
        self.outputs.extend(changes.started.into_iter().map(Output::Watch));
        let heartbeats = watched().filter(|(_, candidacy)| candidacy.kind == CandidacyKind::Heartbeat);
        let heartbeats = heartbeats.map(|(lease, _)| lease.namespace.clone()).chain(of_scheme).collect();
        if self.holders.follow(watched().map(|(lease, _)| lease.clone()).collect(), heartbeats) {
            self.publish_holders();
        }
    }

    pub(super) fn leases_changed(&mut self, scope: &Scope, change: Change<(LeaseName, Box<LeaseObject>)>) {
        match change {
            Change::Reset(all) => {
                if self.watches.set_listed(scope) {
                    self.leases_listed(scope, all.into_iter().collect());
                }
            }
            // Events of a watch that has ended may still be in the queue.
            _ if !self.watches.is_listed(scope) => {}
            Change::Applied((lease, _)) | Change::Deleted((lease, _))
                if !self.watches.shows(scope, &lease) => {}
            Change::Applied((lease, object)) => {
                let settings = &self.config.settings;
                let changed = self.holders.observe(lease.clone(), (*object).clone(), settings, self.now);
                if !scope.is_complete() {
                    self.watched_input(&lease, elector::Input::Watching(true));
                }
                self.watched_input(&lease, elector::Input::Watched(object));
                if changed {
                    self.publish_holders();
                }
            }
            Change::Deleted((lease, _)) => {
                let input = match scope.is_complete() {
                    true => elector::Input::WatchedDeletion,
                    // It may have lost its label instead: it is read from now on.
                    false => elector::Input::Watching(false),
                };
                self.watched_input(&lease, input);
                if self.holders.remove(&lease) {
                    self.publish_holders();
                }
            }
        }
    }

    fn leases_listed(&mut self, scope: &Scope, mut listed: BTreeMap<LeaseName, Box<LeaseObject>>) {
        let watches = &self.watches;
        listed.retain(|lease, _| watches.shows(scope, lease));
        self.holders.retain(|lease| !watches.shows(scope, lease) || listed.contains_key(lease));
        for (lease, object) in &listed {
            self.holders.observe(lease.clone(), (**object).clone(), &self.config.settings, self.now);
        }
        for lease in self.watched(|watches, lease| watches.shows(scope, lease)) {
            self.input(&lease, elector::Input::Watching(false));
            let event = match listed.remove(&lease) {
                Some(object) => elector::Input::Watched(object),
                None if scope.is_complete() => elector::Input::WatchedDeletion,
                None => continue,
            };
            self.input(&lease, elector::Input::Watching(true));
            self.input(&lease, event);
        }
        self.publish_holders();
    }

    /// What is read of a Lease without our label is in no watch of all namespaces.
    pub(super) fn observe_response(&mut self, lease: &LeaseName, response: &LeaseResponse) {
        let LeaseResponse::Object(object) = response else { return };
        if object.is_labelled() || self.watches.of(lease).is_none_or(Scope::is_complete) {
            return;
        }
        let settings = &self.config.settings;
        if self.holders.observe(lease.clone(), (**object).clone(), settings, self.now) {
            self.publish_holders();
        }
    }

    /// Elections that a watch of many Leases informs, filtered.
    fn watched(&self, is_meant: impl Fn(&Watches, &LeaseName) -> bool) -> Vec<LeaseName> {
        let of_many = self.entries.iter().filter(|(_, entry)| !entry.kind.is_primary());
        let meant = of_many.filter(|(lease, _)| is_meant(&self.watches, lease));
        meant.map(|(lease, _)| lease.clone()).collect()
    }

    /// An event of the watch of many Leases.
    fn watched_input(&mut self, lease: &LeaseName, input: elector::Input) {
        if self.entries.get(lease).is_some_and(|entry| !entry.kind.is_primary()) {
            self.input(lease, input);
        }
    }
}
