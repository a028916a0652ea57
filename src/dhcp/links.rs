//! The interfaces that DHCP clients use, by name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use tokio::sync::mpsc;

use super::link::{DhcpLink, Received};
use crate::model::IfIndex;
use crate::net::netlink::{Netlink, NetlinkError};

#[derive(Debug)]
pub(super) struct Links {
    netlink: Netlink,
    by_name: BTreeMap<String, DhcpLink>,
    /// Names of all interfaces of the host, for the error about one that is missing.
    present: String,
    received: mpsc::Sender<(IfIndex, Received)>,
}

impl Links {
    pub(super) fn new(received: mpsc::Sender<(IfIndex, Received)>) -> std::io::Result<Self> {
        let netlink = Netlink::connect()?;
        Ok(Self { netlink, by_name: BTreeMap::new(), present: String::new(), received })
    }

    /// Closes links that are not in `wanted`, and opens those that exist by now. Returns whether all of them do.
    pub(super) async fn update(&mut self, wanted: &BTreeSet<&str>) -> Result<bool, NetlinkError> {
        self.by_name.retain(|name, _| wanted.contains(name.as_str()));
        if wanted.len() == self.by_name.len() {
            return Ok(true);
        }
        let (interfaces, addresses) = (self.netlink.interfaces().await?, self.netlink.addresses().await?);
        let present: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
        self.present = present.join(", ");
        for interface in interfaces {
            let name = interface.name.clone();
            if !wanted.contains(name.as_str()) || self.by_name.contains_key(&name) {
                continue;
            }
            let own = addresses.iter().filter(|address| address.interface == interface.index);
            let link_local = own.filter_map(|address| link_local(address.vip.address)).next();
            self.by_name.insert(name, DhcpLink::new(interface, link_local, self.received.clone()));
        }
        Ok(wanted.len() == self.by_name.len())
    }

    pub(super) fn get_mut(&mut self, name: &str) -> Option<&mut DhcpLink> {
        self.by_name.get_mut(name)
    }

    /// Whether the interface of this name has this index.
    pub(super) fn is(&self, name: &str, index: IfIndex) -> bool {
        self.by_name.get(name).is_some_and(|link| link.interface().index == index)
    }

    pub(super) fn all_mut(&mut self) -> impl Iterator<Item = (&String, &mut DhcpLink)> {
        self.by_name.iter_mut()
    }

    /// Closes a link that failed: an interface of the same name may be another one by now.
    pub(super) fn close(&mut self, name: &str) {
        self.by_name.remove(name);
    }

    pub(super) fn present(&self) -> &str {
        &self.present
    }
}

fn link_local(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) if address.is_unicast_link_local() => Some(address),
        _ => None,
    }
}
