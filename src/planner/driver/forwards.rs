//! Ports of the network's gateway for Services: opened by the node that announces them, from their own addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::Driver;
use crate::config::UpnpPolicy;
use crate::model::annotation::{FORWARD_UPNP, UPNP_EXTERNAL_IP};
use crate::model::service::Ingress;
use crate::model::{BootTime, ServiceKey, ServiceView};
use crate::net::clock;
use crate::upnp::forward::{Forward, asks, by_gateway, forwards};
use crate::upnp::ledger::Wanted;
use crate::watch_ext;

/// For so long a Service's address stays when the Service is gone, so that the gateway can be told from it.
const FAREWELL: Duration = Duration::from_secs(2);

/// So long the cloud provider has to say that ports may be opened, before it is told that nobody does.
const PROVIDERS_TIME: Duration = Duration::from_secs(5);

impl Driver {
    /// Say which ports should be open: by this node, where it has the address.
    pub(super) fn forward(&mut self) {
        let services = self.plan.services.iter().filter(|(key, _)| !self.departing.contains_key(*key));
        let services = services.filter_map(|(key, handled)| {
            let view = self.seen.services.get(key)?;
            Some((key, view, handled.addresses.as_slice()))
        });
        self.forwards = forwards(self.options.upnp, services);
        let held = self.channels.outcome.borrow().held.clone();
        let all = || self.forwards.services.values().flatten();
        let here = all().filter(|forward| held.contains(&forward.key.address));
        let now = Wanted {
            active: here.map(|forward| (forward.key.clone(), forward.clone())).collect(),
            known: all().map(|forward| forward.key.clone()).collect(),
            retired: self.retired().filter(|address| held.contains(address)).collect(),
        };
        watch_ext::set(&self.channels.gateways.0, now);
        self.doubt(&held);
    }

    /// Remember whose ports nobody opens, of those that are announced here.
    fn doubt(&mut self, held: &BTreeSet<IpAddr>) {
        let unopened = self.plan.services.iter().filter(|(key, handled)| {
            !self.forwards.services.contains_key(*key)
                && self.seen.services.get(*key).is_some_and(asks)
                && handled.addresses.iter().any(|address| held.contains(address))
        });
        let at = clock::now() + PROVIDERS_TIME;
        let before = &self.unopened;
        let now = unopened.map(|(key, _)| (key.clone(), before.get(key).copied().unwrap_or(at)));
        self.unopened = now.collect();
    }

    /// Addresses of Services that had ports once, and shall have none now.
    fn retired(&self) -> impl Iterator<Item = IpAddr> {
        let retired = self.plan.services.iter().filter(|(key, _)| {
            let there =
                self.seen.services.get(*key).is_some_and(|view| view.annotation(UPNP_EXTERNAL_IP).is_some());
            there && !self.forwards.services.contains_key(*key)
        });
        retired.flat_map(|(_, handled)| &handled.addresses).copied()
    }

    /// How it goes with gateways has changed.
    pub(super) fn take_gateways(&mut self) {
        let outcome = self.channels.gateways.1.borrow_and_update().clone();
        self.telemetry.gateways(&outcome);
        let mut news = Vec::new();
        for (service, forwards) in &self.forwards.services {
            let open = forwards.iter().filter(|forward| outcome.is_open(&forward.key));
            for forward in open.filter(|forward| !self.open_ports.contains(&forward.key)) {
                news.push((service.clone(), describe(forward, &outcome.outside([&forward.key]))));
            }
        }
        self.open_ports = outcome.ports.keys().filter(|key| outcome.is_open(key)).cloned().collect();
        for (service, text) in news {
            self.event(&service, false, "PortForwarded", text);
        }
        self.tell();
    }

