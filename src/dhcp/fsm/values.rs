//! Inputs and outputs of a client.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::conflict::NeighborFrame;
use crate::model::BootTime;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientConfig {
    /// `chaddr`.
    pub mac: [u8; 6],
    /// The address to request from servers (RFC 2132 §9.1).
    pub requested: Option<IpAddr>,
    /// Rounds without a reply before all pauses are the longest, a minute; 0: they grow from 10 seconds.
    pub max_rounds: u32,
    /// Use an assigned address without probes.
    pub skip_probes: bool,
    /// Jitter and transaction identifiers derive from it.
    pub seed: u64,
}

/// A server identifier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// RFC 2132 §9.7.
    Address(Ipv4Addr),
    /// RFC 8415 §11.
    Duid(Vec<u8>),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Duid(duid) => duid.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// A message from a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// DHCPOFFER, or ADVERTISE with an address.
    Offer(LeaseTerms),
    /// DHCPACK, or REPLY with an address.
    Ack(LeaseTerms),
    /// DHCPNAK, or ADVERTISE or REPLY without an address, with the server's reason.
    Nak(Server, String),
}

/// What a server offers or grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseTerms {
    pub address: IpAddr,
    pub server: Server,
    /// None: infinite.
    pub lifetime: Option<Duration>,
    /// The server's T1, if it sent one.
    pub t1: Option<Duration>,
    /// The server's T2, if it sent one.
    pub t2: Option<Duration>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub address: IpAddr,
    pub server: Server,
    /// When the request was sent: all times count from there (RFC 2131 §4.4.1).
    pub requested_at: BootTime,
    /// None: the lease is infinite.
    pub timers: Option<Timers>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timers {
    /// T1: request an extension from the lease's server (RENEWING).
    pub t1: BootTime,
    /// T2: request an extension from any server (REBINDING).
    pub t2: BootTime,
    pub expiry: BootTime,
}

impl Lease {
    /// T1 and T2 are the server's where they are in order, else half and seven eighths of the lifetime (RFC 2131 §4.4.5).
    pub(super) fn new(terms: &LeaseTerms, requested_at: BootTime) -> Self {
        let timers = terms.lifetime.map(|lifetime| {
            let t2 = terms.t2.filter(|t2| *t2 <= lifetime).unwrap_or(lifetime * 7 / 8);
            let t1 = terms.t1.filter(|t1| *t1 <= t2).unwrap_or(t2.min(lifetime / 2));
            Timers { t1: requested_at + t1, t2: requested_at + t2, expiry: requested_at + lifetime }
        });
        Self { address: terms.address, server: terms.server.clone(), requested_at, timers }
    }

    pub fn is_expired(&self, now: BootTime) -> bool {
        self.timers.is_some_and(|timers| now >= timers.expiry)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Start, with the saved lease if there is one.
    Start(Option<Lease>),
    /// A server's reply, with its transaction identifier.
    Reply(u32, Reply),
    /// A frame of another host on the interface.
    Frame(NeighborFrame),
    /// Another host has the address of the lease.
    Conflict,
    /// Release the lease, and stop.
    Stop,
}

/// A message to servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// DHCPDISCOVER or SOLICIT, with the requested address.
    Discover(Option<IpAddr>),
    /// DHCPREQUEST or REQUEST for an offer of this server.
    Request(IpAddr, Server),
    /// DHCPREQUEST as in INIT-REBOOT, or REBIND: for a saved lease, and for an extension.
    Rebind(IpAddr),
    /// DHCPDECLINE or DECLINE.
    Decline(IpAddr, Server),
    /// DHCPRELEASE or RELEASE.
    Release(IpAddr, Server),
}

/// What a message carries beside its content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    /// The transaction identifier.
    pub xid: u32,
    /// Since the exchange began.
    pub elapsed: Duration,
    pub source: FrameSource,
}

/// The hardware address that a frame is sent from. No interface tells which one reaches the servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameSource {
    /// `chaddr`: switches with DHCP snooping drop messages from other addresses.
    Client,
    /// The interface's: Wi-Fi, and the networks of hypervisors, drop frames from other addresses.
    Interface,
}

impl FrameSource {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Client => Self::Interface,
            Self::Interface => Self::Client,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Send(Envelope, Message),
    /// Send one probe for this address.
    SendProbe(IpAddr),
    /// The lease is new, or was extended.
    Bound(Lease),
    /// The lease must not be used any more.
    Lost(LossReason),
    /// A server does not grant a lease, or not this address.
    NotGranted(LossReason),
    /// No server replied to so many messages.
    NoReply(u32),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LossReason {
    Nak(Server, String),
    Expired,
    /// Another host has the address.
    Conflict(IpAddr),
    Released,
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nak(server, reason) => {
                write!(f, "DHCP server {server} refused the request")?;
                if reason.is_empty() { Ok(()) } else { write!(f, ": {reason}") }
            }
            Self::Expired => f.write_str("lease expired: no DHCP server renewed it"),
            Self::Conflict(address) => write!(f, "address conflict: {address} is in use by another host"),
            Self::Released => f.write_str("lease released"),
        }
    }
}

/// The states of RFC 2131, figure 5, for metrics and status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ClientState {
    /// Another node holds the lease.
    Standby,
    /// INIT and SELECTING: no server has offered an address yet.
    Selecting,
    Requesting,
    /// A saved lease is being confirmed.
    Rebooting,
    /// The address is being probed (§2.2).
    Probing,
    Bound,
    Renewing,
    Rebinding,
}

impl ClientState {
    /// Every state with its name.
    pub const ALL: [(Self, &str); 8] = [
        (Self::Standby, "standby"),
        (Self::Selecting, "selecting"),
        (Self::Requesting, "requesting"),
        (Self::Rebooting, "rebooting"),
        (Self::Probing, "probing"),
        (Self::Bound, "bound"),
        (Self::Renewing, "renewing"),
        (Self::Rebinding, "rebinding"),
    ];
}

impl fmt::Display for ClientState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Self::ALL.iter().filter(|(state, _)| state == self).try_for_each(|(_, name)| f.write_str(name))
    }
}
