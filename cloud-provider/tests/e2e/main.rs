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

use kube_vip_lab::rights::Exceptions;
use kube_vip_lab::trials::{self, Group};

mod allocation;
mod dhcp;
mod faults;
mod harness;
mod telling;

/// Where requests differ from the rights of the manifest.
const EXCEPTIONS: Exceptions = Exceptions {
    not_permitted: &[(
        "get services",
        "a patch that is rejected is repeated as an update, which the Go program's role permits; an API server that has just \
         started rejects everything for a moment",
    )],
    unused: &[],
};

fn main() -> ExitCode {
    let groups = [faults::trials(), allocation::trials(), telling::trials(), dhcp::trials()];
    let group = Group::new(groups.into_iter().flatten(), usize::MAX, harness::tear_down);
    trials::run(vec![group], EXCEPTIONS)
}
