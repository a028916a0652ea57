//! What goes into a client and comes out of it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::model::BootTime;

/// Who asks, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// An address that is preferred, if the server has it.
    pub wanted: Option<IpAddr>,
    /// Rounds of attempts after which a server that never answers is asked less often; 0 for never.
    pub rounds: u32,
    /// Spreads waits and makes transaction identifiers.
    pub seed: u64,
}

/// A server, as it calls itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// By one of its addresses (RFC 2132 §9.7).
    Address(Ipv4Addr),
    /// By its DUID (RFC 8415 §11).
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

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// DHCPOFFER, or ADVERTISE with an address.
    Offer(Grant),
    /// DHCPACK, or REPLY with an address.
    Ack(Grant),
    /// DHCPNAK, or ADVERTISE or REPLY without an address, with the server's reason.
    Nak(Server, String),
}

/// An address, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The address.
    pub address: IpAddr,
    /// Who gives it.
    pub server: Server,
    /// For how long; none is for ever.
    pub time: Option<Duration>,
    /// When to ask the server for more (T1), where it says so.
    pub renew: Option<Duration>,
    /// When to ask any server for more (T2), where it says so.
    pub rebind: Option<Duration>,
}

/// An address that is ours for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: IpAddr,
    /// Who gave it.
    pub server: Server,
    /// When it was asked for: its time counts from there.
    pub asked: BootTime,
    /// T1, T2 and the end; none where it is for ever.
    pub times: Option<Times>,
}

/// When something is to be done about a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// T1: ask the server for more.
    pub renew: BootTime,
    /// T2: ask any server for more.
    pub rebind: BootTime,
    /// The end.
    pub end: BootTime,
}

impl Lease {
    /// A grant that was asked for at `asked`: its time counts from there (§4.4.1). T1 and T2 are the server's, where
    /// they are in order, else half and seven eighths of the time (§4.4.5).
    pub(super) fn new(grant: &Grant, asked: BootTime) -> Self {
        let times = grant.time.map(|time| {
            let rebind = grant.rebind.filter(|rebind| *rebind <= time).unwrap_or(time * 7 / 8);
            let renew = grant.renew.filter(|renew| *renew <= rebind).unwrap_or(rebind.min(time / 2));
            Times { renew: asked + renew, rebind: asked + rebind, end: asked + time }
        });
        Self { address: grant.address, server: grant.server.clone(), asked, times }
    }

    /// Whether its time is over.
    pub fn is_over(&self, now: BootTime) -> bool {
        self.times.is_some_and(|times| now >= times.end)
    }
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Begin; with a lease from before, where one is known.
    Start(Option<Lease>),
    /// A server answered the transaction with this number.
    Answer(u32, Answer),
    /// Whether a station has the address that was to be probed.
    Probed(bool),
    /// A station has the address of the lease.
    Conflict,
    /// The address is not needed any more.
    Stop,
}

/// A message to servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// DHCPDISCOVER or SOLICIT, with a preference.
    Discover(Option<IpAddr>),
    /// DHCPREQUEST or REQUEST for an offer of this server.
    Select(IpAddr, Server),
    /// DHCPREQUEST or REBIND for an address that we have: from before, or for more time.
    Confirm(IpAddr),
    /// DHCPDECLINE or DECLINE of an address that a station has.
    Decline(IpAddr, Server),
    /// DHCPRELEASE or RELEASE.
    Release(IpAddr, Server),
}

/// What has to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this as the transaction with this number, begun so long ago.
    Send(u32, Duration, Message),
    /// Find out whether a station has this address.
    Probe(IpAddr),
    /// The lease is this now: new, or with more time.
    Bound(Lease),
    /// There is no lease any more.
    Lost(Loss),
    /// Something to tell that changes nothing.
    Told(Trouble),
}

/// Why a lease is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// A server said so.
    Refused(Server, String),
    /// Its time is over.
    Expired,
    /// A station has the address.
    Taken(IpAddr),
    /// It was given back.
    Released,
}

/// What is in the way of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody answered so many messages.
    Silence(u32),
    /// A server refused a request.
    Refused(Server, String),
    /// A station has the address that was offered.
    Taken(IpAddr),
}

/// A server's refusal, in words.
fn refusal(f: &mut fmt::Formatter<'_>, server: &Server, why: &str) -> fmt::Result {
    match why {
        "" => write!(f, "the DHCP server {server} refuses"),
        why => write!(f, "the DHCP server {server} refuses: {why}"),
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence(tries) => write!(f, "no DHCP server answers after {tries} tries"),
            Self::Refused(server, why) => refusal(f, server, why),
            Self::Taken(address) => {
                write!(f, "a station on the interface has {address}, which a DHCP server offered")
            }
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(server, why) => refusal(f, server, why),
            Self::Expired => f.write_str("the lease is over, and no DHCP server gave it more time"),
            Self::Taken(address) => write!(f, "a station on the interface has {address}, too"),
            Self::Released => f.write_str("it was given back"),
        }
    }
}

/// How far a client is, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Another host has the lease.
    Standby,
    /// No server has offered anything yet.
    Asking,
    /// An offer was taken; the server has not confirmed it yet.
    Offered,
    /// A lease from before was asked for.
    Confirming,
    /// Whether a station has the address is being found out.
    Probing,
    /// All is well.
    Bound,
    /// More time was asked for.
    Renewing,
    /// More time was asked for again, because the server does not answer.
    Rebinding,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Standby,
        Self::Asking,
        Self::Offered,
        Self::Confirming,
        Self::Probing,
        Self::Bound,
        Self::Renewing,
        Self::Rebinding,
    ];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standby => "standby",
            Self::Asking => "asking",
            Self::Offered => "offered",
            Self::Confirming => "confirming",
            Self::Probing => "probing",
            Self::Bound => "bound",
            Self::Renewing => "renewing",
            Self::Rebinding => "rebinding",
        })
    }
}
