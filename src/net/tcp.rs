//! TCP connections for BGP: bound to an address or interface, signed, and limited in hops.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

pub use super::sys::MD5_MAX;
use super::sys::{least_hops, sign};

/// How many hops away the peer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hops {
    /// On the same network, as for external peers (RFC 4271).
    Direct,
    Any,
    /// At most this many hops: the kernel drops packets from further away (GTSM, RFC 5082).
    Secured(u8),
}

/// How to reach a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The source address.
    pub source: Option<IpAddr>,
    /// The outgoing interface.
    pub interface: Option<String>,
    pub hops: Hops,
    /// For TCP MD5 signatures (RFC 2385).
    pub password: Option<String>,
}

/// DSCP CS6, for routing protocols (RFC 4594 §3.1).
const NETWORK_CONTROL: u32 = 0xc0;
/// TTL for peers at any distance, as in the Go program.
const FAR: u32 = 64;

/// Connects to a peer.
pub async fn connect(peer: SocketAddr, route: &Route) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(peer), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(interface) = &route.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    if let Some(source) = route.source.filter(|source| source.is_ipv4() == peer.is_ipv4()) {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    prepare(&socket, peer, route)?;
    TcpSocket::from_std_stream(socket.into()).connect(peer).await
}

/// Applies the options of `route` to an accepted connection.
pub fn adopt(stream: &TcpStream, peer: SocketAddr, route: &Route) -> io::Result<()> {
    limit(&socket2::SockRef::from(stream), peer, route)
}

fn prepare(socket: &Socket, peer: SocketAddr, route: &Route) -> io::Result<()> {
    if let Some(password) = &route.password {
        sign_for(socket, peer, password)?;
    }
    limit(socket, peer, route)
}

fn sign_for(socket: &Socket, peer: SocketAddr, password: &str) -> io::Result<()> {
    sign(socket, peer, password.as_bytes()).map_err(|error| {
        let hint = "check that the kernel has TCP MD5 signatures (CONFIG_TCP_MD5SIG)";
        io::Error::new(error.kind(), format!("cannot set the TCP MD5 password: {error}; {hint}"))
    })
}

fn limit(socket: &Socket, peer: SocketAddr, route: &Route) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let (ttl, least) = match route.hops {
        Hops::Direct => (1, None),
        Hops::Any => (FAR, None),
        Hops::Secured(hops) => (255, Some(256 - u16::from(hops.max(1)))),
    };
    if peer.is_ipv4() {
        socket.set_ttl_v4(ttl)?;
        socket.set_tos_v4(NETWORK_CONTROL)?;
    } else {
        socket.set_unicast_hops_v6(ttl)?;
        socket.set_tclass_v6(NETWORK_CONTROL)?;
    }
    if let Some(least) = least.and_then(|least| u8::try_from(least).ok()) {
        least_hops(socket, peer.is_ipv4(), least)?;
    }
    Ok(())
}

/// Listens for connections. From peers with a password only signed segments are accepted; also returns those peers whose password
/// cannot be used, from which none may be accepted.
///
/// # Errors
/// If the port is taken.
pub fn listen(
    address: SocketAddr,
    passwords: &[(IpAddr, String)],
) -> io::Result<(TcpListener, BTreeMap<IpAddr, io::Error>)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    let mut unsigned = BTreeMap::new();
    for (peer, password) in passwords.iter().filter(|(peer, _)| peer.is_ipv4() == address.is_ipv4()) {
        if let Err(error) = sign_for(&socket, SocketAddr::new(*peer, 0), password) {
            unsigned.insert(*peer, error);
        }
    }
    socket.bind(&address.into())?;
    socket.listen(16)?;
    Ok((TcpListener::from_std(socket.into())?, unsigned))
}
