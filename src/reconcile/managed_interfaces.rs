//! Interfaces that are made for addresses, and removed when nothing of ours is on them any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::driver::Driver;
use crate::model::interface::ManagedInterface;
use crate::model::{IfIndex, Interface, Roles, VipPlan};
use crate::net::{clock, sysctl};

impl Driver {
    /// Make interfaces that are missing, each on the one with this index; for an address, where there is one already.
    pub(super) fn make_interfaces(&mut self, missing: BTreeMap<ManagedInterface, (IfIndex, Option<IpAddr>)>) {
        for (interface, (parent, address)) in missing {
            let name = interface.name();
            match self.netlink.add_interface(parent, &interface) {
                // The kernel's report of the new interface brings us back here.
                Ok(()) => {
                    tracing::info!(interface = name, "made an interface");
                    if let ManagedInterface::Macvlan { reverse_path, .. } = interface {
                        sysctl::set_reverse_path(&name, reverse_path);
                    }
                }
                Err(error) => {
                    let hint = match interface {
                        ManagedInterface::Vlan { .. } => "; does this kernel have 802.1Q (module 8021q)?",
                        ManagedInterface::Macvlan { .. } => "; does this kernel have macvlan?",
                    };
                    tracing::debug!(%error, interface = name, "cannot make an interface");
                    if let Some(address) = address {
                        self.blocked.insert(address, format!("{error}{hint}"));
                    }
                }
            }
        }
    }

    /// Remove interfaces that we made, where nothing of ours is on them or is to be.
    pub(super) fn remove_interfaces(&mut self, plan: &VipPlan, roles: &Roles) {
        let now = clock::now();
        let wanted = plan.groups.iter().flat_map(|(id, group)| {
            let leads = plan.role(id, roles).claim(now).is_some();
            let managed = group.addresses.iter().filter_map(|spec| spec.interface.managed());
            managed.chain(&group.interfaces).filter(move |interface| !interface.is_exclusive() || leads)
        });
        let wanted: BTreeSet<String> = wanted.map(ManagedInterface::name).collect();
        let used: BTreeSet<IfIndex> = self
            .memory
            .addresses
            .iter()
            .filter(|address| address.tagged)
            .map(|address| address.interface)
            .collect();
        let idle = self
            .interfaces
            .all()
            .iter()
            .filter(|interface| interface.managed && !used.contains(&interface.index));
        let idle = idle.filter(|interface| plan.complete && !wanted.contains(&interface.name));
        let idle: Vec<Interface> = idle.cloned().collect();
        for interface in idle {
            match self.netlink.remove_interface(interface.index) {
                Ok(()) => tracing::info!(interface = interface.name, "removed an interface"),
                Err(error) => self.failed(&error),
            }
        }
    }
}
