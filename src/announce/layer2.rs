//! ARP and NDP on one interface, as one: announce, probe, notice others.

use std::net::{IpAddr, Ipv6Addr};

use crate::arp;
use crate::model::Interface;
use crate::ndp;

/// ARP and NDP on one interface. On an interface without neighbours (`lo`) there is nothing to tell anybody.
#[derive(Debug)]
pub struct Layer2 {
    interface: Interface,
    arp: Option<arp::driver::Driver>,
    ndp: Option<ndp::driver::Driver>,
}

/// Another station, seen on the segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The address it is about.
    pub address: IpAddr,
    /// Hardware address of the station; empty if it did not say.
    pub station: Vec<u8>,
    /// What it does.
    pub act: Act,
}

/// What another station does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// It says that it has the address.
    Claims,
    /// It asks whether anybody has the address, in order to take it.
    Probes,
}

/// Why there is no announcing on an interface.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// No packet socket for ARP.
    #[error("a packet socket for ARP on interface {interface}: {source}")]
    Arp {
        /// The interface's name.
        interface: String,
        /// What the kernel says.
        source: std::io::Error,
    },
    /// No neighbour discovery.
    #[error(transparent)]
    Ndp(#[from] ndp::driver::OpenError),
}

impl Layer2 {
    /// Nothing is open yet on `interface`.
    pub fn new(interface: &Interface) -> Self {
        Self { interface: interface.clone(), arp: None, ndp: None }
    }

    /// Open what the families of `addresses` need on `interface`, and hear when others ask for them.
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

    /// Open what the family of an address needs, unless it is open.
    ///
    /// # Errors
    /// As for [`Layer2::open`].
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

    /// Hear when others ask for an address, which this host need not have.
    ///
    /// # Errors
    /// As for [`Layer2::open`].
    pub fn listen_for(&mut self, address: IpAddr) -> Result<(), OpenError> {
        self.carry(address)?;
        if let (IpAddr::V6(address), Some(ndp)) = (address, &mut self.ndp) {
            ndp.listen_for(address);
        }
        Ok(())
    }

    /// The interface.
    pub fn interface(&self) -> &Interface {
        &self.interface
    }

    /// Announce once. `source` is the interface's link-local address, which IPv6 needs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn announce(&self, address: IpAddr, source: Option<Ipv6Addr>) -> std::io::Result<()> {
        match (address, &self.arp, &self.ndp) {
            (IpAddr::V4(address), Some(arp), _) => arp.announce(address),
            (IpAddr::V6(address), _, Some(ndp)) => match source {
                Some(source) => ndp.announce(source, address),
                None => {
                    Err(std::io::Error::other("the interface has no link-local address to announce from"))
                }
            },
            _ => Ok(()),
        }
    }

    /// Probe once.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn probe(&self, address: IpAddr) -> std::io::Result<()> {
        match (address, &self.arp, &self.ndp) {
            (IpAddr::V4(address), Some(arp), _) => arp.probe(address),
            (IpAddr::V6(address), _, Some(ndp)) => ndp.probe(address),
            _ => Ok(()),
        }
    }

    /// The next sighting of another station; never ends on an interface without neighbours.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn next_sighting(&self) -> std::io::Result<Sighting> {
        let arp = async {
            let Some(arp) = &self.arp else { return std::future::pending().await };
            let packet = arp.receive().await?;
            Ok(if packet.is_probe() {
                Sighting { address: packet.target.into(), station: packet.sender_hardware, act: Act::Probes }
            } else {
                Sighting { address: packet.sender.into(), station: packet.sender_hardware, act: Act::Claims }
            })
        };
        let ndp = async {
            let Some(ndp) = &self.ndp else { return std::future::pending().await };
            loop {
                let packet = ndp.receive().await?;
                let probes = packet.is_probe();
                match packet {
                    ndp::packet::Packet::Advertisement { target, hardware, .. } => {
                        return Ok(Sighting { address: target.into(), station: hardware, act: Act::Claims });
                    }
                    ndp::packet::Packet::Solicitation { target, .. } if probes => {
                        return Ok(Sighting {
                            address: target.into(),
                            station: Vec::new(),
                            act: Act::Probes,
                        });
                    }
                    ndp::packet::Packet::Solicitation { .. } => {}
                }
            }
        };
        tokio::select! { sighting = arp => sighting, sighting = ndp => sighting }
    }
}
