//! Executes the actions of a plan, and announces.

use std::net::IpAddr;

use super::diff::Action;
use super::driver::Driver;
use crate::announce::schedule;
use crate::model::{BootTime, IfIndex, Vip};
use crate::net::netlink::{Hold, Scope};
use crate::net::{clock, nft};

impl Driver {
    /// Executes the actions kind by kind, in the order of the plan; all of one kind are one request to the kernel.
    pub(super) fn execute(&mut self, actions: Vec<Action>) {
        let now = clock::now();
        let (mut suppressed, mut removals, mut restored) = (Vec::new(), Vec::new(), Vec::new());
        let (mut holds, mut announcements) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Withdraw { interface, address } => {
                    self.schedule.handle_input(now, schedule::Input::Stop((interface, address)));
                }
                Action::Suppress { address, .. } => suppressed.push(address),
                Action::Remove { interface, vip } => removals.push((interface, vip)),
                Action::Unsuppress { address } => restored.push(address),
                Action::Hold { interface, vip, seconds, until, missing } => {
                    let group = self.placement.owners.get(&vip.address);
                    let control_plane = group.is_some_and(|group| self.options.control_plane.contains(group));
                    let tag = self.options.tags.of(control_plane);
                    let hold = Hold { interface, vip, seconds, scope: self.scope(interface), tag };
                    holds.push((hold, until, missing));
                }
                Action::Announce { interface, address } => announcements.push((interface, address)),
            }
        }
        if let Err(error) = nft::suppress_replies(&suppressed) {
            tracing::debug!(%error, "cannot suppress the kernel's replies");
        }
        self.actual.suppressed.extend(suppressed);
        self.remove(&removals);
        if let Err(error) = nft::restore_replies(&restored) {
            tracing::debug!(%error, "cannot restore the kernel's replies");
        }
        self.actual.suppressed.retain(|address| !restored.contains(address));
        self.hold(holds);
        let now = clock::now();
        for target in announcements {
            self.schedule.handle_input(now, schedule::Input::Start(target));
        }
    }

    fn remove(&mut self, removals: &[(IfIndex, Vip)]) {
        for ((interface, vip), result) in removals.iter().zip(self.netlink.remove(removals)) {
            match result {
                Ok(()) => {
                    self.actual.fences.remove(&(*interface, *vip));
                    self.reporter.address_removed(*vip, &self.interfaces.name(*interface));
                }
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Configures addresses, each with the moment at which the kernel drops it, and whether it was missing.
    fn hold(&mut self, holds: Vec<(Hold, BootTime, bool)>) {
        let requests: Vec<Hold> = holds.iter().map(|(hold, ..)| *hold).collect();
        for ((hold, until, missing), result) in holds.into_iter().zip(self.netlink.hold(&requests)) {
            match result {
                Ok(()) => {
                    let before = self.actual.fences.insert((hold.interface, hold.vip), until);
                    if missing {
                        let repaired = before.is_some_and(|before| clock::now() < before);
                        self.reporter.address_added(
                            hold.vip,
                            &self.interfaces.name(hold.interface),
                            repaired,
                        );
                    }
                }
                Err(error) => self.failed(&error),
            }
        }
    }

    fn scope(&self, interface: IfIndex) -> Scope {
        let host = !self.options.lo_global && self.interfaces.name(interface) == "lo";
        if host { Scope::Host } else { Scope::Global }
    }

    pub(super) fn send_due_announcements(&mut self) {
        let now = clock::now();
        self.schedule.handle_timeout(now);
        while let Some((interface, address)) = self.schedule.poll_output() {
            // The claim is checked where it is used: a process that was stopped for a while wakes up right here.
            let owner = self.placement.owners.get(&address);
            if owner.is_some_and(|group| self.role(group).claim(now).is_some()) {
                self.announce(interface, address);
            }
        }
    }

    pub(super) fn announce(&mut self, interface: IfIndex, address: IpAddr) {
        match self.interfaces.announce(interface, address) {
            Ok(()) => {
                self.reporter.announced(address);
                self.problem.clear();
            }
            Err(error) => {
                let text =
                    format!("cannot announce {address} on {}: {error}", self.interfaces.name(interface));
                self.report(&text);
            }
        }
    }
}
