//! Port mappings for Services, requested by the node that announces them, from their own addresses.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::Sources;
use crate::cluster::event::Event;
use crate::config::UpnpPolicy;
use crate::model::annotation::{FORWARD_UPNP, UPNP_EXTERNAL_IP};
use crate::model::service::Ingress;
use crate::model::{BootTime, ServiceKey};
use crate::planner::plan::ServicePlan;
use crate::upnp::mapping::{MappingKey, PortMapping, asks, by_gateway};
use crate::upnp::status::GatewayStatus;
use crate::upnp::table::DesiredMappings;

/// Wait for the cloud provider's permission before a missing one is reported.
const PERMISSION_TIMEOUT: Duration = Duration::from_secs(5);

/// What is reported about port mappings.
#[derive(Debug, Default)]
pub(super) struct MappingReports {
    /// Open mappings that were reported.
    open: BTreeSet<MappingKey>,
    /// Services without permission for their mappings, and when that is reported.
    unmapped: BTreeMap<ServiceKey, BootTime>,
}

impl MappingReports {
    /// Notes the Services announced here whose mappings are requested and not permitted.
    pub(super) fn update(&mut self, now: BootTime, sources: &Sources) {
        let unmapped = sources.plan.services.iter().filter(|(key, service)| {
            !sources.plan.mappings.services.contains_key(*key)
                && !service.terminating
                && asks(&service.view)
                && sources.held(service).next().is_some()
        });
        let due = |key| self.unmapped.get(key).copied().unwrap_or(now + PERMISSION_TIMEOUT);
        self.unmapped = unmapped.map(|(key, _)| (key.clone(), due(key))).collect();
    }

    /// Mappings that have been opened, as Events.
    pub(super) fn opened(&mut self, sources: &Sources) -> Vec<Event> {
        let gateways = &sources.gateways;
        let mut events = Vec::new();
        for (key, mappings) in &sources.plan.mappings.services {
            let open = mappings.iter().filter(|mapping| gateways.is_open(&mapping.key));
            for mapping in open.filter(|mapping| !self.open.contains(&mapping.key)) {
                events.push(sources.event(key, false, "PortForwarded", describe(mapping, gateways)));
            }
        }
        self.open = gateways.ports.keys().filter(|key| gateways.is_open(key)).cloned().collect();
        events
    }

    /// Problems of a Service's mappings.
    pub(super) fn issues(&self, now: BootTime, sources: &Sources, key: &ServiceKey) -> Vec<String> {
        let planned = &sources.plan.mappings;
        let mut issues = planned.wrong.get(key).cloned().unwrap_or_default();
        let Some(mappings) = planned.services.get(key) else {
            let due = self.unmapped.get(key).is_some_and(|at| now >= *at);
            let what_to_do = match sources.options.upnp {
                UpnpPolicy::Never => "set enable_upnp=true",
                _ => "set enable_upnp=true for kube-vip, or --upnp for the cloud provider",
            };
            issues.extend(due.then(|| format!("{FORWARD_UPNP}: UPnP is disabled: {what_to_do}")));
            return issues;
        };
        let gateways = &sources.gateways;
        let here = mappings.iter().filter(|mapping| sources.host.held.contains(&mapping.key.address));
        let here: Vec<&MappingKey> = here.map(|mapping| &mapping.key).collect();
        if !here.is_empty() {
            issues.extend(gateways.trouble.clone());
        }
        for key in here.iter().filter(|key| !gateways.is_open(key)) {
            let failed = gateways.ports.get(*key).into_iter().flatten();
            issues.extend(failed.filter_map(|(gateway, result)| {
                let why = result.as_ref().err()?;
                Some(format!("gateway {gateway}, port {}/{}: {why}", key.external, key.protocol))
            }));
        }
        issues.extend(gateways.nested(here).into_iter().map(|(gateway, external)| {
            format!(
                "double NAT: gateway {gateway} has the private external address {external}; forward the port on the outer \
                 router manually"
            )
        }));
        issues
    }

    #[must_use]
    pub(super) fn poll_timeout(&self, now: BootTime) -> Option<BootTime> {
        self.unmapped.values().copied().filter(|at| *at > now).min()
    }
}

impl Sources {
    /// The desired mappings of this node, where it announces the address.
    pub(super) fn desired_mappings(&self) -> DesiredMappings {
        let planned = &self.plan.mappings.services;
        let all = || planned.values().flatten();
        let active = all().filter(|mapping| self.host.held.contains(&mapping.key.address));
        let had_mappings = |(key, service): &(&ServiceKey, &ServicePlan)| {
            !planned.contains_key(*key) && service.view.annotation(UPNP_EXTERNAL_IP).is_some()
        };
        let retired = self.plan.services.iter().filter(had_mappings);
        DesiredMappings {
            active: active.map(|mapping| (mapping.key.clone(), mapping.clone())).collect(),
            known: all().map(|mapping| mapping.key.clone()).collect(),
            retired: retired.flat_map(|(_, service)| self.held(service)).collect(),
        }
    }

    /// External addresses of a Service's mappings: for its annotation, None where that stays as it is, and for its status.
    pub(super) fn external_addresses(
        &self,
        key: &ServiceKey,
        service: &ServicePlan,
    ) -> (Option<Option<String>>, Vec<Ingress>) {
        let before = service.view.annotation(UPNP_EXTERNAL_IP);
        let Some(mappings) = self.plan.mappings.services.get(key) else {
            let addresses = &service.addresses;
            // It stays while a port may be mapped: the next announcing node closes it.
            let cleared = !addresses.is_empty()
                && addresses.iter().all(|address| self.gateways.cleared.contains(address));
            return ((before.is_some() && cleared).then_some(None), Vec::new());
        };
        let external = self.gateways.outside(mappings.iter().map(|mapping| &mapping.key));
        // The published addresses stay until a gateway has been found.
        let text = (!external.is_empty()).then(|| join(&external, ","));
        let shown = text.as_deref().or(before).filter(|_| self.options.upnp_status).unwrap_or_default();
        let entries = by_gateway(mappings, shown);
        (text.map(Some), entries)
    }
}

fn describe(mapping: &PortMapping, gateways: &GatewayStatus) -> String {
    let PortMapping { key, port, .. } = mapping;
    let external = gateways.outside([key]);
    let gateway = if external.is_empty() { "the gateway".to_owned() } else { join(&external, ", ") };
    format!("port {}/{} of {gateway} is mapped to {} port {port}", key.external, key.protocol, key.address)
}

fn join(addresses: &BTreeSet<IpAddr>, separator: &str) -> String {
    addresses.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(separator)
}
