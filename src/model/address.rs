//! An address of an interface.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::{IfIndex, Vip};

/// An address as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActualAddress {
    pub interface: IfIndex,
    pub vip: Vip,
    /// It carries our tag (`IFA_PROTO`).
    pub tagged: bool,
    /// Its preferred lifetime is zero, as with every VIP of ours and of the Go program.
    pub deprecated: bool,
    /// The rest of its valid lifetime; None is infinite.
    pub valid_for: Option<Duration>,
    /// The kernel's duplicate address detection found another host with the address.
    pub dad_failed: bool,
}

/// Whether an earlier process of ours left all of `vips` on this host.
pub fn left_over(actual: &[ActualAddress], vips: &BTreeSet<IpAddr>) -> bool {
    let held: BTreeMap<IpAddr, bool> =
        actual.iter().map(|address| (address.vip.address, address.tagged || address.deprecated)).collect();
    !vips.is_empty() && vips.iter().all(|vip| held.get(vip) == Some(&true))
}
