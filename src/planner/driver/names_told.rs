//! Names of Services in the local network, told by the node that announces them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Driver;
use crate::mdns::driver::Names;
use crate::mdns::names::{Named, hosts, name_of, named};
use crate::model::annotation::MDNS_NAME;
use crate::model::{ServiceKey, ServiceView};
use crate::net::clock;
use crate::watch_ext;

impl Driver {
    /// Say which names are to be told here: those of Services whose addresses are here.
    pub(super) fn name(&self) {
        let held = self.channels.outcome.borrow().held.clone();
        let services = self.plan.services.keys().filter_map(|key| self.seen.services.get_key_value(key));
        let mut names = Names::new();
        for (key, host) in hosts(services, self.options.names) {
            let (Some(view), Some(handled)) = (self.seen.services.get(key), self.plan.services.get(key))
            else {
                continue;
            };
            let addresses: BTreeSet<IpAddr> =
                handled.addresses.iter().copied().filter(|address| held.contains(address)).collect();
            if !addresses.is_empty() && handled.servable_here {
                names.insert(key.to_string(), named(host, view, addresses));
            }
        }
        names.extend(self.control_plane_record());
        watch_ext::set(&self.channels.mdns.0, names);
    }

    /// The control plane's host record, while this host is leader.
    fn control_plane_record(&self) -> Option<(String, Named)> {
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

    /// What is wrong with the name that a Service asks for.
    pub(super) fn name_remark(&self, key: &ServiceKey) -> Option<String> {
        name_of(key, self.seen.services.get(key)?, self.options.names).err()
    }

    /// Names are told, or others have them.
    pub(super) fn take_names(&mut self) {
        let told = self.channels.mdns.1.borrow_and_update().clone();
        self.telemetry.names(told.iter().map(|(owner, name)| format!("{owner} is {name}.local")).collect());
        let mut news = Vec::new();
        for (key, view) in &self.seen.services {
            let (Some(name), Ok(Some(asked))) =
                (told.get(&key.to_string()), name_of(key, view, self.options.names))
            else {
                continue;
            };
            if *name != asked && view.annotation(MDNS_NAME) != Some(&format!("{name}.local")) {
                news.push((
                    key.clone(),
                    format!("somebody else has the name {asked}.local: it is {name}.local"),
                ));
            }
        }
        for (key, text) in news {
            self.event(&key, true, "NameTaken", text);
        }
    }

    /// The name under which a Service is found, for its annotation; none inside where it has to go.
    pub(super) fn told_name(&self, key: &ServiceKey, view: &ServiceView) -> Option<Option<String>> {
        let told = self.channels.mdns.1.borrow().get(&key.to_string()).map(|name| format!("{name}.local"));
        let wanted = matches!(name_of(key, view, self.options.names), Ok(Some(_)));
        match told {
            Some(name) => Some(Some(name)),
            None => (!wanted && view.annotation(MDNS_NAME).is_some()).then_some(None),
        }
    }
}
