//! The provider against a real API server.
//!
//! Trials share labs (see `harness`): each clears away what an earlier one made.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use std::process::ExitCode;

use kube_vip_lab::trials::{self, Group};

mod allocation;
mod dhcp;
mod faults;
mod harness;
mod telling;

fn main() -> ExitCode {
    let groups = [faults::trials(), allocation::trials(), telling::trials(), dhcp::trials()];
    trials::run(vec![Group::new(groups.into_iter().flatten(), usize::MAX, harness::tear_down)])
}
