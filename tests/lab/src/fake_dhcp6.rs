//! A scripted DHCPv6 server (RFC 8415): a test defines its answers, and it records requests.

use std::net::{Ipv6Addr, UdpSocket};

use crate::fake_dhcp::Scripted;
use crate::lab::Lab;
use crate::{Result, io};

/// The machine that the server is.
const NUMBER: u8 = 249;
/// The server's own identifier (§11.4): a link-layer address.
const DUID: [u8; 10] = [0, 3, 0, 1, 2, 0x42, 0, 0, 0, 0x61];

/// Message types (§7.3).
pub mod kind {
    /// SOLICIT.
    pub const SOLICIT: u8 = 1;
    /// I could give this.
    pub const ADVERTISE: u8 = 2;
    /// This one.
    pub const REQUEST: u8 = 3;
    /// More time, of any server.
    pub const REBIND: u8 = 6;
    /// So be it.
    pub const REPLY: u8 = 7;
}

/// What a client sent.
#[derive(Debug, Clone)]
pub struct Request {
    bytes: Vec<u8>,
}

impl From<Vec<u8>> for Request {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }
}

impl Request {
    /// Its message type.
    pub fn kind(&self) -> u8 {
        self.bytes.first().copied().unwrap_or(0)
    }

    /// The bytes of one of its options, without code and length.
    fn option(&self, code: u8) -> Vec<u8> {
        let mut rest = self.bytes.get(4..).unwrap_or_default();
        while let [0, found, high, low, more @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if *found == code {
                return more.get(..length).unwrap_or_default().to_vec();
            }
            rest = more.get(length..).unwrap_or_default();
        }
        Vec::new()
    }

    /// An answer to it: an address for so many seconds.
    pub fn answer(&self, kind: u8, address: Ipv6Addr, seconds: u32) -> Vec<u8> {
        let given = [&address.octets()[..], &seconds.to_be_bytes(), &seconds.to_be_bytes()].concat();
        self.with(kind, &option(5, &given))
    }

    /// An answer without an address: a code (§21.13) for the association.
    pub fn refusal(&self, kind: u8, code: u8) -> Vec<u8> {
        self.with(kind, &option(13, &[0, code]))
    }

    fn with(&self, kind: u8, inside: &[u8]) -> Vec<u8> {
        let client = self.option(1);
        let association = self.option(3).get(..4).unwrap_or_default().to_vec();
        // T1 and T2 are the client's to choose.
        let association = [&association[..], &[0; 8], inside].concat();
        let transaction = self.bytes.get(1..4).unwrap_or_default();
        [&[kind], transaction, &option(1, &client), &option(2, &DUID), &option(3, &association)].concat()
    }
}

fn option(code: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(0).to_be_bytes();
    [&[0, code], &length[..], bytes].concat()
}

/// A server that gives one address for so many seconds.
pub fn honest(address: Ipv6Addr, seconds: u32) -> impl Fn(usize, &Request) -> Vec<Vec<u8>> + Send + Sync {
    move |_, request| match request.kind() {
        kind::SOLICIT => vec![request.answer(kind::ADVERTISE, address, seconds)],
        kind::REQUEST | kind::REBIND => vec![request.answer(kind::REPLY, address, seconds)],
        _ => vec![request.refusal(kind::REPLY, 0)],
    }
}

/// A server for IPv6.
pub type FakeDhcp6Server = Scripted<Request>;

impl FakeDhcp6Server {
    /// A server that answers the n-th request as `script` does.
    pub fn start(
        lab: &Lab,
        script: impl Fn(usize, &Request) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Result<Self> {
        let namespace = lab.machine("hostile6", NUMBER)?;
        let open = || {
            let socket = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 547))?;
            let link = nix::net::if_::if_nametoindex("eth0")?;
            socket.join_multicast_v6(&Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2), link)?;
            std::io::Result::Ok(socket)
        };
        let socket = namespace.within(open)?.map_err(io("port 547"))?;
        Self::over(namespace, socket, None, script)
    }
}
