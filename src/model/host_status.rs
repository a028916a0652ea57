//! The result of reconciliation, for the publishers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// Held addresses, and what blocks others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostStatus {
    /// Configured and announced, or advertised as a route.
    pub held: BTreeSet<IpAddr>,
    /// Why an address cannot be held here.
    pub blocked: BTreeMap<IpAddr, String>,
    /// The other host that announces an address held here.
    pub conflicts: BTreeMap<IpAddr, String>,
    /// Addresses of Services that a host outside the cluster has: this host has given them up, or does not take them.
    pub taken: BTreeSet<IpAddr>,
}
