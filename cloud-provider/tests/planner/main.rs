//! The planner, with an invented API server: what each Service gets, and that nothing is given twice.
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
