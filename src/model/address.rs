//! An address of an interface.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::{IfIndex, Tag, Vip};

/// An address as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActualAddress {
    pub interface: IfIndex,
    pub vip: Vip,
    pub tag: Tag,
    /// Its preferred lifetime is zero, as with every VIP of ours and of the Go program.
    pub deprecated: bool,
    /// The rest of its valid lifetime; None is infinite.
    pub valid_for: Option<Duration>,
    /// The kernel's duplicate address detection found another host with the address.
    pub dad_failed: bool,
}

impl ActualAddress {
    /// Whether this process or an earlier one of its kind has configured it. Kernels before 5.18 have no tags, and the Go
    /// program sets none.
    pub fn is_ours(&self) -> bool {
        match self.tag {
            Tag::Ours => true,
            Tag::Another => false,
            Tag::None => self.deprecated,
        }
    }
}

/// Whether an earlier process of ours left all of `vips` on this host.
pub fn left_over(actual: &[ActualAddress], vips: &BTreeSet<IpAddr>) -> bool {
    let held: BTreeMap<IpAddr, bool> =
        actual.iter().map(|address| (address.vip.address, address.is_ours())).collect();
    !vips.is_empty() && vips.iter().all(|vip| held.get(vip) == Some(&true))
}
