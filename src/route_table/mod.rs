//! The routing-table mode: routes to this host's addresses in a table of the kernel, from which a routing daemon takes
//! them (FRR's `ip import-table`, BIRD's `protocol kernel`).
//!
//! `diff` computes; `driver` asks the kernel and changes it.

pub mod diff;
pub mod driver;
