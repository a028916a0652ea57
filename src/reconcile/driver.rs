//! The main loop: look at the host, compare with what should be, act; announce; notice others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{mpsc, watch};

use super::diff::{Action, Actual, plan};
use crate::announce::layer2::{Act, Layer2, Sighting};
use crate::announce::probe::{Probe, Step, yields_to};
use crate::announce::schedule::Schedule;
use crate::desired::{Inputs, desired};
use crate::leader::driver::Ask;
use crate::leader::elector::Input;
use crate::leader::{Basis, Standing};
use crate::model::{BootTime, Link, Vip};
use crate::net::clock::{self, Timer};
use crate::net::netlink::{Change, Changes, Netlink, NetlinkError, Scope};
use crate::net::nft;
use crate::telemetry::Telemetry;
use crate::telemetry::status::Held;

/// How often the host is looked at though nothing happened.
const RESYNC: Duration = Duration::from_secs(30);
/// How soon a step that failed is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// How this host holds VIPs.
#[derive(Debug, Clone)]
pub struct Options {
    /// The link's name.
    pub link: String,
    /// See [`Inputs::preserve`].
    pub preserve: bool,
    /// Do not probe for IPv6 addresses.
    pub skip_dad: bool,
    /// Global scope on `lo`.
    pub lo_global: bool,
    /// Time between announcements after the burst.
    pub refresh: Duration,
}

/// What flows into the loop and out of it.
#[derive(Debug)]
pub struct Channels {
    /// Where this host stands.
    pub standing: watch::Receiver<Standing>,
    /// The VIPs.
    pub vips: watch::Receiver<BTreeSet<Vip>>,
    /// What the election asks of the segment.
    pub asks: mpsc::Receiver<Ask>,
    /// What the election is told.
    pub commands: mpsc::Sender<Input>,
    /// Since when the link is down, if it is.
    pub link_down: watch::Sender<Option<BootTime>>,
}

/// The main loop and its memory.
#[derive(Debug)]
pub struct Driver {
    options: Options,
    channels: Channels,
    telemetry: Arc<Telemetry>,
    netlink: Netlink,
    changes: Changes,
    links: Vec<Link>,
    /// The VIPs' link, as last seen.
    link: Option<Link>,
    layer2: Option<Layer2>,
    /// Where IPv6 announcements come from.
    link_local: Option<Ipv6Addr>,
    schedule: Schedule,
    probe: Option<Probe>,
    /// What the plan has to know besides the kernel's report.
    memory: Actual,
    succeeded: BTreeSet<IpAddr>,
    /// When to look again because a step failed.
    retry_at: Option<BootTime>,
    /// The error logged last, so that a lasting one is logged once.
    last_error: Option<String>,
}

enum Wake {
    Look,
    LookAtLinks,
    Seen(Sighting),
    SocketFailed(std::io::Error),
    Asked(Ask),
    Deadline,
    Closed,
}

impl Driver {
    /// A loop that has not begun.
    pub fn new(
        options: Options,
        channels: Channels,
        telemetry: Arc<Telemetry>,
        netlink: Netlink,
        changes: Changes,
    ) -> Self {
        Self {
            schedule: Schedule::new(options.refresh),
            options,
            channels,
            telemetry,
            netlink,
            changes,
            links: Vec::new(),
            link: None,
            layer2: None,
            link_local: None,
            probe: None,
            memory: Actual::default(),
            succeeded: BTreeSet::new(),
            retry_at: None,
            last_error: None,
        }
    }

    /// Run until the election ends; then remove what is still held.
    ///
    /// # Errors
    /// If the kernel gives us no timer.
    pub async fn run(mut self) -> std::io::Result<()> {
        let mut timer = Timer::new()?;
        // An earlier process may have been killed while it handed over: what it silenced is unknown.
        self.memory.silenced = self.vips().iter().map(|vip| vip.address).collect();
        self.look_at_links().await;
        self.reconcile(None).await;
        let mut resync_at = clock::now() + RESYNC;
        loop {
            self.announce_what_is_due();
            self.step_probe();
            self.telemetry.heartbeat(clock::now());
            let deadline = self.poll_timeout().min(resync_at);
            match self.wait(&mut timer, deadline).await {
                Wake::Look => self.reconcile(None).await,
                Wake::LookAtLinks => {
                    self.look_at_links().await;
                    self.reconcile(None).await;
                }
                Wake::Seen(sighting) => {
                    if self.handle_sighting(sighting) {
                        self.reconcile(None).await;
                    }
                }
                Wake::SocketFailed(error) => {
                    self.report(&format!("a packet socket failed: {error}"));
                    self.layer2 = None;
                    self.look_at_links().await;
                    tokio::time::sleep(RETRY).await;
                }
                Wake::Asked(ask) => self.handle_ask(ask),
                Wake::Deadline => {
                    let now = clock::now();
                    if now >= resync_at {
                        resync_at = now + RESYNC;
                        self.look_at_links().await;
                    }
                    if self.standing_deadline().is_none_or(|at| now >= at) || self.retry_at.is_some() {
                        self.reconcile(None).await;
                    }
                }
                Wake::Closed => break,
            }
        }
        self.reconcile(Some(Standing::Following { holder: None, fence_until: None })).await;
        Ok(())
    }

