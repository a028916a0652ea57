//! One interface, as DHCP clients use it: messages out, answers and other stations in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::fsm::{Answer, Message};
use super::identity::Identity;
use super::{datagram, v4, v6};
use crate::announce::layer2::Layer2;
use crate::conflict::FrameKind;
use crate::model::{Family, IfIndex, Interface, PerFamily};
use crate::net::packet_socket::{Filter, PacketSocket};

/// What comes in from an interface.
#[derive(Debug)]
pub enum Heard {
    /// An IPv4 server's answer to who has this hardware address.
    V4([u8; 6], u32, Answer),
    /// An IPv6 server's answer to who has this DUID.
    V6(Vec<u8>, u32, Answer),
    /// A station has this address.
    Station(IpAddr),
}

/// Makes of a datagram what it says.
type Read = fn(&[u8]) -> Option<Heard>;

/// Sockets on one interface. They are closed with it.
#[derive(Debug)]
pub struct Segment {
    interface: Interface,
    /// Where IPv6 messages come from.
    link_local: Option<Ipv6Addr>,
    sockets: PerFamily<Option<Arc<PacketSocket>>>,
    stations: Option<(Arc<Layer2>, AbortHandle)>,
    hears_all: bool,
    readers: JoinSet<()>,
    heard: mpsc::Sender<(IfIndex, Heard)>,
}

impl Segment {
    /// Nothing is open yet.
    pub fn new(
        interface: Interface,
        link_local: Option<Ipv6Addr>,
        heard: mpsc::Sender<(IfIndex, Heard)>,
    ) -> Self {
        Self {
            interface,
            link_local,
            sockets: PerFamily::default(),
            stations: None,
            hears_all: false,
            readers: JoinSet::new(),
            heard,
        }
    }

    /// The interface.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Send a message to all servers and relays on the interface.
    ///
    /// # Errors
    /// What the kernel says; or that there is no address to send from.
    pub fn send(
        &mut self,
        family: Family,
        identity: &Identity,
        transaction: u32,
        elapsed: Duration,
        message: &Message,
    ) -> std::io::Result<()> {
        match family {
            Family::V4 => {
                let Some(bytes) = v4::to_bytes(identity, transaction, elapsed, message) else {
                    return Ok(());
                };
                // Servers take a release from the address that it gives back alone.
                let source = match message {
                    Message::Release(IpAddr::V4(address), _) => *address,
                    _ => Ipv4Addr::UNSPECIFIED,
                };
                let packet = datagram::to_v4(source, Ipv4Addr::BROADCAST, &bytes);
                let socket = self.open(family)?;
                socket.send(&packet, &self.interface.broadcast)
            }
            Family::V6 => {
                let Some(bytes) = v6::to_bytes(identity, transaction, elapsed, message) else {
                    return Ok(());
                };
                let none = || std::io::Error::other("the interface has no link-local address to ask from");
                let source = self.link_local.ok_or_else(none)?;
                let packet = datagram::to_v6(source, &bytes);
                self.open(family)?.send(&packet, &datagram::SERVERS_ON_ETHERNET)
            }
        }
    }

    /// The socket for a family, and what reads it.
    fn open(&mut self, family: Family) -> std::io::Result<Arc<PacketSocket>> {
        if let Some(socket) = &self.sockets[family] {
            return Ok(socket.clone());
        }
        let (filter, read): (_, Read) = match family {
            Family::V4 => (Filter::DhcpV4, |bytes| {
                let (hardware, transaction, answer) = v4::from_bytes(bytes)?;
                Some(Heard::V4(hardware, transaction, answer))
            }),
            Family::V6 => (Filter::DhcpV6, |bytes| {
                let (client, transaction, answer) = v6::from_bytes(bytes)?;
                Some(Heard::V6(client, transaction, answer))
            }),
        };
        let socket = Arc::new(PacketSocket::open(self.interface.index, filter)?);
        self.readers.spawn(receive(self.interface.index, socket.clone(), read, self.heard.clone()));
        self.sockets[family] = Some(socket.clone());
        Ok(socket)
    }

    /// Answers may come to hardware addresses that this interface's card does not have, or not any more.
    pub fn expect_answers(&mut self, expected: bool) {
        if self.hears_all == expected {
            return;
        }
        let Some(socket) = &self.sockets.v4 else { return };
        self.hears_all = expected;
        if let Err(error) = socket.hear_all(expected) {
            // Servers that answer to everybody, as they are asked to, are heard all the same.
            tracing::debug!(interface = self.interface.name, %error, "cannot listen to all that is on the interface");
        }
    }

    /// Ask whether a station has an address.
    ///
    /// # Errors
    /// Why that cannot be asked.
    pub fn probe(&mut self, address: IpAddr) -> std::io::Result<()> {
        let stations = match &self.stations {
            Some((stations, _)) => stations.clone(),
            None => {
                let mut opened = Layer2::new(&self.interface);
                for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
                    if any.is_ipv4() || self.link_local.is_some() {
                        opened.carry(any).map_err(std::io::Error::other)?;
                    }
                }
                let opened = Arc::new(opened);
                let watching = watch_stations(self.interface.index, opened.clone(), self.heard.clone());
                let watching = self.readers.spawn(watching);
                self.stations.insert((opened, watching)).0.clone()
            }
        };
        stations.probe(address)
    }

    /// Nobody is asked for any more.
    pub fn end_probes(&mut self) {
        if let Some((_, watching)) = self.stations.take() {
            watching.abort();
        }
    }
}

async fn receive(
    interface: IfIndex,
    socket: Arc<PacketSocket>,
    read: Read,
    heard: mpsc::Sender<(IfIndex, Heard)>,
) {
    let mut buffer = [0; 2048];
    loop {
        match socket.receive(&mut buffer).await {
            Ok(packet) => {
                if let Some(answer) = datagram::payload(packet).and_then(read) {
                    // More than can be looked at is dropped: who has not been heard asks again.
                    drop(heard.try_send((interface, answer)));
                }
            }
            // An interface that goes down says so once, and works again when it is up.
            Err(error) => {
                tracing::debug!(%error, "cannot receive");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn watch_stations(interface: IfIndex, stations: Arc<Layer2>, heard: mpsc::Sender<(IfIndex, Heard)>) {
    loop {
        match stations.next_frame().await {
            Ok(frame) if frame.kind == FrameKind::Announcement => {
                drop(heard.try_send((interface, Heard::Station(frame.address))));
            }
            Ok(_) => {}
            Err(error) => {
                tracing::debug!(%error, "cannot receive");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}
