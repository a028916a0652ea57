//! The provider against a real API server.
//!
//! One lab serves all tests, one after the other: each clears away what it made.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use libtest_mimic::{Arguments, Failed, Trial};

mod allocation;
mod dhcp;
mod faults;
mod harness;
mod telling;

fn main() {
    let args = Arguments::from_args();
    let groups = [allocation::trials(), telling::trials(), faults::trials(), dhcp::trials()];
    let trials: Vec<Trial> = groups.into_iter().flatten().collect();
    // The tests share a lab, and the machine has few cores.
    let args = Arguments { test_threads: Some(1), ..args };
    let conclusion = libtest_mimic::run(&args, trials);
    harness::tear_down();
    conclusion.exit();
}

/// A test by name.
fn trial(name: &str, test: fn() -> Result<(), Failed>) -> Trial {
    Trial::test(name, test)
}
