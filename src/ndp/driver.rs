//! Sends and receives neighbour discovery packets on one Ethernet interface.

use std::net::Ipv6Addr;

use super::packet::{self, ALL_NODES, Packet, multicast_hardware, solicited_node};
use crate::model::Interface;
use crate::net::packet_socket::{Filter, Membership, PacketSocket};

/// Neighbour discovery on one interface.
#[derive(Debug)]
pub struct Driver {
    socket: PacketSocket,
    hardware: [u8; 6],
    /// Keeps the interface listening to the groups in which others ask for our addresses.
    membership: Membership,
}

/// Why there is no neighbour discovery on an interface.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Only Ethernet's mapping of groups to hardware addresses is known here.
    #[error("interface {0} is not Ethernet: IPv6 VIPs cannot be announced on it")]
    NotEthernet(String),
    /// What the kernel says.
    #[error("a packet socket for neighbour discovery: {0}")]
    Io(#[from] std::io::Error),
}

impl Driver {
    /// Open a socket on `interface`. Needs NET_RAW.
    ///
    /// # Errors
    /// What the kernel says, or that the interface is not Ethernet.
    pub fn open(interface: &Interface) -> Result<Self, OpenError> {
        let hardware = interface
            .hardware_address
            .as_slice()
            .try_into()
            .map_err(|_| OpenError::NotEthernet(interface.name.clone()))?;
        let socket = PacketSocket::open(interface.index, Filter::NeighbourDiscovery)?;
        Ok(Self { socket, hardware, membership: Membership::new(interface.index)? })
    }

    /// Announce that this interface has `vip`. `source` is the interface's own link-local address.
    ///
    /// # Errors
    /// What the kernel says, `ENETDOWN` while the interface is down.
    pub fn announce(&self, source: Ipv6Addr, vip: Ipv6Addr) -> std::io::Result<()> {
        let bytes = packet::unsolicited_advertisement(source, vip, &self.hardware);
        self.socket.send(&bytes, &multicast_hardware(ALL_NODES))
    }

    /// Ask whether anybody has `vip`, without claiming it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn probe(&self, vip: Ipv6Addr) -> std::io::Result<()> {
        self.socket.send(&packet::probe(vip), &multicast_hardware(solicited_node(vip)))
    }

    /// Hear when others ask for `vip`, which this host need not have.
    pub fn listen_for(&mut self, vip: Ipv6Addr) {
        self.membership.join(solicited_node(vip));
    }

    /// The next packet of another station. What cannot be read is passed over.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn receive(&self) -> std::io::Result<Packet> {
        let mut buffer = [0; 1500];
        loop {
            let bytes = self.socket.receive(&mut buffer).await?;
            match Packet::from_bytes(bytes) {
                Ok(Packet::Advertisement { hardware, .. }) if hardware == self.hardware => {}
                Ok(packet) => return Ok(packet),
                Err(_) => {}
            }
        }
    }
}
