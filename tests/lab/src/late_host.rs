//! A host that answers probes for addresses, at once or after a while: a phone that sleeps, or a router with proxy ARP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kube_vip::arp::packet::{Operation, Packet as Arp};
use kube_vip::model::IfIndex;
use kube_vip::ndp::packet::{self as ndp, Packet as Ndp};
use kube_vip::net::packet_socket::{Filter, PacketSocket};
use tokio::task::JoinHandle;

use crate::{LabError, Namespace, Result, io};

/// Answers until it is dropped.
#[derive(Debug)]
pub struct LateHost {
    answers: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

/// Its sockets and its hardware address.
#[derive(Debug)]
struct Station {
    arp: PacketSocket,
    ndp: PacketSocket,
    mac: [u8; 6],
}

impl LateHost {
    /// On the `eth0` of `host`, for these addresses, so long after each request.
    pub fn start(host: &Namespace, addresses: &[IpAddr], delay: Duration) -> Result<Self> {
        let read = |file: &str| host.run(&["cat", &format!("/sys/class/net/eth0/{file}")]);
        let unreadable = || LabError::Missing("the hardware address and index of eth0".into());
        let index: u32 = read("ifindex")?.trim().parse().map_err(|_| unreadable())?;
        let text = read("address")?;
        let bytes = text.trim().split(':').map(|byte| u8::from_str_radix(byte, 16));
        let bytes: Vec<u8> = bytes.collect::<std::result::Result<_, _>>().map_err(|_| unreadable())?;
        let mac: [u8; 6] = bytes.try_into().map_err(|_| unreadable())?;
        let opened = host.block_on(async move {
            let open = |filter| PacketSocket::open(IfIndex(index), filter);
            std::io::Result::Ok((open(Filter::Arp)?, open(Filter::NeighbourDiscovery)?))
        });
        let (arp, ndp) = opened.map_err(io("the packet sockets of a late host"))?;
        let (station, addresses) = (Arc::new(Station { arp, ndp, mac }), addresses.to_vec());
        let answers = Arc::new(AtomicUsize::new(0));
        let count = answers.clone();
        let task = host.spawn(async move {
            loop {
                let Ok((address, from)) = station.next_request().await else { return };
                if addresses.contains(&address) {
                    let (station, count) = (station.clone(), count.clone());
                    tokio::spawn(async move {
                        tokio::time::sleep(delay).await;
                        if station.answer(address, &from).is_ok() {
                            count.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            }
        });
        Ok(Self { answers, task })
    }

    /// How many requests it has answered.
    pub fn answers(&self) -> usize {
        self.answers.load(Ordering::Relaxed)
    }
}

impl Drop for LateHost {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Station {
    /// The address that another host asks for, and the hardware address of that host.
    async fn next_request(&self) -> std::io::Result<(IpAddr, Vec<u8>)> {
        let (mut of_arp, mut of_ndp) = ([0; 128], [0; 1500]);
        loop {
            tokio::select! {
                bytes = self.arp.receive(&mut of_arp) => match Arp::from_bytes(bytes?) {
                    // A gratuitous ARP asks for nothing.
                    Ok(it) if it.operation == Operation::Request && it.sender != it.target => {
                        return Ok((it.target.into(), it.sender_hardware));
                    }
                    _ => {}
                },
                bytes = self.ndp.receive(&mut of_ndp) => {
                    if let Ok(Ndp::Solicitation { target, .. }) = Ndp::from_bytes(bytes?) {
                        return Ok((target.into(), Vec::new()));
                    }
                }
            }
        }
    }

    fn answer(&self, address: IpAddr, to: &[u8]) -> std::io::Result<()> {
        match address {
            IpAddr::V4(sender) => {
                let reply = Arp {
                    hardware_type: 1,
                    operation: Operation::Reply,
                    sender_hardware: self.mac.to_vec(),
                    sender,
                    target_hardware: to.to_vec(),
                    target: Ipv4Addr::UNSPECIFIED,
                };
                self.arp.send(&reply.to_bytes(), to)
            }
            IpAddr::V6(target) => {
                let source = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x1a7e);
                let reply = ndp::unsolicited_advertisement(source, target, &self.mac);
                self.ndp.send(&reply, &ndp::multicast_hardware(ndp::ALL_NODES))
            }
        }
    }
}
