//! A virtual IP address with the prefix it is configured with.

use std::fmt;
use std::net::IpAddr;

/// A virtual IP address and the prefix length it gets on the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip {
    /// The address itself.
    pub address: IpAddr,
    /// Prefix length in bits: 32 or 128 unless `vip_subnet` says otherwise.
    pub prefix: u8,
}

impl Vip {
    /// The address as a host route: /32 or /128.
    pub fn host(address: IpAddr) -> Self {
        Self { address, prefix: host_prefix(address) }
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The prefix length that covers exactly one address of this family.
pub fn host_prefix(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 32,
        IpAddr::V6(_) => 128,
    }
}
