//! Hands routes to the BGP speaker or the routing table.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use super::driver::Driver;
use crate::model::AdvertisedRoutes;
use crate::model::Routes;

impl Driver {
    /// Withdraws what is not in `routes`.
    pub(super) fn withdraw(&self, routes: &Routes) {
        self.channels.announced.send_if_modified(|announced| {
            if announced.routes.keys().all(|prefix| routes.contains_key(prefix)) {
                return false;
            }
            let kept = announced.routes.iter().filter(|(prefix, _)| routes.contains_key(prefix));
            announced.routes = Arc::new(kept.map(|(prefix, path)| (*prefix, path.clone())).collect());
            true
        });
    }

    /// Advertises `routes`. Returns whether that has changed.
    pub(super) fn advertise(&self, routes: Routes, known: Arc<BTreeSet<IpAddr>>, complete: bool) -> bool {
        self.channels.announced.send_if_modified(|announced| {
            let same = *announced.routes == routes && announced.complete == complete;
            if same && (Arc::ptr_eq(&announced.known, &known) || announced.known == known) {
                return false;
            }
            *announced = AdvertisedRoutes { routes: Arc::new(routes), known, complete };
            true
        })
    }
}
