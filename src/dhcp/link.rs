//! The interfaces that DHCP clients use: messages to servers out; replies and frames of other hosts in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};

use super::fsm::{Envelope, FrameSource, Message, Reply};
use super::identity::Identity;
use super::{datagram, v4, v6};
use crate::announce::layer2::Layer2;
use crate::conflict::NeighborFrame;
use crate::host::HostWatch;
use crate::model::interface::ETHERNET;
use crate::model::{Family, IfIndex, Interface, PerFamily};
use crate::net::packet_socket::{Filter, PacketSocket};

/// The pause after a failed receive.
const RECEIVE_RETRY: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) enum Received {
    /// A reply with what identifies the client, `chaddr` or its DUID, and the transaction identifier.
    Reply(Family, Vec<u8>, u32, Reply),
    Frame(NeighborFrame),
}

/// The interfaces that DHCP clients use.
#[derive(Debug)]
pub(super) struct Links {
    host: HostWatch,
    pub(super) by_name: BTreeMap<String, DhcpLink>,
    /// Names of all interfaces of the host, for the error about one that is missing.
    pub(super) present: String,
    received: mpsc::Sender<(IfIndex, Received)>,
}

impl Links {
    pub(super) fn new(host: HostWatch, received: mpsc::Sender<(IfIndex, Received)>) -> Self {
        Self { host, by_name: BTreeMap::new(), present: String::new(), received }
    }

    /// Closes links that are not in `wanted`, and opens those that exist by now. Returns whether all of them do.
    pub(super) fn update(&mut self, wanted: &BTreeSet<&str>) -> bool {
        self.by_name.retain(|name, _| wanted.contains(name.as_str()));
        if wanted.len() == self.by_name.len() {
            return true;
        }
        let host = self.host.borrow().clone();
        self.present = host.interface_names();
        for interface in host.interfaces.iter().filter(|found| wanted.contains(found.name.as_str())) {
            let link_local = host.link_local(interface.index);
            let open = || DhcpLink::new(interface.clone(), link_local, self.received.clone());
            self.by_name.entry(interface.name.clone()).or_insert_with(open);
        }
        wanted.len() == self.by_name.len()
    }
}

type Decode = fn(&[u8]) -> Option<(Vec<u8>, u32, Reply)>;

/// Sockets on one interface, closed on drop.
#[derive(Debug)]
pub(super) struct DhcpLink {
    pub(super) interface: Interface,
    /// Source address of DHCPv6 messages.
    link_local: Option<Ipv6Addr>,
    sockets: PerFamily<Option<Arc<PacketSocket>>>,
    /// For probes.
    neighbours: Option<(Arc<Layer2>, AbortHandle)>,
    promiscuous: bool,
    readers: JoinSet<()>,
    received: mpsc::Sender<(IfIndex, Received)>,
}

impl DhcpLink {
    /// Opens no socket yet.
    pub(super) fn new(
        interface: Interface,
        link_local: Option<Ipv6Addr>,
        received: mpsc::Sender<(IfIndex, Received)>,
    ) -> Self {
        Self {
            interface,
            link_local,
            sockets: PerFamily::default(),
            neighbours: None,
            promiscuous: false,
            readers: JoinSet::new(),
            received,
        }
    }

    /// Sends a message to all servers and relays on the interface.
    ///
    /// # Errors
    /// Without a link-local address on the interface, or a socket.
    pub(super) fn send(
        &mut self,
        family: Family,
        identity: &Identity,
        envelope: Envelope,
        message: &Message,
    ) -> std::io::Result<()> {
        let Envelope { xid, elapsed, source: frame_source } = envelope;
        match family {
            Family::V4 => {
                let Some(bytes) = v4::to_bytes(identity, xid, elapsed, message) else { return Ok(()) };
                // Servers accept a release only from the address that it releases.
                let source = match message {
                    Message::Release(IpAddr::V4(address), _) => *address,
                    _ => Ipv4Addr::UNSPECIFIED,
                };
                let packet = datagram::to_v4(source, Ipv4Addr::BROADCAST, &bytes);
                let socket = self.open(family)?;
                if frame_source == FrameSource::Client && self.interface.hardware_type == ETHERNET {
                    return socket.send_frame(&datagram::to_frame(identity.mac, &packet));
                }
                socket.send(&packet, &self.interface.broadcast)
            }
            Family::V6 => {
                let Some(bytes) = v6::to_bytes(identity, xid, elapsed, message) else { return Ok(()) };
                let none = || std::io::Error::other("the interface has no link-local address");
                let packet = datagram::to_v6(self.link_local.ok_or_else(none)?, &bytes);
                self.open(family)?.send(&packet, &datagram::SERVERS_ON_ETHERNET)
            }
        }
    }

