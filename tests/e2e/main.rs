//! End-to-end tests on the lab: real API servers, real agents, real faults.
//!
//! One lab serves all tests of a group, one after the other: bringing it up takes longer than most of them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use libtest_mimic::{Arguments, Failed, Trial};

mod addresses;
mod answers;
mod bgp;
mod bgp_faults;
mod bgp_provider;
mod bgp_traffic;
mod bootstrap;
mod dhcp;
mod dhcp_faults;
mod election;
mod examples;
mod faults;
mod harness;
mod mdns;
mod routed;
mod service_faults;
mod service_options;
mod services;
mod shared_lease;
mod table;
mod telemetry;
mod traffic;
mod upnp;
mod upnp_faults;

fn main() {
    let args = Arguments::from_args();
    let groups = [
        faults::trials(),
        addresses::trials(),
        answers::trials(),
        election::trials(),
        bootstrap::trials(),
        telemetry::trials(),
        services::trials(),
        service_faults::trials(),
        service_options::trials(),
        shared_lease::trials(),
        traffic::trials(),
        dhcp::trials(),
        dhcp_faults::trials(),
        upnp::trials(),
        upnp_faults::trials(),
        mdns::trials(),
        bgp::trials(),
        bgp_faults::trials(),
        bgp_provider::trials(),
        bgp_traffic::trials(),
        routed::trials(),
        examples::trials(),
        table::trials(),
    ];
    let trials: Vec<Trial> = groups.into_iter().flatten().collect();
    // The tests of a group share a lab, and the machine has few cores.
    let args = Arguments { test_threads: Some(1), ..args };
    let conclusion = libtest_mimic::run(&args, trials);
    harness::tear_down();
    conclusion.exit();
}

/// A test by name.
fn trial(name: &str, test: fn() -> Result<(), Failed>) -> Trial {
    Trial::test(name, test)
}
