//! Address conflict detection (RFC 5227, RFC 4862 §5.4): one state machine for addresses of elections, of Services and of
//! DHCP servers.

mod detector;

use std::net::IpAddr;

pub use detector::{ConflictDetector, Output, Preset};

/// An ARP or neighbour discovery frame of another host that claims an address, or is about to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NeighborFrame {
    pub address: IpAddr,
    /// Hardware address of the sender; empty where the frame has none, as in probes of IPv6.
    pub mac: Vec<u8>,
    pub kind: FrameKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// The sender has the address.
    Announcement,
    /// The sender probes for the address before it uses it.
    Probe,
}
