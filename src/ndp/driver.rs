//! Sends and receives neighbour solicitations and advertisements on one Ethernet interface.

use std::net::Ipv6Addr;

use super::packet::{self, ALL_NODES, Packet, multicast_hardware, solicited_node};
use crate::model::Interface;
use crate::net::packet_socket::{Filter, Membership, PacketSocket};

#[derive(Debug)]
pub struct Driver {
    socket: PacketSocket,
    hardware: [u8; 6],
    /// The solicited-node groups of the addresses of [`Driver::listen_for`].
    membership: Membership,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The mapping of multicast groups to hardware addresses is Ethernet's (RFC 2464).
    #[error("interface {0} is not Ethernet: IPv6 VIPs cannot be announced on it")]
    NotEthernet(String),
    #[error("cannot open a packet socket for neighbour discovery: {0}")]
    Io(#[from] std::io::Error),
}

impl Driver {
    /// Needs NET_RAW.
    ///
    /// # Errors
    /// If the interface is not Ethernet, or without NET_RAW.
    pub fn open(interface: &Interface) -> Result<Self, OpenError> {
        let hardware = interface
            .hardware_address
            .as_slice()
            .try_into()
            .map_err(|_| OpenError::NotEthernet(interface.name.clone()))?;
        let socket = PacketSocket::open(interface.index, Filter::NeighbourDiscovery)?;
        Ok(Self { socket, hardware, membership: Membership::new(interface.index)? })
    }

    /// Sends an unsolicited advertisement for `vip`. `source` is the link-local address of the interface.
    ///
    /// # Errors
    /// `ENETDOWN` while the interface is down.
    pub fn announce(&self, source: Ipv6Addr, vip: Ipv6Addr) -> std::io::Result<()> {
        self.announce_to(source, vip, &multicast_hardware(ALL_NODES))
    }

    /// The same by unicast: no other host's table changes.
    pub fn announce_to(&self, source: Ipv6Addr, vip: Ipv6Addr, to: &[u8]) -> std::io::Result<()> {
        self.socket.send(&packet::unsolicited_advertisement(source, vip, &self.hardware), to)
    }

    /// Sends a duplicate address detection probe for `vip`.
    pub fn probe(&self, vip: Ipv6Addr) -> std::io::Result<()> {
        self.socket.send(&packet::probe(vip), &multicast_hardware(solicited_node(vip)))
    }

    /// Receives solicitations for `vip` from now on, whether this host has the address or not.
    pub fn listen_for(&mut self, vip: Ipv6Addr) {
        self.membership.join(solicited_node(vip));
    }

    /// The next packet of another host. Malformed packets are skipped.
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
