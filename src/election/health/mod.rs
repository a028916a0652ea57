//! Health of the local API server: `tracker` decides when to probe and what the results mean, `driver` sends the probes.

pub mod driver;
pub mod tracker;

use crate::model::Health;

/// Health of the API servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Report {
    /// The server on this host.
    pub local: Health,
    /// Whether a server on another host is ready. Probed only while the local one fails.
    pub peer_serving: bool,
}
