//! Makes the kernel's table as desired, and keeps it so.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::watch;

use super::diff::{Actual, plan};
use crate::config::RoutingTable;
use crate::host::HostWatch;
use crate::model::AdvertisedRoutes;
use crate::model::route::TableRoute;
use crate::model::{IfIndex, Prefix, Vip};
use crate::net::netlink::{NetlinkError, NetlinkWriter};

/// How often the table is looked at though nothing happened.
const RESYNC: Duration = Duration::from_secs(10);
/// How soon a step that failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Where routes lead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interfaces {
    /// The control plane's.
    pub main: String,
    /// Those of Services.
    pub services: String,
}

/// The task and its memory.
#[derive(Debug)]
pub struct Driver {
    config: RoutingTable,
    interfaces: Interfaces,
    announced: watch::Receiver<AdvertisedRoutes>,
    /// The control plane's addresses.
    vips: watch::Receiver<BTreeSet<Vip>>,
    host: HostWatch,
    netlink: NetlinkWriter,
    ours: BTreeSet<Prefix>,
    /// Which of the two realms routes have now, where they change it.
    realm: u16,
    trouble: Option<String>,
}

impl Driver {
    /// A driver that has done nothing yet.
    pub fn new(
        config: RoutingTable,
        interfaces: Interfaces,
        announced: watch::Receiver<AdvertisedRoutes>,
        vips: watch::Receiver<BTreeSet<Vip>>,
        host: HostWatch,
        netlink: NetlinkWriter,
    ) -> Self {
        Self {
            config,
            interfaces,
            announced,
            vips,
            host,
            netlink,
            ours: BTreeSet::new(),
            realm: 1,
            trouble: None,
        }
    }

    /// Until nobody announces anything any more. What is not announced then is removed before the end.
    pub async fn run(mut self) {
        loop {
            let outcome = self.look();
            let failed = outcome.is_err();
            let trouble = outcome.err().map(|error| error.to_string());
            if let Some(text) = trouble.as_ref().filter(|text| self.trouble.as_ref() != Some(*text)) {
                tracing::error!("{text}; trying again");
            }
            self.trouble = trouble;
            let pause = match self.config.reassert {
                _ if failed => RETRY,
                Some(every) => every.min(RESYNC),
                None => RESYNC,
            };
            tokio::select! {
                changed = self.announced.changed() => if changed.is_err() {
                    drop(self.look());
                    return;
                },
                () = tokio::time::sleep(pause) => {
                    // Some daemons miss changes that come in a crowd; a route that changes is news.
                    self.realm = if self.realm == 1 { 2 } else { 1 };
                }
            }
        }
    }

    fn look(&mut self) -> Result<(), NetlinkError> {
        let AdvertisedRoutes { routes, known, complete } = self.announced.borrow_and_update().clone();
        let host = self.host.borrow().clone();
        let vips: BTreeSet<_> = self.vips.borrow().iter().map(|vip| vip.address).collect();
        let index = |prefix: &Prefix| {
            let name = if vips.contains(&prefix.address) {
                &self.interfaces.main
            } else {
                &self.interfaces.services
            };
            host.interface(name).map(|interface| interface.index)
        };
        let desired: BTreeMap<Prefix, IfIndex> =
            routes.keys().filter_map(|prefix| Some((*prefix, index(prefix)?))).collect();
        let actual = Actual {
            routes: self.netlink.routes(self.config.table)?,
            ours: self.ours.clone(),
            known: known.iter().chain(&vips).copied().collect(),
            complete,
            clean: self.config.clean,
        };
        let plan = plan(&desired, &actual);
        let realm = self.config.reassert.map(|_| self.realm);
        // Only the control plane's are put there again: thousands of changes would be news about nothing.
        let restless = |route: &TableRoute| realm.is_some() && vips.contains(&route.prefix.address);
        let (mut again, put): (Vec<TableRoute>, Vec<TableRoute>) =
            plan.put.iter().copied().partition(restless);
        let there = actual.routes.iter().filter(|route| restless(route)).copied();
        again.extend(there.filter(|route| desired.get(&route.prefix) == Some(&route.interface)));
        self.ours = desired.keys().copied().collect();
        for route in &plan.remove {
            tracing::debug!(prefix = %route.prefix, table = self.config.table.id, "removing the route");
        }
        let removed = self.netlink.remove_routes(self.config.table, &plan.remove);
        let put = self.netlink.put_routes(self.config.table, None, &put);
        let again = self.netlink.put_routes(self.config.table, realm, &again);
        removed.into_iter().chain(put).chain(again).collect()
    }
}
