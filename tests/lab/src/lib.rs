//! A laboratory: hosts as network namespaces on one segment, a real etcd and kube-apiserver on each.
//!
//! ```text
//!        ┌──────────── switch (bridge) ────────────┐
//!        p1            p2            p3            p101
//!        │             │             │             │
//!   ┌── host 1 ──┐ ┌── host 2 ──┐ ┌── host 3 ──┐ ┌ client ┐
//!   │ etcd       │ │ etcd       │ │ etcd       │ │ prober │
//!   │ apiserver  │ │ apiserver  │ │ apiserver  │ │        │
//!   │ kube-vip   │ │ kube-vip   │ │ kube-vip   │ └────────┘
//!   └────────────┘ └────────────┘ └────────────┘
//! ```
//!
//! Everything a lab starts is ended by process id when it is dropped; what a crashed lab left behind is found by
//! the names of its namespaces and cleared away by the next. Several labs can run side by side: each has a segment
//! of its own, with the same addresses.

pub mod agent;
pub mod alerts;
pub(crate) mod audit;
pub mod avahi;
pub mod binaries;
pub mod charts;
pub mod cluster;
pub mod control_plane;
pub mod dhcp;
pub mod fake_api_server;
pub mod fake_dhcp;
pub mod fake_dhcp6;
pub mod fake_gateway;
pub mod follower;
pub mod home_router;
pub mod keepalived;
pub mod lab;
pub mod late_host;
pub mod mdns;
pub mod netns;
pub mod objects;
pub mod pki;
pub mod pool;
pub mod probe;
pub mod process;
pub mod provider;
pub mod recorder;
pub mod rights;
pub mod router;
pub mod sampler;
pub mod segment;
pub mod services;
pub mod sweep;
pub mod trials;
pub mod workload;

pub use agent::{Agent, AgentOptions, Kubeconfig};
pub use cluster::Cluster;
pub use dhcp::{DhcpServer, ServerKind, ServerOptions};
pub use fake_dhcp::FakeDhcpServer;
pub use fake_dhcp6::FakeDhcp6Server;
pub use follower::Follower;
pub use lab::{Host, Lab, LabOptions};
pub use late_host::LateHost;
pub use netns::Namespace;
pub use objects::{Administrator, Objects};
pub use provider::Provider;
pub use router::{Neighbour, Router, RouterKind, RouterOptions, Written};
pub use services::ServiceLab;

use std::time::Duration;

/// Something in the lab that went wrong.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// A command failed.
    #[error("`{command}` failed: {output}")]
    Command {
        /// The command line.
        command: String,
        output: String,
    },
    /// The system refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        source: std::io::Error,
    },
    /// Something did not happen in time.
    #[error("timeout after {seconds} s: {what}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// For how long.
        seconds: u64,
    },
    /// A program that the lab needs is not there.
    #[error("{0} is missing: run `cargo xtask setup`")]
    Missing(String),
    /// An API call failed.
    #[error("API call: {0}")]
    Api(String),
    /// A certificate could not be made.
    #[error("certificate: {0}")]
    Certificate(String),
}

/// For results of lab functions.
pub type Result<T> = std::result::Result<T, LabError>;

pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> LabError {
    let what = what.into();
    move |source| LabError::Io { what, source }
}

/// Run a command to its end and return what it printed.
pub fn run(command: &[&str]) -> Result<String> {
    let line = command.join(" ");
    let (program, args) = command.split_first().ok_or_else(|| LabError::Missing("a command".into()))?;
    let output = std::process::Command::new(program).args(args).output().map_err(io(line.clone()))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = [output.stderr, output.stdout].concat();
    Err(LabError::Command { command: line, output: String::from_utf8_lossy(&text).trim().to_owned() })
}

/// The shortest and the longest time between two attempts of [`wait_for`].
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(50));

/// Run something until it gives a value, for at most so many seconds. The pauses grow with the time it takes: what takes
/// long is noticed 5 % late at most.
pub fn wait_for<T>(what: &str, seconds: u64, mut attempt: impl FnMut() -> Option<T>) -> Result<T> {
    let began = now();
    loop {
        if let Some(value) = attempt() {
            return Ok(value);
        }
        let waited = now().since(began);
        if waited > Duration::from_secs(seconds) {
            return Err(LabError::Timeout { what: what.to_owned(), seconds });
        }
        std::thread::sleep((waited / 20).clamp(PAUSES.0, PAUSES.1));
    }
}

/// The lab's clock: the one of the program under test.
pub fn now() -> kube_vip::model::BootTime {
    kube_vip::net::clock::now()
}
