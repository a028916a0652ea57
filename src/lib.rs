//! Virtual IPs for Kubernetes clusters on bare metal.
//!
//! ARCHITECTURE.md has the map, the direction of imports and the invariants.

pub mod announce;
pub mod arp;
pub mod bfd;
pub mod bgp;
pub mod cleanup;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod conflict;
pub mod daemon;
pub mod dhcp;
pub mod doctor;
pub mod dump;
pub mod election;
pub mod host;
pub mod kubeconfig;
pub mod manifest;
pub mod mdns;
pub mod metrics;
pub mod model;
pub mod ndp;
pub mod net;
pub mod planner;
pub mod program;
pub mod publish;
pub mod reconcile;
pub mod route_table;
pub mod status;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod upnp;
pub mod watch_ext;

/// Also the default tag of images in manifests.
pub const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));
/// The commit, if the build sets `KUBE_VIP_BUILD`.
pub const BUILD: &str = match option_env!("KUBE_VIP_BUILD") {
    Some(build) => build,
    None => "unknown",
};
