//! Finds gateways and keeps their port mappings as desired. Gateways are independent of each other: each has one request in
//! flight, so one that is slow delays its own mappings alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::watch;

use super::gateway::Gateway;
use super::metrics::Metrics;
use super::request::{Completed, LIST_LIMIT, find, send};
use super::status::GatewayStatus;
use super::table::{DesiredMappings, Input, PortMappingTable};
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
    /// A search, and at most one request to each gateway.
    in_flight: FuturesUnordered<BoxFuture<'static, Completed>>,
    searching: bool,
    search_at: BootTime,
    trouble: Option<String>,
}

#[derive(Debug)]
struct Known {
    /// None while a request is in flight.
    gateway: Option<Gateway>,
    family: Family,
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
            in_flight: FuturesUnordered::new(),
            searching: false,
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
                self.start_search();
                self.start_requests();
            }
            self.publish();
            let steps = self.gateways.values().filter_map(|known| known.table.poll_timeout());
            let search = (!self.searching).then_some(self.search_at);
            let due = steps.chain(search).min().filter(|_| !idle);
            tokio::select! {
                changed = self.desired.changed() => if changed.is_err() { return Ok(()) },
                Some(completed) = self.in_flight.next() => self.handle_completed(completed),
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

    /// Starts a search when it is due.
    fn start_search(&mut self) {
        let now = clock::now();
        if self.searching || now < self.search_at {
            return;
        }
        match self.own_addresses() {
            Ok((own, index)) => {
                self.searching = true;
                self.search_at = now + SEARCH_INTERVAL;
                self.in_flight.push(find(own, index).boxed());
            }
            Err(text) => {
                self.trouble = Some(text);
                self.search_at = now + SEARCH_RETRY_INTERVAL;
            }
        }
    }

    fn handle_completed(&mut self, completed: Completed) {
        match completed {
            Completed::Search(found) => self.handle_found(found),
            Completed::Request(gateway, response, external) => {
                self.handle_response(*gateway, response, external);
            }
        }
    }

    fn handle_found(&mut self, found: Vec<(Gateway, Option<IpAddr>)>) {
        self.searching = false;
        for (gateway, external) in found {
            let address = gateway.address();
            let known = self.gateways.entry(address).or_insert_with(|| {
                tracing::info!(gateway = %address, external = ?external, "found a gateway");
                let mut known = Known::new(gateway, external);
                known.update_desired(&self.desired.borrow());
                known
            });
            known.external = external;
        }
        let none = self.gateways.is_empty();
        self.trouble = none.then(|| {
            format!("no gateway answers on interface {}: enable UPnP on the router", self.interface)
        });
        if none {
            self.search_at = clock::now() + SEARCH_RETRY_INTERVAL;
        }
    }

    fn handle_response(
        &mut self,
        gateway: Gateway,
        response: Result<Input, String>,
        external: Option<IpAddr>,
    ) {
        let address = gateway.address();
        let Some(known) = self.gateways.get_mut(&address) else { return };
        match response {
            Ok(response) => {
                known.gateway = Some(gateway);
                // Internet providers change it from time to time.
                known.external = external.or(known.external);
                known.table.handle_input(clock::now(), response);
            }
            Err(why) => {
                tracing::warn!(gateway = %address, "the gateway does not respond any more: {why}");
                // It is found again when it is back, without mappings.
                self.gateways.remove(&address);
                self.search_at = clock::now() + SEARCH_RETRY_INTERVAL;
            }
        }
    }

    fn own_addresses(&self) -> Result<(PerFamily<Option<IpAddr>>, IfIndex), String> {
        let host = self.host.borrow();
        let interface = host.interface(&self.interface);
        let index =
            interface.ok_or_else(|| format!("there is no interface {} on this host", self.interface))?.index;
        let [v4, v6] = Family::BOTH.map(|family| host.routable_address(index, family));
        Ok((PerFamily { v4, v6 }, index))
    }

    /// Starts the request that is due at each gateway. A port is published as unconfirmed before the request that opens it is
    /// sent, and what is not desired any more is not requested: the address of a deleted Service stays until its ports are
    /// closed from it.
    fn start_requests(&mut self) {
        let now = clock::now();
        self.gateways.values_mut().for_each(|known| known.table.handle_timeout(now));
        self.publish();
        while self.desired.has_changed().is_ok_and(|changed| changed) {
            self.update_desired();
            self.publish();
        }
        for known in self.gateways.values_mut() {
            if known.gateway.is_some()
                && let Some(request) = known.table.poll_output()
                && let Some(gateway) = known.gateway.take()
            {
                self.in_flight.push(send(gateway, request, LIST_LIMIT, self.metrics.clone()).boxed());
            }
        }
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
        // The gateways may have mappings of an earlier process.
        if !self.searching || !self.gateways.is_empty() {
            status.cleared.clone_from(&self.desired.borrow().retired);
        }
        status
            .cleared
            .retain(|address| self.gateways.values().all(|known| known.table.is_cleared(&[*address].into())));
        self.metrics.update(&status);
        watch_ext::set(&self.status, status);
    }
}