    async fn wait(&mut self, timer: &mut Timer, deadline: BootTime) -> Wake {
        let sighting = next_sighting(self.layer2.as_ref());
        let wake = tokio::select! {
            biased;
            changed = self.channels.standing.changed() => if changed.is_ok() { Wake::Look } else { Wake::Closed },
            change = self.changes.next() => match change {
                Some(Change::Address) => Wake::Look,
                Some(Change::Link) => Wake::LookAtLinks,
                None => Wake::Closed,
            },
            Ok(()) = self.channels.vips.changed() => Wake::LookAtLinks,
            Some(ask) = self.channels.asks.recv() => Wake::Asked(ask),
            () = timer.until(Some(deadline)) => Wake::Deadline,
            seen = sighting => match seen {
                Ok(sighting) => Wake::Seen(sighting),
                Err(error) => Wake::SocketFailed(error),
            },
        };
        // One look answers for all that the kernel has reported by now.
        let mut wake = wake;
        while let Some(Some(change)) = self.changes.next().now_or_never() {
            wake = match (wake, change) {
                (Wake::Look | Wake::Deadline, Change::Link) => Wake::LookAtLinks,
                (Wake::Deadline, Change::Address) => Wake::Look,
                (wake, _) => wake,
            };
        }
        wake
    }

    fn vips(&self) -> BTreeSet<Vip> {
        self.channels.vips.borrow().clone()
    }

    fn standing(&self) -> Standing {
        self.channels.standing.borrow().clone()
    }

    fn inputs(&self, standing: Standing) -> Inputs {
        Inputs {
            standing,
            vips: self.vips(),
            link: self.link.as_ref().map(|link| link.index),
            succeeded: self.succeeded.clone(),
            preserve: self.options.preserve,
        }
    }

    /// When the standing by itself changes what is desired.
    fn standing_deadline(&self) -> Option<BootTime> {
        match &*self.channels.standing.borrow() {
            Standing::Holding(claim) => Some(claim.valid_until),
            Standing::Leaving { until } => Some(*until),
            Standing::Following { fence_until, .. } => *fence_until,
            Standing::Starting => None,
        }
        .filter(|at| *at > clock::now() || !self.memory.announcing.is_empty())
    }

    fn poll_timeout(&self) -> BootTime {
        let probe = self.probe.as_ref().map(Probe::poll_timeout);
        let all = [self.schedule.poll_timeout(), probe, self.standing_deadline(), self.retry_at];
        all.into_iter().flatten().min().unwrap_or(clock::now() + RESYNC)
    }

    /// Look at the host, and make it as it should be. `standing` overrides the election's at the end.
    async fn reconcile(&mut self, standing: Option<Standing>) {
        self.retry_at = None;
        let standing = standing.unwrap_or_else(|| self.channels.standing.borrow_and_update().clone());
        if !matches!(standing, Standing::Leaving { .. }) {
            self.succeeded.clear();
        }
        self.memory.managed.extend(self.vips().iter().map(|vip| vip.address));
        match self.netlink.addresses().await {
            Ok(addresses) => self.memory.addresses = addresses,
            Err(error) => return self.failed(&error),
        }
        self.link_local = self.find_link_local();
        self.memory.announcing = match &self.link {
            Some(link) => {
                self.schedule.addresses().into_iter().map(|address| (link.index, address)).collect()
            }
            None => BTreeSet::new(),
        };
        let now = clock::now();
        let inputs = self.inputs(standing);
        let plan = plan(&desired(&inputs, now), &self.memory, now);
        let changed = !plan.actions.is_empty();
        for action in plan.actions {
            if let Err(error) = self.perform(action).await {
                self.failed(&error);
            }
        }
        if changed || !plan.foreign.is_empty() || !self.telemetry.status(now).reconciled {
            self.tell(&plan.foreign.iter().map(|(_, vip)| *vip).collect());
        }
        self.announce_what_is_due();
    }

