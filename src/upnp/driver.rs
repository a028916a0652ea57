//! Finds gateways and keeps their port mappings as desired.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use tokio::sync::watch;

use super::gateway::{Gateway, GatewayError, search};
use super::metrics::Metrics;
use super::status::GatewayStatus;
use super::table::{DesiredMappings, PortMappingTable, Step};
use crate::host::HostWatch;
use crate::model::{BootTime, Family, IfIndex};
use crate::net::clock::{self, Timer};
use crate::watch_ext;

/// Interval of searches without a gateway.
const SEARCH_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Interval of searches with a gateway.
const SEARCH_INTERVAL: Duration = Duration::from_secs(300);

/// An interface's own addresses.
type Own = (Option<Ipv4Addr>, Option<Ipv6Addr>);

/// The task and its memory.
#[derive(Debug)]
pub struct Driver {
    interface: String,
    host: HostWatch,
    wanted: watch::Receiver<DesiredMappings>,
    outcome: watch::Sender<GatewayStatus>,
    metrics: Metrics,
    gateways: BTreeMap<IpAddr, Known>,
    search_at: BootTime,
    trouble: Option<String>,
}

#[derive(Debug)]
struct Known {
    gateway: Gateway,
    table: PortMappingTable,
    external: Option<IpAddr>,
}

impl Driver {
    /// A driver that has not searched yet.
    pub fn new(
        interface: &str,
        host: HostWatch,
        metrics: Metrics,
    ) -> (Self, watch::Sender<DesiredMappings>, watch::Receiver<GatewayStatus>) {
        let (wanted_in, wanted) = watch::channel(DesiredMappings::default());
        let (outcome, outcome_out) = watch::channel(GatewayStatus::default());
        let driver = Self {
            interface: interface.to_owned(),
            host,
            wanted,
            outcome,
            metrics,
            gateways: BTreeMap::new(),
            search_at: BootTime::default(),
            trouble: None,
        };
        (driver, wanted_in, outcome_out)
    }

    /// Runs until the sender of desired mappings is gone.
    ///
    /// # Errors
    /// If the kernel provides no timer.
    pub async fn run(mut self) -> std::io::Result<()> {
        let mut timer = Timer::new()?;
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let done = |known: &Known| known.table.is_empty() && known.table.is_cleared(&wanted.retired);
            let cleared =
                wanted.retired.iter().all(|address| self.outcome.borrow().cleared.contains(address));
            let idle = wanted.active.is_empty() && cleared && self.gateways.values().all(done);
            if !idle {
                self.search().await;
                self.execute(&wanted).await;
            }
            self.publish(&wanted);
            let steps =
                self.gateways.values().filter_map(|known| known.table.poll_timeout(&known.of(&wanted)));
            let due = (!idle).then_some(self.search_at).into_iter().chain(steps).min();
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { return Ok(()) },
                () = timer.until(due.filter(|_| !idle)) => {}
            }
        }
    }

    /// Searches when due.
    async fn search(&mut self) {
        if clock::now() < self.search_at {
            return;
        }
        let found = match self.own_addresses() {
            Ok((own, index)) => search(own, index).await,
            Err(text) => {
                self.trouble = Some(text);
                self.search_at = clock::now() + SEARCH_RETRY_INTERVAL;
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
                Known { gateway, table: PortMappingTable::default(), external }
            });
            known.external = external;
        }
        let none = self.gateways.is_empty();
        self.trouble = none.then(|| {
            format!("no gateway answers on interface {}: enable UPnP on the router", self.interface)
        });
        self.search_at = clock::now() + if none { SEARCH_RETRY_INTERVAL } else { SEARCH_INTERVAL };
    }

    fn own_addresses(&self) -> Result<(Own, IfIndex), String> {
        let host = self.host.borrow();
        let interface = host.interface(&self.interface);
        let index =
            interface.ok_or_else(|| format!("there is no interface {} on this host", self.interface))?.index;
        let (mut v4, mut v6) = (None, None);
        for address in host.own_addresses(index) {
            match address {
                IpAddr::V4(address) => v4 = v4.or(Some(address)),
                IpAddr::V6(address) if address.is_unicast_link_local() => {}
                IpAddr::V6(address) => v6 = v6.or(Some(address)),
            }
        }
        Ok(((v4, v6), index))
    }

    /// Executes the requests that are due at every gateway.
    async fn execute(&mut self, wanted: &DesiredMappings) {
        let mut lost = Vec::new();
        for (address, known) in &mut self.gateways {
            let mine = known.of(wanted);
            while let Some(step) = known.table.next(clock::now(), &mine) {
                let done = known.step(step, &mine, &self.metrics).await;
                if let Err(GatewayError::Away(why)) = done {
                    tracing::warn!(gateway = %address, "the gateway does not respond any more: {why}");
                    lost.push(*address);
                    break;
                }
            }
        }
        for address in lost {
            // It is found again when it is back, without mappings.
            self.gateways.remove(&address);
            self.search_at = clock::now() + SEARCH_RETRY_INTERVAL;
        }
    }

    fn publish(&self, wanted: &DesiredMappings) {
        let mut outcome = GatewayStatus { trouble: self.trouble.clone(), ..GatewayStatus::default() };
        for (address, known) in &self.gateways {
            outcome.gateways.insert(*address, known.external);
            for (key, result) in known.table.report() {
                let ports = outcome.ports.entry(key.clone()).or_default();
                ports.insert(*address, result.map_err(str::to_owned));
            }
        }
        let cleared = |address: &&IpAddr| {
            self.gateways.values().all(|known| known.table.is_cleared(&[**address].into()))
        };
        outcome.cleared = wanted.retired.iter().filter(cleared).copied().collect();
        self.metrics.update(&outcome);
        watch_ext::set(&self.outcome, outcome);
    }
}

impl Known {
    /// The part that this gateway supports.
    fn of(&self, wanted: &DesiredMappings) -> DesiredMappings {
        let mut mine = wanted.clone();
        mine.active.retain(|key, _| self.gateway.serves(key.address));
        mine
    }

    async fn step(
        &mut self,
        step: Step,
        wanted: &DesiredMappings,
        metrics: &Metrics,
    ) -> Result<(), GatewayError> {
        let done = match step {
            Step::List => match self.gateway.list().await {
                Ok(entries) => {
                    self.table.listed(clock::now(), &entries, wanted);
                    // Internet providers change it from time to time.
                    self.external = self.gateway.external_address().await.or(self.external);
                    Ok(())
                }
                Err(error) => {
                    self.table.not_listed(clock::now());
                    Err(error)
                }
            },
            Step::Open(mapping) => match self.gateway.open(&mapping).await {
                Ok(lease) => {
                    metrics.opened.inc();
                    self.table.opened(clock::now(), mapping, lease);
                    Ok(())
                }
                Err(error) => {
                    self.table.failed(clock::now(), &mapping.key, error.to_string());
                    Err(error)
                }
            },
            Step::Close(key) => {
                let closed = self.gateway.close(&key).await;
                let family = Family::of(key.address);
                match &closed {
                    Ok(()) => {
                        metrics.closed.inc();
                        tracing::info!(address = %key.address, port = key.external, %family, "closed a port mapping of the gateway");
                    }
                    Err(error) => {
                        tracing::warn!(address = %key.address, port = key.external, "cannot close a port mapping of the gateway: {error}")
                    }
                }
                closed
            }
        };
        if done.is_err() {
            metrics.errors.inc();
        }
        done
    }
}
