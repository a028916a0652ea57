//! What came of making the host as it should be, for whoever tells others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// What this host holds, and what keeps it from holding more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostStatus {
    /// On an interface and announced.
    pub held: BTreeSet<IpAddr>,
    /// Why an address cannot be held here, in words.
    pub obstacles: BTreeMap<IpAddr, String>,
    /// Which station outside announces an address that is held here, in words.
    pub conflicts: BTreeMap<IpAddr, String>,
    /// Addresses that are left to a station outside, since they were never ours.
    pub taken: BTreeSet<IpAddr>,
}
