//! A netlink socket to the kernel on which no call waits long for a reply.

use std::io::{Error, ErrorKind, Result};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, sendto,
    socket,
};
use socket2::SockRef;

/// SO_RCVTIMEO. The kernel completes a request while it is sent, and replies before that call returns: a reply that is missing
/// afterwards is late or lost. A lock that another program holds in the kernel delays the sending, which no option limits.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct KernelSocket {
    socket: OwnedFd,
}

impl KernelSocket {
    pub(super) fn open(protocol: SockProtocol) -> Result<Self> {
        Self::with_timeout(protocol, REPLY_TIMEOUT)
    }

    pub(super) fn with_timeout(protocol: SockProtocol, timeout: Duration) -> Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        SockRef::from(&socket).set_read_timeout(Some(timeout))?;
        Ok(Self { socket })
    }

    /// The kernel's number of the socket.
    pub(super) fn port(&self) -> Result<u32> {
        Ok(getsockname::<NetlinkAddr>(self.socket.as_raw_fd())?.pid())
    }

    pub(super) fn send(&self, bytes: &[u8]) -> Result<()> {
        sendto(self.socket.as_raw_fd(), bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(())
    }

    /// # Errors
    /// [`ErrorKind::TimedOut`] if there is no reply in time. It may still come.
    pub(super) fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
        let length = loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    return Err(Error::new(ErrorKind::TimedOut, "the kernel did not reply in time"));
                }
                result => break result?,
            }
        };
        Ok(buffer.get(..length).unwrap_or_default())
    }
}

impl AsRawFd for KernelSocket {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a limit this test would not end.
    #[test]
    fn a_missing_reply_is_an_error() {
        for protocol in [SockProtocol::NetlinkRoute, SockProtocol::NetlinkNetFilter] {
            let socket = KernelSocket::with_timeout(protocol, Duration::from_millis(1)).unwrap();
            let error = socket.receive(&mut [0; 16]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
        }
    }
}
