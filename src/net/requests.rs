//! Many netlink requests at once: as many as fit in one message to the kernel, which carries them out before the call
//! returns.

use std::collections::VecDeque;
use std::io::{Error, Result};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, getsockname, recv, sendto,
    socket,
};

/// Requests in one message: their answers have to fit into the socket's buffer.
const AT_ONCE: usize = 100;
/// `struct nlmsghdr`.
const HEADER: usize = 16;

/// A socket for requests that are answered one by one.
#[derive(Debug)]
pub struct Requests {
    socket: OwnedFd,
    port: u32,
}

impl Requests {
    /// Open one.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(protocol: SockProtocol) -> Result<Self> {
        let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        let port = getsockname::<NetlinkAddr>(socket.as_raw_fd())?.pid();
        Ok(Self { socket, port })
    }

    /// The kernel's number for the socket.
    pub fn port(&self) -> u32 {
        self.port
    }

    /// Send requests, each with its header and the flag that asks for an answer, and wait for the kernel's word on each.
    pub fn send(&self, requests: Vec<Vec<u8>>) -> Vec<Result<()>> {
        let mut outcomes = Vec::with_capacity(requests.len());
        let mut waiting = VecDeque::from(requests);
        while !waiting.is_empty() {
            let count = waiting.len().min(AT_ONCE);
            let batch: Vec<Vec<u8>> = waiting.drain(..count).collect();
            match self.exchange(&batch.concat(), count) {
                Ok(answers) => outcomes.extend(answers),
                // What became of each is unknown; the next look at the host tells.
                Err(error) => {
                    let again = || Error::new(error.kind(), error.to_string());
                    outcomes.extend((0..count).map(|_| Err(again())));
                }
            }
        }
        outcomes
    }

    fn exchange(&self, bytes: &[u8], count: usize) -> Result<Vec<Result<()>>> {
        let fd = self.socket.as_raw_fd();
        sendto(fd, bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        let mut answers = Vec::with_capacity(count);
        let mut buffer = [0; 4096];
        while answers.len() < count {
            let length = recv(fd, &mut buffer, MsgFlags::empty())?;
            answers.extend(codes(buffer.get(..length).unwrap_or_default()).map(|code| match code {
                0 => Ok(()),
                code => Err(Error::from_raw_os_error(-code)),
            }));
        }
        Ok(answers)
    }
}

/// The error numbers in a buffer of answers: each is a header with its own length, then the number.
fn codes(mut bytes: &[u8]) -> impl Iterator<Item = i32> {
    let mut codes = Vec::new();
    while let Some(length) = number(bytes.get(..4)) {
        codes.push(number(bytes.get(HEADER..HEADER + 4)).unwrap_or(0));
        let next = usize::try_from(length).unwrap_or(0).max(HEADER).next_multiple_of(4);
        bytes = bytes.get(next..).unwrap_or_default();
    }
    codes.into_iter()
}

fn number(bytes: Option<&[u8]>) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_of_a_buffer_counts() {
        let answer = |code: i32| {
            let mut bytes = 36_u32.to_ne_bytes().to_vec();
            bytes.resize(HEADER, 0);
            bytes.extend(code.to_ne_bytes());
            bytes.resize(36, 0);
            bytes
        };
        let bytes = [answer(0), answer(-libc::EADDRNOTAVAIL), answer(0)].concat();
        assert_eq!(codes(&bytes).collect::<Vec<_>>(), [0, -libc::EADDRNOTAVAIL, 0]);
        assert_eq!(codes(&[]).count(), 0);
    }
}