    async fn perform(&mut self, action: Action) -> Result<(), NetlinkError> {
        match action {
            Action::Withdraw { address, .. } => self.schedule.stop(address),
            Action::Silence { address, .. } => {
                if let Err(error) = nft::silence(address) {
                    tracing::debug!(%address, %error, "the kernel cannot be kept from answering for the address");
                }
                self.memory.silenced.insert(address);
            }
            Action::Unsilence { address } => {
                if let Err(error) = nft::unsilence(address) {
                    tracing::debug!(%address, %error, "the kernel cannot be told to answer for the address");
                }
                self.memory.silenced.remove(&address);
            }
            Action::Remove { link, vip } => {
                self.netlink.remove(link, vip).await?;
                self.memory.fences.remove(&(link, vip));
                self.telemetry.address_removed(vip, &self.link_name(link));
            }
            Action::Hold { link, vip, seconds, fence_until, missing } => {
                let name = self.link_name(link);
                let host_scope = name == "lo" && !self.options.lo_global;
                let scope = if host_scope { Scope::Host } else { Scope::Global };
                self.netlink.hold(link, vip, seconds, scope).await?;
                let before = self.memory.fences.insert((link, vip), fence_until);
                if missing {
                    let repaired = before.is_some_and(|fence| clock::now() < fence);
                    self.telemetry.address_added(vip, &name, repaired);
                }
            }
            Action::Announce { address, .. } => self.schedule.start(address, clock::now()),
        }
        Ok(())
    }

    fn failed(&mut self, error: &NetlinkError) {
        self.retry_at = Some(clock::now() + RETRY);
        self.report(&error.to_string());
    }

    fn report(&mut self, error: &str) {
        if self.last_error.as_deref() != Some(error) {
            tracing::error!("{error}; trying again");
            self.last_error = Some(error.to_owned());
        }
    }

    /// Tell what is held here.
    fn tell(&self, foreign: &BTreeSet<Vip>) {
        let announcing = self.schedule.addresses();
        let held = self.memory.fences.keys().map(|(link, vip)| Held {
            address: vip.to_string(),
            link: self.link_name(*link),
            announced: announcing.contains(&vip.address),
        });
        self.telemetry.held(held.collect(), foreign);
    }

    fn announce_what_is_due(&mut self) {
        let now = clock::now();
        let due = self.schedule.handle_timeout(now);
        if due.is_empty() {
            return;
        }
        // The claim is checked where it is used: a process that was stopped for a while wakes up right here.
        if self.standing().claim(now).is_none() {
            return;
        }
        for address in due {
            self.announce(address);
        }
    }

    fn announce(&mut self, address: IpAddr) {
        let Some(layer2) = &self.layer2 else { return };
        match layer2.announce(address, self.link_local) {
            Ok(()) => {
                self.telemetry.announced(address);
                self.last_error = None;
            }
            Err(error) => {
                let text = format!("cannot announce {address} on {}: {error}", layer2.link().name);
                self.report(&text);
            }
        }
    }

    fn handle_ask(&mut self, ask: Ask) {
        let now = clock::now();
        let vips = self.vips();
        match ask {
            Ask::Probe => {
                let skip = |address: &IpAddr| !(self.options.skip_dad && address.is_ipv6());
                let addresses = vips.iter().map(|vip| vip.address).filter(skip).collect();
                self.probe = Some(Probe::new(addresses, now));
            }
            Ask::Assert => vips.iter().for_each(|vip| self.announce(vip.address)),
        }
    }

    fn step_probe(&mut self) {
        let Some(probe) = &mut self.probe else { return };
        match probe.handle_timeout(clock::now()) {
            Step::Wait => {}
            Step::Send(addresses) => {
                for address in addresses {
                    if let Some(layer2) = &self.layer2
                        && let Err(error) = layer2.probe(address)
                    {
                        tracing::debug!(%address, %error, "cannot probe");
                    }
                }
            }
            Step::Free => self.end_probe(false),
        }
    }

    fn end_probe(&mut self, taken: bool) {
        self.probe = None;
        self.command(Input::Probed { taken });
    }

    /// The election's queue is longer than everything it is ever told at once; what does not fit is told again.
    fn command(&self, command: Input) {
        self.channels.commands.try_send(command).ok();
    }

