//! Services of type LoadBalancer: which of them this host may announce, by which election, and what their status says.
//!
//! ```text
//! Services, EndpointSlices, Nodes ─► driver ─► plan ─┬─► board (places, routes) ─► reconcile
//!                                      ▲             ├─► candidacies         ─► leader/elections
//!                    held addresses ───┘             └─► status, Events      ─► cluster
//! ```
//!
//! `select`, `addresses`, `leases`, `endpoints`, `reserved`, `rendezvous`, `routes` and `plan` compute, `status` and `labels` say what is to be written,
//! `driver` follows the cluster and writes.

pub mod addresses;
pub mod control_plane;
mod dns;
pub mod driver;
pub mod endpoints;
pub mod leases;
mod placement;
pub mod plan;
pub mod rendezvous;
pub mod reserved;
pub mod routes;
pub mod select;

use std::collections::BTreeSet;

use crate::model::{Vip, VipPlan};
use plan::{ClusterState, PlanContext};

/// The plan of a process that has not read anything from the cluster yet, and the control plane's VIPs in it.
pub fn first_plan(context: &PlanContext) -> (VipPlan, BTreeSet<Vip>) {
    let mut state = ClusterState::default();
    let vips = control_plane::vips(context, &state);
    state.vips = vips.iter().map(|vip| vip.address).collect();
    (plan::plan(context, &state).take_vip_plan(false), vips)
}
