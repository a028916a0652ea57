//! An address that exists.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::{IfIndex, Vip};

/// An address as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActualAddress {
    /// Index of its interface.
    pub interface: IfIndex,
    /// The address and its prefix length.
    pub vip: Vip,
    /// It carries our tag (`IFA_PROTO`).
    pub tagged: bool,
    /// Its preferred lifetime is zero, as with every VIP of ours and of the Go program.
    pub deprecated: bool,
    /// The rest of its valid lifetime; none if it is forever.
    pub valid_for: Option<Duration>,
    /// The kernel's duplicate address detection found another station.
    pub dad_failed: bool,
}

/// Whether this host still has all of `vips` from an earlier process.
pub fn left_over(actual: &[ActualAddress], vips: &BTreeSet<IpAddr>) -> bool {
    let held: BTreeMap<IpAddr, bool> =
        actual.iter().map(|address| (address.vip.address, address.tagged || address.deprecated)).collect();
    !vips.is_empty() && vips.iter().all(|vip| held.get(vip) == Some(&true))
}
