//! Keeps the routing table of the kernel as desired.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Fuse, FusedFuture};
use tokio::sync::watch;

use super::diff::{Actual, plan};
use super::status::TableStatus;
use crate::config::RoutingTable;
use crate::host::HostWatch;
use crate::model::route::TableRoute;
use crate::model::{AdvertisedRoutes, IfIndex, LogOnChange, Prefix, Tags, Vip};
use crate::net::netlink::{NetlinkError, NetlinkWriter, RouteChanges};

/// Interval of comparisons without a change.
const RESYNC: Duration = Duration::from_secs(10);
/// Time until a failed change is repeated.
const RETRY: Duration = Duration::from_millis(500);
/// From a change by another program to the comparison: changes come in bursts.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// Until agents that do not know their routes yet are asked again.
const CLEAN_RETRY: Duration = Duration::from_secs(2);

/// The routes of all agents on this host; none while one of them does not know its own.
pub type RoutesOfAgents = Box<dyn Fn() -> BoxFuture<'static, Option<BTreeSet<Prefix>>> + Send>;

/// The interfaces that routes lead to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interfaces {
    /// The control plane's.
    pub main: String,
    pub services: String,
}

pub struct Channels {
    pub advertised: watch::Receiver<AdvertisedRoutes>,
    /// The control plane's addresses.
    pub vips: watch::Receiver<BTreeSet<Vip>>,
    pub host: HostWatch,
    pub status: watch::Sender<Option<TableStatus>>,
    pub agents: RoutesOfAgents,
}

pub struct Driver {
    config: RoutingTable,
    interfaces: Interfaces,
    channels: Channels,
    netlink: NetlinkWriter,
    changes: RouteChanges,
    /// See [`Actual::stale`]; none before the agents have replied.
    stale: Option<BTreeSet<Prefix>>,
    /// The agents are being asked.
    asking: Fuse<BoxFuture<'static, Option<BTreeSet<Prefix>>>>,
    /// See [`Actual::ours`].
    ours: BTreeSet<Prefix>,
    /// The realm of re-asserted routes, alternately 1 and 2.
    realm: u16,
    log: LogOnChange,
}

impl Driver {
    /// # Errors
    /// If the kernel has no socket left.
    pub fn new(config: RoutingTable, interfaces: Interfaces, channels: Channels) -> std::io::Result<Self> {
        let netlink = NetlinkWriter::open(Tags::default())?;
        let changes = RouteChanges::open(config.table, &netlink)?;
        let (ours, log) = (BTreeSet::new(), LogOnChange::default());
        Ok(Self {
            stale: (!config.clean).then(BTreeSet::new),
            asking: Fuse::terminated(),
            config,
            interfaces,
            channels,
            netlink,
            changes,
            ours,
            realm: 1,
            log,
        })
    }

    /// Runs until the sender of routes is gone, and applies its last value before the end.
    pub async fn run(mut self) {
        loop {
            let pause = match (self.apply().await, self.config.reassert) {
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
                changed = self.channels.advertised.changed() => if changed.is_err() {
                    drop(self.apply().await);
                    return;
                },
                stale = &mut self.asking => {
                    tracing::debug!(?stale, "asked the agents on this host for their routes");
                    self.stale = stale;
                }
                () = self.changes.next() => {
                    tokio::time::sleep(DEBOUNCE).await;
                    self.changes.clear();
                }
                () = tokio::time::sleep(pause) => {
                    // Some routing daemons miss changes in a burst; a route whose realm changes is notified again.
                    self.realm = if self.realm == 1 { 2 } else { 1 };
                }
            }
        }
    }

    async fn apply(&mut self) -> Result<(), NetlinkError> {
        let AdvertisedRoutes { routes, known, decided, complete } =
            self.channels.advertised.borrow_and_update().clone();
        let vips: BTreeSet<IpAddr> = self.channels.vips.borrow().iter().map(|vip| vip.address).collect();
        let desired = self.desired(routes.keys(), &vips);
        let table = self.config.table;
        let prefixes = desired.keys().map(Prefix::to_string).collect();
        self.channels.status.send_replace(Some(TableStatus { table: table.id, routes: prefixes, complete }));
        let actual = Actual {
            routes: self.netlink.routes(table)?,
            ours: self.ours.clone(),
            // A route that is not desired yet is an earlier process's, and stays until this one knows its roles.
            known: known.iter().chain(&vips).filter(|_| decided).copied().collect(),
            stale: self.stale.clone().unwrap_or_default(),
        };
        // Once: later on a route of ours is known. Another agent that starts later may have routes of its own.
        if complete && self.stale.is_none() && self.asking.is_terminated() {
            let present: BTreeSet<Prefix> = actual.routes.iter().map(|route| route.prefix).collect();
            let agents = (self.channels.agents)();
            let stale = async move {
                let routes = agents.await;
                if routes.is_none() {
                    tokio::time::sleep(CLEAN_RETRY).await;
                }
                Some(&present - &routes?)
            };
            self.asking = stale.boxed().fuse();
        }
        self.ours.extend(desired.keys());
        let plan = plan(table, &desired, &actual);
        let realm = self.config.reassert.map(|_| self.realm);
        // Only the control plane's: notifications of thousands of routes would be a burst of their own.
        let reasserted = |route: &TableRoute| realm.is_some() && vips.contains(&route.prefix.address);
        let (mut again, put): (Vec<TableRoute>, Vec<TableRoute>) =
            plan.put.iter().copied().partition(reasserted);
        again.extend(plan.keep.iter().copied().filter(reasserted));
        for route in &plan.remove {
            tracing::debug!(prefix = %route.prefix, table = table.id, "removing the route");
        }
        let removed = self.netlink.remove_routes(table, &plan.remove);
        let put = self.netlink.put_routes(table, None, &put);
        let again = self.netlink.put_routes(table, realm, &again);
        removed.into_iter().chain(put).chain(again).collect::<Result<(), _>>()?;
        self.ours = desired.into_keys().collect();
        self.stale = self.stale.take().map(|_| BTreeSet::new());
        Ok(())
    }

    /// The interface of each route; without the routes whose interface is missing.
    fn desired<'a>(
        &self,
        routes: impl Iterator<Item = &'a Prefix>,
        vips: &BTreeSet<IpAddr>,
    ) -> BTreeMap<Prefix, IfIndex> {
        let host = self.channels.host.borrow();
        let interface = |prefix: &Prefix| {
            let main = vips.contains(&prefix.address);
            host.interface(if main { &self.interfaces.main } else { &self.interfaces.services })
        };
        routes.filter_map(|prefix| Some((*prefix, interface(prefix)?.index))).collect()
    }
}
