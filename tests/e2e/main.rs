//! End-to-end tests on the lab: real API servers, real agents, real faults.
//!
//! Trials share labs where they can (see `harness`): bringing one up takes longer than most of them.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

use std::process::ExitCode;

use kube_vip_lab::rights::Exceptions;
use kube_vip_lab::trials::{self, Group};

mod addresses;
mod alerts;
mod answers;
mod bgp;
mod bgp_faults;
mod bgp_provider;
mod bgp_traffic;
mod bootstrap;
mod charts;
mod credentials;
mod dhcp;
mod dhcp_faults;
mod doctor;
mod election;
mod examples;
mod faults;
mod harness;
mod mdns;
mod policy;
mod recipes;
mod resilience;
mod routed;
mod schemes;
mod service_faults;
mod service_options;
mod services;
mod shared_lease;
mod table;
mod telemetry;
mod tenancy;
mod traffic;
mod upnp;
mod upnp_faults;

/// As many as there are threads.
const UNLIMITED: usize = usize::MAX;

/// Where requests differ from the rights of `kube-vip manifest rbac`.
const EXCEPTIONS: Exceptions = Exceptions {
    not_permitted: &[(
        "get services",
        "a patch that is rejected is repeated as an update, which the Go program's role permits; an API server that has just \
         started rejects everything for a moment, as do trials that take rights away",
    )],
    unused: &[(
        "kube-public leases.coordination.k8s.io=plndr-svcs-lock: update",
        "the one trial with the Lease in this namespace may end before the first renewal",
    )],
};

fn main() -> ExitCode {
    // One lab is enough for the trials of `faults`, which take seconds: they pass through it beside the others.
    let clusters = Group::new(faults::trials(), 1, harness::end_clusters);
    // Those that take longest come first.
    let others = [
        upnp_faults::trials(),
        service_faults::trials(),
        routed::trials(),
        schemes::trials(),
        bgp::trials(),
        dhcp_faults::trials(),
        dhcp::trials(),
        upnp::trials(),
        answers::trials(),
        bgp_faults::trials(),
        bgp_traffic::trials(),
        services::trials(),
        traffic::trials(),
        election::trials(),
        doctor::trials(),
        bootstrap::trials(),
        charts::trials(),
        telemetry::trials(),
        alerts::trials(),
        credentials::trials(),
        service_options::trials(),
        shared_lease::trials(),
        mdns::trials(),
        bgp_provider::trials(),
        examples::trials(),
        recipes::trials(),
        table::trials(),
        resilience::trials(),
        tenancy::trials(),
        policy::trials(),
        addresses::trials(),
    ];
    let others = Group::new(others.into_iter().flatten(), UNLIMITED, harness::end_services);
    trials::run(vec![clusters, others], EXCEPTIONS)
}
