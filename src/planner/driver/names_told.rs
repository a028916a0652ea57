//! Host records of Services, published by mDNS by the node that announces them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Driver;
use crate::mdns::driver::HostRecords;
use crate::mdns::records::{HostRecord, assign_names, host_record, requested_name};
use crate::model::annotation::MDNS_NAME;
use crate::model::{ServiceKey, ServiceView};
use crate::net::clock;
use crate::watch_ext;

impl Driver {
    /// Publishes the host records of Services whose addresses this node announces.
    pub(super) fn name(&self) {
        let held = self.channels.outcome.borrow().held.clone();
        let services = self.plan.services.keys().filter_map(|key| self.seen.services.get_key_value(key));
        let mut names = HostRecords::new();
        for (key, host) in assign_names(services, self.options.names) {
            let (Some(view), Some(handled)) = (self.seen.services.get(key), self.plan.services.get(key))
            else {
                continue;
            };
            let addresses: BTreeSet<IpAddr> =
                handled.addresses.iter().copied().filter(|address| held.contains(address)).collect();
            if !addresses.is_empty() && handled.servable_here {
                names.insert(key.to_string(), host_record(host, view, addresses));
            }
        }
        names.extend(self.control_plane_record());
        watch_ext::set(&self.channels.mdns.0, names);
    }

    /// The control plane's host record, while this host is leader.
    fn control_plane_record(&self) -> Option<(String, HostRecord)> {
        let control_plane = self.context.control_plane.as_ref()?;
        let leads = control_plane.is_leader(&self.channels.roles.borrow(), clock::now());
        let record = leads.then(|| control_plane.host_record(&self.channels.vips.borrow())).flatten();
        record.map(|record| ("control plane".to_owned(), record))
    }

    /// Publishes the control plane's host record, or withdraws it, where a role has changed.
    pub(super) fn name_control_plane(&self) {
        let Some(control_plane) = &self.context.control_plane else { return };
        if control_plane.mdns.is_none() {
            return;
        }
        let record = self.control_plane_record();
        self.channels.mdns.0.send_if_modified(|names| match record {
            Some((owner, record)) => names.insert(owner, record.clone()).as_ref() != Some(&record),
            None => names.remove("control plane").is_some(),
        });
    }

    /// What is wrong with the name that a Service requests.
    pub(super) fn name_remark(&self, key: &ServiceKey) -> Option<String> {
        requested_name(key, self.seen.services.get(key)?, self.options.names).err()
    }

    /// Published names have changed.
    pub(super) fn take_names(&mut self) {
        let told = self.channels.mdns.1.borrow_and_update().clone();
        self.reporter.names(told.iter().map(|(owner, name)| format!("{owner} is {name}.local")).collect());
        let mut news = Vec::new();
        for (key, view) in &self.seen.services {
            let (Some(name), Ok(Some(asked))) =
                (told.get(&key.to_string()), requested_name(key, view, self.options.names))
            else {
                continue;
            };
            if *name != asked && view.annotation(MDNS_NAME) != Some(&format!("{name}.local")) {
                news.push((
                    key.clone(),
                    format!("another host has the name {asked}.local: published as {name}.local"),
                ));
            }
        }
        for (key, text) in news {
            self.event(&key, true, "NameTaken", text);
        }
    }

    /// A Service's published name, for its annotation; the inner none removes it.
    pub(super) fn told_name(&self, key: &ServiceKey, view: &ServiceView) -> Option<Option<String>> {
        let told = self.channels.mdns.1.borrow().get(&key.to_string()).map(|name| format!("{name}.local"));
        let wanted = matches!(requested_name(key, view, self.options.names), Ok(Some(_)));
        match told {
            Some(name) => Some(Some(name)),
            None => (!wanted && view.annotation(MDNS_NAME).is_some()).then_some(None),
        }
    }
}
