//! Host records, published by mDNS by the node that announces the addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Sources;
use crate::cluster::event::Event;
use crate::mdns::driver::HostRecords;
use crate::mdns::records::{assign_names, host_record, port_problem, requested_name};
use crate::model::ServiceKey;
use crate::model::annotation::MDNS_NAME;
use crate::planner::plan::{Issue, ServicePlan};

impl Sources {
    /// The host records of Services whose addresses this node announces.
    pub(super) fn host_records(&self) -> HostRecords {
        let services = self.plan.services.iter().map(|(key, service)| (key, &*service.view));
        let mut records = HostRecords::new();
        for (key, host) in assign_names(services, self.options.names) {
            let Some(service) = self.plan.services.get(key).filter(|it| it.servable_here) else { continue };
            let addresses: BTreeSet<IpAddr> = self.announced(service).collect();
            if !addresses.is_empty() {
                records.insert(key.to_string(), host_record(host, &service.view, addresses));
            }
        }
        records
    }

    /// What is wrong with the name that a Service requests, and with the ports of one that this node publishes.
    pub(super) fn name_issues(&self, key: &ServiceKey, service: &ServicePlan) -> Vec<Issue> {
        let requested = requested_name(key, &service.view, self.options.names).err().map(Issue::Annotation);
        let published = self.names.contains_key(&key.to_string());
        let ports = port_problem(&service.view).filter(|_| published).map(Issue::Name);
        requested.into_iter().chain(ports).collect()
    }

    /// Names that differ from the requested ones, as Events.
    pub(super) fn name_events(&self) -> Vec<Event> {
        let taken = |(key, service): (&ServiceKey, &ServicePlan)| {
            let name = self.names.get(&key.to_string())?;
            let requested = requested_name(key, &service.view, self.options.names).ok()??;
            let known = service.view.annotation(MDNS_NAME) == Some(&format!("{name}.local"));
            let text = format!("another host has the name {requested}.local: published as {name}.local");
            (*name != requested && !known).then(|| self.event(key, true, "NameTaken", text))
        };
        self.plan.services.iter().filter_map(taken).collect()
    }

    /// A Service's published name, for its annotation; the inner None removes it.
    pub(super) fn name_annotation(&self, key: &ServiceKey, service: &ServicePlan) -> Option<Option<String>> {
        if let Some(name) = self.names.get(&key.to_string()) {
            return Some(Some(format!("{name}.local")));
        }
        let requested = matches!(requested_name(key, &service.view, self.options.names), Ok(Some(_)));
        (!requested && service.view.annotation(MDNS_NAME).is_some()).then_some(None)
    }
}
