//! Host records, published by mDNS by the node that announces the addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Sources;
use crate::cluster::event::Event;
use crate::mdns::records::{
    HostRecords, assign_names, host_record, port_problem, recorded_name, requested_name,
};
use crate::model::annotation::{MDNS_NAME, VIP_HOST};
use crate::model::{ServiceKey, ServiceView};
use crate::planner::plan::{Issue, ServicePlan};

/// The Services that this node announces, each with the name under which another node published it before.
pub(super) type TakenOver = BTreeMap<ServiceKey, Option<String>>;

impl Sources {
    /// The host records of Services whose addresses this node announces.
    ///
    /// The annotation of a Service counts at the moment when this node takes over from another one. Later it is written by
    /// this node, or by the author of the Service.
    pub(super) fn host_records(&self, taken_over: &mut TakenOver) -> HostRecords {
        let services = self.plan.services.iter().map(|(key, service)| (key, &*service.view));
        let (all, reserved) = (self.options.names, self.options.reserved_name.as_deref());
        let names = assign_names(services, all, reserved, &self.names);
        let mut before = std::mem::take(taken_over);
        let mut records = HostRecords::new();
        for (key, service) in self.plan.services.iter().filter(|(_, service)| service.servable_here) {
            let addresses: BTreeSet<IpAddr> = self.held(service).collect();
            if addresses.is_empty() {
                continue;
            }
            let name = names.get(key);
            let earlier = before.remove(key).unwrap_or_else(|| self.handed_over(&service.view));
            let earlier = earlier.filter(|earlier| Some(earlier) == name);
            if let Some(name) = name {
                let record = host_record(name.clone(), earlier.is_some(), &service.view, addresses);
                records.insert(key.to_string(), record);
            }
            taken_over.insert(key.clone(), earlier);
        }
        records
    }

    /// The name under which another node publishes a Service.
    fn handed_over(&self, view: &ServiceView) -> Option<String> {
        let mine = view.annotation(VIP_HOST) == Some(&self.options.me);
        recorded_name(view).filter(|_| !mine).map(str::to_owned)
    }

    /// What is wrong with the name that a Service requests, and with the name and the ports that this node publishes.
    pub(super) fn name_issues(&self, key: &ServiceKey, service: &ServicePlan) -> Vec<Issue> {
        let requested = requested_name(key, &service.view, self.options.names).err().map(Issue::Annotation);
        let published = self.names.get(&key.to_string());
        let failed = published.and_then(|name| name.as_ref().err());
        let failed = failed.map(|why| Issue::Name(format!("node {}: {why}", self.options.me)));
        let ports = published.and_then(|_| port_problem(&service.view)).map(Issue::Name);
        requested.into_iter().chain(failed).chain(ports).collect()
    }

    /// Names that differ from the requested ones, as Events.
    pub(super) fn name_events(&self) -> Vec<Event> {
        let taken = |(key, service): (&ServiceKey, &ServicePlan)| {
            let name = self.names.get(&key.to_string())?.as_ref().ok()?;
            let requested = requested_name(key, &service.view, self.options.names).ok()??;
            let known = service.view.annotation(MDNS_NAME) == Some(&format!("{name}.local"));
            let reserved = self.options.reserved_name.as_ref() == Some(&requested);
            let owner = if reserved { "the control plane" } else { "another host" };
            let text = format!("{owner} has the name {requested}.local: published as {name}.local");
            (*name != requested && !known).then(|| self.event(key, true, "NameTaken", text))
        };
        self.plan.services.iter().filter_map(taken).collect()
    }

    /// A Service's published name, for its annotation; the inner None removes it.
    pub(super) fn name_annotation(&self, key: &ServiceKey, service: &ServicePlan) -> Option<Option<String>> {
        if let Some(name) = self.names.get(&key.to_string()) {
            return name.as_ref().ok().map(|name| Some(format!("{name}.local")));
        }
        let requested = matches!(requested_name(key, &service.view, self.options.names), Ok(Some(_)));
        (!requested && service.view.annotation(MDNS_NAME).is_some()).then_some(None)
    }

