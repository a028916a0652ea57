//! Holds elections of Services back while other nodes elect them by another scheme.

use super::{Elections, Entry, Output};
use crate::election::decide::ObservedLease;
use crate::election::elector::DrainReason;
use crate::election::scheme::{Facts, Heartbeat, OtherSchemes, Permission, Scheme};
use crate::model::{CandidacyKind, LeaseName, Role};

impl Elections {
    /// Compares the Leases with this node's scheme again; [`Self::step_gate`] acts on the result.
    pub(super) fn compare_schemes(&mut self) {
        if let Some(scheme) = &self.config.scheme {
            self.others = self.holders.other_schemes(scheme, &self.config.settings, self.now);
        }
    }

    /// Applies what is known now to all elections of Services. A process that stops holds nothing back.
    pub(super) fn step_gate(&mut self) {
        let (Some(facts), None) = (self.facts(), self.stopping) else { return };
        let Some(gate) = &mut self.gate else { return };
        let before = gate.permission();
        let rejoined = gate.step(self.now, facts);
        let permission = gate.permission();
        if permission != before {
            for lease in self.leases_where(|entry| !entry.kind.is_primary()) {
                self.apply_gate(&lease);
                if let Some(entry) = self.entries.get_mut(&lease) {
                    entry.elector.handle_timeout(self.now);
                }
                self.advance(&lease);
            }
        }
        // The gate waits for the watch to show the heartbeat, and after an outage the watch may be opened seconds later than a
        // write succeeds.
        if rejoined
            && let Some(scope) = self.config.scheme.as_ref().and_then(|scheme| self.watches.of(&scheme.base))
        {
            self.outputs.push_back(Output::Watch(scope.clone()));
        }
        self.report_schemes(permission == Permission::Waiting);
    }

    fn report_schemes(&mut self, waiting: bool) {
        let differ = waiting && self.others != OtherSchemes::default();
        let text = || self.config.scheme.as_ref().map(|scheme| scheme.describe(&self.others));
        let problem = match differ {
            true => text(),
            // Until the followers of the other scheme have had their time.
            false if waiting => self.scheme_problem.clone(),
            false => None,
        };
        if problem != self.scheme_problem {
            self.scheme_problem.clone_from(&problem);
            self.outputs.push_back(Output::SchemeProblem(problem));
        }
    }

    /// What the gate lets this election do.
    pub(super) fn apply_gate(&mut self, lease: &LeaseName) {
        let (Some(gate), Some(entry)) = (&self.gate, self.entries.get_mut(lease)) else { return };
        let permission = gate.permission();
        match entry.kind {
            CandidacyKind::Services => {
                entry.elector.set_held_back(permission != Permission::Open);
                // Without a heartbeat nothing keeps other schemes away from a node that was cut off: a heartbeat by another one
                // is only written once this scheme's Lease was free.
                if self.config.scheme.as_ref().is_some_and(|scheme| scheme.member.is_none()) {
                    self.drain(lease, DrainReason::OtherScheme, permission == Permission::Waiting);
                }
            }
            CandidacyKind::Heartbeat => {
                entry.elector.set_held_back(!permission.may_join());
                self.drain(lease, DrainReason::OtherScheme, permission == Permission::Waiting);
            }
            CandidacyKind::ControlPlane | CandidacyKind::Controller => {}
        }
    }

    /// Whether this node's heartbeat has to stay, because it alone shows the scheme of Leases that are not released yet.
    pub(super) fn needs_heartbeat(&self) -> bool {
        let alone = self.config.scheme.as_ref().is_some_and(Scheme::is_shown_by_heartbeat_alone);
        let mut services = self.entries.values().filter(|entry| entry.kind == CandidacyKind::Services);
        alone && services.any(|entry| entry.elector.may_hold(self.now))
    }

    fn facts(&self) -> Option<Facts> {
        let scheme = self.config.scheme.as_ref()?;
        let services = |kind| matches!(kind, CandidacyKind::Services | CandidacyKind::Heartbeat);
        let read = |entry: &Entry| *entry.elector.observed() != ObservedLease::Unknown;
        let candidate = self.entries.values().any(|entry| services(entry.kind) && read(entry));
        let others = (!self.others.nodes.is_empty()).then_some(self.others.followers);
        Some(Facts {
            wanted: candidate && !self.drained && !self.host.services_drained(),
            listed: self.watches.of(&scheme.base).is_some(),
            heartbeat: scheme.member.as_ref().map_or(Heartbeat::None, |member| self.heartbeat(member)),
            others,
        })
    }

    fn heartbeat(&self, member: &LeaseName) -> Heartbeat {
        let Some(entry) = self.entries.get(member) else { return Heartbeat::Lost };
        if !matches!(entry.elector.role(self.now), Role::Leader(_)) {
            return Heartbeat::Lost;
        }
        match (self.holders.lease(member), entry.elector.observed()) {
            (Some(shown), ObservedLease::Present { lease, .. }) if !lease.is_newer_than(shown) => {
                Heartbeat::Shown
            }
            _ => Heartbeat::Written,
        }
    }
}
