//! Allocates addresses to Services of type LoadBalancer: the only writer of allocations in a cluster.
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "a test that panics has failed"
    )
)]

pub mod chart;
pub mod cli;
pub mod controller;
pub mod inspect;
pub mod ipam;
pub mod manifest;
pub mod plan;
pub mod pools;
pub mod reference;
pub mod telemetry;
