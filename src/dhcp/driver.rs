//! All DHCP clients of this host: sockets, clocks, and what is known of each lease.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};

use super::fsm::{Answer, Client, Input, Lease, Output, Settings, Stage, Trouble};
use super::record::Record;
use super::segment::{Heard, Segment};
use super::wish::{Held, LeaseKey, Wish};
use crate::model::hash::fnv1a;
use crate::model::{BootTime, Family, IfIndex};
use crate::net::clock::{self, Timer};
use crate::net::netlink::Netlink;
use crate::telemetry::dhcp::Counts;

/// Answers that wait to be looked at: as many as a burst of clients gets at once.
const ANSWERS: usize = 2048;
/// An address is asked for so often before its first use, and so far apart; then the verdict falls. Whoever announces
/// it asks once more, and is on trial for longer.
const PROBES: u32 = 2;
const PROBE_INTERVAL: Duration = Duration::from_millis(10);
/// An interface that is not there, or cannot be sent on, is looked for again.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What is to be done about a lease besides wanting it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// It is not needed any more, by anybody.
    Release(LeaseKey),
    /// Somebody else has its address; whose it is, in words.
    Conflict(LeaseKey, String),
}

/// What flows in and out.
#[derive(Debug)]
pub struct Channels {
    /// All leases that are wanted.
    pub wishes: watch::Receiver<BTreeMap<LeaseKey, Wish>>,
    /// What else is to be done.
    pub commands: mpsc::Receiver<Command>,
    /// How all leases stand.
    pub held: watch::Sender<BTreeMap<LeaseKey, Held>>,
}

/// Both ends of the channels.
pub fn channels() -> (Channels, Handles) {
    let (wishes_in, wishes) = watch::channel(BTreeMap::new());
    let (commands_in, commands) = mpsc::channel(1024);
    let (held, held_out) = watch::channel(BTreeMap::new());
    let handles = Handles { wishes: wishes_in, commands: commands_in, held: held_out };
    (Channels { wishes, commands, held }, handles)
}

/// The other ends.
#[derive(Debug)]
pub struct Handles {
    /// All leases that are wanted.
    pub wishes: watch::Sender<BTreeMap<LeaseKey, Wish>>,
    /// What else is to be done.
    pub commands: mpsc::Sender<Command>,
    /// How all leases stand.
    pub held: watch::Receiver<BTreeMap<LeaseKey, Held>>,
}

/// A lease that is wanted, and what came of it so far.
#[derive(Debug)]
struct Slot {
    wish: Wish,
    client: Option<Client>,
    /// What was last known of the lease, and the lease by this host's clock.
    known: Option<(Record, Lease)>,
    trouble: Option<String>,
    /// Since when its interface is missed.
    missed: Option<BootTime>,
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Probe {
    address: IpAddr,
    sent: u32,
    due: BootTime,
}

/// The task and its memory.
#[derive(Debug)]
pub struct Driver {
    channels: Channels,
    netlink: Netlink,
    counts: Counts,
    /// Rounds of questions after which a server that never answers is asked less often.
    attempts: u32,
    slots: BTreeMap<LeaseKey, Slot>,
    segments: BTreeMap<String, Segment>,
    heard: mpsc::Sender<(IfIndex, Heard)>,
    /// When interfaces that were missing are looked for again.
    look_again: Option<BootTime>,
    /// The interfaces there are, for whoever asks for one that is not there.
    interfaces_present: String,
}

impl Driver {
    /// Nothing is wanted yet. Answers come by the receiver, which [`Self::run`] takes.
    ///
    /// # Errors
    /// If the kernel does not talk to us.
    pub fn start(
        channels: Channels,
        counts: Counts,
        attempts: u32,
    ) -> std::io::Result<impl Future<Output = std::io::Result<()>> + Send> {
        let (heard, answers) = mpsc::channel(ANSWERS);
        let driver = Self {
            channels,
            netlink: Netlink::connect()?,
            counts,
            attempts,
            slots: BTreeMap::new(),
            segments: BTreeMap::new(),
            heard,
            look_again: None,
            interfaces_present: String::new(),
        };
        Ok(driver.run(answers))
    }

