//! Interfaces and addresses as the kernel reported them last.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use crate::model::{ActualAddress, Family, IfIndex, Interface, Tag};

/// The state of this host. Addresses that carry our tag may be missing: their additions are not observed, and who adds
/// them reads them itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostState {
    pub interfaces: Vec<Interface>,
    pub addresses: Vec<ActualAddress>,
    /// Gateways of the default routes, as read in the last ten minutes.
    pub gateways: BTreeSet<IpAddr>,
}

impl HostState {
    pub fn interface(&self, name: &str) -> Option<&Interface> {
        self.interfaces.iter().find(|interface| interface.name == name)
    }

    /// The addresses of an interface without those that carry our tag.
    pub fn own_addresses(&self, interface: IfIndex) -> impl Iterator<Item = IpAddr> + '_ {
        let own = self.addresses.iter().filter(move |own| own.interface == interface && own.tag == Tag::None);
        own.map(|own| own.vip.address)
    }

    /// The first address of a family among these that other links reach.
    pub fn routable_address(&self, interface: IfIndex, family: Family) -> Option<IpAddr> {
        self.own_addresses(interface).find(|address| {
            let local = match address {
                IpAddr::V4(v4) => v4.is_link_local() || v4.is_loopback(),
                IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_loopback(),
            };
            Family::of(*address) == family && !local
        })
    }

    /// The first link-local IPv6 address of an interface.
    pub fn link_local(&self, interface: IfIndex) -> Option<Ipv6Addr> {
        let mut all = self.addresses.iter().filter(|address| address.interface == interface);
        all.find_map(|address| match address.vip.address {
            IpAddr::V6(address) if address.is_unicast_link_local() => Some(address),
            _ => None,
        })
    }

    /// Addresses that other programs have configured, another kube-vip's among them, but for those on interfaces without neighbours, where service proxies
    /// configure ours.
    pub fn foreign_addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let asked: BTreeSet<IfIndex> =
            self.interfaces.iter().filter(|it| it.has_neighbours()).map(|it| it.index).collect();
        let foreign = self.addresses.iter().filter(|address| !address.is_ours());
        foreign.filter(move |address| asked.contains(&address.interface)).map(|address| address.vip.address)
    }

    /// The names of all interfaces, for messages.
    pub fn interface_names(&self) -> String {
        let names: Vec<&str> = self.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        names.join(", ")
    }
}
