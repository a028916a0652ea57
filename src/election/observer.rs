//! What an election tells others.

use super::decide::ObservedLease;
use super::elector::LeaseResponse;
use crate::model::{BootTime, Health, Role};

/// Who is told how an election goes.
pub trait Observer: Send + Sync {
    /// Where it stands; called after every step.
    fn election(&self, seen: &ObservedLease, role: &Role, now: BootTime);
    /// The role changed its kind.
    fn role_changed(&self, before: &Role, after: &Role, seen: &ObservedLease, now: BootTime);
    /// There is no way to an API server yet.
    fn no_access(&self, why: &str);
    /// A call for the Lease failed.
    fn call_failed(&self, verb: &'static str, server: &str, answer: &LeaseResponse, why: &str);
    /// The health of this host has changed.
    fn health(&self, _health: Health) {}
    /// A call for the Lease succeeded.
    fn call_succeeded(&self, verb: &'static str);
}