    async fn run(mut self, mut answers: mpsc::Receiver<(IfIndex, Heard)>) -> std::io::Result<()> {
        let mut timer = Timer::new()?;
        loop {
            let deadline = self.deadline();
            tokio::select! {
                biased;
                command = self.channels.commands.recv() => match command {
                    Some(command) => self.obey(command),
                    None => return Ok(()),
                },
                changed = self.channels.wishes.changed() => match changed {
                    Ok(()) => self.take_wishes().await,
                    Err(_) => return Ok(()),
                },
                Some((interface, heard)) = answers.recv() => {
                    self.hear(interface, heard);
                    while let Ok((interface, heard)) = answers.try_recv() {
                        self.hear(interface, heard);
                    }
                }
                () = timer.until(deadline) => self.on_time().await,
            }
            self.tell();
        }
    }

    fn obey(&mut self, command: Command) {
        let now = clock::now();
        match command {
            Command::Release(key) => {
                let shared = self.is_shared(&key);
                if let Some(slot) = self.slots.get_mut(&key)
                    && let Some(client) = &mut slot.client
                {
                    if !shared {
                        client.handle_input(now, Input::Stop);
                        self.carry_out(&key, now);
                    }
                    self.slots.remove(&key);
                }
            }
            Command::Conflict(key, why) => {
                if let Some(Slot { client: Some(client), .. }) = self.slots.get_mut(&key) {
                    client.handle_input(now, Input::Conflict);
                    self.carry_out(&key, now);
                    if let Some(slot) = self.slots.get_mut(&key).filter(|slot| slot.known.is_none()) {
                        slot.trouble = Some(why);
                    }
                }
            }
        }
    }

    /// Whether somebody else is the same client to servers, as where two Services ask for one hardware address: that one
    /// goes on with the lease.
    fn is_shared(&self, key: &LeaseKey) -> bool {
        let Some(wish) = self.slots.get(key).map(|slot| &slot.wish) else { return false };
        let same = |other: &Wish| {
            other.interface == wish.interface && other.identity.client_id() == wish.identity.client_id()
        };
        self.slots.iter().any(|(other, slot)| other != key && other.family == key.family && same(&slot.wish))
    }

    async fn take_wishes(&mut self) {
        let wishes = self.channels.wishes.borrow_and_update().clone();
        // Whoever is not wanted here any more keeps its lease, for whoever goes on with it.
        self.slots.retain(|key, _| wishes.contains_key(key));
        let interfaces: BTreeSet<&String> =
            wishes.values().filter(|wish| wish.active).map(|wish| &wish.interface).collect();
        self.segments.retain(|name, _| interfaces.contains(name));
        self.look_at_interfaces(&interfaces).await;
        for (key, wish) in wishes {
            self.take(key, wish);
        }
    }

    /// Find interfaces that are wanted and not known.
    async fn look_at_interfaces(&mut self, names: &BTreeSet<&String>) {
        self.look_again = None;
        if names.iter().all(|name| self.segments.contains_key(*name)) {
            return;
        }
        let (interfaces, addresses) = match (self.netlink.interfaces().await, self.netlink.addresses().await)
        {
            (Ok(interfaces), Ok(addresses)) => (interfaces, addresses),
            (Err(error), _) | (_, Err(error)) => {
                tracing::warn!(%error, "cannot look at the interfaces of this host");
                self.look_again = Some(clock::now() + LOOK_AGAIN);
                return;
            }
        };
        let present: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
        self.interfaces_present = present.join(", ");
        for name in names {
            if self.segments.contains_key(*name) {
                continue;
            }
            match interfaces.iter().find(|interface| interface.name == **name) {
                Some(interface) => {
                    let own = addresses.iter().filter(|address| address.interface == interface.index);
                    let link_local = own.filter_map(|address| link_local(address.vip.address)).next();
                    let segment = Segment::new(interface.clone(), link_local, self.heard.clone());
                    self.segments.insert((*name).clone(), segment);
                }
                None => self.look_again = Some(clock::now() + LOOK_AGAIN),
            }
        }
    }

