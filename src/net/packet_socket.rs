//! Packet sockets: ARP, neighbour discovery and DHCP packets of one interface, without the link-layer header.

use std::io::{self, Read};
use std::net::Ipv6Addr;

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::unix::AsyncFd;

use super::sys::{interface_address, promiscuous, register};
use crate::model::IfIndex;

/// Which packets a socket receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    Arp,
    NeighbourDiscovery,
    RouterDiscovery,
    /// To the client port, 68.
    DhcpV4,
    /// To the client port, 546.
    DhcpV6,
}

impl Filter {
    fn ethertype(self) -> u16 {
        match self {
            Self::Arp => 0x0806,
            Self::NeighbourDiscovery | Self::RouterDiscovery | Self::DhcpV6 => 0x86dd,
            Self::DhcpV4 => 0x0800,
        }
    }

    /// Classic BPF, so that the kernel drops all other traffic.
    fn program(self) -> Vec<SockFilter> {
        const LOAD_BYTE: u16 = 0x30; // BPF_LD | BPF_B | BPF_ABS
        const LOAD_HALF: u16 = 0x28; // BPF_LD | BPF_H | BPF_ABS
        const LOAD_HALF_AFTER: u16 = 0x48; // BPF_LD | BPF_H | BPF_IND
        const LENGTH_OF_HEADER: u16 = 0xb1; // BPF_LDX | BPF_B | BPF_MSH
        const JUMP_IF_ANY: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
        const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
        const JUMP_IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
        const RETURN: u16 = 0x06; // BPF_RET | BPF_K
        let (above, last) = match self {
            Self::Arp => return Vec::new(),
            Self::NeighbourDiscovery => (134, 136),
            Self::RouterDiscovery => (132, 134),
            Self::DhcpV4 => {
                return vec![
                    SockFilter::new(LOAD_BYTE, 0, 0, 9), // protocol
                    SockFilter::new(JUMP_IF_EQUAL, 0, 6, 17),
                    SockFilter::new(LOAD_HALF, 0, 0, 6), // only the first fragment has ports
                    SockFilter::new(JUMP_IF_ANY, 4, 0, 0x1fff),
                    SockFilter::new(LENGTH_OF_HEADER, 0, 0, 0),
                    SockFilter::new(LOAD_HALF_AFTER, 0, 0, 2), // destination port
                    SockFilter::new(JUMP_IF_EQUAL, 0, 1, 68),
                    SockFilter::new(RETURN, 0, 0, 0xffff),
                    SockFilter::new(RETURN, 0, 0, 0),
                ];
            }
            Self::DhcpV6 => {
                return vec![
                    SockFilter::new(LOAD_BYTE, 0, 0, 6), // next header
                    SockFilter::new(JUMP_IF_EQUAL, 0, 3, 17),
                    SockFilter::new(LOAD_HALF, 0, 0, 42), // destination port
                    SockFilter::new(JUMP_IF_EQUAL, 0, 1, 546),
                    SockFilter::new(RETURN, 0, 0, 0xffff),
                    SockFilter::new(RETURN, 0, 0, 0),
                ];
            }
        };
        vec![
            SockFilter::new(LOAD_BYTE, 0, 0, 6), // next header
            SockFilter::new(JUMP_IF_EQUAL, 0, 4, 58),
            SockFilter::new(LOAD_BYTE, 0, 0, 40), // ICMPv6 type
            SockFilter::new(JUMP_IF_GREATER, 2, 0, last),
            SockFilter::new(JUMP_IF_GREATER, 0, 1, above),
            SockFilter::new(RETURN, 0, 0, 0xffff),
            SockFilter::new(RETURN, 0, 0, 0),
        ]
    }
}

#[derive(Debug)]
pub struct PacketSocket {
    socket: AsyncFd<Socket>,
    interface: IfIndex,
    ethertype: u16,
}

impl PacketSocket {
    /// Needs NET_RAW.
    pub fn open(interface: IfIndex, filter: Filter) -> io::Result<Self> {
        let ethertype = filter.ethertype();
        // Protocol 0 receives nothing until the socket is bound, so no packet arrives before the filter is attached.
        let socket = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        let program = filter.program();
        if !program.is_empty() {
            socket.attach_filter(&program)?;
        }
        socket.bind(&interface_address(interface, ethertype, &[])?)?;
        Ok(Self { socket: register(socket)?, interface, ethertype })
    }

    /// Sends one packet to a hardware address. Never waits: a packet that does not fit into the queue is dropped, and
    /// announcements are repeated.
    pub fn send(&self, packet: &[u8], to: &[u8]) -> io::Result<()> {
        let to = interface_address(self.interface, self.ethertype, to)?;
        self.socket.get_ref().send_to(packet, &to).map(|_| ())
    }

    /// Sends an Ethernet frame with the source address that is in it.
    pub fn send_frame(&self, frame: &[u8]) -> io::Result<()> {
        // Protocol 0 receives nothing.
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
        socket.set_nonblocking(true)?;
        let to = interface_address(self.interface, self.ethertype, &[])?;
        socket.send_to(frame, &to).map(|_| ())
    }

    /// Enables or disables promiscuous mode (PACKET_MR_PROMISC); reference-counted by the kernel.
    pub fn hear_all(&self, all: bool) -> io::Result<()> {
        promiscuous(self.socket.get_ref(), self.interface, all)
    }

    /// The next packet.
    pub async fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let length = loop {
            let mut ready = self.socket.readable().await?;
            match ready.try_io(|socket| socket.get_ref().read(buffer)) {
                Ok(result) => break result?,
                Err(_would_block) => {}
            }
        };
        Ok(buffer.get(..length).unwrap_or_default())
    }
}

/// Multicast groups of an interface, left when the value is dropped.
#[derive(Debug)]
pub struct Membership {
    socket: Socket,
    interface: IfIndex,
}

impl Membership {
    /// Without groups at first.
    pub fn new(interface: IfIndex) -> io::Result<Self> {
        Ok(Self { socket: Socket::new(Domain::IPV6, Type::DGRAM, None)?, interface })
    }

    /// Joins a group. A failure is logged only: many switches flood multicast anyway.
    pub fn join(&self, group: Ipv6Addr) {
        if let Err(error) = self.socket.join_multicast_v6(&group, self.interface.0) {
            tracing::debug!(%group, %error, "cannot join the multicast group");
        }
    }
}
