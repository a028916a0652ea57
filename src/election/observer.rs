//! What an election reports.

use super::decide::ObservedLease;
use crate::model::{BootTime, Health, LeaseName, Role};

/// Receives the course of elections that the rest of the process depends on.
pub trait Observer: Send + Sync {
    /// Called after every step.
    fn election(&self, seen: &ObservedLease, role: &Role, now: BootTime);
    /// The role is another variant than before.
    fn role_changed(&self, before: &Role, after: &Role, seen: &ObservedLease, now: BootTime);
    /// The health of the local API server, and what is wrong with the configured server.
    fn health(&self, _health: Health, _server_warning: Option<String>) {}
    /// No API server can be used yet.
    fn no_access(&self, why: &str);
    fn call_failed(&self, failed: FailedCall<'_>);
    /// Another process writes records with this host's identity.
    fn duplicate_identity(&self, _lease: &LeaseName) {}
    /// Why nodes that elect Services by another scheme keep this node from taking Services over; none if they do not.
    fn scheme_problem(&self, _problem: Option<&str>) {}
    fn call_succeeded(&self, verb: &'static str, lease: &LeaseName);
    /// This host is no candidate for this Lease any more.
    fn ended(&self, _lease: &LeaseName) {}
}

/// A request for a Lease that failed.
#[derive(Debug, Clone, Copy)]
pub struct FailedCall<'a> {
    /// `get`, `create` or `update`.
    pub verb: &'static str,
    pub lease: &'a LeaseName,
    pub server: &'a str,
    pub reason: FailureReason,
    /// For log lines.
    pub why: &'a str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureReason {
    /// Another process wrote first (409).
    Conflict,
    /// 403, or 404 on creation: the namespace does not exist.
    Forbidden,
    /// Another 4xx.
    Rejected,
    NotFound,
    Timeout,
    Error,
}

impl FailureReason {
    /// The value of the metric label `reason`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Conflict => "conflict",
            Self::Forbidden => "forbidden",
            Self::Rejected => "rejected",
            Self::NotFound => "missing",
            Self::Timeout => "timeout",
            Self::Error => "error",
        }
    }

    /// Conflicts and missing Leases are part of every election: no operator has to act on them.
    pub fn is_expected(self) -> bool {
        matches!(self, Self::Conflict | Self::NotFound)
    }
}
