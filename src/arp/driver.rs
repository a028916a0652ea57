//! Sends and receives ARP on one interface.

use std::net::Ipv4Addr;

use super::packet::Packet;
use crate::model::Interface;
use crate::net::packet_socket::{Filter, PacketSocket};

#[derive(Debug)]
pub struct Driver {
    socket: PacketSocket,
    interface: Interface,
}

impl Driver {
    /// Needs NET_RAW.
    pub fn open(interface: &Interface) -> std::io::Result<Self> {
        Ok(Self { socket: PacketSocket::open(interface.index, Filter::Arp)?, interface: interface.clone() })
    }

    /// Sends both forms of gratuitous ARP for `vip`.
    ///
    /// # Errors
    /// `ENETDOWN` while the interface is down.
    pub fn announce(&self, vip: Ipv4Addr) -> std::io::Result<()> {
        self.announce_to(vip, &self.interface.broadcast)
    }

    /// The same by unicast: no other host's table changes.
    pub fn announce_to(&self, vip: Ipv4Addr, to: &[u8]) -> std::io::Result<()> {
        let Interface { hardware_type, hardware_address, .. } = &self.interface;
        let forms = Packet::announcements(*hardware_type, hardware_address, to, vip);
        forms.iter().try_for_each(|form| self.socket.send(&form.to_bytes(), to))
    }

    /// Sends an ARP probe for `vip`.
    pub fn probe(&self, vip: Ipv4Addr) -> std::io::Result<()> {
        let packet = Packet::probe(self.interface.hardware_type, &self.interface.hardware_address, vip);
        self.socket.send(&packet.to_bytes(), &self.interface.broadcast)
    }

    /// The next ARP packet of another host. Malformed packets are skipped.
    pub async fn receive(&self) -> std::io::Result<Packet> {
        let mut buffer = [0; 128];
        loop {
            let bytes = self.socket.receive(&mut buffer).await?;
            match Packet::from_bytes(bytes) {
                Ok(packet) if packet.sender_hardware != self.interface.hardware_address => return Ok(packet),
                Ok(_) | Err(_) => {}
            }
        }
    }
}
