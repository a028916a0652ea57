//! Keeps the routing table of the kernel as desired.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::watch;

use super::diff::{Actual, plan};
use crate::config::RoutingTable;
use crate::host::HostWatch;
use crate::model::route::TableRoute;
use crate::model::{AdvertisedRoutes, IfIndex, LogOnChange, Prefix, Vip};
use crate::net::netlink::{NetlinkError, NetlinkWriter};

/// Interval of comparisons without a change.
const RESYNC: Duration = Duration::from_secs(10);
/// Time until a failed change is repeated.
const RETRY: Duration = Duration::from_millis(500);

/// The interfaces that routes lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interfaces {
    /// The control plane's.
    pub main: String,
    pub services: String,
}

#[derive(Debug)]
pub struct Driver {
    config: RoutingTable,
    interfaces: Interfaces,
    advertised: watch::Receiver<AdvertisedRoutes>,
    /// The control plane's addresses.
    vips: watch::Receiver<BTreeSet<Vip>>,
    host: HostWatch,
    netlink: NetlinkWriter,
    /// See [`Actual::ours`].
    ours: BTreeSet<Prefix>,
    /// The realm of re-asserted routes, alternately 1 and 2.
    realm: u16,
    log: LogOnChange,
}

impl Driver {
    pub fn new(
        config: RoutingTable,
        interfaces: Interfaces,
        advertised: watch::Receiver<AdvertisedRoutes>,
        vips: watch::Receiver<BTreeSet<Vip>>,
        host: HostWatch,
        netlink: NetlinkWriter,
    ) -> Self {
        let (ours, log) = (BTreeSet::new(), LogOnChange::default());
        Self { config, interfaces, advertised, vips, host, netlink, ours, realm: 1, log }
    }

    /// Runs until the sender of routes is gone, and applies its last value before the end.
    pub async fn run(mut self) {
        loop {
            let pause = match (self.apply(), self.config.reassert) {
                (Ok(()), interval) => {
                    self.log.clear();
                    interval.map_or(RESYNC, |interval| interval.min(RESYNC))
                }
                (Err(error), _) => {
                    if self.log.set(error.to_string()) {
                        tracing::error!("{error}; trying again");
                    }
                    RETRY
                }
            };
            tokio::select! {
                changed = self.advertised.changed() => if changed.is_err() {
                    drop(self.apply());
                    return;
                },
                () = tokio::time::sleep(pause) => {
                    // Some routing daemons miss changes in a burst; a route whose realm changes is notified again.
                    self.realm = if self.realm == 1 { 2 } else { 1 };
                }
            }
        }
    }

    fn apply(&mut self) -> Result<(), NetlinkError> {
        let AdvertisedRoutes { routes, known, complete } = self.advertised.borrow_and_update().clone();
        let vips: BTreeSet<IpAddr> = self.vips.borrow().iter().map(|vip| vip.address).collect();
        let desired = self.desired(routes.keys(), &vips);
        let table = self.config.table;
        let actual = Actual {
            routes: self.netlink.routes(table)?,
            ours: std::mem::replace(&mut self.ours, desired.keys().copied().collect()),
            known: known.iter().chain(&vips).copied().collect(),
            complete,
            clean: self.config.clean,
        };
        let plan = plan(&desired, &actual);
        let realm = self.config.reassert.map(|_| self.realm);
        // Only the control plane's: notifications of thousands of routes would be a burst of their own.
        let reasserted = |route: &TableRoute| realm.is_some() && vips.contains(&route.prefix.address);
        let (mut again, put): (Vec<TableRoute>, Vec<TableRoute>) =
            plan.put.iter().copied().partition(reasserted);
        let present = actual.routes.iter().filter(|route| reasserted(route)).copied();
        again.extend(present.filter(|route| desired.get(&route.prefix) == Some(&route.interface)));
        for route in &plan.remove {
            tracing::debug!(prefix = %route.prefix, table = table.id, "removing the route");
        }
        let removed = self.netlink.remove_routes(table, &plan.remove);
        let put = self.netlink.put_routes(table, None, &put);
        let again = self.netlink.put_routes(table, realm, &again);
        removed.into_iter().chain(put).chain(again).collect()
    }

    /// The interface of each route; without the routes whose interface is missing.
    fn desired<'a>(
        &self,
        routes: impl Iterator<Item = &'a Prefix>,
        vips: &BTreeSet<IpAddr>,
    ) -> BTreeMap<Prefix, IfIndex> {
        let host = self.host.borrow();
        let interface = |prefix: &Prefix| {
            let main = vips.contains(&prefix.address);
            host.interface(if main { &self.interfaces.main } else { &self.interfaces.services })
        };
        routes.filter_map(|prefix| Some((*prefix, interface(prefix)?.index))).collect()
    }
}
