//! Records every announcement of, and probe for, the VIPs on the segment.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use kube_vip::announce::layer2::Layer2;
use kube_vip::conflict::NeighborFrame;
use kube_vip::model::BootTime;
use kube_vip::net::netlink::Netlink;
use tokio::task::JoinHandle;

use crate::lab::Lab;
use crate::{LabError, Result, io, now};

/// Listens on the client host until it is dropped.
#[derive(Debug)]
pub struct Recorder {
    recorded: Arc<Mutex<Vec<(BootTime, NeighborFrame)>>>,
    task: JoinHandle<()>,
}

impl Recorder {
    /// Listen for the lab's VIPs.
    pub fn start(lab: &Lab) -> Result<Self> {
        let vips: Vec<IpAddr> = vec![lab.vip_v4.into(), lab.vip_v6.into()];
        let wanted = vips.clone();
        let opened = lab.client_host.block_on(async move {
            let (netlink, _changes) = Netlink::open(kube_vip::model::Tags::default())?;
            let links = netlink.interfaces().await.map_err(std::io::Error::other)?;
            let link = links.into_iter().find(|link| link.name == "eth0");
            let link = link.ok_or_else(|| std::io::Error::other("the client host has no eth0"))?;
            Layer2::open(&link, vips.into_iter()).map_err(std::io::Error::other)
        });
        let layer2 = opened.map_err(io("a packet socket on the segment"))?;
        let recorded = Arc::new(Mutex::new(Vec::new()));
        let sink = recorded.clone();
        let task = lab.client_host.spawn(async move {
            while let Ok(frame) = layer2.next_frame().await {
                if wanted.contains(&frame.address) {
                    sink.lock().unwrap_or_else(PoisonError::into_inner).push((now(), frame));
                }
            }
        });
        Ok(Self { recorded, task })
    }

    /// The frames since `start`, oldest first.
    pub fn since(&self, start: BootTime) -> Vec<(BootTime, NeighborFrame)> {
        let recorded = self.recorded.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.iter().filter(|(at, _)| *at >= start).cloned().collect()
    }

    /// The MAC address of a host of the lab.
    pub fn mac(lab: &Lab, host: usize) -> Result<Vec<u8>> {
        let text = lab.host(host).namespace.run(&["cat", "/sys/class/net/eth0/address"])?;
        let bytes: Option<Vec<u8>> =
            text.trim().split(':').map(|digits| u8::from_str_radix(digits, 16).ok()).collect();
        bytes.ok_or_else(|| LabError::Missing("a MAC address".into()))
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.task.abort();
    }
}
