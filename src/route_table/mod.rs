//! Routing-table mode: routes to this host's addresses in a routing table of the kernel, from which a routing daemon
//! imports them (FRR's `ip import-table`, BIRD's `protocol kernel`).

pub mod diff;
pub mod driver;
pub mod status;
