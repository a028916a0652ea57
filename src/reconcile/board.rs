//! What this host may have to hold: addresses by the election that they belong to, and where each would go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::election::Role;
use crate::model::interface::ManagedInterface;
use crate::model::vip::host_prefix;
use crate::model::{ActualAddress, IfIndex, Interface, LeaseName, Routes, Vip};

/// Every group of addresses that moves as one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Board {
    /// By the Lease that is elected on.
    pub groups: BTreeMap<LeaseName, Group>,
    /// Those that nobody in the cluster has announced yet, as far as is known: a station outside may have them.
    pub fresh: BTreeSet<IpAddr>,
    /// The addresses of all Services, whether they can be served here or not.
    pub known: Arc<BTreeSet<IpAddr>>,
    /// All Services are known: what is in no group is not wanted.
    pub complete: bool,
}

/// Addresses that move as one, and whether this host has them.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Where this host stands in the election.
    pub role: Role,
    /// The addresses.
    pub places: BTreeSet<AddressSpec>,
    /// What routers are told.
    pub routes: Arc<Routes>,
    /// Interfaces that are needed before there is an address for them, by the host that has the election.
    pub interfaces: BTreeSet<ManagedInterface>,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            role: Role::Starting,
            places: BTreeSet::new(),
            routes: Arc::default(),
            interfaces: BTreeSet::new(),
        }
    }
}

/// An address, and where on a host it would go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressSpec {
    /// The address.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix: PrefixLength,
    /// Its interface.
    pub interface: InterfaceSelector,
}

/// A prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PrefixLength {
    /// This one.
    Fixed(u8),
    /// That of the interface's subnet which contains the address.
    OfSubnet,
}

/// An interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum InterfaceSelector {
    /// The one of this name.
    Named(String),
    /// The first one whose subnet contains the address, else the one of this name.
    OfSubnet(String),
    /// One that is made where it is missing.
    Made(ManagedInterface),
}

/// Why an address cannot go anywhere on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    /// There is no such interface.
    #[error("there is no interface {0} on this host")]
    NoLink(String),
    /// The interface has to be made first, and the one that it is on is there.
    #[error("there is no interface {} on this host yet", .interface.name())]
    NotMade {
        /// The interface.
        interface: ManagedInterface,
        /// The index of the one that it is on.
        parent: IfIndex,
    },
    /// The subnet was asked for, and there is none.
    #[error(
        "no subnet of interface {interface} contains {address}: set vip_subnet to a number, or choose another interface"
    )]
    NoSubnet {
        /// The address.
        address: IpAddr,
        /// The interface.
        interface: String,
    },
}

impl InterfaceSelector {
    /// The name of the interface, or of the one that stands in for it as long as the address is not known.
    pub fn name(&self) -> String {
        match self {
            Self::Named(name) | Self::OfSubnet(name) => name.clone(),
            Self::Made(interface) => interface.name(),
        }
    }

    /// The interface that is made, if it is one.
    pub fn managed(&self) -> Option<&ManagedInterface> {
        match self {
            Self::Made(interface) => Some(interface),
            Self::Named(_) | Self::OfSubnet(_) => None,
        }
    }
}

impl AddressSpec {
    /// An address as a host route on an interface.
    pub fn on(address: IpAddr, interface: &str) -> Self {
        let prefix = PrefixLength::Fixed(host_prefix(address));
        Self { address, prefix, interface: InterfaceSelector::Named(interface.to_owned()) }
    }

    /// Where it goes: an interface's index, and the address with its prefix length.
    ///
    /// # Errors
    /// If there is no such place.
    pub fn find(
        &self,
        interfaces: &[Interface],
        addresses: &[ActualAddress],
    ) -> Result<(IfIndex, Vip), PlacementError> {
        // What we put there ourselves says nothing of the network.
        let subnet = |address: &&ActualAddress| !address.tagged && address.vip.covers(self.address);
        let named = |name: &String| {
            let found = interfaces.iter().find(|interface| interface.name == *name);
            found.map(|interface| interface.index).ok_or_else(|| PlacementError::NoLink(name.clone()))
        };
        let made_name = self.interface.managed().map(ManagedInterface::name).unwrap_or_default();
        let (interface, name) = match &self.interface {
            InterfaceSelector::Made(made) => {
                let parent = named(&made.parent().to_owned())?;
                let missing = |_| PlacementError::NotMade { interface: made.clone(), parent };
                (named(&made_name).map_err(missing)?, &made_name)
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
        Interface {
            index: IfIndex(index),
            name: name.into(),
            up: true,
            hardware_type: 1,
            hardware_address: vec![0; 6],
            broadcast: vec![255; 6],
            managed: false,
            reverse_path: 0,
        }
    }

    fn own(interface: u32, address: &str, prefix: u8) -> ActualAddress {
        let vip = Vip { address: address.parse().unwrap(), prefix };
        ActualAddress {
            interface: IfIndex(interface),
            vip,
            tagged: false,
            deprecated: false,
            valid_for: None,
            dad_failed: false,
        }
    }

    #[test]
    fn where_an_address_goes() {
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
            let place = AddressSpec { address: address.parse().unwrap(), prefix, interface };
            match (place.find(&interfaces, &addresses), expected) {
                (Ok((interface, vip)), Ok((index, bits))) => {
                    assert_eq!((interface, vip.prefix), (IfIndex(index), bits), "{place:?}")
                }
                (Err(error), Err(text)) => assert!(error.to_string().starts_with(text), "{error}"),
                (found, expected) => panic!("{place:?}: {found:?} instead of {expected:?}"),
            }
        }
    }
}
