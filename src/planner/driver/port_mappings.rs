//! Port mappings for Services, requested by the node that announces them, from their own addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::Driver;
use crate::config::UpnpPolicy;
use crate::model::annotation::{FORWARD_UPNP, UPNP_EXTERNAL_IP};
use crate::model::service::Ingress;
use crate::model::{BootTime, ServiceKey, ServiceView};
use crate::net::clock;
use crate::upnp::mapping::{PortMapping, asks, by_gateway, mappings};
use crate::upnp::table::DesiredMappings;
use crate::watch_ext;

/// The address of a deleted Service stays this long, so that its mappings can be closed from it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Wait for the cloud provider's permission before a missing one is reported.
const PERMISSION_TIMEOUT: Duration = Duration::from_secs(5);

impl Driver {
    /// Publishes the desired mappings: of this node, where it announces the address.
    pub(super) fn map_ports(&mut self) {
        let services = self.plan.services.iter().filter(|(key, _)| !self.departing.contains_key(*key));
        let services = services.filter_map(|(key, handled)| {
            let view = self.seen.services.get(key)?;
            Some((key, view, handled.addresses.as_slice()))
        });
        self.mappings = mappings(self.options.upnp, services);
        let held = self.channels.outcome.borrow().held.clone();
        let all = || self.mappings.services.values().flatten();
        let here = all().filter(|mapping| held.contains(&mapping.key.address));
        let now = DesiredMappings {
            active: here.map(|mapping| (mapping.key.clone(), mapping.clone())).collect(),
            known: all().map(|mapping| mapping.key.clone()).collect(),
            retired: self.retired().filter(|address| held.contains(address)).collect(),
        };
        watch_ext::set(&self.channels.gateways.0, now);
        self.note_unmapped(&held);
    }

    /// Remembers Services announced here whose mappings are requested and not permitted.
    fn note_unmapped(&mut self, held: &BTreeSet<IpAddr>) {
        let unopened = self.plan.services.iter().filter(|(key, handled)| {
            !self.mappings.services.contains_key(*key)
                && self.seen.services.get(*key).is_some_and(asks)
                && handled.addresses.iter().any(|address| held.contains(address))
        });
        let at = clock::now() + PERMISSION_TIMEOUT;
        let before = &self.unopened;
        let now = unopened.map(|(key, _)| (key.clone(), before.get(key).copied().unwrap_or(at)));
        self.unopened = now.collect();
    }

    /// Addresses of Services that had mappings and shall have none.
    fn retired(&self) -> impl Iterator<Item = IpAddr> {
        let retired = self.plan.services.iter().filter(|(key, _)| {
            let there =
                self.seen.services.get(*key).is_some_and(|view| view.annotation(UPNP_EXTERNAL_IP).is_some());
            there && !self.mappings.services.contains_key(*key)
        });
        retired.flat_map(|(_, handled)| &handled.addresses).copied()
    }

    /// The status of gateways has changed.
    pub(super) fn take_gateways(&mut self) {
        let outcome = self.channels.gateways.1.borrow_and_update().clone();
        self.reporter.gateways(outcome.lines());
        let mut news = Vec::new();
        for (service, mappings) in &self.mappings.services {
            let open = mappings.iter().filter(|mapping| outcome.is_open(&mapping.key));
            for mapping in open.filter(|mapping| !self.open_ports.contains(&mapping.key)) {
                news.push((service.clone(), describe(mapping, &outcome.outside([&mapping.key]))));
            }
        }
        self.open_ports = outcome.ports.keys().filter(|key| outcome.is_open(key)).cloned().collect();
        for (service, text) in news {
            self.event(&service, false, "PortForwarded", text);
        }
        self.tell();
    }

