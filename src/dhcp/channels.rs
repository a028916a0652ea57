//! The channels between the DHCP driver and the rest of the program.

use std::collections::BTreeMap;

use tokio::sync::{mpsc, watch};

use super::spec::{ClientSpec, ClientStatus, LeaseKey};

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
}

/// The other ends of [`Channels`].
#[derive(Debug)]
pub struct Handles {
    pub specs: watch::Sender<BTreeMap<LeaseKey, ClientSpec>>,
    pub commands: mpsc::Sender<Command>,
    pub status: watch::Receiver<BTreeMap<LeaseKey, ClientStatus>>,
}

pub fn channels() -> (Channels, Handles) {
    let (specs_in, specs) = watch::channel(BTreeMap::new());
    let (commands_in, commands) = mpsc::channel(1024);
    let (status, status_out) = watch::channel(BTreeMap::new());
    let handles = Handles { specs: specs_in, commands: commands_in, status: status_out };
    (Channels { specs, commands, status }, handles)
}
