//! Ports of the network's gateway for Services: opened by the node that announces them, from their own addresses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use super::Driver;
use crate::latest;
use crate::model::annotation::{FORWARD_UPNP, UPNP_EXTERNAL_IP};
use crate::model::{BootTime, ServiceKey, ServiceView};
use crate::net::clock;
use crate::upnp::forward::{Forward, forwards};
use crate::upnp::ledger::Wanted;

/// For so long a Service's address stays when the Service is gone, so that the gateway can be told from it.
const FAREWELL: Duration = Duration::from_secs(2);

impl Driver {
    /// Say which ports should be open: by this node, where it has the address.
    pub(super) fn forward(&mut self) {
        let Some((wanted, _)) = &self.channels.gateways else { return };
        let services = self.plan.services.iter().filter(|(key, _)| !self.departing.contains_key(*key));
        let services = services.filter_map(|(key, handled)| {
            let view = self.seen.services.get(key)?;
            Some((key, view, handled.addresses.as_slice()))
        });
        self.forwards = forwards(services);
        let held = &self.channels.outcome.borrow().held;
        let all = || self.forwards.services.values().flatten();
        let here = all().filter(|forward| held.contains(&forward.key.address));
        let now = Wanted {
            active: here.map(|forward| (forward.key.clone(), forward.clone())).collect(),
            known: all().map(|forward| forward.key.clone()).collect(),
        };
        latest::set(wanted, now);
    }

    /// How it goes with gateways has changed.
    pub(super) fn take_gateways(&mut self) {
        let Some((_, outcome)) = &mut self.channels.gateways else { return };
        let outcome = outcome.borrow_and_update().clone();
        let mut news = Vec::new();
        for (service, forwards) in &self.forwards.services {
            let open = forwards.iter().filter(|forward| outcome.is_open(&forward.key));
            for forward in open.filter(|forward| !self.open_ports.contains(&forward.key)) {
                news.push((
                    service.clone(),
                    describe(forward, &outcome.gateways.values().flatten().copied().collect()),
                ));
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
        let Some((_, outcome)) = &self.channels.gateways else {
            let asks =
                self.seen.services.get(key).is_some_and(|view| view.annotation(FORWARD_UPNP) == Some("true"));
            let text =
                format!("{FORWARD_UPNP}: nobody here opens ports of gateways; set enable_upnp for kube-vip");
            return if asks { vec![text] } else { Vec::new() };
        };
        let mut remarks = self.forwards.wrong.get(key).cloned().unwrap_or_default();
        let Some(forwards) = self.forwards.services.get(key) else { return remarks };
        let outcome = outcome.borrow();
        let held = &self.channels.outcome.borrow().held;
        let here = |forward: &&Forward| held.contains(&forward.key.address);
        if forwards.iter().any(|forward| here(&forward)) {
            remarks.extend(outcome.trouble.clone());
        }
        for forward in forwards.iter().filter(here).filter(|forward| !outcome.is_open(&forward.key)) {
            let failed = outcome.ports.get(&forward.key).into_iter().flatten();
            remarks.extend(failed.filter_map(|(gateway, result)| {
                let why = result.as_ref().err()?;
                Some(format!(
                    "gateway {gateway}, port {}/{}: {why}",
                    forward.key.external, forward.key.protocol
                ))
            }));
        }
        remarks
    }

    /// The gateway's address outside, if a port of it leads to this Service.
    pub(super) fn external_address(&self, key: &ServiceKey) -> Option<Option<String>> {
        let (_, outcome) = self.channels.gateways.as_ref()?;
        let outcome = outcome.borrow();
        let forwards = self.forwards.services.get(key).map(Vec::as_slice).unwrap_or_default();
        let gateways = forwards.iter().filter_map(|forward| outcome.ports.get(&forward.key)).flatten();
        let open: BTreeSet<IpAddr> =
            gateways.filter(|(_, result)| result.is_ok()).map(|(gateway, _)| *gateway).collect();
        let outside = open.iter().filter_map(|gateway| outcome.gateways.get(gateway).copied().flatten());
        let outside: BTreeSet<String> = outside.map(|address| address.to_string()).collect();
        let text = outside.into_iter().collect::<Vec<_>>().join(",");
        let there =
            self.seen.services.get(key).is_some_and(|view| view.annotation(UPNP_EXTERNAL_IP).is_some());
        match text.is_empty() {
            // Not before anything is known, and not where there is nothing to remove.
            true => (there && forwards.is_empty()).then_some(None),
            false => Some(Some(text)),
        }
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
