//! Finds gateways, and keeps their ports as they should be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::sync::watch;

use super::gateway::{Gateway, GatewayError, search};
use super::ledger::{Ledger, Step, Wanted};
use super::outcome::Outcome;
use crate::model::{BootTime, Family, IfIndex};
use crate::net::clock::{self, Timer};
use crate::net::netlink::Netlink;
use crate::telemetry::upnp::Counts;
use crate::watch_ext;

/// From one search to the next: while there is no gateway, and when there is one.
const SEARCH_SOON: Duration = Duration::from_secs(5);
const SEARCH_AGAIN: Duration = Duration::from_secs(300);

/// An interface's own addresses.
type Own = (Option<Ipv4Addr>, Option<Ipv6Addr>);

/// The task and its memory.
#[derive(Debug)]
pub struct Driver {
    interface: String,
    netlink: Netlink,
    wanted: watch::Receiver<Wanted>,
    outcome: watch::Sender<Outcome>,
    counts: Counts,
    gateways: BTreeMap<IpAddr, Known>,
    search_at: BootTime,
    trouble: Option<String>,
}

#[derive(Debug)]
struct Known {
    gateway: Gateway,
    ledger: Ledger,
    external: Option<IpAddr>,
}

impl Driver {
    /// Nothing has been looked for yet.
    ///
    /// # Errors
    /// If the kernel does not talk to us.
    pub fn new(
        interface: &str,
        counts: Counts,
    ) -> std::io::Result<(Self, watch::Sender<Wanted>, watch::Receiver<Outcome>)> {
        let (wanted_in, wanted) = watch::channel(Wanted::default());
        let (outcome, outcome_out) = watch::channel(Outcome::default());
        let driver = Self {
            interface: interface.to_owned(),
            netlink: Netlink::connect()?,
            wanted,
            outcome,
            counts,
            gateways: BTreeMap::new(),
            search_at: BootTime::default(),
            trouble: None,
        };
        Ok((driver, wanted_in, outcome_out))
    }