    fn take(&mut self, key: LeaseKey, wish: Wish) {
        let now = clock::now();
        let slot = self.slots.entry(key.clone()).or_insert_with(|| Slot {
            wish: wish.clone(),
            client: None,
            known: None,
            trouble: None,
            missed: None,
            probe: None,
        });
        // What we know ourselves is newer, as long as we are the one who asks.
        let known = slot.known.as_ref().map(|(record, _)| record);
        if slot.client.is_none() && known != wish.record.as_ref() {
            slot.known = wish.record.clone().map(|record| {
                let lease = record.lease(now, Timestamp::now());
                (record, lease)
            });
        }
        let asks_otherwise = slot.wish.identity != wish.identity || slot.wish.interface != wish.interface;
        if !wish.active || asks_otherwise {
            slot.client = None;
            slot.probe = None;
            slot.trouble = None;
        }
        slot.wish = wish;
        if !slot.wish.active || slot.client.is_some() {
            return;
        }
        if !self.segments.contains_key(&slot.wish.interface) {
            let since = *slot.missed.get_or_insert(now);
            if !slot.wish.made || now.since(since) >= LOOK_AGAIN {
                slot.trouble = Some(format!(
                    "there is no interface {} on this host to ask a DHCP server on; it has: {}",
                    slot.wish.interface, self.interfaces_present
                ));
            }
            return;
        }
        slot.missed = None;
        let seed = fnv1a(&[key.owner.as_bytes(), &now.since_boot().as_nanos().to_le_bytes()].concat());
        let mut client = Client::new(Settings { wanted: slot.wish.wanted, rounds: self.attempts, seed });
        let lease = slot.known.as_ref().map(|(_, lease)| lease.clone());
        client.handle_input(now, Input::Start(lease));
        slot.trouble = None;
        slot.client = Some(client);
        self.carry_out(&key, now);
    }