    /// Published names and failures, one a line.
    pub(super) fn name_lines(&self) -> Vec<String> {
        let line = |(owner, name): (&String, &Result<String, String>)| match name {
            Ok(name) => format!("{owner} is {name}.local"),
            Err(why) => format!("{owner} has no name: {why}"),
        };
        self.names.iter().map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::HostStatus;
    use crate::model::annotation::MDNS;
    use crate::model::service::{Ingress, Protocol};
    use crate::planner::plan::Plan;
    use crate::publish::Options;

    fn key() -> ServiceKey {
        ServiceKey { namespace: "lab".into(), name: "web".into() }
    }

    fn address() -> IpAddr {
        [192, 0, 2, 1].into()
    }

    /// A Service with these annotations, announced by `node-2` or by none, on this node.
    fn sources(announced: bool, here: bool, annotations: &[(&str, &str)]) -> Sources {
        let host = [(VIP_HOST, "node-2")];
        let annotations = host.iter().filter(|_| announced).chain(annotations);
        let view = ServiceView {
            annotations: annotations.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            status: announced
                .then(|| Ingress { ip: Some(address()), ..Ingress::default() })
                .into_iter()
                .collect(),
            named_ports: vec![("a--b".into(), Protocol::Tcp, 80)],
            ..ServiceView::default()
        };
        let addresses = vec![address()];
        let service =
            ServicePlan { view: Arc::new(view), addresses, servable_here: true, ..ServicePlan::default() };
        Sources {
            options: Options { me: "node-1".into(), ..Options::default() },
            plan: Arc::new(Plan { services: [(key(), service)].into(), ..Plan::default() }),
            host: HostStatus { held: here.then(address).into_iter().collect(), ..HostStatus::default() },
            ..Sources::default()
        }
    }

    const PRINTER: [(&str, &str); 2] = [(MDNS, "printer"), (MDNS_NAME, "printer.local")];

    fn known(sources: &Sources, taken_over: &mut TakenOver) -> bool {
        let records = sources.host_records(taken_over);
        assert_eq!(records["lab/web"].host, "printer");
        records["lab/web"].known
    }

    #[test]
    fn a_name_is_known_only_when_another_node_published_it() {
        let ghost = [PRINTER[0], PRINTER[1], (VIP_HOST, "node-3")];
        let mine = [PRINTER[0], PRINTER[1], (VIP_HOST, "node-1")];
        let known_at_first = |announced, annotations: &[(&str, &str)]| {
            known(&sources(announced, true, annotations), &mut TakenOver::new())
        };
        assert!(known_at_first(true, &PRINTER));
        // Not announced, whatever its author writes; announced by this node; never published.
        assert!(!known_at_first(false, &PRINTER));
        assert!(!known_at_first(false, &ghost));
        assert!(!known_at_first(true, &mine));
        assert!(!known_at_first(true, &PRINTER[..1]));
    }

    #[test]
    fn a_name_that_is_written_to_an_announced_service_is_not_known() {
        let ghost = [PRINTER[0], PRINTER[1], (VIP_HOST, "node-3")];
        for before in [&[][..], &[(MDNS, "web"), (MDNS_NAME, "web.local")]] {
            let mut taken_over = TakenOver::new();
            sources(true, true, before).host_records(&mut taken_over);
            for annotations in [&PRINTER[..], &ghost] {
                assert!(!known(&sources(true, true, annotations), &mut taken_over), "{before:?}");
            }
        }
    }

    #[test]
    fn a_name_that_was_taken_over_stays_known_while_the_service_has_it() {
        let mut taken_over = TakenOver::new();
        assert!(known(&sources(true, true, &PRINTER), &mut taken_over));
        let mine = [PRINTER[0], PRINTER[1], (VIP_HOST, "node-1")];
        assert!(known(&sources(true, true, &mine), &mut taken_over));
        // Another host may have it by then.
        sources(true, true, &[(MDNS, "web")]).host_records(&mut taken_over);
        assert!(!known(&sources(true, true, &mine), &mut taken_over));
        // It leaves this node, and comes back from another one.
        assert!(sources(true, false, &PRINTER).host_records(&mut taken_over).is_empty());
        assert!(known(&sources(true, true, &PRINTER), &mut taken_over));
    }

    #[test]
    fn what_is_not_published_is_reported() {
        let mut sources = sources(true, true, &PRINTER);
        let issues = |sources: &Sources| sources.name_issues(&key(), &sources.plan.services[&key()]);
        assert_eq!(issues(&sources), [], "another node publishes it");
        let name = |name: Result<&str, &str>| {
            [("lab/web".to_owned(), name.map(str::to_owned).map_err(str::to_owned))].into()
        };
        sources.names = name(Ok("printer"));
        assert!(matches!(&issues(&sources)[..], [Issue::Name(text)] if text.contains("`a--b`")));
        assert_eq!(sources.name_lines(), ["lab/web is printer.local"]);
        sources.names = name(Err("no socket"));
        assert_eq!(issues(&sources)[0], Issue::Name("node node-1: no socket".into()));
        assert_eq!(sources.name_lines(), ["lab/web has no name: no socket"]);
        let service = sources.plan.services[&key()].clone();
        assert_eq!(sources.name_annotation(&key(), &service), None);
    }

    #[test]
    fn the_owner_of_a_reserved_name_is_named() {
        let mut sources = sources(true, true, &[(MDNS, "k8s")]);
        sources.names = [("lab/web".to_owned(), Ok("k8s-2".to_owned()))].into();
        let text = |sources: &Sources| sources.name_events()[0].message.clone();
        assert_eq!(text(&sources), "another host has the name k8s.local: published as k8s-2.local");
        sources.options.reserved_name = Some("k8s".into());
        assert_eq!(text(&sources), "the control plane has the name k8s.local: published as k8s-2.local");
        assert_eq!(sources.host_records(&mut TakenOver::new())["lab/web"].host, "k8s-2");
    }
}