    /// Until nobody wants anything any more.
    ///
    /// # Errors
    /// If the kernel gives us no timer.
    pub async fn run(mut self) -> std::io::Result<()> {
        let mut timer = Timer::new()?;
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let done = |known: &Known| known.ledger.is_empty() && known.ledger.has_swept(&wanted.retired);
            let swept = wanted.retired.iter().all(|address| self.outcome.borrow().swept.contains(address));
            let idle = wanted.active.is_empty() && swept && self.gateways.values().all(done);
            if !idle {
                self.look().await;
                self.work(&wanted).await;
            }
            self.tell(&wanted);
            let steps =
                self.gateways.values().filter_map(|known| known.ledger.poll_timeout(&known.of(&wanted)));
            let due = (!idle).then_some(self.search_at).into_iter().chain(steps).min();
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return Ok(()) },
                () = timer.until(due.filter(|_| !idle)) => {}
            }
        }
    }

    /// Search, if it is time.
    async fn look(&mut self) {
        if clock::now() < self.search_at {
            return;
        }
        let found = match self.place().await {
            Ok((own, index)) => search(own, index).await,
            Err(text) => {
                self.trouble = Some(text);
                self.search_at = clock::now() + SEARCH_SOON;
                return;
            }
        };
        let mut here = BTreeSet::new();
        for gateway in found {
            let Some(address) = gateway.address() else { continue };
            here.insert(address);
            let external = gateway.external_address().await;
            let known = self.gateways.entry(address).or_insert_with(|| {
                tracing::info!(gateway = %address, external = ?external, "found a gateway");
                Known { gateway, ledger: Ledger::default(), external }
            });
            known.external = external;
        }
        let none = self.gateways.is_empty();
        self.trouble = none.then(|| {
            format!("no gateway answers on interface {} (is UPnP switched on there?)", self.interface)
        });
        self.search_at = clock::now() + if none { SEARCH_SOON } else { SEARCH_AGAIN };
    }

    /// The interface's own addresses, and its index.
    async fn place(&self) -> Result<(Own, IfIndex), String> {
        let interfaces = self.netlink.interfaces().await.map_err(|error| error.to_string())?;
        let addresses = self.netlink.addresses().await.map_err(|error| error.to_string())?;
        let interface = interfaces.iter().find(|interface| interface.name == self.interface);
        let index =
            interface.ok_or_else(|| format!("there is no interface {} on this host", self.interface))?.index;
        let own = addresses.iter().filter(|address| address.interface == index && !address.tagged);
        let (mut v4, mut v6) = (None, None);
        for address in own {
            match address.vip.address {
                IpAddr::V4(address) => v4 = v4.or(Some(address)),
                IpAddr::V6(address) if address.is_unicast_link_local() => {}
                IpAddr::V6(address) => v6 = v6.or(Some(address)),
            }
        }
        Ok(((v4, v6), index))
    }

    /// Do whatever is due at every gateway.
    async fn work(&mut self, wanted: &Wanted) {
        let mut lost = Vec::new();
        for (address, known) in &mut self.gateways {
            let mine = known.of(wanted);
            while let Some(step) = known.ledger.next(clock::now(), &mine) {
                let done = known.step(step, &mine, &self.counts).await;
                if let Err(GatewayError::Away(why)) = done {
                    tracing::warn!(gateway = %address, "the gateway does not answer any more: {why}");
                    lost.push(*address);
                    break;
                }
            }
        }
        for address in lost {
            // It is found again when it is back, and knows nothing then.
            self.gateways.remove(&address);
            self.search_at = clock::now() + SEARCH_SOON;
        }
    }

    fn tell(&self, wanted: &Wanted) {
        let mut outcome = Outcome { trouble: self.trouble.clone(), ..Outcome::default() };
        for (address, known) in &self.gateways {
            outcome.gateways.insert(*address, known.external);
            for (key, result) in known.ledger.report() {
                let ports = outcome.ports.entry(key.clone()).or_default();
                ports.insert(*address, result.map_err(str::to_owned));
            }
        }
        let swept = |address: &&IpAddr| {
            self.gateways.values().all(|known| known.ledger.has_swept(&[**address].into()))
        };
        outcome.swept = wanted.retired.iter().filter(swept).copied().collect();
        self.counts.show(&outcome);
        watch_ext::set(&self.outcome, outcome);
    }
}

impl Known {
    /// What of it this gateway can do.
    fn of(&self, wanted: &Wanted) -> Wanted {
        let mut mine = wanted.clone();
        mine.active.retain(|key, _| self.gateway.serves(key.address));
        mine
    }

    async fn step(&mut self, step: Step, wanted: &Wanted, counts: &Counts) -> Result<(), GatewayError> {
        let done = match step {
            Step::List => match self.gateway.list().await {
                Ok(entries) => {
                    self.ledger.listed(clock::now(), &entries, wanted);
                    // Providers of home networks give another one from time to time.
                    self.external = self.gateway.external_address().await.or(self.external);
                    Ok(())
                }
                Err(error) => {
                    self.ledger.not_listed(clock::now());
                    Err(error)
                }
            },
            Step::Open(forward) => match self.gateway.open(&forward).await {
                Ok(lease) => {
                    counts.opened.inc();
                    self.ledger.opened(clock::now(), forward, lease);
                    Ok(())
                }
                Err(error) => {
                    self.ledger.failed(clock::now(), &forward.key, error.to_string());
                    Err(error)
                }
            },
            Step::Close(key) => {
                let closed = self.gateway.close(&key).await;
                let family = Family::of(key.address);
                match &closed {
                    Ok(()) => {
                        counts.closed.inc();
                        tracing::info!(address = %key.address, port = key.external, %family, "closed a port of the gateway");
                    }
                    Err(error) => {
                        tracing::warn!(address = %key.address, port = key.external, "a port of the gateway stays open: {error}")
                    }
                }
                closed
            }
        };
        if done.is_err() {
            counts.errors.inc();
        }
        done
    }
}
