//! Neighbor Solicitation and Advertisement (RFC 4861 §4.3, §4.4), with the IPv6 header around them.
//!
//! ```text
//! |     Type      |     Code      |          Checksum             |
//! |R|S|O|                     Reserved                            |      (advertisement; all reserved in a solicitation)
//! |                       Target Address (16)                     |
//! |  option type  |  length / 8   |  link-layer address …         |      1 source, 2 target
//! ```

use std::net::Ipv6Addr;

use crate::model::checksum::checksum as internet_checksum;

const HEADER: usize = 40;
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const OVERRIDE: u8 = 0x20;

/// All nodes on the link.
pub const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    Advertisement {
        source: Ipv6Addr,
        target: Ipv6Addr,
        /// Target link-layer address option; empty if absent.
        hardware: Vec<u8>,
    },
    /// With an unspecified source it is a duplicate address detection probe (RFC 4862 §5.4).
    Solicitation { source: Ipv6Addr, target: Ipv6Addr },
}

/// Why a packet is ignored (RFC 4861 §7.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the neighbour discovery packet is truncated")]
    Short,
    #[error("the packet has another protocol or ICMPv6 type")]
    Other,
    /// A hop limit below 255: a router has forwarded it.
    #[error("the neighbour discovery packet is not from this link")]
    OffLink,
    #[error("the neighbour discovery packet has a wrong checksum")]
    Checksum,
    /// An option of length zero, or a multicast target.
    #[error("the neighbour discovery packet is invalid (RFC 4861, section 7.1)")]
    Invalid,
}

/// The solicited-node multicast group of an address (RFC 4291 §2.7.1).
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let [.., high, low] = target.segments();
    Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | (high & 0xff), low)
}

/// The Ethernet address of an IPv6 multicast group (RFC 2464 §7).
pub fn multicast_hardware(group: Ipv6Addr) -> [u8; 6] {
    let [.., a, b, c, d] = group.octets();
    [0x33, 0x33, a, b, c, d]
}

/// An unsolicited advertisement to all nodes, Override set (RFC 4861 §7.2.6), with its IPv6 header.
pub fn unsolicited_advertisement(source: Ipv6Addr, target: Ipv6Addr, hardware: &[u8; 6]) -> Vec<u8> {
    let head = [ADVERTISEMENT, 0, 0, 0, OVERRIDE, 0, 0, 0];
    datagram(source, ALL_NODES, [&head[..], &target.octets(), &[2, 1], hardware].concat())
}

/// A duplicate address detection probe (RFC 4862 §5.4.2), with its IPv6 header.
pub fn probe(target: Ipv6Addr) -> Vec<u8> {
    let head = [SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    let body = [&head[..], &target.octets()].concat();
    datagram(Ipv6Addr::UNSPECIFIED, solicited_node(target), body)
}

/// Adds the checksum and an IPv6 header to an ICMPv6 message, whose checksum field is zero.
pub(super) fn datagram(source: Ipv6Addr, destination: Ipv6Addr, mut body: Vec<u8>) -> Vec<u8> {
    let sum = checksum(source, destination, &body).to_be_bytes();
    if let Some(field) = body.get_mut(2..4) {
        field.copy_from_slice(&sum);
    }
    let [high, low] = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
    let header = [0x60, 0, 0, 0, high, low, ICMPV6, 255];
    [&header[..], &source.octets(), &destination.octets(), &body].concat()
}

/// The checksum over pseudo-header and body (RFC 8200 §8.1), the body's checksum field included.
fn checksum(source: Ipv6Addr, destination: Ipv6Addr, body: &[u8]) -> u16 {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    let pseudo = [&source.octets()[..], &destination.octets(), &length, &[0, 0, 0, ICMPV6]].concat();
    internet_checksum(&[&pseudo, body])
}

impl Packet {
    pub fn is_probe(&self) -> bool {
        matches!(self, Self::Solicitation { source, .. } if source.is_unspecified())
    }

    /// Decodes an IPv6 packet without link-layer header.
    ///
    /// # Errors
    /// If it is not a valid solicitation or advertisement from this link.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let (source, body) = read_datagram(bytes, &[SOLICITATION, ADVERTISEMENT])?;
        let kind = body.first().copied().unwrap_or_default();
        let target = body.get(8..).and_then(|rest| rest.first_chunk::<16>());
        let target = Ipv6Addr::from(*target.ok_or(Malformed::Short)?);
        if target.is_multicast() {
            return Err(Malformed::Invalid);
        }
        let hardware = link_layer_option(body.get(24..).unwrap_or_default(), 2)?;
        Ok(match kind {
            ADVERTISEMENT => Self::Advertisement { source, target, hardware },
            _ => Self::Solicitation { source, target },
        })
    }
}

