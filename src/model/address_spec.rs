//! An address with its prefix length and interface selector.

use std::net::IpAddr;

use super::interface::ManagedInterface;
use super::text::excerpt;
use super::{ActualAddress, Family, IfIndex, Interface, Prefix, Tag, Vip};

/// An address, with the rules for its prefix length and interface on any host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressSpec {
    pub address: IpAddr,
    pub prefix: PrefixLength,
    pub interface: InterfaceSelector,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PrefixLength {
    Fixed(u8),
    /// Prefix length of the interface's subnet that contains the address.
    OfSubnet,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum InterfaceSelector {
    Named(String),
    /// The first interface whose subnet contains the address, else the named one.
    OfSubnet(String),
    /// Created where it is missing.
    Managed(ManagedInterface),
}

/// Why an address has no place on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    #[error("there is no interface {} on this host", excerpt(.0))]
    NoInterface(String),
    /// The interface has to be created first; its parent exists.
    #[error("there is no interface {} on this host yet", .interface.name())]
    NotCreated {
        interface: ManagedInterface,
        /// Interface index.
        parent: IfIndex,
    },
    #[error(
        "no subnet of interface {} contains {address}: set vip_subnet to a number, or choose another interface",
        excerpt(.interface)
    )]
    NoSubnet { address: IpAddr, interface: String },
    /// The kernel does not take packets for it as packets for a host.
    #[error("{address} is the {kind} address of this host's subnet {subnet}: choose another address")]
    NoHost { address: IpAddr, kind: &'static str, subnet: Prefix },
}

impl InterfaceSelector {
    /// The interface's name; for `OfSubnet` its fallback.
    pub fn name(&self) -> String {
        match self {
            Self::Named(name) | Self::OfSubnet(name) => name.clone(),
            Self::Managed(interface) => interface.name(),
        }
    }

    pub fn managed(&self) -> Option<&ManagedInterface> {
        match self {
            Self::Managed(interface) => Some(interface),
            Self::Named(_) | Self::OfSubnet(_) => None,
        }
    }
}

impl AddressSpec {
    /// An address as a host route on an interface.
    pub fn on(address: IpAddr, interface: &str) -> Self {
        let prefix = PrefixLength::Fixed(Family::of(address).bits());
        Self { address, prefix, interface: InterfaceSelector::Named(interface.to_owned()) }
    }

    /// The interface's index, and the address with its prefix length.
    pub fn resolve(
        &self,
        interfaces: &[Interface],
        addresses: &[ActualAddress],
    ) -> Result<(IfIndex, Vip), PlacementError> {
        // Addresses that kube-vip added do not describe the network.
        let subnet = |address: &&ActualAddress| address.tag == Tag::None && address.vip.covers(self.address);
        let named = |name: &String| {
            let found = interfaces.iter().find(|interface| interface.name == *name);
            found.map(|interface| interface.index).ok_or_else(|| PlacementError::NoInterface(name.clone()))
        };
        let managed_name = self.interface.managed().map(ManagedInterface::name).unwrap_or_default();
        let (interface, name) = match &self.interface {
            InterfaceSelector::Managed(managed) => {
                let parent = named(&managed.parent().to_owned())?;
                let missing = |_| PlacementError::NotCreated { interface: managed.clone(), parent };
                (named(&managed_name).map_err(missing)?, &managed_name)
            }
            InterfaceSelector::Named(name) => (named(name)?, name),
            InterfaceSelector::OfSubnet(name) => match addresses.iter().find(subnet) {
                Some(found) => (found.interface, name),
                None => (named(name)?, name),
            },
        };
        let prefix = match self.prefix {
            PrefixLength::Fixed(prefix) => prefix,
            PrefixLength::OfSubnet => {
                let found = addresses.iter().filter(|address| address.interface == interface).find(subnet);
                let none = || PlacementError::NoSubnet { address: self.address, interface: name.clone() };
                found.ok_or_else(none)?.vip.prefix
            }
        };
        addresses.iter().filter(subnet).try_for_each(|subnet| check_host(self.address, subnet.vip))?;
        Ok((interface, Vip { address: self.address, prefix }))
    }
}

