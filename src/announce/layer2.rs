//! ARP and NDP on one interface behind one API: announce, probe, receive frames of other hosts.

use std::net::{IpAddr, Ipv6Addr};

use crate::arp;
use crate::conflict::{FrameKind, NeighborFrame};
use crate::model::Interface;
use crate::ndp;

/// ARP and NDP on one interface. On an interface without neighbours (`lo`) nothing is sent.
#[derive(Debug)]
pub struct Layer2 {
    interface: Interface,
    arp: Option<arp::driver::Driver>,
    ndp: Option<ndp::driver::Driver>,
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("cannot open a packet socket for ARP on interface {interface}: {source}")]
    Arp { interface: String, source: std::io::Error },
    #[error(transparent)]
    Ndp(#[from] ndp::driver::OpenError),
}

impl Layer2 {
    /// Opens no socket yet.
    pub fn new(interface: &Interface) -> Self {
        Self { interface: interface.clone(), arp: None, ndp: None }
    }

    /// Opens the sockets that `addresses` need on `interface`, and receives probes for them.
    ///
    /// # Errors
    /// Without NET_RAW, or if the interface cannot carry IPv6 announcements.
    pub fn open(interface: &Interface, addresses: impl Iterator<Item = IpAddr>) -> Result<Self, OpenError> {
        let mut layer2 = Self::new(interface);
        for address in addresses {
            layer2.listen_for(address)?;
        }
        Ok(layer2)
    }

    /// Opens the socket of an address's family, unless it is open.
    pub fn carry(&mut self, address: IpAddr) -> Result<(), OpenError> {
        let interface = &self.interface;
        match address {
            _ if !interface.has_neighbours() => {}
            IpAddr::V4(_) if self.arp.is_none() => {
                let opened = arp::driver::Driver::open(interface);
                self.arp = Some(
                    opened.map_err(|source| OpenError::Arp { interface: interface.name.clone(), source })?,
                );
            }
            IpAddr::V6(_) if self.ndp.is_none() => self.ndp = Some(ndp::driver::Driver::open(interface)?),
            _ => {}
        }
        Ok(())
    }

    /// Receives probes for an address that this host need not have.
    pub fn listen_for(&mut self, address: IpAddr) -> Result<(), OpenError> {
        self.carry(address)?;
        if let (IpAddr::V6(address), Some(ndp)) = (address, &mut self.ndp) {
            ndp.listen_for(address);
        }
        Ok(())
    }

    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Sends one announcement. `source` is the interface's link-local address, which IPv6 requires.
    pub fn announce(&self, address: IpAddr, source: Option<Ipv6Addr>) -> std::io::Result<()> {
        match (address, &self.arp, &self.ndp) {
            (IpAddr::V4(address), Some(arp), _) => arp.announce(address),
            (IpAddr::V6(address), _, Some(ndp)) => ndp.announce(required(source)?, address),
            _ => Ok(()),
        }
    }

    /// The same, only to the host with this hardware address.
    pub fn announce_to(&self, address: IpAddr, source: Option<Ipv6Addr>, to: &[u8]) -> std::io::Result<()> {
        match (address, &self.arp, &self.ndp) {
            (IpAddr::V4(address), Some(arp), _) => arp.announce_to(address, to),
            (IpAddr::V6(address), _, Some(ndp)) => ndp.announce_to(required(source)?, address, to),
            _ => Ok(()),
        }
    }

    /// Sends one probe.
    pub fn probe(&self, address: IpAddr) -> std::io::Result<()> {
        match (address, &self.arp, &self.ndp) {
            (IpAddr::V4(address), Some(arp), _) => arp.probe(address),
            (IpAddr::V6(address), _, Some(ndp)) => ndp.probe(address),
            _ => Ok(()),
        }
    }

    /// The next frame of another host; never resolves on an interface without neighbours.
    pub async fn next_frame(&self) -> std::io::Result<NeighborFrame> {
        let arp = async {
            let Some(arp) = &self.arp else { return std::future::pending().await };
            let packet = arp.receive().await?;
            let (address, kind) = match packet.is_probe() {
                true => (packet.target.into(), FrameKind::Probe),
                false => (packet.sender.into(), FrameKind::Announcement),
            };
            Ok(NeighborFrame { address, mac: packet.sender_hardware, kind })
        };
        let ndp = async {
            let Some(ndp) = &self.ndp else { return std::future::pending().await };
            loop {
                let packet = ndp.receive().await?;
                let is_probe = packet.is_probe();
                let (target, mac, kind) = match packet {
                    ndp::packet::Packet::Advertisement { target, hardware, .. } => {
                        (target, hardware, FrameKind::Announcement)
                    }
                    ndp::packet::Packet::Solicitation { target, .. } if is_probe => {
                        (target, Vec::new(), FrameKind::Probe)
                    }
                    ndp::packet::Packet::Solicitation { .. } => continue,
                };
                return Ok(NeighborFrame { address: target.into(), mac, kind });
            }
        };
        tokio::select! { frame = arp => frame, frame = ndp => frame }
    }
}

fn required(source: Option<Ipv6Addr>) -> std::io::Result<Ipv6Addr> {
    source.ok_or_else(|| std::io::Error::other("the interface has no link-local address"))
}
