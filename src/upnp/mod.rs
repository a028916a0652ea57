//! Port mappings of the network's gateway to Services, by UPnP (Internet Gateway Device, versions 1 and 2).
//!
//! `mapping` decides which mappings are desired, `table` which requests a gateway needs for that; both are pure. `gateway` is
//! one gateway, by `igd-next`, `request` a request to it; `driver` finds gateways, sends each its requests, and publishes the
//! `status`.

pub mod driver;
pub mod gateway;
pub mod mapping;
pub mod metrics;
mod request;
pub mod status;
pub mod table;
