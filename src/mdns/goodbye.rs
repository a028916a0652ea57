//! Withdraws addresses (RFC 6762 §10.1) from caches that `mdns-sd` does not reach.
//!
//! It answers a question for IPv4 addresses over IPv6 as well, and the reverse, but withdraws each family only over its own. Avahi,
//! for one, has a cache for each of the two.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use crate::host::HostState;
use crate::model::IfIndex;
use crate::net::udp;

const PORT: u16 = 5353;
const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb);

/// An authoritative response (RFC 6762 §18.2 and §18.4).
const RESPONSE: u16 = 0x8400;
/// Offset of the first record's name, as a pointer (RFC 1035 §4.1.4).
const SAME_NAME: [u8; 2] = [0xc0, 12];

/// The interface that goodbyes are sent on.
#[derive(Debug, Clone)]
pub(super) struct GoodbyeInterface {
    index: IfIndex,
    /// Addresses that kube-vip did not add: goodbyes are sent from these.
    pub(super) own: BTreeSet<IpAddr>,
}

impl GoodbyeInterface {
    /// None if this host has no such interface.
    pub(super) fn find(host: &HostState, name: &str) -> Option<Self> {
        let index = host.interface(name)?.index;
        Some(Self { index, own: host.own_addresses(index).collect() })
    }
}

/// Sends the IPv4 addresses over IPv6, and the IPv6 addresses over IPv4.
///
/// # Errors
/// The first of the two, if a packet cannot be sent.
pub(super) fn send(interface: &GoodbyeInterface, host: &str, addresses: &[IpAddr]) -> io::Result<()> {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv4());
    // Without an address of a family it cannot send over it.
    let has_v6 = interface.own.iter().any(IpAddr::is_ipv6);
    let own_v4 = interface.own.iter().find_map(|own| match own {
        IpAddr::V4(own) => Some(*own),
        IpAddr::V6(_) => None,
    });
    let to_v6 = SocketAddrV6::new(GROUP_V6, PORT, 0, interface.index.0).into();
    let over_v6 = match packet(host, &v4) {
        Some(packet) if has_v6 => udp::multicast(&packet, to_v6, None),
        _ => Ok(()),
    };
    let over_v4 = match (packet(host, &v6), own_v4) {
        (Some(packet), Some(from)) => {
            udp::multicast(&packet, SocketAddr::new(GROUP_V4.into(), PORT), Some(from))
        }
        _ => Ok(()),
    };
    over_v6.and(over_v4)
}

/// A response with these addresses, each with a time to live of zero. None without addresses.
///
/// The cache-flush bit is not set: were another host's probe for this name still to fail, its addresses would go, too.
fn packet(host: &str, addresses: &[IpAddr]) -> Option<Vec<u8>> {
    let count = u16::try_from(addresses.len()).ok().filter(|count| *count > 0)?;
    let label = u8::try_from(host.len()).ok()?;
    let mut packet = Vec::new();
    for field in [0, RESPONSE, 0, count, 0, 0] {
        packet.extend(field.to_be_bytes());
    }
    for (number, address) in addresses.iter().enumerate() {
        if number == 0 {
            packet.push(label);
            packet.extend(host.as_bytes());
            packet.extend(b"\x05local\0");
        } else {
            packet.extend(SAME_NAME);
        }
        let (kind, data) = match address {
            IpAddr::V4(address) => (1_u16, address.octets().to_vec()),
            IpAddr::V6(address) => (28, address.octets().to_vec()),
        };
        packet.extend(kind.to_be_bytes());
        // Class IN, a time to live of zero, and the length of the address.
        packet.extend([0, 1, 0, 0, 0, 0, 0]);
        packet.push(if address.is_ipv4() { 4 } else { 16 });
        packet.extend(data);
    }
    Some(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_as_bytes() {
        let v4 = |last| IpAddr::from([192, 0, 2, last]);
        let v6 = IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1]);
        let name = b"\x03web\x05local\0";
        let cases: [(&[IpAddr], Option<Vec<u8>>); 3] = [
            (&[], None),
            (
                &[v4(1), v4(2)],
                Some(
                    [
                        &b"\0\0\x84\0\0\0\0\x02\0\0\0\0"[..],
                        name,
                        b"\0\x01\0\x01\0\0\0\0\0\x04\xc0\0\x02\x01",
                        b"\xc0\x0c\0\x01\0\x01\0\0\0\0\0\x04\xc0\0\x02\x02",
                    ]
                    .concat(),
                ),
            ),
            (
                &[v6],
                Some(
                    [
                        &b"\0\0\x84\0\0\0\0\x01\0\0\0\0"[..],
                        name,
                        b"\0\x1c\0\x01\0\0\0\0\0\x10\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01",
                    ]
                    .concat(),
                ),
            ),
        ];
        for (addresses, expected) in cases {
            assert_eq!(packet("web", addresses), expected, "{addresses:?}");
        }
    }
}
