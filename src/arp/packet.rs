//! ARP packets for IPv4 (RFC 826), over Ethernet or InfiniBand (RFC 4391 §4).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! |        hardware type          |      protocol type 0x0800     |
//! |  hw length n  | proto len 4   |     operation 1 req, 2 reply  |
//! |  sender hardware (n), sender IPv4, target hardware (n), target IPv4
//! ```

use std::net::Ipv4Addr;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Request,
    Reply,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// 1 for Ethernet, 32 for InfiniBand.
    pub hardware_type: u16,
    pub operation: Operation,
    pub sender_hardware: Vec<u8>,
    /// Unspecified in a probe (RFC 5227 §1.1).
    pub sender: Ipv4Addr,
    /// Without meaning in a request.
    pub target_hardware: Vec<u8>,
    pub target: Ipv4Addr,
}

/// Why bytes are not an ARP packet for IPv4. Such packets are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("the ARP packet is truncated")]
    Short,
    #[error("the ARP packet is not for IPv4")]
    Protocol,
    #[error("the ARP packet has the unknown operation {0}")]
    Operation(u16),
}

impl Packet {
    /// Gratuitous ARP for a VIP as request and as reply: some hosts update their cache from one form only (RFC 5944 §4.6).
    pub fn announcements(hardware_type: u16, hardware: &[u8], broadcast: &[u8], vip: Ipv4Addr) -> [Self; 2] {
        let form = |operation, target_hardware: &[u8]| Self {
            hardware_type,
            operation,
            sender_hardware: hardware.to_vec(),
            sender: vip,
            target_hardware: target_hardware.to_vec(),
            target: vip,
        };
        [form(Operation::Request, broadcast), form(Operation::Reply, hardware)]
    }

    /// An ARP probe (RFC 5227 §2.1.1).
    pub fn probe(hardware_type: u16, hardware: &[u8], vip: Ipv4Addr) -> Self {
        Self {
            hardware_type,
            operation: Operation::Request,
            sender_hardware: hardware.to_vec(),
            sender: Ipv4Addr::UNSPECIFIED,
            target_hardware: vec![0; hardware.len()],
            target: vip,
        }
    }

    pub fn is_probe(&self) -> bool {
        self.operation == Operation::Request && self.sender.is_unspecified()
    }

    /// Without the link-layer header.
    pub fn to_bytes(&self) -> Vec<u8> {
        let operation: u16 = match self.operation {
            Operation::Request => 1,
            Operation::Reply => 2,
        };
        let length = u8::try_from(self.sender_hardware.len()).unwrap_or(u8::MAX);
        [
            &self.hardware_type.to_be_bytes()[..],
            &[0x08, 0x00, length, 4],
            &operation.to_be_bytes(),
            &self.sender_hardware,
            &self.sender.octets(),
            &self.target_hardware,
            &self.target.octets(),
        ]
        .concat()
    }

    /// Without the link-layer header. Padding after the packet is ignored.
    ///
    /// # Errors
    /// If the bytes are not an ARP packet for IPv4.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let (head, rest) = bytes.split_first_chunk::<8>().ok_or(Malformed::Short)?;
        let [type_high, type_low, 0x08, 0x00, hardware_length, 4, op_high, op_low] = *head else {
            return Err(Malformed::Protocol);
        };
        let operation = match u16::from_be_bytes([op_high, op_low]) {
            1 => Operation::Request,
            2 => Operation::Reply,
            other => return Err(Malformed::Operation(other)),
        };
        let hardware_length = usize::from(hardware_length);
        let (sender_hardware, rest) = rest.split_at_checked(hardware_length).ok_or(Malformed::Short)?;
        let (sender, rest) = rest.split_first_chunk::<4>().ok_or(Malformed::Short)?;
        let (target_hardware, rest) = rest.split_at_checked(hardware_length).ok_or(Malformed::Short)?;
        let (target, _padding) = rest.split_first_chunk::<4>().ok_or(Malformed::Short)?;
        Ok(Self {
            hardware_type: u16::from_be_bytes([type_high, type_low]),
            operation,
            sender_hardware: sender_hardware.to_vec(),
            sender: Ipv4Addr::from(*sender),
            target_hardware: target_hardware.to_vec(),
            target: Ipv4Addr::from(*target),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::hex;

    const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];
    const BROADCAST: [u8; 6] = [0xff; 6];
    const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

    fn table() -> Vec<(Vec<u8>, Packet)> {
        let [request, reply] = Packet::announcements(1, &MAC, &BROADCAST, VIP);
        let infiniband = Packet::probe(32, &[7; 20], VIP);
        let ib = "07".repeat(20);
        vec![
            (hex("0001 0800 06 04 0001 02000000000a c0000201 ffffffffffff c0000201"), request),
            (hex("0001 0800 06 04 0002 02000000000a c0000201 02000000000a c0000201"), reply),
            (
                hex("0001 0800 06 04 0001 02000000000a 00000000 000000000000 c0000201"),
                Packet::probe(1, &MAC, VIP),
            ),
            (hex(&format!("0020 0800 14 04 0001 {ib} 00000000 {} c0000201", "00".repeat(20))), infiniband),
        ]
    }

    #[test]
    fn each_packet_encodes_and_decodes_to_its_bytes() {
        for (bytes, packet) in table() {
            assert_eq!(packet.to_bytes(), bytes);
            assert_eq!(Packet::from_bytes(&bytes), Ok(packet.clone()));
            let padded = [bytes.as_slice(), &[0; 18]].concat();
            assert_eq!(Packet::from_bytes(&padded), Ok(packet));
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
    fn other_protocols_and_operations_are_rejected() {
        let mut bytes = table()[0].0.clone();
        bytes[7] = 9;
        assert_eq!(Packet::from_bytes(&bytes), Err(Malformed::Operation(9)));
        bytes[5] = 16;
        assert_eq!(Packet::from_bytes(&bytes), Err(Malformed::Protocol));
    }
}