/// Fails if `address` is the first or the last of the IPv4 subnet of `own` (RFC 1122 section 3.2.1.3). Subnets of two
/// addresses have neither (RFC 3021).
fn check_host(address: IpAddr, own: Vip) -> Result<(), PlacementError> {
    let subnet = Prefix::new(own.address, own.prefix);
    let (IpAddr::V4(found), IpAddr::V4(first)) = (address, subnet.address) else { return Ok(()) };
    let hosts = u32::MAX.checked_shr(own.prefix.into()).unwrap_or(0);
    let kind = match found.to_bits() {
        bits if bits == first.to_bits() => "network",
        bits if bits == first.to_bits() | hosts => "broadcast",
        _ => return Ok(()),
    };
    if hosts > 1 { Err(PlacementError::NoHost { address, kind, subnet }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str) -> Interface {
        Interface { index: IfIndex(index), name: name.into(), up: true, ..Interface::default() }
    }

    #[test]
    fn interface_and_prefix_follow_the_selector() {
        let interfaces = [interface(2, "eth0"), interface(3, "eth1")];
        let addresses = [
            ActualAddress::on(2, "192.0.2.1", 24),
            ActualAddress::on(2, "10.77.1.1", 16),
            ActualAddress::on(2, "203.0.113.2", 31),
            ActualAddress::on(3, "198.51.100.1", 25),
            ActualAddress::on(3, "fd00::1", 64),
        ];
        let named = |name: &str| InterfaceSelector::Named(name.into());
        let subnet = |name: &str| InterfaceSelector::OfSubnet(name.into());
        let table = [
            ("192.0.2.9", PrefixLength::Fixed(32), named("eth1"), Ok((3, 32))),
            ("198.51.100.9", PrefixLength::Fixed(32), subnet("eth0"), Ok((3, 32))),
            ("198.51.100.200", PrefixLength::Fixed(32), subnet("eth0"), Ok((2, 32))),
            ("fd00::9", PrefixLength::OfSubnet, subnet("eth0"), Ok((3, 64))),
            ("192.0.2.9", PrefixLength::OfSubnet, named("eth0"), Ok((2, 24))),
            (
                "192.0.2.9",
                PrefixLength::OfSubnet,
                named("eth1"),
                Err("no subnet of interface eth1 contains 192.0.2.9"),
            ),
            ("192.0.2.9", PrefixLength::Fixed(32), named("eth7"), Err("there is no interface eth7")),
            (
                "10.77.255.255",
                PrefixLength::Fixed(32),
                named("eth1"),
                Err("10.77.255.255 is the broadcast address of this host's subnet 10.77.0.0/16"),
            ),
            (
                "10.77.0.0",
                PrefixLength::OfSubnet,
                subnet("eth0"),
                Err("10.77.0.0 is the network address of this host's subnet 10.77.0.0/16"),
            ),
            ("10.77.2.255", PrefixLength::Fixed(32), named("eth0"), Ok((2, 32))),
            ("203.0.113.3", PrefixLength::OfSubnet, named("eth0"), Ok((2, 31))),
            ("fd00::", PrefixLength::Fixed(128), named("eth1"), Ok((3, 128))),
        ];
        for (address, prefix, interface, expected) in table {
            let spec = AddressSpec { address: address.parse().unwrap(), prefix, interface };
            match (spec.resolve(&interfaces, &addresses), expected) {
                (Ok((interface, vip)), Ok((index, bits))) => {
                    assert_eq!((interface, vip.prefix), (IfIndex(index), bits), "{spec:?}")
                }
                (Err(error), Err(text)) => assert!(error.to_string().starts_with(text), "{error}"),
                (found, expected) => panic!("{spec:?}: {found:?} instead of {expected:?}"),
            }
        }
    }
}
