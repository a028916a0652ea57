//! A netlink socket for requests that the kernel completes before the system call returns.

use std::collections::VecDeque;
use std::io::{Error, Result};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::socket::SockProtocol;

use crate::net::kernel_socket::KernelSocket;
use crate::net::sys::filter_dumps;

/// Requests in one system call: their acknowledgements have to fit into the socket's buffer.
pub const BATCH: usize = 100;
/// Length of `struct nlmsghdr`.
const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The kernel fills buffers of up to 32 KiB when it dumps.
const BUFFER: usize = 32 * 1024;

#[derive(Debug)]
pub(super) struct Requests {
    socket: KernelSocket,
    port: u32,
    /// Tells answers to this request from those to an earlier one that failed halfway, or timed out.
    sequence: AtomicU32,
}

impl Requests {
    pub(super) fn open() -> Result<Self> {
        let socket = KernelSocket::open(SockProtocol::NetlinkRoute)?;
        // Without it, on kernels before 4.20, dumps are larger: their readers filter them, too.
        filter_dumps(&socket).ok();
        let port = socket.port()?;
        Ok(Self { socket, port, sequence: AtomicU32::new(1) })
    }

    /// The kernel's number of the socket, which change notifications carry as their cause.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// Sends requests that carry NLM_F_ACK. One result each, in their order.
    pub(super) fn send(&self, requests: Vec<Vec<u8>>) -> Vec<Result<()>> {
        let mut results = Vec::with_capacity(requests.len());
        let mut waiting = VecDeque::from(requests);
        while !waiting.is_empty() {
            let count = waiting.len().min(BATCH);
            match self.exchange(waiting.drain(..count).collect()) {
                Ok(acknowledged) => results.extend(acknowledged),
                // Which requests succeeded is unknown; the next resync finds out.
                Err(error) => {
                    let again = || Error::new(error.kind(), error.to_string());
                    results.extend((0..count).map(|_| Err(again())));
                }
            }
        }
        results
    }

    fn exchange(&self, batch: Vec<Vec<u8>>) -> Result<Vec<Result<()>>> {
        let count = batch.len();
        let sequence = self.write(batch)?;
        let mut results = Vec::with_capacity(count);
        let mut buffer = [0; BUFFER];
        while results.len() < count {
            for message in
                messages(self.socket.receive(&mut buffer)?).filter(|message| message.sequence == sequence)
            {
                results.push(message.result());
            }
        }
        Ok(results)
    }

    /// Sends one request that carries NLM_F_DUMP, and passes each message of the answer on.
    pub(super) fn dump(&self, request: Vec<u8>, mut each: impl FnMut(&[u8])) -> Result<()> {
        let sequence = self.write(vec![request])?;
        let mut buffer = [0; BUFFER];
        loop {
            for message in
                messages(self.socket.receive(&mut buffer)?).filter(|message| message.sequence == sequence)
            {
                match message.kind {
                    NLMSG_ERROR | NLMSG_DONE => return message.result(),
                    _ => each(message.bytes),
                }
            }
        }
    }

    fn write(&self, mut requests: Vec<Vec<u8>>) -> Result<u32> {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        for request in &mut requests {
            if let Some(field) = request.get_mut(8..12) {
                field.copy_from_slice(&sequence.to_ne_bytes());
            }
        }
        self.socket.send(&requests.concat())?;
        Ok(sequence)
    }
}

/// One message of the kernel.
#[derive(Debug, Clone, Copy)]
struct Message<'a> {
    kind: u16,
    sequence: u32,
    /// Header included.
    bytes: &'a [u8],
}

impl Message<'_> {
    /// The negated error number that follows the header of NLMSG_ERROR and NLMSG_DONE.
    fn result(&self) -> Result<()> {
        let code = self.bytes.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
        match code.map_or(0, i32::from_ne_bytes) {
            0 => Ok(()),
            code => Err(Error::from_raw_os_error(-code)),
        }
    }
}

fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let (header, _) = bytes.split_first_chunk::<HEADER>()?;
        let [a, b, c, d, kind_low, kind_high, _, _, e, f, g, h, ..] = *header;
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(HEADER).max(HEADER);
        let message = Message {
            kind: u16::from_ne_bytes([kind_low, kind_high]),
            sequence: u32::from_ne_bytes([e, f, g, h]),
            bytes: bytes.get(..length)?,
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: i32, sequence: u32) -> Vec<u8> {
        let mut bytes = 36_u32.to_ne_bytes().to_vec();
        bytes.extend(NLMSG_ERROR.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(sequence.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(code.to_ne_bytes());
        bytes.resize(36, 0);
        bytes
    }

    /// A request without content that the kernel acknowledges.
    fn request(kind: u16) -> Vec<u8> {
        const REQUEST_AND_ACK: u16 = 5;
        let mut bytes = 16_u32.to_ne_bytes().to_vec();
        bytes.extend([kind, REQUEST_AND_ACK].map(u16::to_ne_bytes).concat());
        bytes.resize(HEADER, 0);
        bytes
    }

    #[test]
    fn the_late_answer_to_an_earlier_request_does_not_count() {
        const NLMSG_NOOP: u16 = 1;
        const UNKNOWN: u16 = 0x7ff;
        let requests = Requests::open().unwrap();
        // As after a timeout: the answer, an error, stays in the socket.
        requests.write(vec![request(UNKNOWN)]).unwrap();
        let results = requests.send(vec![request(NLMSG_NOOP)]);
        assert!(matches!(results[..], [Ok(())]), "{results:?}");
        let results = requests.send(vec![request(UNKNOWN)]);
        assert!(matches!(results[..], [Err(_)]), "{results:?}");
    }

    #[test]
    fn every_acknowledgement_of_a_buffer_is_read() {
        let bytes = [answer(0, 1), answer(-libc::EADDRNOTAVAIL, 2), answer(0, 3)].concat();
        let code = |result: Result<()>| result.map_err(|error| error.raw_os_error().unwrap_or_default());
        let read: Vec<_> =
            messages(&bytes).map(|message| (message.sequence, code(message.result()))).collect();
        assert_eq!(read, [(1, Ok(())), (2, Err(libc::EADDRNOTAVAIL)), (3, Ok(()))]);
        assert_eq!(messages(&[]).count(), 0);
        assert_eq!(messages(&bytes[..35]).count(), 0);
    }
}
