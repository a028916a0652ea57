//! A DHCP server for IPv4 that does what no server should: whatever a test wants.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lab::Lab;
use crate::{Namespace, Result, io};

/// The machine that the server is.
const NUMBER: u8 = 249;
/// Its address.
pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 42, 0, NUMBER);

/// DHCP's message types (RFC 2132 §9.6).
pub mod kind {
    /// DHCPDISCOVER.
    pub const DISCOVER: u8 = 1;
    /// DHCPOFFER.
    pub const OFFER: u8 = 2;
    /// DHCPREQUEST.
    pub const REQUEST: u8 = 3;
    /// DHCPDECLINE.
    pub const DECLINE: u8 = 4;
    /// DHCPACK.
    pub const ACK: u8 = 5;
    /// DHCPNAK.
    pub const NAK: u8 = 6;
    /// DHCPRELEASE.
    pub const RELEASE: u8 = 7;
}

/// What a client sent.
#[derive(Debug, Clone)]
pub struct Request {
    bytes: Vec<u8>,
}

impl From<Vec<u8>> for Request {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }
}

impl Request {
    fn option(&self, code: u8) -> Option<&[u8]> {
        let mut rest = self.bytes.get(240..)?;
        while let [found, length, ..] = rest {
            let value = rest.get(2..2 + usize::from(*length))?;
            if *found == code {
                return Some(value);
            }
            rest = rest.get(2 + usize::from(*length)..)?;
        }
        None
    }

    /// Its type.
    pub fn kind(&self) -> u8 {
        self.option(53).and_then(|value| value.first().copied()).unwrap_or_default()
    }

    /// The requested address.
    pub fn requested(&self) -> Option<Ipv4Addr> {
        let bytes: [u8; 4] = self.option(50)?.try_into().ok()?;
        Some(bytes.into())
    }

    /// Its host name.
    pub fn hostname(&self) -> Option<String> {
        self.option(12).map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// Its name, as the server is to put it into the DNS (RFC 4702 §2): the wire form behind flags and two zeros.
    pub fn full_name(&self) -> Option<Vec<u8>> {
        self.option(81).map(|value| value.get(3..).unwrap_or_default().to_vec())
    }

    /// Its hardware address.
    pub fn hardware(&self) -> String {
        let bytes = self.bytes.get(28..34).unwrap_or_default();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
    }

    /// Whether the BROADCAST flag is set.
    pub fn wants_broadcast(&self) -> bool {
        self.bytes.get(10).is_some_and(|byte| byte & 0x80 != 0)
    }

    /// An answer to it: an address and a lease of so many seconds.
    pub fn answer(&self, kind: u8, address: Ipv4Addr, seconds: u32) -> Vec<u8> {
        let part = |range| self.bytes.get(range).unwrap_or_default();
        let mut reply = [&[2], part(1..16), &address.octets(), part(20..240)].concat();
        reply.extend([53, 1, kind, 54, 4]);
        reply.extend(SERVER.octets());
        if kind != self::kind::NAK {
            reply.extend([51, 4]);
            reply.extend(seconds.to_be_bytes());
            reply.extend([1, 4, 255, 255, 255, 0]);
        }
        reply.push(255);
        reply
    }
}

type Script<R> = dyn Fn(usize, &R) -> Vec<Vec<u8>> + Send + Sync;

/// A server with a script, for requests of one kind.
pub struct Scripted<R> {
    seen: Arc<Mutex<Vec<R>>>,
    script: Arc<Mutex<Box<Script<R>>>>,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    /// Its namespace.
    pub namespace: Namespace,
}

/// A server for IPv4.
pub type FakeDhcpServer = Scripted<Request>;

impl FakeDhcpServer {
    /// A server that answers the n-th request as `script` does, by broadcast.
    pub fn start(
        lab: &Lab,
        script: impl Fn(usize, &Request) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Result<Self> {
        let namespace = lab.machine("hostile", NUMBER)?;
        let open = || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 67))?;
            socket.set_broadcast(true)?;
            std::io::Result::Ok(socket)
        };
        let socket = namespace.within(open)?.map_err(io("port 67"))?;
        Self::over(namespace, socket, Some((Ipv4Addr::BROADCAST, 68).into()), script)
    }

    /// The types of all that clients sent.
    pub fn kinds(&self) -> Vec<u8> {
        self.seen().iter().map(Request::kind).collect()
    }
}

impl<R: From<Vec<u8>> + Clone + Send + 'static> Scripted<R> {
    /// A server on a socket that answers the n-th request as `script` does: to the client, or to one address.
    pub(crate) fn over(
        namespace: Namespace,
        socket: UdpSocket,
        to: Option<SocketAddr>,
        script: impl Fn(usize, &R) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Result<Self> {
        socket.set_read_timeout(Some(Duration::from_millis(50))).map_err(io("a server's socket"))?;
        let seen: Arc<Mutex<Vec<R>>> = Arc::default();
        let script: Arc<Mutex<Box<Script<R>>>> = Arc::new(Mutex::new(Box::new(script)));
        let ended = Arc::new(AtomicBool::new(false));
        let (all, says, end) = (seen.clone(), script.clone(), ended.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !end.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                let request = R::from(buffer.get(..length).unwrap_or_default().to_vec());
                let number = {
                    let mut all = all.lock().unwrap_or_else(PoisonError::into_inner);
                    all.push(request.clone());
                    all.len() - 1
                };
                let answers = says.lock().unwrap_or_else(PoisonError::into_inner)(number, &request);
                for answer in answers {
                    socket.send_to(&answer, to.unwrap_or(from)).ok();
                }
            }
        });
        Ok(Self { seen, script, ended, thread: Some(thread), namespace })
    }

    /// Behave otherwise from now on.
    pub fn play(&self, script: impl Fn(usize, &R) -> Vec<Vec<u8>> + Send + Sync + 'static) {
        *self.script.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(script);
    }

    /// All that clients sent.
    pub fn seen(&self) -> Vec<R> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl<R> Drop for Scripted<R> {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A server as it should be: one address, for so many seconds.
pub fn honest(address: Ipv4Addr, seconds: u32) -> impl Fn(usize, &Request) -> Vec<Vec<u8>> + Send + Sync {
    move |_, request| match request.kind() {
        kind::DISCOVER => vec![request.answer(kind::OFFER, address, seconds)],
        kind::REQUEST if request.requested() == Some(address) => {
            vec![request.answer(kind::ACK, address, seconds)]
        }
        kind::REQUEST => vec![request.answer(kind::NAK, Ipv4Addr::UNSPECIFIED, 0)],
        _ => Vec::new(),
    }
}
