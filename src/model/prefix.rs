//! Network prefixes.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use super::Family;
use super::family::number;

/// A network prefix. The bits of the address beyond its length are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    pub address: IpAddr,
    pub length: u8,
}

/// A text that is not a network prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a network, such as 192.0.2.0/24 or 2001:db8::/64")]
pub struct NoPrefix(String);

impl Prefix {
    /// The prefix of this length that contains the address. A length beyond the family's bits is cut to them.
    pub fn new(address: IpAddr, length: u8) -> Self {
        let bits = Family::of(address).bits();
        let length = length.min(bits);
        let mask = u128::MAX.checked_shl(u32::from(bits - length)).unwrap_or(0);
        Self { address: Family::of(address).address(number(address) & mask), length }
    }

    /// The host route: /32 or /128.
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: Family::of(address).bits() }
    }

    pub fn family(&self) -> Family {
        Family::of(self.address)
    }

    /// The directed broadcast address; none for IPv6, and for /31 and /32.
    pub fn broadcast(&self) -> Option<IpAddr> {
        let host_bits = 32_u8.checked_sub(self.length).filter(|bits| self.address.is_ipv4() && *bits > 1)?;
        Some(Family::V4.address(number(self.address) | ((1 << host_bits) - 1)))
    }

    pub fn contains(&self, address: IpAddr) -> bool {
        self.family() == Family::of(address) && Self::new(address, self.length) == *self
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// `address/length`; an address alone is a host route.
impl FromStr for Prefix {
    type Err = NoPrefix;

    fn from_str(text: &str) -> Result<Self, NoPrefix> {
        let wrong = || NoPrefix(text.to_owned());
        let (address, length) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        let address: IpAddr = address.trim().parse().map_err(|_| wrong())?;
        let Some(length) = length else { return Ok(Self::host(address)) };
        let length: u8 = length.trim().parse().map_err(|_| wrong())?;
        if length > Family::of(address).bits() {
            return Err(wrong());
        }
        Ok(Self::new(address, length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_parsed_and_printed() {
        for (text, expected) in [
            ("192.0.2.77/24", Some("192.0.2.0/24")),
            ("192.0.2.77", Some("192.0.2.77/32")),
            ("0.0.0.0/0", Some("0.0.0.0/0")),
            ("2001:db8::ff/64", Some("2001:db8::/64")),
            ("::/0", Some("::/0")),
            ("2001:db8::1", Some("2001:db8::1/128")),
            ("192.0.2.0/33", None),
            ("192.0.2.0/", None),
            ("vip/24", None),
        ] {
            let read = text.parse::<Prefix>().ok().map(|prefix| prefix.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_subnet_of_ipv4_has_a_broadcast_address() {
        for (prefix, expected) in [
            ("192.0.2.0/24", Some("192.0.2.255")),
            ("192.0.2.4/30", Some("192.0.2.7")),
            ("0.0.0.0/0", Some("255.255.255.255")),
            ("192.0.2.4/31", None),
            ("2001:db8::/30", None),
        ] {
            let broadcast = prefix.parse::<Prefix>().unwrap().broadcast();
            assert_eq!(broadcast.map(|address| address.to_string()).as_deref(), expected, "{prefix}");
        }
    }

    #[test]
    fn a_prefix_contains_addresses_of_its_family_only() {
        let all: Prefix = "::/0".parse().unwrap();
        assert!(all.contains("2001:db8::1".parse().unwrap()) && !all.contains("192.0.2.1".parse().unwrap()));
        let some: Prefix = "192.0.2.128/25".parse().unwrap();
        assert!(
            some.contains("192.0.2.200".parse().unwrap()) && !some.contains("192.0.2.1".parse().unwrap())
        );
    }
}
