//! Runs all DHCP clients of this process: sockets and clocks.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::fsm::{Envelope, Input, LossReason, Message, Output, Reply};
use super::link::{Links, Received};
use super::metrics::Metrics;
use super::slot::Slot;
pub use super::spec::{Channels, Command, Handles, channels};
use super::spec::{ClientSpec, LeaseKey};
use crate::host::HostWatch;
use crate::model::hash::fnv1a;
use crate::model::{BootTime, Family, IfIndex, PerFamily};
use crate::net::clock::{self, Timer};
use crate::watch_ext;

/// Replies and frames of other hosts that wait to be handled.
const RECEIVE_QUEUE: usize = 2048;
/// Interval of checks for missing interfaces.
const INTERFACE_RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Driver {
    channels: Channels,
    metrics: Metrics,
    max_rounds: u32,
    /// Of which families addresses are used without probes.
    skip_probes: PerFamily<bool>,
    slots: BTreeMap<LeaseKey, Slot>,
    links: Links,
    /// When missing interfaces are looked for again.
    retry_at: Option<BootTime>,
}

impl Driver {
    /// Returns the driver's loop, which ends with the channels.
    pub fn start(
        channels: Channels,
        host: HostWatch,
        metrics: Metrics,
        max_rounds: u32,
        skip_probes: PerFamily<bool>,
    ) -> impl Future<Output = std::io::Result<()>> + Send {
        let (sender, received) = mpsc::channel(RECEIVE_QUEUE);
        let links = Links::new(host, sender);
        let slots = BTreeMap::new();
        let driver = Self { channels, metrics, max_rounds, skip_probes, slots, links, retry_at: None };
        driver.run(received)
    }

    async fn run(mut self, mut received: mpsc::Receiver<(IfIndex, Received)>) -> std::io::Result<()> {
        let mut timer = Timer::new()?;
        loop {
            let due = self.slots.values().filter_map(Slot::poll_timeout);
            let deadline = due.chain(self.retry_at).min();
            tokio::select! {
                biased;
                command = self.channels.commands.recv() => match command {
                    Some(command) => self.handle_command(command),
                    None => return Ok(()),
                },
                changed = self.channels.specs.changed() => match changed {
                    Ok(()) => self.update_specs(),
                    Err(_) => return Ok(()),
                },
                Some((interface, first)) = received.recv() => {
                    self.handle_received(interface, first);
                    while let Ok((interface, next)) = received.try_recv() {
                        self.handle_received(interface, next);
                    }
                }
                () = timer.until(deadline) => self.handle_timeout(),
            }
            self.update_links();
            self.publish();
        }
    }

    fn handle_command(&mut self, command: Command) {
        let now = clock::now();
        match command {
            Command::Release(key) => {
                if !self.is_shared(&key) {
                    self.step(&key, now, |slot| slot.handle_input(now, Input::Stop));
                }
                self.slots.retain(|other, slot| *other != key || slot.client.is_none());
            }
            Command::Conflict(key, reason) => {
                self.step(&key, now, |slot| slot.handle_input(now, Input::Conflict));
                if let Some(slot) = self.slots.get_mut(&key)
                    && slot.client.is_some()
                    && slot.known.is_none()
                {
                    slot.last_error = Some(reason);
                }
            }
        }
    }

    /// Whether another client has the same identifier, as where two Services set one hardware address.
    fn is_shared(&self, key: &LeaseKey) -> bool {
        let id = |slot: &Slot| (slot.spec.interface.clone(), slot.spec.identity.client_id());
        let own = self.slots.get(key).map(id);
        let mut others = self.slots.iter().filter(|(other, _)| *other != key && other.family == key.family);
        others.any(|(_, slot)| Some(id(slot)) == own)
    }

    fn update_specs(&mut self) {
        let specs = self.channels.specs.borrow_and_update().clone();
        // Clients that are not wanted here any more keep their leases: another host continues them.
        self.slots.retain(|key, _| specs.contains_key(key));
        let active = specs.values().filter(|spec| spec.active);
        let interfaces: BTreeSet<&str> = active.map(|spec| spec.interface.as_str()).collect();
        let complete = self.links.update(&interfaces);
        self.retry_at = (!complete).then(|| clock::now() + INTERFACE_RETRY);
        for (key, spec) in specs {
            self.update_spec(key, spec);
        }
    }

    fn update_spec(&mut self, key: LeaseKey, spec: ClientSpec) {
        let now = clock::now();
        let slot = self.slots.entry(key.clone()).or_insert_with(|| Slot::new(spec.clone()));
        slot.set_spec(spec, now, Timestamp::now());
        if !slot.spec.active || slot.client.is_some() {
            return;
        }
        if self.links.by_name.get_mut(&slot.spec.interface).is_none() {
            let since = *slot.missing_since.get_or_insert(now);
            if !slot.spec.managed || now.since(since) >= INTERFACE_RETRY {
                slot.last_error = Some(format!(
                    "interface {} for DHCP does not exist on this host; it has: {}",
                    slot.spec.interface, self.links.present
                ));
            }
            return;
        }
        slot.missing_since = None;
        let seed = fnv1a(&[key.owner.as_bytes(), &now.since_boot().as_nanos().to_le_bytes()].concat());
        slot.start(self.max_rounds, self.skip_probes[key.family], seed, now);
        self.execute(&key, now);
    }