    fn open(&mut self, family: Family) -> std::io::Result<Arc<PacketSocket>> {
        if let Some(socket) = &self.sockets[family] {
            return Ok(socket.clone());
        }
        let (filter, decode): (_, Decode) = match family {
            Family::V4 => (Filter::DhcpV4, v4::from_bytes),
            Family::V6 => (Filter::DhcpV6, v6::from_bytes),
        };
        let socket = Arc::new(PacketSocket::open(self.interface.index, filter)?);
        let (source, received) = ((self.interface.index, family), self.received.clone());
        self.readers.spawn(receive(source, socket.clone(), decode, received));
        self.sockets[family] = Some(socket.clone());
        Ok(socket)
    }

    /// While a reply is outstanding the socket receives unicast frames to any hardware address: some servers ignore the
    /// BROADCAST flag, and no interface need have the client's address.
    pub(super) fn set_promiscuous(&mut self, enabled: bool) {
        if self.promiscuous == enabled {
            return;
        }
        let Some(socket) = &self.sockets.v4 else { return };
        self.promiscuous = enabled;
        if let Err(error) = socket.hear_all(enabled) {
            // Broadcast replies are received all the same.
            tracing::debug!(interface = self.interface.name, %error, "cannot change promiscuous mode");
        }
    }

    /// Sends one probe for an address.
    pub(super) fn probe(&mut self, address: IpAddr) -> std::io::Result<()> {
        if let Some((neighbours, _)) = &self.neighbours {
            return neighbours.probe(address);
        }
        let mut opened = Layer2::new(&self.interface);
        opened.carry(Ipv4Addr::UNSPECIFIED.into()).map_err(std::io::Error::other)?;
        if self.link_local.is_some() {
            opened.carry(Ipv6Addr::UNSPECIFIED.into()).map_err(std::io::Error::other)?;
        }
        let opened = Arc::new(opened);
        let task = receive_frames(self.interface.index, opened.clone(), self.received.clone());
        let task = self.readers.spawn(task);
        self.neighbours.insert((opened, task)).0.probe(address)
    }

    /// Closes the sockets of probes.
    pub(super) fn end_probes(&mut self) {
        if let Some((_, task)) = self.neighbours.take() {
            task.abort();
        }
    }
}

/// Decodes datagrams. What does not fit into the queue is dropped: clients retransmit.
async fn receive(
    (interface, family): (IfIndex, Family),
    socket: Arc<PacketSocket>,
    decode: Decode,
    received: mpsc::Sender<(IfIndex, Received)>,
) {
    let mut buffer = [0; 2048];
    loop {
        match socket.receive(&mut buffer).await {
            Ok(packet) => {
                if let Some((client, xid, reply)) = datagram::payload(packet).and_then(decode) {
                    drop(received.try_send((interface, Received::Reply(family, client, xid, reply))));
                }
            }
            Err(error) => {
                tracing::debug!(%error, "cannot receive DHCP replies");
                tokio::time::sleep(RECEIVE_RETRY).await;
            }
        }
    }
}

async fn receive_frames(
    interface: IfIndex,
    neighbours: Arc<Layer2>,
    received: mpsc::Sender<(IfIndex, Received)>,
) {
    loop {
        match neighbours.next_frame().await {
            Ok(frame) => drop(received.try_send((interface, Received::Frame(frame)))),
            Err(error) => {
                tracing::debug!(%error, "cannot receive frames of other hosts");
                tokio::time::sleep(RECEIVE_RETRY).await;
            }
        }
    }
}
