//! Plans VIP groups: which addresses of the control plane and of Services this host may hold, and its candidacy for each.
//!
//! ```text
//! Services, EndpointSlices, Nodes, Leases ─► cache ─► plan ─┬─► VipPlan ─► election, reconcile
//!                              DHCP leases ────┘             ├─► Plan    ─► publish
//!                                                            └─► leases to obtain ─► dhcp
//! ```
//!
//! `cache` is what is known of the cluster. `control_plane` and `plan` compute, with `select`, `addresses`, `reserved`,
//! `leases`, `dhcp_clients`, `endpoints`, `placement`, `policy`, `rendezvous` and `routes`. `watches` and `dns` fill the cache,
//! `lookups` is when `dns` asks; `driver` plans whenever the cache has changed.

pub mod addresses;
pub mod cache;
pub mod control_plane;
mod dhcp_clients;
mod dns;
pub mod driver;
pub mod endpoints;
pub mod leases;
mod lookups;
mod placement;
pub mod plan;
pub mod policy;
pub mod rendezvous;
pub mod reserved;
pub mod routes;
pub mod select;
mod watches;

use std::collections::BTreeSet;

use crate::model::{Vip, VipPlan};
use plan::{ClusterState, PlanContext};

/// The plan of a process that has not read anything from the cluster yet, and the control plane's VIPs in it.
pub fn first_plan(context: &PlanContext) -> (VipPlan, BTreeSet<Vip>) {
    let mut state = ClusterState::default();
    let vips = control_plane::vips(context, &state);
    state.vips = vips.iter().map(|vip| vip.address).collect();
    (plan::plan(context, &state).take_vip_plan(&context.me, false), vips)
}
