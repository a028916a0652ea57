//! The one file with `unsafe`: what no safe interface offers yet.
#![allow(unsafe_code, reason = "this is the file that the rest of the program is free of it for")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use socket2::{SockAddr, SockAddrStorage};
use tokio::io::unix::AsyncFd;

/// Wait for a descriptor's readiness on the current runtime.
///
/// # Errors
/// What the kernel says.
pub(super) fn register<T: AsRawFd + Into<OwnedFd>>(inner: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: what can be turned into an `OwnedFd` owns its descriptor: it stays open, and the same, until `inner`
    // is dropped with the `AsyncFd`.
    unsafe { AsyncFd::register(inner) }.map_err(io::Error::from)
}

/// An address of family AF_PACKET (packet(7)).
pub(super) fn link_address(link: u32, ethertype: u16, hardware: &[u8]) -> io::Result<SockAddr> {
    /// As `sockaddr_ll`, with room for the 20 bytes of an InfiniBand address.
    #[repr(C)]
    struct LinkAddress {
        family: u16,
        protocol: u16,
        link: i32,
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
        link: i32::try_from(link).map_err(io::Error::other)?,
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
