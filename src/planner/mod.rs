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