    fn handle_received(&mut self, interface: IfIndex, received: Received) {
        let now = clock::now();
        let concerned = |(key, slot): &(&LeaseKey, &Slot)| {
            let link = self.links.by_name.get(&slot.spec.interface);
            slot.client.is_some()
                && link.is_some_and(|link| link.interface.index == interface)
                && match &received {
                    Received::Reply(family, client, ..) => {
                        key.family == *family && slot.spec.identity.is(*family, client)
                    }
                    Received::Frame(_) => slot.is_probing(),
                }
        };
        let keys: Vec<LeaseKey> = self.slots.iter().filter(concerned).map(|(key, _)| key.clone()).collect();
        let input = match received {
            Received::Reply(_, _, xid, reply) => Input::Reply(xid, reply),
            Received::Frame(frame) => Input::Frame(frame),
        };
        for key in keys {
            if matches!(input, Input::Reply(_, Reply::Nak(..))) {
                self.metrics.refused.inc();
            }
            self.step(&key, now, |slot| slot.handle_input(now, input.clone()));
        }
    }

    fn handle_timeout(&mut self) {
        let now = clock::now();
        if self.retry_at.is_some_and(|at| at <= now) {
            self.update_specs();
        }
        let due = self.slots.iter().filter(|(_, slot)| slot.poll_timeout().is_some_and(|at| at <= now));
        let due: Vec<LeaseKey> = due.map(|(key, _)| key.clone()).collect();
        for key in due {
            self.step(&key, now, |slot| slot.handle_timeout(now));
        }
    }

    /// Changes a slot, if it exists, and executes what follows.
    fn step(&mut self, key: &LeaseKey, now: BootTime, change: impl FnOnce(&mut Slot)) {
        if let Some(slot) = self.slots.get_mut(key) {
            change(slot);
            self.execute(key, now);
        }
    }

    fn execute(&mut self, key: &LeaseKey, now: BootTime) {
        while let Some(output) = self.slots.get_mut(key).and_then(|slot| slot.client.as_mut()?.poll_output())
        {
            self.perform(key, now, output);
        }
    }

    fn perform(&mut self, key: &LeaseKey, now: BootTime, output: Output) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let warn = |slot: &mut Slot, error: String| {
            tracing::warn!(owner = key.owner, "{error}");
            slot.last_error = Some(error);
        };
        match output {
            Output::Send(envelope, message) => self.send(key, now, envelope, &message),
            Output::SendProbe(address) => {
                let link = self.links.by_name.get_mut(&slot.spec.interface);
                if let Some(Err(error)) = link.map(|link| link.probe(address)) {
                    tracing::debug!(%error, %address, "cannot send a probe");
                }
            }
            Output::Bound(lease) => {
                let (renewed, saved) = slot.bind(lease, now, Timestamp::now());
                if renewed {
                    self.metrics.renewed.inc()
                } else {
                    self.metrics.granted.inc()
                };
                tracing::info!(owner = key.owner, lease = %saved, "a DHCP server granted a lease");
            }
            Output::Lost(reason) => {
                self.metrics.lost.inc();
                tracing::warn!(owner = key.owner, %reason, "lost the DHCP lease");
                slot.known = None;
                slot.last_error = Some(reason.to_string());
            }
            Output::NotGranted(reason) => {
                if matches!(reason, LossReason::Conflict(_)) {
                    self.metrics.conflicts.inc();
                }
                warn(slot, reason.to_string());
            }
            Output::NoReply(messages) => {
                let interface = &slot.spec.interface;
                let sent = format!("{messages} messages on interface {interface}");
                warn(slot, format!("no DHCP server replied to {sent}; retrying"));
            }
        }
    }

    fn send(&mut self, key: &LeaseKey, now: BootTime, envelope: Envelope, message: &Message) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let interface = &slot.spec.interface;
        let Some(link) = self.links.by_name.get_mut(interface) else { return };
        self.metrics.sent.inc();
        tracing::debug!(owner = key.owner, interface, ?message, "sending a DHCP message");
        let Err(error) = link.send(key.family, &slot.spec.identity, envelope, message) else { return };
        slot.last_error = Some(format!("cannot send DHCP messages on interface {interface}: {error}"));
        let gone = [nix::libc::ENXIO, nix::libc::ENODEV].map(Some).contains(&error.raw_os_error());
        if gone || key.family == Family::V6 {
            // An interface of the same name may be another one by now.
            self.links.by_name.remove(interface);
            self.retry_at.get_or_insert(now + INTERFACE_RETRY);
        }
    }

    /// Links receive only as much as their clients need.
    fn update_links(&mut self) {
        for (name, link) in &mut self.links.by_name {
            let mut slots = self.slots.values().filter(|slot| slot.spec.interface == *name);
            link.set_promiscuous(slots.clone().any(Slot::awaits_reply));
            if !slots.any(Slot::is_probing) {
                link.end_probes();
            }
        }
    }

    fn publish(&mut self) {
        let now = clock::now();
        let status = self.slots.iter().map(|(key, slot)| (key.clone(), slot.status(now))).collect();
        if watch_ext::set(&self.channels.status, status) {
            self.metrics.set_states(&self.channels.status.borrow());
        }
        watch_ext::set(&self.channels.links, self.links.by_name.keys().cloned().collect());
    }
}
