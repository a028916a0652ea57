//! This host: its interfaces and addresses as the kernel reports them, and the addresses that it needs.

pub mod observer;
pub mod selection;
pub mod state;
pub mod uses;

pub use observer::Observer;
pub use state::HostState;

/// Follows the state of this host.
pub type HostWatch = tokio::sync::watch::Receiver<std::sync::Arc<HostState>>;
