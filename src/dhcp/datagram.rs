//! UDP datagrams with their IP headers, for packet sockets.
//!
//! UDP sockets cannot be used: port 68 may be bound already, binding it needs a capability that the manifests do not grant, and
//! the source address is not assigned yet.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::model::checksum::checksum;

/// The EtherType of IPv4.
const IPV4: u16 = 0x0800;
const UDP: u8 = 17;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const UDP_HEADER: usize = 8;
/// Longer payloads are ignored: DHCP messages fit the minimum MTU of IPv6.
const MAX_PAYLOAD: usize = 1200;

/// A datagram from a client to servers (RFC 2131 §4.1).
pub fn to_v4(source: Ipv4Addr, destination: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let addresses = [source.octets(), destination.octets()].concat();
    let udp = udp((68, 67), &addresses, payload);
    let total = u16::try_from(V4_HEADER + udp.len()).unwrap_or(u16::MAX).to_be_bytes();
    let start = [0x45, 0, total[0], total[1], 0, 0, 0x40, 0, 64, UDP];
    let sum = checksum(&[&start, &addresses]).to_be_bytes();
    [&start[..], &sum, &addresses, &udp].concat()
}

/// A datagram from a client to All_DHCP_Relay_Agents_and_Servers (RFC 8415 §7.1).
pub fn to_v6(source: Ipv6Addr, payload: &[u8]) -> Vec<u8> {
    let addresses = [source.octets(), SERVERS.octets()].concat();
    let udp = udp((546, 547), &addresses, payload);
    let length = u16::try_from(udp.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&[0x60, 0, 0, 0, length[0], length[1], UDP, 1], &addresses[..], &udp].concat()
}

const SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);
/// Its Ethernet address (RFC 2464 §7).
pub const SERVERS_ON_ETHERNET: [u8; 6] = [0x33, 0x33, 0, 1, 0, 2];

/// An Ethernet frame with an IPv4 packet to all hosts.
pub fn to_frame(source: [u8; 6], packet: &[u8]) -> Vec<u8> {
    [&[0xff; 6], &source[..], &IPV4.to_be_bytes(), packet].concat()
}

/// `addresses` are source and destination.
fn udp(ports: (u16, u16), addresses: &[u8], payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(UDP_HEADER + payload.len()).unwrap_or(u16::MAX).to_be_bytes();
    let header = [ports.0.to_be_bytes(), ports.1.to_be_bytes(), length].concat();
    let pseudo = [addresses, &[0, UDP], &length].concat();
    // A checksum of zero means none (RFC 768).
    let sum = match checksum(&[&pseudo, &header, &[0, 0], payload]) {
        0 => u16::MAX,
        sum => sum,
    };
    [&header[..], &sum.to_be_bytes(), payload].concat()
}

/// The payload of an IP packet; none if it is no complete UDP datagram. The UDP checksum is ignored: with checksum offload
/// between virtual interfaces it is never computed.
pub fn payload(packet: &[u8]) -> Option<&[u8]> {
    let datagram = match packet.first()? >> 4 {
        4 => {
            let header = usize::from(packet.first()? & 0xf) * 4;
            let total = usize::from(u16::from_be_bytes([*packet.get(2)?, *packet.get(3)?]));
            // More fragments follow, or an offset.
            let fragment = u16::from_be_bytes([*packet.get(6)?, *packet.get(7)?]) & 0x3fff != 0;
            if header < V4_HEADER || *packet.get(9)? != UDP || fragment {
                return None;
            }
            packet.get(header..total)?
        }
        6 => {
            let length = usize::from(u16::from_be_bytes([*packet.get(4)?, *packet.get(5)?]));
            if *packet.get(6)? != UDP {
                return None;
            }
            packet.get(V6_HEADER..V6_HEADER + length)?
        }
        _ => return None,
    };
    let length = usize::from(u16::from_be_bytes([*datagram.get(4)?, *datagram.get(5)?]));
    datagram.get(UDP_HEADER..length).filter(|payload| payload.len() <= MAX_PAYLOAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_are_parsed_back() {
        let v4 = to_v4(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, b"hello");
        assert_eq!(v4.len(), 33);
        // Verified with tcpdump: version 4, 33 bytes, do not fragment, 64 hops, UDP.
        assert_eq!(v4[..20], *b"\x45\0\0\x21\0\0\x40\0\x40\x11\x3a\xcd\0\0\0\0\xff\xff\xff\xff");
        assert_eq!(payload(&v4), Some(&b"hello"[..]));
        assert_eq!(checksum(&[&v4[..20]]), 0);
        let v6 = to_v6("fe80::1".parse().unwrap(), b"hello");
        assert_eq!(payload(&v6), Some(&b"hello"[..]));
    }

    #[test]
    fn a_frame_is_sent_from_the_client_to_all() {
        let frame = to_frame([2, 0, 0, 0, 0, 1], b"packet");
        assert_eq!(frame, b"\xff\xff\xff\xff\xff\xff\x02\0\0\0\0\x01\x08\0packet");
    }

    #[test]
    fn incomplete_datagrams_are_rejected() {
        let whole = to_v4(Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, b"hello");
        let broken = |index: usize, value: u8| {
            let mut bytes = whole.clone();
            bytes[index] = value;
            payload(&bytes).map(<[u8]>::to_vec)
        };
        assert_eq!(broken(0, 0x44), None, "header length below 20");
        assert_eq!(broken(0, 0x75), None, "another version");
        assert_eq!(broken(3, 200), None, "total length above the real one");
        assert_eq!(broken(6, 0x20), None, "a fragment");
        assert_eq!(broken(9, 6), None, "TCP");
        assert_eq!(broken(25, 4), None, "UDP length below 8");
        for length in 0..whole.len() {
            assert_eq!(payload(&whole[..length]), None);
        }
        let six = to_v6("fe80::1".parse().unwrap(), b"hello");
        for length in 0..six.len() {
            assert_eq!(payload(&six[..length]), None);
        }
    }
}
