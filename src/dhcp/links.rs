//! The interfaces that DHCP clients use, by name.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::mpsc;

use super::link::{DhcpLink, Received};
use crate::host::HostWatch;
use crate::model::IfIndex;

#[derive(Debug)]
pub(super) struct Links {
    host: HostWatch,
    by_name: BTreeMap<String, DhcpLink>,
    /// Names of all interfaces of the host, for the error about one that is missing.
    present: String,
    received: mpsc::Sender<(IfIndex, Received)>,
}

impl Links {
    pub(super) fn new(host: HostWatch, received: mpsc::Sender<(IfIndex, Received)>) -> Self {
        Self { host, by_name: BTreeMap::new(), present: String::new(), received }
    }

    /// Closes links that are not in `wanted`, and opens those that exist by now. Returns whether all of them do.
    pub(super) fn update(&mut self, wanted: &BTreeSet<&str>) -> bool {
        self.by_name.retain(|name, _| wanted.contains(name.as_str()));
        if wanted.len() == self.by_name.len() {
            return true;
        }
        let host = self.host.borrow().clone();
        self.present = host.interface_names();
        for interface in &host.interfaces {
            let name = interface.name.clone();
            if !wanted.contains(name.as_str()) || self.by_name.contains_key(&name) {
                continue;
            }
            let link_local = host.link_local(interface.index);
            self.by_name.insert(name, DhcpLink::new(interface.clone(), link_local, self.received.clone()));
        }
        wanted.len() == self.by_name.len()
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
