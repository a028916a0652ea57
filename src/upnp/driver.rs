//! Finds gateways and keeps their port mappings as desired.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;

use super::gateway::{Gateway, GatewayError, search};
use super::metrics::Metrics;
use super::status::GatewayStatus;
use super::table::{DesiredMappings, Input, Output, PortMappingTable};
use crate::host::HostWatch;
use crate::model::{BootTime, Family, IfIndex, PerFamily};
use crate::net::clock::{self, Timer};
use crate::watch_ext;

/// Interval of searches without a gateway.
const SEARCH_RETRY_INTERVAL: Duration = Duration::from_secs(5);
/// Interval of searches with a gateway.
const SEARCH_INTERVAL: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub struct Driver {
    interface: String,
    host: HostWatch,
    desired: watch::Receiver<DesiredMappings>,
    status: watch::Sender<GatewayStatus>,
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
        let (desired_in, desired) = watch::channel(DesiredMappings::default());
        let (status, status_out) = watch::channel(GatewayStatus::default());
        let driver = Self {
            interface: interface.to_owned(),
            host,
            desired,
            status,
            metrics,
            gateways: BTreeMap::new(),
            search_at: BootTime::default(),
            trouble: None,
        };
        (driver, desired_in, status_out)
    }

    /// Runs until the sender of desired mappings is gone.
    pub async fn run(mut self) -> std::io::Result<()> {
        let mut timer = Timer::new()?;
        loop {
            self.update_desired();
            let idle = self.is_idle();
            if !idle {
                self.search().await;
                self.execute().await;
            }
            self.publish();
            let steps = self.gateways.values().filter_map(|known| known.table.poll_timeout());
            let due = steps.chain([self.search_at]).min().filter(|_| !idle);
            tokio::select! {
                changed = self.desired.changed() => if changed.is_err() { return Ok(()) },
                () = timer.until(due) => {}
            }
        }
    }

    fn update_desired(&mut self) {
        let desired = self.desired.borrow_and_update();
        for known in self.gateways.values_mut() {
            known.update_desired(&desired);
        }
    }

    /// Whether no mapping is desired, and none is left.
    fn is_idle(&self) -> bool {
        let DesiredMappings { active, retired, .. } = &*self.desired.borrow();
        active.is_empty()
            && retired.is_subset(&self.status.borrow().cleared)
            && self.gateways.values().all(|known| known.table.is_empty() && known.table.is_cleared(retired))
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
        for gateway in found {
            let address = gateway.address();
            let external = gateway.external_address().await;
            let known = self.gateways.entry(address).or_insert_with(|| {
                tracing::info!(gateway = %address, external = ?external, "found a gateway");
                let mut known = Known { gateway, table: PortMappingTable::default(), external };
                known.update_desired(&self.desired.borrow());
                known
            });
            known.external = external;
        }
        let none = self.gateways.is_empty();
        self.trouble = none.then(|| {
            format!("no gateway answers on interface {}: enable UPnP on the router", self.interface)
        });
        self.search_at = clock::now() + if none { SEARCH_RETRY_INTERVAL } else { SEARCH_INTERVAL };
    }

    fn own_addresses(&self) -> Result<(PerFamily<Option<IpAddr>>, IfIndex), String> {
        let host = self.host.borrow();
        let interface = host.interface(&self.interface);
        let index =
            interface.ok_or_else(|| format!("there is no interface {} on this host", self.interface))?.index;
        let mut own: PerFamily<Option<IpAddr>> = PerFamily::default();
        for address in host.own_addresses(index) {
            if !matches!(address, IpAddr::V6(address) if address.is_unicast_link_local()) {
                own[Family::of(address)].get_or_insert(address);
            }
        }
        Ok((own, index))
    }

    /// Sends the requests that are due to every gateway.
    async fn execute(&mut self) {
        let addresses: Vec<IpAddr> = self.gateways.keys().copied().collect();
        for address in addresses {
            while let Some(request) = self.next_request(address)
                && let Some(known) = self.gateways.get_mut(&address)
            {
                match known.send(request, &self.metrics).await {
                    Ok(response) => known.table.handle_input(clock::now(), response),
                    Err(why) => {
                        tracing::warn!(gateway = %address, "the gateway does not respond any more: {why}");
                        // It is found again when it is back, without mappings.
                        self.gateways.remove(&address);
                        self.search_at = clock::now() + SEARCH_RETRY_INTERVAL;
                    }
                }
            }
        }
    }

    /// The next request to a gateway. A port is published as unconfirmed before the request that opens it is sent, and what is
    /// not desired any more is not requested: the address of a deleted Service stays until its ports are closed from it.
    fn next_request(&mut self, address: IpAddr) -> Option<Output> {
        self.gateways.get_mut(&address)?.table.handle_timeout(clock::now());
        self.publish();
        while self.desired.has_changed().is_ok_and(|changed| changed) {
            self.update_desired();
            self.publish();
        }
        self.gateways.get_mut(&address)?.table.poll_output()
    }

    fn publish(&self) {
        let mut status = GatewayStatus { trouble: self.trouble.clone(), ..GatewayStatus::default() };
        for (address, known) in &self.gateways {
            status.gateways.insert(*address, known.external);
            status.unconfirmed.extend(known.table.unconfirmed().cloned());
            for (key, result) in known.table.report() {
                let ports = status.ports.entry(key.clone()).or_default();
                ports.insert(*address, result.map_err(str::to_owned));
            }
        }
        status.cleared.clone_from(&self.desired.borrow().retired);
        status
            .cleared
            .retain(|address| self.gateways.values().all(|known| known.table.is_cleared(&[*address].into())));
        self.metrics.update(&status);
        watch_ext::set(&self.status, status);
    }
}

impl Known {
    /// Passes in the mappings that this gateway supports.
    fn update_desired(&mut self, desired: &DesiredMappings) {
        let mut desired = desired.clone();
        desired.active.retain(|key, _| self.gateway.serves(key.address));
        self.table.handle_input(clock::now(), Input::Desired(desired));
    }

    /// Sends a request and returns the response, or why there is none.
    async fn send(&mut self, request: Output, metrics: &Metrics) -> Result<Input, String> {
        let response = match request {
            Output::List => {
                let listed = self.gateway.list().await;
                if listed.is_ok() {
                    // Internet providers change it from time to time.
                    self.external = self.gateway.external_address().await.or(self.external);
                }
                listed.map(Input::Listed)
            }
            Output::Open(mapping) => self.gateway.open(&mapping).await.map(|lease| {
                metrics.opened.inc();
                Input::Opened(lease)
            }),
            Output::Close(key) => {
                let (address, port, family) = (key.address, key.external, Family::of(key.address));
                let closed = self.gateway.close(&key).await;
                match &closed {
                    Ok(()) => {
                        metrics.closed.inc();
                        tracing::info!(%address, port, %family, "closed a port mapping of the gateway");
                    }
                    Err(error) => {
                        tracing::warn!(%address, port, "cannot close a port mapping of the gateway: {error}");
                    }
                }
                closed.map(|()| Input::Closed)
            }
        };
        response.or_else(|error| {
            metrics.errors.inc();
            match error {
                GatewayError::Away(why) => Err(why),
                GatewayError::Refused(_) => Ok(Input::Refused(error.to_string())),
            }
        })
    }
}
