//! Which hosts have an address, at every moment.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use kube_vip::model::BootTime;
use kube_vip::net::netlink::{Changes, Netlink};

use crate::lab::Lab;
use crate::{LabError, Result, io, now};

/// Time between two samples.
pub const INTERVAL: Duration = Duration::from_millis(10);

/// The addresses of all hosts at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// When.
    pub at: BootTime,
    /// For each host, the watched addresses it has.
    pub holds: Vec<Vec<IpAddr>>,
}

impl Sample {
    /// The hosts that have `address`.
    pub fn holders(&self, address: IpAddr) -> Vec<usize> {
        let having = self.holds.iter().enumerate().filter(|(_, held)| held.contains(&address));
        having.map(|(host, _)| host).collect()
    }
}

/// Samples all hosts until it is dropped.
#[derive(Debug)]
pub struct Sampler {
    samples: Arc<Mutex<Vec<Sample>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    addresses: Vec<IpAddr>,
}

impl Sampler {
    /// Watch the lab's VIPs on all its hosts.
    pub fn start(lab: &Lab) -> Result<Self> {
        Self::watching(lab, &[lab.vip_v4.into(), lab.vip_v6.into()])
    }

    /// Watch these addresses on all hosts of a lab.
    pub fn watching(lab: &Lab, addresses: &[IpAddr]) -> Result<Self> {
        let addresses = addresses.to_vec();
        let samples = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io("a runtime"))?;
        // A netlink socket stays in the namespace it was opened in.
        let guard = runtime.enter();
        let mut links: Vec<(Netlink, Changes)> = Vec::new();
        for host in &lab.hosts {
            links.push(
                host.namespace
                    .within(|| Netlink::open(kube_vip::model::Tags::default()))?
                    .map_err(io("a netlink socket"))?,
            );
        }
        drop(guard);
        let (wanted, sink, halt) = (addresses.clone(), samples.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            runtime.block_on(async move {
                let mut tick = tokio::time::interval(INTERVAL);
                tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
                while !halt.load(Ordering::Relaxed) {
                    tick.tick().await;
                    let queries = links.iter().map(|(netlink, _)| netlink.addresses());
                    let answers = futures::future::join_all(queries).await;
                    let held = |found: Vec<kube_vip::model::ActualAddress>| {
                        let all = found.into_iter().map(|address| address.vip.address);
                        all.filter(|address| wanted.contains(address)).collect()
                    };
                    // A host that could not be read says nothing.
                    let Ok(found) = answers.into_iter().collect::<std::result::Result<Vec<_>, _>>() else {
                        continue;
                    };
                    let holds = found.into_iter().map(held).collect();
                    sink.lock().unwrap_or_else(PoisonError::into_inner).push(Sample { at: now(), holds });
                }
            });
        });
        Ok(Self { samples, stop, thread: Some(thread), addresses })
    }

    pub fn samples(&self) -> Vec<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything seen since `start`.
    pub fn since(&self, start: BootTime) -> Vec<Sample> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let first = samples.partition_point(|sample| sample.at < start);
        samples.get(first..).unwrap_or_default().to_vec()
    }

    /// The addresses it watches.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    pub fn latest(&self) -> Option<Sample> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).last().cloned()
    }

    /// For how long more than one host had one of the addresses, since `start`.
    pub fn overlap(&self, start: BootTime) -> Duration {
        let twice = |sample: &Sample| self.addresses.iter().any(|address| sample.holders(*address).len() > 1);
        let samples = self.since(start);
        let spans = samples.windows(2).filter_map(|pair| match pair {
            [before, after] if twice(before) => Some(after.at.since(before.at)),
            _ => None,
        });
        spans.sum()
    }

    /// The index of the host that has every address, once it is the only one.
    pub fn wait_for_holder(&self, seconds: u64) -> Result<usize> {
        self.wait_for_holders(&self.addresses, seconds)
    }

    /// The same for some of the addresses.
    pub fn wait_for_holders(&self, addresses: &[IpAddr], seconds: u64) -> Result<usize> {
        crate::wait_for("a single holder of the VIP", seconds, || {
            let sample = self.latest()?;
            let mut holders = addresses.iter().map(|address| sample.holders(*address));
            let first = holders.next()?;
            let same = holders.all(|others| others == first);
            match first.as_slice() {
                [only] if same => Some(*only),
                _ => None,
            }
        })
    }

    /// The holder right now, if there is exactly one.
    pub fn holder(&self) -> Result<usize> {
        let sample = self.latest().ok_or_else(|| LabError::Missing("a sample".into()))?;
        match self.addresses.first().map(|address| sample.holders(*address)).as_deref() {
            Some([only]) => Ok(*only),
            _ => Err(LabError::Timeout { what: format!("one holder, but {:?}", sample.holds), seconds: 0 }),
        }
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
