//! Interfaces that appear, change and go, and those that the main loop creates and removes itself.

use std::collections::BTreeSet;

use super::driver::{Driver, RETRY};
use super::placement::unused_interfaces;
use crate::announce::schedule;
use crate::model::interface::ManagedInterface;
use crate::model::{Interface, Roles, VipPlan};
use crate::net::{clock, sysctl};

impl Driver {
    /// Reads the interfaces again.
    pub(super) fn update_interfaces(&mut self) {
        self.dirty = true;
        let interfaces = self.host.borrow_and_update().interfaces.clone();
        self.interfaces.set(interfaces);
        let now = clock::now();
        let found = self.interfaces.by_name(&self.options.interface);
        self.log_interface_change(found.as_ref());
        let came_up = found.as_ref().is_some_and(|interface| interface.up)
            && self.channels.interface_down.borrow().is_some();
        let down = found.as_ref().is_none_or(|interface| !interface.up);
        self.channels.interface_down.send_if_modified(|since| {
            let before = *since;
            *since = if down { before.or(Some(now)) } else { None };
            before != *since
        });
        if came_up {
            self.schedule.handle_input(now, schedule::Input::Restart);
        }
        self.interface = found;
    }

    fn log_interface_change(&self, found: Option<&Interface>) {
        match (&self.interface, found) {
            (Some(old), Some(new)) if old.up != new.up => {
                tracing::warn!(interface = new.name, up = new.up, "the interface changed its state");
            }
            (Some(old), None) => tracing::error!(interface = old.name, "the interface is gone"),
            (None, Some(new)) => tracing::info!(interface = new.name, up = new.up, "using the interface"),
            _ => {}
        }
    }

    /// Creates the managed interfaces that are missing.
    pub(super) fn make_interfaces(&mut self) {
        for (interface, (parent, address)) in std::mem::take(&mut self.placement.missing) {
            let name = interface.name();
            match self.netlink.add_interface(parent, &interface) {
                // The kernel's notification of the new interface starts the next reconciliation.
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
                        self.placement.blocked.insert(address, format!("{error}{hint}"));
                    }
                }
            }
        }
    }

    /// Removes managed interfaces that are not used any more.
    pub(super) fn remove_interfaces(&mut self, plan: &VipPlan, roles: &Roles) {
        let (interfaces, addresses) = (self.interfaces.all(), &self.actual.addresses);
        let in_use = self.channels.dhcp_links.borrow_and_update().clone();
        let unused = unused_interfaces(plan, roles, clock::now(), interfaces, addresses);
        for interface in unused.into_iter().filter(|interface| !in_use.contains(&interface.name)) {
            match self.netlink.remove_interface(interface.index) {
                Ok(()) => tracing::info!(interface = interface.name, "removed an interface"),
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Opens the sockets that the placed addresses need.
    pub(super) fn open_interfaces(&mut self) {
        let mut opened = BTreeSet::new();
        let mut failure = None;
        for (name, targets) in &self.placement.targets {
            let listen = self.options.control_plane.contains(name);
            for (interface, vip) in targets {
                match self.interfaces.open(*interface, vip.address, listen) {
                    Ok(fresh) => opened.extend(fresh.then_some(*interface)),
                    Err(error) => failure = Some(error),
                }
            }
        }
        let side = |interface: &&Interface| {
            opened.contains(&interface.index) && interface.name != self.options.interface
        };
        for interface in
            self.interfaces.all().iter().filter(side).filter(|interface| interface.has_neighbours())
        {
            if interface.is_strict(sysctl::reverse_path_for_all()) {
                tracing::warn!(
                    interface = interface.name,
                    "reverse path filtering is strict: packets of clients that this host answers by another interface are \
                     dropped; set net.ipv4.conf.{}.rp_filter to 2",
                    interface.name
                );
            }
        }
        if !opened.is_empty() {
            self.schedule.handle_input(clock::now(), schedule::Input::Restart);
        }
        if let Some(error) = failure {
            self.retry_at = Some(clock::now() + RETRY);
            self.report(&error.to_string());
        }
    }
}