    fn hear(&mut self, interface: IfIndex, heard: Heard) {
        let now = clock::now();
        let on_interface = |slot: &Slot| {
            self.segments
                .get(&slot.wish.interface)
                .is_some_and(|segment| segment.interface().index == interface)
        };
        let concerned = |(key, slot): &(&LeaseKey, &Slot)| match &heard {
            Heard::V4(hardware, ..) => key.family == Family::V4 && slot.wish.identity.hardware == *hardware,
            Heard::V6(duid, ..) => key.family == Family::V6 && slot.wish.identity.duid() == *duid,
            Heard::Station(address) => slot.probe.as_ref().is_some_and(|probe| probe.address == *address),
        };
        let keys: Vec<LeaseKey> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.client.is_some() && on_interface(slot))
            .filter(concerned)
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            let Some(client) = &mut slot.client else { continue };
            let input = match &heard {
                Heard::V4(_, transaction, answer) | Heard::V6(_, transaction, answer) => {
                    if matches!(answer, Answer::Nak(..)) {
                        self.counts.refused.inc();
                    }
                    Input::Answer(*transaction, answer.clone())
                }
                Heard::Station(_) => {
                    slot.probe = None;
                    Input::Probed(true)
                }
            };
            client.handle_input(now, input);
            self.carry_out(&key, now);
        }
    }

    async fn on_time(&mut self) {
        let now = clock::now();
        if self.look_again.is_some_and(|at| at <= now) {
            self.take_wishes().await;
        }
        let due: Vec<LeaseKey> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.due().is_some_and(|due| due <= now))
            .map(|(key, _)| key.clone())
            .collect();
        for key in due {
            let Some(slot) = self.slots.get_mut(&key) else { continue };
            if let Some(client) = &mut slot.client {
                client.handle_timeout(now);
            }
            self.step_probe(&key, now);
            self.carry_out(&key, now);
        }
    }

    /// Ask once more for an address, or find that nobody has it.
    fn step_probe(&mut self, key: &LeaseKey, now: BootTime) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let (Some(probe), Some(client)) = (&mut slot.probe, &mut slot.client) else { return };
        if probe.due > now {
            return;
        }
        if probe.sent < PROBES {
            probe.sent += 1;
            probe.due = now + PROBE_INTERVAL;
            let asked =
                self.segments.get_mut(&slot.wish.interface).map(|segment| segment.probe(probe.address));
            if let Some(Err(error)) = asked {
                tracing::debug!(%error, address = %probe.address, "cannot ask for the address");
            }
            return;
        }
        slot.probe = None;
        client.handle_input(now, Input::Probed(false));
    }

    /// Do what a client wants done.
    fn carry_out(&mut self, key: &LeaseKey, now: BootTime) {
        let mut probed = false;
        while let Some(slot) = self.slots.get_mut(key)
            && let Some(output) = slot.client.as_mut().and_then(Client::poll_output)
        {
            let interface = &slot.wish.interface;
            match output {
                Output::Send(transaction, elapsed, message) => {
                    let Some(segment) = self.segments.get_mut(interface) else { continue };
                    self.counts.sent.inc();
                    let sent = segment.send(key.family, &slot.wish.identity, transaction, elapsed, &message);
                    tracing::debug!(owner = key.owner, interface, ?message, "asking by DHCP");
                    if let Err(error) = sent {
                        slot.trouble =
                            Some(format!("cannot ask a DHCP server on interface {interface}: {error}"));
                        // An interface of the same name may be another one by now.
                        if error.raw_os_error() == Some(nix::libc::ENXIO)
                            || error.raw_os_error() == Some(nix::libc::ENODEV)
                            || key.family == Family::V6
                        {
                            self.segments.remove(&slot.wish.interface);
                            self.look_again.get_or_insert(now + LOOK_AGAIN);
                        }
                    }
                }
                Output::Probe(address) => {
                    slot.probe = Some(Probe { address, sent: 0, due: now });
                    probed = true;
                }
                Output::Bound(lease) => {
                    match &slot.known {
                        Some((_, known)) if known.address == lease.address => self.counts.renewed.inc(),
                        _ => self.counts.granted.inc(),
                    };
                    let record = Record::of(&lease, &slot.wish.identity, now, Timestamp::now());
                    tracing::info!(owner = key.owner, %record, "a DHCP server gave an address");
                    slot.known = Some((record, lease));
                    slot.trouble = None;
                }
                Output::Lost(loss) => {
                    self.counts.lost.inc();
                    tracing::warn!(owner = key.owner, %loss, "a lease is lost");
                    slot.known = None;
                    slot.trouble = Some(loss.to_string());
                }
                Output::Told(trouble) => {
                    if matches!(trouble, Trouble::Taken(_)) {
                        self.counts.taken.inc();
                    }
                    let text = match &trouble {
                        Trouble::Silence(_) => format!("{trouble} on interface {interface}; asking on"),
                        Trouble::Refused(..) | Trouble::Taken(_) => trouble.to_string(),
                    };
                    tracing::warn!(owner = key.owner, "{text}");
                    slot.trouble = Some(text);
                }
            }
        }
        if probed {
            self.step_probe(key, now);
        }
    }

    fn deadline(&self) -> Option<BootTime> {
        self.slots.values().filter_map(Slot::due).chain(self.look_again).min()
    }

    /// Say how all leases stand, if that is news; and listen as widely as is needed.
    fn tell(&mut self) {
        let now = clock::now();
        for (name, segment) in &mut self.segments {
            let mut slots = self.slots.values().filter(|slot| slot.wish.interface == *name);
            let awaits = |slot: &Slot| slot.client.as_ref().is_some_and(Client::awaits);
            segment.expect_answers(slots.clone().any(awaits));
            if !slots.any(|slot| slot.probe.is_some()) {
                segment.end_probes();
            }
        }
        let held: BTreeMap<LeaseKey, Held> =
            self.slots.iter().map(|(key, slot)| (key.clone(), slot.held(now))).collect();
        self.channels.held.send_if_modified(|before| {
            let changed = *before != held;
            if changed {
                self.counts.show(&held);
            }
            *before = held;
            changed
        });
    }
}

impl Slot {
    fn due(&self) -> Option<BootTime> {
        let client = self.client.as_ref();
        let standby = match (client, &self.known) {
            // Once: when it is over it is forgotten.
            (None, Some((_, lease))) => lease.times.map(|times| times.end).filter(|end| *end > clock::now()),
            _ => None,
        };
        let probe = self.probe.as_ref().map(|probe| probe.due);
        client.and_then(Client::poll_timeout).into_iter().chain(standby).chain(probe).min()
    }

    fn held(&self, now: BootTime) -> Held {
        let lease = match &self.client {
            Some(client) => client.lease(now),
            None => self.known.as_ref().map(|(_, lease)| lease).filter(|lease| !lease.is_over(now)),
        };
        Held {
            address: lease.map(|lease| lease.address),
            record: lease.and(self.known.as_ref().map(|(record, _)| record.clone())),
            stage: self.client.as_ref().map_or(Stage::Standby, |client| client.stage(now)),
            trouble: self.trouble.clone(),
        }
    }
}

fn link_local(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) if address.is_unicast_link_local() => Some(address),
        _ => None,
    }
}
