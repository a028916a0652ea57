//! DHCP leases for Services: obtained by the leader of their group alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::addresses::{Wanted, wanted};
use super::super::leases;
use super::super::plan::{Plan, ServicePlan};
use super::Driver;
use crate::dhcp::driver::Command;
use crate::dhcp::fsm::{ClientState, LossReason};
use crate::dhcp::spec::{ClientSpec, ClientStatus, LeaseKey};
use crate::dhcp::status::LeaseStatus;
use crate::model::{ServiceKey, ServiceView};
use crate::net::clock;
use crate::watch_ext;

impl Driver {
    /// Say what is wanted: by this node, where it has the election. Says whether that is another thing than before.
    pub(super) fn ask(&self) -> bool {
        let mut wishes = self.plan.leases.clone();
        self.activate(&mut wishes);
        watch_ext::set(&self.channels.dhcp.specs, wishes)
    }

    /// The same where elections alone may have changed, as often as they are renewed.
    pub(super) fn ask_as_elected(&self) -> bool {
        self.channels.dhcp.specs.send_if_modified(|wishes| self.activate(wishes))
    }

    /// Marks the leases that this node obtains as leader. Returns whether that has changed.
    fn activate(&self, wishes: &mut BTreeMap<LeaseKey, ClientSpec>) -> bool {
        let now = clock::now();
        let roles = self.channels.roles.borrow();
        let asking = self.plan.services.iter().filter(|(_, handled)| handled.asking.is_some());
        let elected = asking.filter(|(_, handled)| {
            let role = handled.group.as_ref().and_then(|group| roles.get(group));
            role.is_some_and(|role| role.claim(now).is_some())
        });
        let control_plane = self.context.control_plane.as_ref();
        let control_plane = control_plane.filter(|control_plane| control_plane.is_leader(&roles, now));
        let mine: BTreeSet<&str> = elected
            .filter_map(|(key, _)| self.seen.services.get(key).map(|view| view.uid.as_str()))
            .collect();
        let mut changed = false;
        for (key, wish) in wishes {
            let active = mine.contains(key.owner.as_str()) || control_plane.is_some_and(|it| it.owns(key));
            changed |= wish.active != active;
            wish.active = active;
        }
        changed
    }

    /// Releases leases that are no longer planned. A lease whose address the Service still has belongs to another node.
    pub(super) fn give_back(&self, before: &Plan) {
        let gone = before.leases.keys().filter(|key| !self.plan.leases.contains_key(key));
        for key in gone {
            let held = self.seen.leases.get(key).and_then(|held| held.address);
            let kept = self.seen.services.values().any(|view| {
                let has = |wanted: &Wanted| matches!(wanted, Wanted::Ip(ip) if Some(*ip) == held);
                view.uid == key.owner && wanted(view).iter().any(has)
            });
            if !kept {
                self.channels.dhcp.commands.try_send(Command::Release(key.clone())).ok();
            }
        }
    }

    /// How leases stand has changed.
    pub(super) fn take_leases(&mut self) {
        let now = self.channels.dhcp.status.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.seen.leases, now);
        let owners: BTreeMap<&str, &ServiceKey> =
            self.seen.services.iter().map(|(key, view)| (view.uid.as_str(), key)).collect();
        let mut news = Vec::new();
        for (key, held) in &self.seen.leases {
            let Some(service) = owners.get(key.owner.as_str()) else { continue };
            if let Some((reason, text)) = self.news(key, before.get(key), held) {
                news.push(((*service).clone(), reason, text));
            }
        }
        for (service, reason, text) in news {
            self.event(&service, false, reason, text);
        }
        // A stage alone changes nothing that is planned.
        let matters = |held: &BTreeMap<LeaseKey, ClientStatus>| -> Vec<_> {
            let held = held.iter();
            held.map(|(key, held)| (key.clone(), held.address, held.saved.clone(), held.last_error.clone()))
                .collect()
        };
        self.dirty |= matters(&before) != matters(&self.seen.leases);
        let control_plane = self.context.control_plane.as_ref();
        let lines = self.seen.leases.iter().filter_map(|(key, held)| {
            if control_plane.is_some_and(|control_plane| control_plane.owns(key)) {
                return Some(LeaseStatus::of("control plane", key, held));
            }
            let service = owners.get(key.owner.as_str())?;
            Some(LeaseStatus::of(&service.to_string(), key, held))
        });
        self.reporter.leases(lines.collect());
    }

    fn news(
        &self,
        key: &LeaseKey,
        before: Option<&ClientStatus>,
        after: &ClientStatus,
    ) -> Option<(&'static str, String)> {
        let me = &self.context.me;
        let address = |held: &ClientStatus| held.address.filter(|_| held.state != ClientState::Standby);
        let interface = self.plan.leases.get(key).map(|wish| wish.interface.as_str()).unwrap_or_default();
        match (before.and_then(address), address(after)) {
            (before, Some(address)) if before != Some(address) && after.state == ClientState::Bound => {
                let from = after.saved.as_ref().map(|record| record.server.to_string()).unwrap_or_default();
                Some(("AddressLeased", format!("node {me} has {address} from the DHCP server {from}")))
            }
            (None, None)
                if after.state == ClientState::Selecting
                    && before.is_none_or(|held| held.state == ClientState::Standby) =>
            {
                let family = key.family;
                Some((
                    "AskingForLease",
                    format!("node {me} asks for an {family} address by DHCP on interface {interface}"),
                ))
            }
            _ => None,
        }
    }

    /// What is to be written of the leases of a Service, by the node that has them.
    pub(super) fn lease_annotations(
        &self,
        view: &ServiceView,
        handled: &ServicePlan,
    ) -> BTreeMap<&'static str, Option<String>> {
        let Some(asking) = &handled.asking else { return BTreeMap::new() };
        let keys = asking.families.iter().map(|family| leases::key(view, *family));
        let good = keys.filter(|key| !self.plan.contested.contains_key(key));
        let held: Vec<&ClientStatus> = good.filter_map(|key| self.seen.leases.get(&key)).collect();
        // A node that only follows the lease has no more than these annotations.
        if held.iter().any(|held| held.state == ClientState::Standby) {
            return BTreeMap::new();
        }
        leases::annotations(asking, held)
    }

    /// The server has to know what it must not give.
    pub(super) fn decline(&self, before: &Plan) {
        let new = self.plan.contested.iter().filter(|(key, _)| !before.contested.contains_key(key));
        for (key, whose) in new {
            self.channels.dhcp.commands.try_send(Command::Conflict(key.clone(), whose.clone())).ok();
        }
    }

    /// A station outside has an address that a DHCP server gave us: the server has to know.
    pub(super) fn tell_stations(&mut self) {
        let outcome = self.channels.outcome.borrow().clone();
        let contested: BTreeSet<IpAddr> = outcome.conflicts.into_keys().chain(outcome.taken).collect();
        for address in contested.difference(&self.contested) {
            let leased = self.seen.leases.iter().filter(|(_, held)| held.address == Some(*address));
            for (key, _) in leased {
                let why = LossReason::Conflict(*address).to_string();
                self.channels.dhcp.commands.try_send(Command::Conflict(key.clone(), why)).ok();
            }
        }
        self.contested = contested;
    }
}
