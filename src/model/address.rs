//! An address of an interface.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::{Family, IfIndex, Tag, Vip};

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
    /// Whether this process or an earlier one of its kind has configured it.
    pub fn is_ours(&self) -> bool {
        self.tag == Tag::Ours
    }

    /// Its place on this host.
    pub fn key(&self) -> (IfIndex, Vip) {
        (self.interface, self.vip)
    }

    /// Whether the Go program may have left it, which sets no tags: deprecated since 0.9.1, and before a host route with an
    /// infinite lifetime. `planned`: it is at the place that the plan has for this address.
    ///
    /// The only address of its family on an interface is the host's own.
    pub fn is_adoptable(&self, planned: bool, all: &[Self]) -> bool {
        let family = Family::of(self.vip.address);
        let beside = |other: &Self| {
            let link_local =
                matches!(other.vip.address, IpAddr::V6(address) if address.is_unicast_link_local());
            (other.interface, other.tag) == (self.interface, Tag::None)
                && Family::of(other.vip.address) == family
                && other.vip.address != self.vip.address
                && !link_local
        };
        let plain = || {
            planned
                && self.vip == Vip::host(self.vip.address)
                && self.valid_for.is_none()
                && all.iter().any(beside)
        };
        self.tag == Tag::None && (self.deprecated || plain())
    }
}

#[cfg(test)]
impl ActualAddress {
    /// An address of another program, as most are.
    pub(crate) fn on(interface: u32, address: &str, prefix: u8) -> Self {
        Self {
            interface: IfIndex(interface),
            vip: Vip { address: address.parse().unwrap(), prefix },
            tag: Tag::None,
            deprecated: false,
            valid_for: None,
            dad_failed: false,
        }
    }
}

/// Whether an earlier process left all of `vips` on this host; their place is `interface`.
pub fn left_over(actual: &[ActualAddress], interface: IfIndex, vips: &BTreeSet<Vip>) -> bool {
    let is_left = |vip: &Vip| {
        let mut found = actual.iter().filter(|address| address.vip.address == vip.address);
        found.any(|found| found.is_ours() || found.is_adoptable(found.key() == (interface, *vip), actual))
    };
    !vips.is_empty() && vips.iter().all(is_left)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETH0: IfIndex = IfIndex(2);

    #[test]
    fn what_an_earlier_process_left_is_recognized_by_its_tag_or_form() {
        let host = ActualAddress::on(2, "192.0.2.2", 24);
        let left = ActualAddress::on(2, "192.0.2.1", 32);
        let link_local = ActualAddress::on(2, "fe80::1", 64);
        let v6 = ActualAddress::on(2, "2001:db8::1", 128);
        let v4_vips = [Vip::host("192.0.2.1".parse().unwrap())];
        let v6_vips = [Vip::host("2001:db8::1".parse().unwrap())];
        for (addresses, vips, expected) in [
            (vec![], v4_vips, false),
            (vec![ActualAddress { tag: Tag::Ours, ..left.clone() }], v4_vips, true),
            (vec![ActualAddress { tag: Tag::Another, deprecated: true, ..left.clone() }], v4_vips, false),
            // Of the Go program since 0.9.1, with any prefix length.
            (vec![ActualAddress { deprecated: true, ..left.clone() }], v4_vips, true),
            (
                vec![ActualAddress { deprecated: true, ..ActualAddress::on(2, "192.0.2.1", 24) }],
                v4_vips,
                true,
            ),
            // Before 0.9.1.
            (vec![host.clone(), left.clone()], v4_vips, true),
            (vec![v6.clone(), link_local, ActualAddress::on(2, "2001:db8::2", 64)], v6_vips, true),
            // The host's own: its only one, one of a subnet, of a DHCP server, on another interface.
            (vec![left.clone()], v4_vips, false),
            (vec![v6, ActualAddress::on(2, "fe80::1", 64)], v6_vips, false),
            (vec![host.clone(), ActualAddress::on(2, "192.0.2.1", 24)], v4_vips, false),
            (
                vec![
                    host.clone(),
                    ActualAddress { valid_for: Some(Duration::from_secs(600)), ..left.clone() },
                ],
                v4_vips,
                false,
            ),
            (
                vec![host, ActualAddress::on(3, "192.0.2.1", 32), ActualAddress::on(3, "198.51.100.1", 24)],
                v4_vips,
                false,
            ),
        ] {
            assert_eq!(left_over(&addresses, ETH0, &vips.into()), expected, "{addresses:?}");
        }
        assert!(!left_over(&[left], ETH0, &BTreeSet::new()));
    }
}