    /// Problems of a Service's mappings.
    pub(super) fn gateway_remarks(&self, key: &ServiceKey) -> Vec<String> {
        let mut issues = self.mappings.wrong.get(key).cloned().unwrap_or_default();
        let Some(mappings) = self.mappings.services.get(key) else {
            let due = self.unopened.get(key).is_some_and(|at| clock::now() >= *at);
            let what_to_do = match self.options.upnp {
                UpnpPolicy::Never => "set enable_upnp=true",
                _ => "set enable_upnp=true for kube-vip, or --upnp for the cloud provider",
            };
            issues.extend(due.then(|| format!("{FORWARD_UPNP}: UPnP is disabled: {what_to_do}")));
            return issues;
        };
        let held = &self.channels.outcome.borrow().held;
        let outcome = self.channels.gateways.1.borrow();
        let here = |mapping: &&PortMapping| held.contains(&mapping.key.address);
        if mappings.iter().any(|mapping| here(&mapping)) {
            issues.extend(outcome.trouble.clone());
        }
        for mapping in mappings.iter().filter(here).filter(|mapping| !outcome.is_open(&mapping.key)) {
            let failed = outcome.ports.get(&mapping.key).into_iter().flatten();
            issues.extend(failed.filter_map(|(gateway, result)| {
                let why = result.as_ref().err()?;
                Some(format!(
                    "gateway {gateway}, port {}/{}: {why}",
                    mapping.key.external, mapping.key.protocol
                ))
            }));
        }
        let nested = outcome.nested(mappings.iter().filter(here).map(|mapping| &mapping.key));
        issues.extend(nested.into_iter().map(|(gateway, outside)| {
            format!(
                "double NAT: gateway {gateway} has the private external address {outside}; forward the port on the outer \
                 router manually"
            )
        }));
        issues
    }

    /// External addresses of a Service's mappings: for its annotation, none where that stays as it is, and for its status.
    pub(super) fn outside(
        &self,
        key: &ServiceKey,
        view: &ServiceView,
    ) -> (Option<Option<String>>, Vec<Ingress>) {
        let outcome = self.channels.gateways.1.borrow();
        let before = view.annotation(UPNP_EXTERNAL_IP);
        let Some(mappings) = self.mappings.services.get(key) else {
            let addresses = self.plan.services.get(key).map(|handled| handled.addresses.as_slice());
            let addresses = addresses.unwrap_or_default();
            // It stays while a port may be mapped: the next announcing node closes it.
            let swept =
                !addresses.is_empty() && addresses.iter().all(|address| outcome.cleared.contains(address));
            return ((before.is_some() && swept).then_some(None), Vec::new());
        };
        let now = outcome.outside(mappings.iter().map(|mapping| &mapping.key));
        // The published addresses stay until a gateway has been found.
        let text = now.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
        let text = Some(text).filter(|text| !text.is_empty());
        let shown = text.as_deref().or(before).filter(|_| self.options.upnp_status).unwrap_or_default();
        let entries = by_gateway(mappings, shown);
        (text.map(Some), entries)
    }

    /// Whether a deleted Service still has mappings to an address of this node.
    pub(super) fn stays_a_moment(&mut self, key: &ServiceKey, after: Option<&ServiceView>) -> bool {
        let mappings = self.mappings.services.get(key).map(Vec::as_slice).unwrap_or_default();
        let open = mappings.iter().any(|mapping| self.open_ports.contains(&mapping.key));
        if open {
            self.departing.insert(key.clone(), (clock::now() + CLOSE_TIMEOUT, after.cloned()));
            self.map_ports();
        }
        open
    }

    /// Forgets deleted Services once their mappings are closed, or after [`CLOSE_TIMEOUT`].
    pub(super) fn let_go(&mut self) {
        if self.departing.is_empty() {
            return;
        }
        let now = clock::now();
        let open: BTreeSet<IpAddr> = self.open_ports.iter().map(|key| key.address).collect();
        let over = |(key, (until, _)): (&ServiceKey, &(BootTime, Option<ServiceView>))| {
            let addresses = self.plan.services.get(key).map(|handled| handled.addresses.as_slice());
            let mut addresses = addresses.unwrap_or_default().iter();
            (now >= *until || !addresses.any(|address| open.contains(address))).then(|| key.clone())
        };
        let gone: Vec<ServiceKey> = self.departing.iter().filter_map(over).collect();
        for key in gone {
            match self.departing.remove(&key) {
                Some((_, Some(view))) => self.seen.apply(key, view),
                _ => drop(self.seen.services.remove(&key)),
            }
            self.dirty = true;
        }
    }
}

fn describe(mapping: &PortMapping, outside: &BTreeSet<IpAddr>) -> String {
    let outside: Vec<String> = outside.iter().map(ToString::to_string).collect();
    let PortMapping { key, port, .. } = mapping;
    let gateway = if outside.is_empty() { "the gateway".to_owned() } else { outside.join(", ") };
    format!("port {}/{} of {gateway} is mapped to {} port {port}", key.external, key.protocol, key.address)
}
