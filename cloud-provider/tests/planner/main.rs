//! The planner against a fake API server: the addresses of each Service, and that no address is allocated twice.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

mod changes;
mod families;
mod model;
mod sharing;
mod store;
