//! UDP sockets with TTL 255 and chosen ports: for BFD (RFC 5881) and multicast DNS (RFC 6762 §11).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use std::net::UdpSocket as Sender;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::sys::least_hops;

/// DSCP CS6, for routing protocols (RFC 4594 §3.1), as traffic class.
const NETWORK_CONTROL: u32 = 0xc0;

/// Receives packets with at least `least` hops left.
///
/// # Errors
/// If the port is taken.
pub fn listen(address: SocketAddr, least: Option<u8>) -> io::Result<UdpSocket> {
    let socket = socket(address)?;
    if let Some(least) = least {
        least_hops(&socket, address.is_ipv4(), least)?;
    }
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}

/// A non-blocking socket to one destination, from this source port.
///
/// # Errors
/// If the port is taken, or there is no route.
pub fn connect(
    to: SocketAddr,
    from: Option<IpAddr>,
    port: u16,
    interface: Option<&str>,
) -> io::Result<Sender> {
    let socket = socket(to)?;
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let from = from.filter(|from| from.is_ipv4() == to.is_ipv4()).unwrap_or(any);
    if let Some(interface) = interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    if to.is_ipv4() {
        socket.set_ttl_v4(255)?;
        socket.set_tos_v4(NETWORK_CONTROL)?;
    } else {
        socket.set_unicast_hops_v6(255)?;
        socket.set_tclass_v6(NETWORK_CONTROL)?;
    }
    socket.bind(&SocketAddr::new(from, port).into())?;
    socket.connect(&to.into())?;
    Ok(socket.into())
}

/// Sends a packet to a group from the group's own port, which other sockets of this host may have, too. The interface is the one with
/// the address `from`, or the scope of an IPv6 group.
///
/// # Errors
/// If the packet cannot be sent.
pub fn multicast(packet: &[u8], group: SocketAddr, from: Option<Ipv4Addr>) -> io::Result<()> {
    let socket = socket(group)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    let source = match group {
        SocketAddr::V4(_) => {
            let from = from.unwrap_or(Ipv4Addr::UNSPECIFIED);
            socket.set_multicast_if_v4(&from)?;
            socket.set_multicast_ttl_v4(255)?;
            IpAddr::from(from)
        }
        SocketAddr::V6(group) => {
            socket.set_multicast_if_v6(group.scope_id())?;
            socket.set_multicast_hops_v6(255)?;
            IpAddr::from(Ipv6Addr::UNSPECIFIED)
        }
    };
    socket.bind(&SocketAddr::new(source, group.port()).into())?;
    socket.send_to(packet, &group.into()).map(drop)
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}