    /// Another station was seen. Says whether the host has to be looked at.
    fn handle_sighting(&mut self, sighting: Sighting) -> bool {
        let Sighting { address, station, act } = sighting;
        let vips = self.vips();
        if !vips.iter().any(|vip| vip.address == address) {
            return false;
        }
        let probing = self.probe.as_ref().is_some_and(|probe| probe.concerns(address));
        let ours = self.link.as_ref().map(|link| link.hardware_address.clone()).unwrap_or_default();
        match (act, self.standing()) {
            (Act::Claims, Standing::Leaving { .. }) => {
                self.succeeded.insert(address);
                if vips.iter().all(|vip| self.succeeded.contains(&vip.address)) {
                    self.command(Input::Succeeded);
                }
                return true;
            }
            (Act::Claims, Standing::Holding(claim)) if self.schedule.addresses().contains(&address) => {
                if claim.basis == Basis::Provisional {
                    self.command(Input::StationSeen);
                    self.telemetry.conflict(address, &station, false);
                } else {
                    let defend = self.schedule.defend(address, clock::now());
                    self.telemetry.conflict(address, &station, defend);
                    if defend {
                        self.announce(address);
                    }
                }
            }
            (Act::Claims, _) if probing => {
                self.telemetry.taken(address, &station);
                self.end_probe(true);
            }
            (Act::Probes, _) if probing && (station.is_empty() || yields_to(&ours, &station)) => {
                self.end_probe(true);
            }
            _ => {}
        }
        false
    }

    async fn look_at_links(&mut self) {
        match self.netlink.links().await {
            Ok(links) => self.links = links,
            Err(error) => return self.failed(&error),
        }
        let now = clock::now();
        let by_name = self.links.iter().find(|link| link.name == self.options.link);
        // A link that was renamed is still the same link.
        let by_index =
            || self.links.iter().find(|link| self.link.as_ref().is_some_and(|old| old.index == link.index));
        let found = by_name.or_else(by_index).cloned();
        self.tell_about_link(found.as_ref());
        let came_up =
            found.as_ref().is_some_and(|link| link.up) && self.channels.link_down.borrow().is_some();
        let down = found.as_ref().is_none_or(|link| !link.up);
        self.channels.link_down.send_if_modified(|since| {
            let before = *since;
            *since = if down { before.or(Some(now)) } else { None };
            before != *since
        });
        if came_up {
            self.schedule.restart(now);
        }
        let families: Vec<IpAddr> = self.vips().iter().map(|vip| vip.address).collect();
        let fits = match (&self.layer2, &found) {
            (Some(layer2), Some(link)) => {
                layer2.link().index == link.index && layer2.link().hardware_address == link.hardware_address
            }
            (None, None) => true,
            _ => false,
        };
        if !fits || self.channels.vips.has_changed().unwrap_or(false) {
            self.layer2 = None;
            if let Some(link) = &found {
                match Layer2::open(link, families.into_iter()) {
                    Ok(layer2) => self.layer2 = Some(layer2),
                    Err(error) => {
                        self.retry_at = Some(now + RETRY);
                        self.report(&error.to_string());
                    }
                }
                self.schedule.restart(now);
            }
            drop(self.channels.vips.borrow_and_update());
        }
        self.link = found;
    }

    fn tell_about_link(&self, found: Option<&Link>) {
        match (&self.link, found) {
            (Some(old), Some(new)) if old.name != new.name => {
                tracing::warn!(from = old.name, to = new.name, "the link was renamed");
            }
            (Some(old), Some(new)) if old.up != new.up => {
                tracing::warn!(link = new.name, up = new.up, "the link changed its state");
            }
            (Some(old), None) => tracing::error!(link = old.name, "the link is gone"),
            (None, Some(new)) => tracing::info!(link = new.name, up = new.up, "using the link"),
            _ => {}
        }
    }

    fn link_name(&self, index: u32) -> String {
        let link = self.links.iter().find(|link| link.index == index);
        link.map_or_else(|| format!("link {index}"), |link| link.name.clone())
    }

    fn find_link_local(&self) -> Option<Ipv6Addr> {
        let index = self.link.as_ref()?.index;
        self.memory.addresses.iter().filter(|address| address.link == index).find_map(|address| match address
            .vip
            .address
        {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => Some(v6),
            _ => None,
        })
    }
}

async fn next_sighting(layer2: Option<&Layer2>) -> std::io::Result<Sighting> {
    match layer2 {
        Some(layer2) => layer2.next_sighting().await,
        None => std::future::pending().await,
    }
}

/// Whether this host still has all of `vips` from an earlier process.
pub fn left_over(actual: &[super::diff::ActualAddress], vips: &BTreeSet<Vip>) -> bool {
    let held: BTreeMap<IpAddr, bool> =
        actual.iter().map(|address| (address.vip.address, address.tagged || address.deprecated)).collect();
    !vips.is_empty() && vips.iter().all(|vip| held.get(&vip.address) == Some(&true))
}
