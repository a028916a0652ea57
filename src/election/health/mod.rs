//! Health of the local API server: `driver` probes, `tracker` evaluates the results and is pure.

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
