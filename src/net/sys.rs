//! The only file with `unsafe`: system calls for which no crate has a safe interface yet.
#![allow(unsafe_code, reason = "unsafe code is confined to this file")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use socket2::{SockAddr, SockAddrStorage};
use tokio::io::unix::AsyncFd;

use crate::model::IfIndex;

/// Registers a descriptor with the current runtime.
pub(super) fn register<T: AsRawFd + Into<OwnedFd>>(inner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: what can be turned into an `OwnedFd` owns its descriptor: it stays open, and the same, until `inner`
    // is dropped with the `AsyncFd`.
    unsafe { AsyncFd::register(inner) }.map_err(io::Error::from)
}

/// An address of family AF_PACKET (packet(7)).
pub(super) fn interface_address(interface: IfIndex, ethertype: u16, hardware: &[u8]) -> io::Result<SockAddr> {
    /// As `sockaddr_ll`, with room for the 20 bytes of an InfiniBand address.
    #[repr(C)]
    struct LinkAddress {
        family: u16,
        protocol: u16,
        interface: i32,
        hardware_type: u16,
        packet_type: u8,
        length: u8,
        hardware: [u8; 32],
    }
    const FIXED: usize = 12;
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "a hardware address of more than 32 bytes");
    let mut padded = [0; 32];
    padded.get_mut(..hardware.len()).ok_or_else(too_long)?.copy_from_slice(hardware);
    let address = LinkAddress {
        family: libc::AF_PACKET as u16,
        protocol: ethertype.to_be(),
        interface: i32::try_from(interface.0).map_err(io::Error::other)?,
        hardware_type: 0,
        packet_type: 0,
        length: hardware.len() as u8,
        hardware: padded,
    };
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: the layout is that of `sockaddr_ll` with a longer last field, every bit pattern of which is valid,
    // and it fits into the storage (checked by `view_as`).
    unsafe { *storage.view_as::<LinkAddress>() = address };
    let length = FIXED + hardware.len().max(8);
    // SAFETY: the storage holds an address of family AF_PACKET, and `length` does not exceed what was written.
    Ok(unsafe { SockAddr::new(storage, length as libc::socklen_t) })
}

/// Most bytes of a password (TCP_MD5SIG_MAXKEYLEN of linux/tcp.h).
pub const MD5_MAX: usize = 80;

/// Signs all segments to and from a peer (TCP_MD5SIG, RFC 2385); an empty password ends that.
pub(super) fn sign(socket: &impl AsRawFd, peer: SocketAddr, password: &[u8]) -> io::Result<()> {
    /// As `struct tcp_md5sig` of linux/tcp.h.
    #[repr(C)]
    struct Signature {
        peer: libc::sockaddr_storage,
        flags: u8,
        prefix: u8,
        length: u16,
        interface: i32,
        key: [u8; MD5_MAX],
    }
    const TCP_MD5SIG: i32 = 14;
    let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "the password has more than 80 bytes");
    let mut key = [0; MD5_MAX];
    key.get_mut(..password.len()).ok_or_else(too_long)?.copy_from_slice(password);
    let peer = SockAddr::from(peer);
    // SAFETY: `sockaddr_storage` is plain data for which all zeroes is a valid value.
    let mut storage: libc::sockaddr_storage = unsafe { std::mem::zeroed() };
    // SAFETY: the address is of that length, and no address is longer than the storage; the two do not overlap.
    unsafe {
        std::ptr::copy_nonoverlapping(
            peer.as_ptr().cast::<u8>(),
            (&raw mut storage).cast::<u8>(),
            peer.len() as usize,
        );
    }
    let value =
        Signature { peer: storage, flags: 0, prefix: 0, length: password.len() as u16, interface: 0, key };
    set_option(socket, libc::IPPROTO_TCP, TCP_MD5SIG, &value)
}

/// Drops packets with fewer hops left (IP_MINTTL, IPV6_MINHOPCOUNT).
pub(super) fn least_hops(socket: &impl AsRawFd, ipv4: bool, hops: u8) -> io::Result<()> {
    const IP_MINTTL: i32 = 21;
    const IPV6_MINHOPCOUNT: i32 = 73;
    let hops = i32::from(hops);
    if ipv4 {
        set_option(socket, libc::IPPROTO_IP, IP_MINTTL, &hops)
    } else {
        set_option(socket, libc::IPPROTO_IPV6, IPV6_MINHOPCOUNT, &hops)
    }
}

/// Enables or disables promiscuous mode (PACKET_MR_PROMISC of packet(7)). The kernel counts references, and drops those
/// of a closed socket.
pub(super) fn promiscuous(socket: &impl AsRawFd, interface: IfIndex, on: bool) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: i32::try_from(interface.0).map_err(io::Error::other)?,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    let name = if on { libc::PACKET_ADD_MEMBERSHIP } else { libc::PACKET_DROP_MEMBERSHIP };
    set_option(socket, libc::SOL_PACKET, name, &request)
}

/// Makes the kernel apply the filters of a dump request (NETLINK_GET_STRICT_CHK, Linux 4.20).
pub(super) fn filter_dumps(socket: &impl AsRawFd) -> io::Result<()> {
    const NETLINK_GET_STRICT_CHK: i32 = 12;
    set_option(socket, libc::SOL_NETLINK, NETLINK_GET_STRICT_CHK, &1_i32)
}

/// Raises the soft limit of open descriptors to the hard one (RLIMIT_NOFILE).
pub fn raise_descriptor_limit() -> io::Result<()> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a `rlimit` that lives as long as the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as above; the kernel only reads it.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// `T` has to be what the kernel expects for this option.
fn set_option<T>(socket: &impl AsRawFd, level: i32, name: i32, value: &T) -> io::Result<()> {
    let length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer is to `length` readable bytes that live as long as the call; the descriptor is the socket's.
    let outcome =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const *value).cast(), length) };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
