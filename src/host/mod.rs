//! What the kernel reports about this host: interfaces and addresses.

pub mod needs;
pub mod observer;
pub mod selection;
pub mod state;

pub use observer::Observer;
pub use state::HostState;

/// Follows the state of this host.
pub type HostWatch = tokio::sync::watch::Receiver<std::sync::Arc<HostState>>;