    /// What is in the way of a Service's ports at gateways.
    pub(super) fn gateway_remarks(&self, key: &ServiceKey) -> Vec<String> {
        let mut issues = self.forwards.wrong.get(key).cloned().unwrap_or_default();
        let Some(forwards) = self.forwards.services.get(key) else {
            let due = self.unopened.get(key).is_some_and(|at| clock::now() >= *at);
            let what_to_do = match self.options.upnp {
                UpnpPolicy::Never => "enable_upnp=false forbids it; take that away, or set it to true",
                _ => "set enable_upnp for kube-vip, or --upnp for the cloud provider",
            };
            issues
                .extend(due.then(|| format!("{FORWARD_UPNP}: nobody opens ports of gateways; {what_to_do}")));
            return issues;
        };
        let held = &self.channels.outcome.borrow().held;
        let outcome = self.channels.gateways.1.borrow();
        let here = |forward: &&Forward| held.contains(&forward.key.address);
        if forwards.iter().any(|forward| here(&forward)) {
            issues.extend(outcome.trouble.clone());
        }
        for forward in forwards.iter().filter(here).filter(|forward| !outcome.is_open(&forward.key)) {
            let failed = outcome.ports.get(&forward.key).into_iter().flatten();
            issues.extend(failed.filter_map(|(gateway, result)| {
                let why = result.as_ref().err()?;
                Some(format!(
                    "gateway {gateway}, port {}/{}: {why}",
                    forward.key.external, forward.key.protocol
                ))
            }));
        }
        let nested = outcome.nested(forwards.iter().filter(here).map(|forward| &forward.key));
        issues.extend(nested.into_iter().map(|(gateway, outside)| {
            format!(
                "gateway {gateway} has another router in front of it, since its address outside, {outside}, is none of \
                 the Internet's: lead the port to it there by hand"
            )
        }));
        issues
    }

    /// The addresses outside of gateways whose ports lead to this Service: for its annotation, none where that stays as
    /// it is; and for its status.
    pub(super) fn outside(
        &self,
        key: &ServiceKey,
        view: &ServiceView,
    ) -> (Option<Option<String>>, Vec<Ingress>) {
        let outcome = self.channels.gateways.1.borrow();
        let before = view.annotation(UPNP_EXTERNAL_IP);
        let Some(forwards) = self.forwards.services.get(key) else {
            let addresses = self.plan.services.get(key).map(|handled| handled.addresses.as_slice());
            let addresses = addresses.unwrap_or_default();
            // It stays for as long as a port may be open: whoever comes next closes it.
            let swept =
                !addresses.is_empty() && addresses.iter().all(|address| outcome.swept.contains(address));
            return ((before.is_some() && swept).then_some(None), Vec::new());
        };
        let now = outcome.outside(forwards.iter().map(|forward| &forward.key));
        // Until a gateway has been found what was told before stays.
        let text = now.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
        let text = Some(text).filter(|text| !text.is_empty());
        let shown = text.as_deref().or(before).filter(|_| self.options.upnp_status).unwrap_or_default();
        let entries = by_gateway(forwards, shown);
        (text.map(Some), entries)
    }

    /// Whether a Service that is gone has ports of the gateway that lead to an address of this node's.
    pub(super) fn stays_a_moment(&mut self, key: &ServiceKey, after: Option<&ServiceView>) -> bool {
        let forwards = self.forwards.services.get(key).map(Vec::as_slice).unwrap_or_default();
        let open = forwards.iter().any(|forward| self.open_ports.contains(&forward.key));
        if open {
            self.departing.insert(key.clone(), (clock::now() + FAREWELL, after.cloned()));
            self.forward();
        }
        open
    }

    /// Forget Services that are gone, once their ports are closed, or it takes too long.
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

fn describe(forward: &Forward, outside: &BTreeSet<IpAddr>) -> String {
    let outside: Vec<String> = outside.iter().map(ToString::to_string).collect();
    let Forward { key, port, .. } = forward;
    let gateway = if outside.is_empty() { "the gateway".to_owned() } else { outside.join(", ") };
    format!("port {}/{} of {gateway} leads to {} port {port}", key.external, key.protocol, key.address)
}
