//! The interfaces of this host, and ARP and NDP on those that carry addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use crate::announce::layer2::{Layer2, OpenError};
use crate::conflict::NeighborFrame;
use crate::model::{ActualAddress, IfIndex, Interface};

/// Interfaces, by index.
#[derive(Debug, Default)]
pub struct Interfaces {
    all: Vec<Interface>,
    /// Index by the name first used: an interface keeps its identity when it is renamed.
    known: BTreeMap<String, IfIndex>,
    /// New names that were logged.
    renamed: BTreeSet<String>,
    layer2: BTreeMap<IfIndex, Layer2>,
    /// Where IPv6 announcements come from.
    link_local: BTreeMap<IfIndex, Ipv6Addr>,
}

impl Interfaces {
    /// Replaces the list. A renamed interface keeps the name under which it was first used.
    pub fn set(&mut self, mut all: Vec<Interface>) {
        let taken: BTreeSet<String> = all.iter().map(|interface| interface.name.clone()).collect();
        for (name, index) in &self.known {
            if !taken.contains(name)
                && let Some(interface) = all.iter_mut().find(|interface| interface.index == *index)
            {
                if !self.renamed.contains(&interface.name) {
                    tracing::warn!(from = name, to = interface.name, "the interface was renamed");
                    self.renamed.insert(interface.name.clone());
                }
                interface.name.clone_from(name);
            }
        }
        self.layer2.retain(|index, layer2| {
            let same = |interface: &&Interface| {
                interface.index == *index && interface.hardware_address == layer2.interface().hardware_address
            };
            all.iter().any(|interface| same(&interface))
        });
        self.all = all;
    }

    pub fn all(&self) -> &[Interface] {
        &self.all
    }

    /// Finds an interface, and records its index for renames.
    pub fn by_name(&mut self, name: &str) -> Option<Interface> {
        let found = self.all.iter().find(|interface| interface.name == name)?;
        self.known.insert(name.to_owned(), found.index);
        Some(found.clone())
    }

    pub fn name(&self, index: IfIndex) -> String {
        let interface = self.all.iter().find(|interface| interface.index == index);
        interface.map_or_else(|| format!("interface {index}"), |interface| interface.name.clone())
    }

    pub fn hardware(&self, index: IfIndex) -> &[u8] {
        let interface = self.all.iter().find(|interface| interface.index == index);
        interface.map(|interface| interface.hardware_address.as_slice()).unwrap_or_default()
    }

    /// Whether an interface of this host has the hardware address: with two of them on a segment, frames of the kernel carry an
    /// address of one and leave by the other.
    pub fn has_hardware(&self, hardware: &[u8]) -> bool {
        let is_none = hardware.iter().all(|byte| *byte == 0);
        !is_none && self.all.iter().any(|interface| interface.hardware_address == hardware)
    }

    /// Where IPv6 announcements are sent from.
    pub fn update_link_local(&mut self, addresses: &[ActualAddress]) {
        self.link_local.clear();
        for address in addresses {
            if let IpAddr::V6(v6) = address.vip.address
                && v6.is_unicast_link_local()
            {
                self.link_local.entry(address.interface).or_insert(v6);
            }
        }
    }

    /// Opens the sockets for an address. Returns whether the interface is new.
    ///
    /// # Errors
    /// Without NET_RAW, or if the interface cannot carry the family.
    pub fn open(&mut self, index: IfIndex, address: IpAddr, listen: bool) -> Result<bool, OpenError> {
        let fresh = !self.layer2.contains_key(&index);
        let Some(interface) = self.all.iter().find(|interface| interface.index == index) else {
            return Ok(false);
        };
        let layer2 = self.layer2.entry(index).or_insert_with(|| Layer2::new(interface));
        if listen {
            layer2.listen_for(address)?;
        } else {
            layer2.carry(address)?;
        }
        Ok(fresh)
    }

    pub fn close(&mut self, index: IfIndex) {
        self.layer2.remove(&index);
    }

    pub fn announce(&self, index: IfIndex, address: IpAddr) -> std::io::Result<()> {
        match self.layer2.get(&index) {
            Some(layer2) => layer2.announce(address, self.link_local.get(&index).copied()),
            None => Ok(()),
        }
    }

    pub fn announce_to(&self, index: IfIndex, address: IpAddr, to: &[u8]) -> std::io::Result<()> {
        let source = self.link_local.get(&index).copied();
        self.layer2.get(&index).map_or(Ok(()), |layer2| layer2.announce_to(address, source, to))
    }

    pub fn probe(&self, index: IfIndex, address: IpAddr) -> std::io::Result<()> {
        self.layer2.get(&index).map_or(Ok(()), |layer2| layer2.probe(address))
    }

    /// The next frame of another host on any interface, and the interface's index.
    pub async fn next_frame(&self) -> (IfIndex, std::io::Result<NeighborFrame>) {
        let frames = self
            .layer2
            .iter()
            .map(|(index, layer2)| Box::pin(async move { (*index, layer2.next_frame().await) }));
        let frames: Vec<_> = frames.collect();
        if frames.is_empty() {
            return std::future::pending().await;
        }
        futures::future::select_all(frames).await.0
    }
}
