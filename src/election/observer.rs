//! What an election reports.

use super::decide::ObservedLease;
use super::elector::LeaseResponse;
use crate::model::{BootTime, Health, Role};

/// Receives the course of elections that the rest of the process depends on.
pub trait Observer: Send + Sync {
    /// Called after every step.
    fn election(&self, seen: &ObservedLease, role: &Role, now: BootTime);
    /// The role is another variant than before.
    fn role_changed(&self, before: &Role, after: &Role, seen: &ObservedLease, now: BootTime);
    /// No API server can be used.
    fn no_access(&self, why: &str);
    fn call_failed(&self, verb: &'static str, server: &str, answer: &LeaseResponse, why: &str);
    /// The health of this host has changed.
    fn health(&self, _health: Health) {}
    fn call_succeeded(&self, verb: &'static str);
}
