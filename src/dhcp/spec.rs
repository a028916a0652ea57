//! Which leases the rest of the program wants, and the status of each.

use std::net::IpAddr;

use super::fsm::ClientState;
use super::identity::Identity;
use super::saved_lease::SavedLease;
use crate::model::Family;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseKey {
    /// Unique for all time, as the UID of a Service.
    pub owner: String,
    pub family: Family,
}

/// A lease that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientSpec {
    pub interface: String,
    /// The interface is created by this program, and may appear a moment later.
    pub managed: bool,
    pub identity: Identity,
    /// The address to request from servers.
    pub requested: Option<IpAddr>,
    /// This host runs the client. Otherwise another host does, and only the expiry of its lease is tracked.
    pub active: bool,
    /// The lease as another process saved it.
    pub saved: Option<SavedLease>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientStatus {
    /// The address, until the lease expires.
    pub address: Option<IpAddr>,
    /// What another process needs to continue the lease.
    pub saved: Option<SavedLease>,
    pub state: ClientState,
    /// The address was probed on the interface within the last ten seconds.
    pub probed: bool,
    pub last_error: Option<String>,
}
