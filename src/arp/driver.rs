//! Sends and receives ARP on one interface.

use std::net::Ipv4Addr;

use super::packet::Packet;
use crate::model::Interface;
use crate::net::packet_socket::{Filter, PacketSocket};

/// ARP on one interface.
#[derive(Debug)]
pub struct Driver {
    socket: PacketSocket,
    interface: Interface,
}

impl Driver {
    /// Open a socket on `interface`. Needs NET_RAW.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(interface: &Interface) -> std::io::Result<Self> {
        Ok(Self { socket: PacketSocket::open(interface.index, Filter::Arp)?, interface: interface.clone() })
    }

    /// Announce that this interface has `vip`, in both forms.
    ///
    /// # Errors
    /// What the kernel says, `ENETDOWN` while the interface is down.
    pub fn announce(&self, vip: Ipv4Addr) -> std::io::Result<()> {
        let interface = &self.interface;
        let forms = Packet::announcements(
            interface.hardware_type,
            &interface.hardware_address,
            &interface.broadcast,
            vip,
        );
        forms.iter().try_for_each(|form| self.socket.send(&form.to_bytes(), &interface.broadcast))
    }

    /// Ask whether anybody has `vip`, without claiming it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn probe(&self, vip: Ipv4Addr) -> std::io::Result<()> {
        let packet = Packet::probe(self.interface.hardware_type, &self.interface.hardware_address, vip);
        self.socket.send(&packet.to_bytes(), &self.interface.broadcast)
    }

    /// The next ARP packet of another station. What cannot be read is passed over.
    ///
    /// # Errors
    /// What the kernel says.
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
