//! An address with its prefix length and interface selector.

use std::net::IpAddr;

use super::interface::ManagedInterface;
use super::text::excerpt;
use super::{ActualAddress, Family, IfIndex, Interface, Tag, Vip};

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
        Ok((interface, Vip { address: self.address, prefix }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str) -> Interface {
        Interface { index: IfIndex(index), name: name.into(), up: true, ..Interface::default() }
    }

    fn own(interface: u32, address: &str, prefix: u8) -> ActualAddress {
        let vip = Vip { address: address.parse().unwrap(), prefix };
        ActualAddress {
            interface: IfIndex(interface),
            vip,
            tag: Tag::None,
            deprecated: false,
            valid_for: None,
            dad_failed: false,
        }
    }

    #[test]
    fn interface_and_prefix_follow_the_selector() {
        let interfaces = [interface(2, "eth0"), interface(3, "eth1")];
        let addresses = [own(2, "192.0.2.1", 24), own(3, "198.51.100.1", 25), own(3, "fd00::1", 64)];
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
