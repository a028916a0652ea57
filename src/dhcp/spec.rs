//! Which leases the rest of the program wants, the status of each, and the channels to the DHCP driver.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tokio::sync::{mpsc, watch};

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

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Release the lease: no host needs it any more.
    Release(LeaseKey),
    /// Decline the address of the lease, for this reason.
    Conflict(LeaseKey, String),
}

#[derive(Debug)]
pub struct Channels {
    pub specs: watch::Receiver<BTreeMap<LeaseKey, ClientSpec>>,
    pub commands: mpsc::Receiver<Command>,
    pub status: watch::Sender<BTreeMap<LeaseKey, ClientStatus>>,
    /// Interfaces that clients use, by name.
    pub links: watch::Sender<BTreeSet<String>>,
}

/// The other ends of [`Channels`].
#[derive(Debug)]
pub struct Handles {
    pub specs: watch::Sender<BTreeMap<LeaseKey, ClientSpec>>,
    pub commands: mpsc::Sender<Command>,
    pub status: watch::Receiver<BTreeMap<LeaseKey, ClientStatus>>,
    pub links: watch::Receiver<BTreeSet<String>>,
}

pub fn channels() -> (Channels, Handles) {
    let (specs_in, specs) = watch::channel(BTreeMap::new());
    let (commands_in, commands) = mpsc::channel(1024);
    let (status, status_out) = watch::channel(BTreeMap::new());
    let (links, links_out) = watch::channel(BTreeSet::new());
    let handles = Handles { specs: specs_in, commands: commands_in, status: status_out, links: links_out };
    (Channels { specs, commands, status, links }, handles)
}
