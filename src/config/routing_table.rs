//! Routes in a table of the kernel.

use std::time::Duration;

use super::Values;
use crate::model::route::Table;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingTable {
    /// The table, and the protocol and type of routes in it.
    pub table: Table,
    /// Remove unknown routes with our protocol number.
    pub clean: bool,
    /// Replace the control plane's routes this often, each time with another realm.
    pub reassert: Option<Duration>,
}

pub(super) fn read(values: &Values) -> RoutingTable {
    let every = Duration::from_secs(values.backend_health_interval.into());
    RoutingTable {
        table: Table {
            id: values.table_id,
            // 0 is the kernel's number for redirects, which routing daemons ignore; the Go program replaces it by 1, too.
            protocol: values.routing_protocol.max(1),
            kind: values.table_type,
        },
        clean: values.clean_routing_table,
        reassert: values.route_realms.then_some(every),
    }
}