impl Known {
    fn new(gateway: Gateway, external: Option<IpAddr>) -> Self {
        let family = gateway.family();
        Self { gateway: Some(gateway), family, table: PortMappingTable::default(), external }
    }

    /// Passes in the mappings that this gateway supports.
    fn update_desired(&mut self, desired: &DesiredMappings) {
        let mut desired = desired.clone();
        desired.active.retain(|key, _| Family::of(key.address) == self.family);
        self.table.handle_input(clock::now(), Input::Desired(desired));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::host::HostState;
    use crate::model::service::Protocol;
    use crate::upnp::mapping::{MappingKey, PortMapping};

    const OPENED: &str = include_str!("../../fuzz/seeds/upnp/add-port-mapping");
    const END_OF_LIST: &str = include_str!("../../fuzz/seeds/upnp/error-713");

    /// A gateway that accepts connections and never responds.
    async fn silent() -> (Gateway, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (Gateway::example(listener.local_addr().unwrap()), listener)
    }

    /// A gateway without mappings that maps every port.
    async fn honest() -> Gateway {
        let listener = TcpListener::bind("127.0.0.2:0").await.unwrap();
        let gateway = Gateway::example(listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let length = stream.read(&mut request).await.unwrap();
                let opens = String::from_utf8_lossy(&request[..length]).contains("#AddPortMapping");
                let (status, body) = if opens { ("200 OK", OPENED) } else { ("500 Error", END_OF_LIST) };
                let length = body.len();
                let text = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
                stream.write_all(text.as_bytes()).await.unwrap();
            }
        });
        gateway
    }

    #[tokio::test]
    async fn a_silent_gateway_does_not_delay_the_mappings_of_another_one() {
        let (_host, host) = watch::channel(Arc::new(HostState::default()));
        let (mut driver, desired, mut status) = Driver::new("eth0", host, Metrics::default());
        driver.search_at = clock::now() + SEARCH_INTERVAL;
        let (silent, _listener) = silent().await;
        let addresses = [silent.address(), "127.0.0.2".parse().unwrap()];
        for gateway in [silent, honest().await] {
            driver.gateways.insert(gateway.address(), Known::new(gateway, None));
        }
        let key =
            MappingKey { address: "127.0.0.9".parse().unwrap(), protocol: Protocol::Tcp, external: 8080 };
        let mapping = PortMapping { key: key.clone(), port: 8080, lease: None, description: "x".into() };
        let mappings = DesiredMappings {
            active: [(key.clone(), mapping)].into(),
            known: [key.clone()].into(),
            ..DesiredMappings::default()
        };
        desired.send_replace(mappings);
        let running = tokio::spawn(driver.run());
        let reached = status.wait_for(|status| status.is_open(&key)).await.unwrap().clone();
        // It has not been given up yet.
        assert_eq!(reached.gateways.keys().copied().collect::<Vec<_>>(), addresses);
        drop(desired);
        running.await.unwrap().unwrap();
    }
}
