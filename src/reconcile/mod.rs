//! Makes the host as desired, and keeps it so.
//!
//! `diff` says what has to be done, and is pure. `driver` looks, asks `diff`, and does it: after every change of the
//! goal, every event of the kernel, every deadline, and now and then for nothing.

pub mod desired;
pub mod diff;
pub mod driver;
pub mod interfaces;
mod managed_interfaces;
pub mod metrics;
mod neighbours;
pub mod reporter;
mod routes;