/// Source and ICMPv6 message of a packet of one of these types, with code 0, from this link.
pub(super) fn read_datagram<'a>(bytes: &'a [u8], kinds: &[u8]) -> Result<(Ipv6Addr, &'a [u8]), Malformed> {
    let (header, rest) = bytes.split_first_chunk::<HEADER>().ok_or(Malformed::Short)?;
    let [version, _, _, _, length_high, length_low, next, hops, addresses @ ..] = *header;
    if version >> 4 != 6 || next != ICMPV6 {
        return Err(Malformed::Other);
    }
    let length = u16::from_be_bytes([length_high, length_low]);
    let body = rest.get(..length.into()).ok_or(Malformed::Short)?;
    match body {
        [kind, 0, ..] if kinds.contains(kind) => {}
        [] => return Err(Malformed::Short),
        _ => return Err(Malformed::Other),
    }
    if hops != 255 {
        return Err(Malformed::OffLink);
    }
    let (source, destination) = addresses.split_first_chunk::<16>().ok_or(Malformed::Short)?;
    let destination = destination.first_chunk::<16>().ok_or(Malformed::Short)?;
    let (source, destination) = (Ipv6Addr::from(*source), Ipv6Addr::from(*destination));
    if checksum(source, destination, body) != 0 {
        return Err(Malformed::Checksum);
    }
    Ok((source, body))
}

/// The link-layer address in the first option of this type; empty if there is none.
pub(super) fn link_layer_option(mut options: &[u8], wanted: u8) -> Result<Vec<u8>, Malformed> {
    while let [number, units, ..] = options {
        if *units == 0 {
            return Err(Malformed::Invalid);
        }
        let (option, rest) = options.split_at_checked(usize::from(*units) * 8).ok_or(Malformed::Short)?;
        if *number == wanted {
            return Ok(option.get(2..).unwrap_or_default().to_vec());
        }
        options = rest;
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];

    fn source() -> Ipv6Addr {
        "fe80::a".parse().unwrap()
    }

    fn vip() -> Ipv6Addr {
        "2001:db8::1:2:3".parse().unwrap()
    }

    fn table() -> Vec<(Vec<u8>, Packet)> {
        let hardware = MAC.to_vec();
        vec![
            (
                unsolicited_advertisement(source(), vip(), &MAC),
                Packet::Advertisement { source: source(), target: vip(), hardware },
            ),
            (probe(vip()), Packet::Solicitation { source: Ipv6Addr::UNSPECIFIED, target: vip() }),
        ]
    }

    #[test]
    fn the_bytes_of_an_advertisement() {
        let bytes = unsolicited_advertisement(source(), vip(), &MAC);
        let expected = [
            "6000000000203aff", // version 6, 32 bytes of ICMPv6, hop limit 255
            "fe80000000000000000000000000000a",
            "ff020000000000000000000000000001",
            "8800284c20000000", // advertisement, checksum, Override alone
            "20010db8000000000000000100020003",
            "020102000000000a", // target link-layer address
        ];
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(text, expected.concat());
    }

    #[test]
    fn encoded_packets_decode_to_their_values() {
        for (bytes, packet) in table() {
            assert_eq!(Packet::from_bytes(&bytes), Ok(packet));
        }
    }

    #[test]
    fn truncated_packets_are_rejected() {
        for (bytes, _) in table() {
            for length in 0..bytes.len() {
                assert_eq!(Packet::from_bytes(&bytes[..length]), Err(Malformed::Short), "{length}");
            }
        }
    }

    #[test]
    fn forwarded_and_corrupted_packets_are_rejected() {
        for (bytes, _) in table() {
            let changed = |index: usize, value: u8| {
                let mut bytes = bytes.clone();
                bytes[index] = value;
                Packet::from_bytes(&bytes)
            };
            assert_eq!(changed(7, 254), Err(Malformed::OffLink));
            assert_eq!(changed(43, 0x55), Err(Malformed::Checksum));
            assert_eq!(changed(6, 17), Err(Malformed::Other));
            assert_eq!(changed(40, 128), Err(Malformed::Other));
        }
    }

    #[test]
    fn solicited_node_groups_and_their_hardware_addresses() {
        let group = solicited_node("2001:db8::aa12:3456".parse().unwrap());
        assert_eq!(group, "ff02::1:ff12:3456".parse::<Ipv6Addr>().unwrap());
        assert_eq!(multicast_hardware(group), [0x33, 0x33, 0xff, 0x12, 0x34, 0x56]);
    }
}
