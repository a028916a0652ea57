//! Sends and receives ARP on one link.

use std::net::Ipv4Addr;

use super::packet::Packet;
use crate::model::Link;
use crate::net::packet_socket::{Filter, PacketSocket};

/// ARP on one link.
#[derive(Debug)]
pub struct Driver {
    socket: PacketSocket,
    link: Link,
}

impl Driver {
    /// Open a socket on `link`. Needs NET_RAW.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(link: &Link) -> std::io::Result<Self> {
        Ok(Self { socket: PacketSocket::open(link.index, Filter::Arp)?, link: link.clone() })
    }

    /// Announce that this link has `vip`, in both forms.
    ///
    /// # Errors
    /// What the kernel says, `ENETDOWN` while the link is down.
    pub fn announce(&self, vip: Ipv4Addr) -> std::io::Result<()> {
        let link = &self.link;
        let forms = Packet::announcements(link.hardware_type, &link.hardware_address, &link.broadcast, vip);
        forms.iter().try_for_each(|form| self.socket.send(&form.to_bytes(), &link.broadcast))
    }

    /// Ask whether anybody has `vip`, without claiming it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn probe(&self, vip: Ipv4Addr) -> std::io::Result<()> {
        let packet = Packet::probe(self.link.hardware_type, &self.link.hardware_address, vip);
        self.socket.send(&packet.to_bytes(), &self.link.broadcast)
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
                Ok(packet) if packet.sender_hardware != self.link.hardware_address => return Ok(packet),
                Ok(_) | Err(_) => {}
            }
        }
    }
}
