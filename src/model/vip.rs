//! Virtual IP addresses.

use std::fmt;
use std::net::IpAddr;

use super::{Family, Prefix};

/// A virtual IP address and the prefix length it gets on the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip {
    pub address: IpAddr,
    /// Prefix length in bits: 32 or 128 unless `vip_subnet` sets another.
    pub prefix: u8,
}

impl Vip {
    /// The address as a host route: /32 or /128.
    pub fn host(address: IpAddr) -> Self {
        Self { address, prefix: Family::of(address).bits() }
    }

    /// Whether `address` is in the subnet of this prefix length. A host route has no subnet.
    pub fn covers(&self, address: IpAddr) -> bool {
        self.prefix < Family::of(self.address).bits()
            && Prefix::new(self.address, self.prefix).contains(address)
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_covers_its_own_family_only() {
        let table = [
            (("192.0.2.1", 24), "192.0.2.255", true),
            (("192.0.2.1", 24), "192.0.3.0", false),
            (("192.0.2.1", 32), "192.0.2.1", false),
            (("192.0.2.1", 0), "8.8.8.8", true),
            (("fd00::1", 64), "fd00::ffff", true),
            (("fd00::1", 64), "192.0.2.1", false),
            (("::1", 0), "fd00::1", true),
        ];
        for ((address, prefix), other, expected) in table {
            let vip = Vip { address: address.parse().unwrap(), prefix };
            assert_eq!(vip.covers(other.parse().unwrap()), expected, "{vip} {other}");
        }
    }
}
