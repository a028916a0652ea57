//! Probes the segment for many addresses, until each is answered for or all the time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube_vip::announce::layer2::Layer2;
use kube_vip::conflict::FrameKind;
use kube_vip::model::BootTime;
use kube_vip::net::netlink::Netlink;
use tokio::task::JoinHandle;

use crate::lab::Lab;
use crate::{LabError, Result, io, now};

/// Time between two rounds of probes.
const ROUND: Duration = Duration::from_millis(20);
/// Probes in a round: more would delay the answers.
const PROBES: usize = 400;

#[derive(Debug, Default)]
struct State {
    wanted: Vec<IpAddr>,
    /// The MAC address of a host whose answers are ignored.
    except: Vec<u8>,
    answered: BTreeMap<IpAddr, (BootTime, Vec<u8>)>,
    /// Every answer, where addresses are probed all the time.
    history: Option<Vec<(BootTime, IpAddr, Vec<u8>)>>,
}

/// Probes from the client host until it is dropped.
#[derive(Debug)]
pub struct Sweep {
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

impl Sweep {
    /// No address is probed yet.
    pub fn start(lab: &Lab) -> Result<Self> {
        // An agent treats the probe of a lower hardware address as a conflict (RFC 5227 §2.1.1) and yields.
        lab.client_host.run(&["ip", "link", "set", "eth0", "address", "fe:ff:ff:ff:ff:ff"])?;
        let opened = lab.client_host.block_on(async move {
            let (netlink, _changes) = Netlink::open(kube_vip::model::Tags::default())?;
            let links = netlink.interfaces().await.map_err(std::io::Error::other)?;
            let link = links.into_iter().find(|link| link.name == "eth0");
            let link = link.ok_or_else(|| std::io::Error::other("the client host has no eth0"))?;
            let both: [IpAddr; 2] =
                [std::net::Ipv4Addr::UNSPECIFIED.into(), std::net::Ipv6Addr::UNSPECIFIED.into()];
            Layer2::open(&link, both.into_iter()).map_err(std::io::Error::other)
        });
        let layer2 = opened.map_err(io("probing the segment"))?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let task = lab.client_host.spawn(async move {
            let mut tick = tokio::time::interval(ROUND);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    frame = layer2.next_frame() => {
                        let Ok(frame) = frame else { return };
                        if frame.kind == FrameKind::Announcement {
                            lock(&shared).record(frame.address, frame.mac);
                        }
                    }
                    _ = tick.tick() => {
                        for address in lock(&shared).open().into_iter().take(PROBES) {
                            // The next round repeats it.
                            layer2.probe(address).ok();
                        }
                    }
                }
            }
        });
        Ok(Self { state, task })
    }

    /// Probe for these from now on, and ignore answers from the host with the MAC address `except`.
    pub fn probe(&self, wanted: &[IpAddr], except: &[u8]) {
        *lock(&self.state) = State { wanted: wanted.to_vec(), except: except.to_vec(), ..State::default() };
    }

    /// Probe for these all the time from now on.
    pub fn follow(&self, wanted: &[IpAddr]) {
        *lock(&self.state) = State { wanted: wanted.to_vec(), history: Some(Vec::new()), ..State::default() };
    }

    /// The answers to [`Self::follow`], oldest first: each with its time and MAC address.
    pub fn answers(&self, address: IpAddr) -> Vec<(BootTime, Vec<u8>)> {
        let state = lock(&self.state);
        let of_address = state.history.iter().flatten().filter(|(_, about, _)| *about == address);
        of_address.map(|(at, _, mac)| (*at, mac.clone())).collect()
    }

    /// The time of the last answer, once each address has one.
    pub fn wait(&self, seconds: u64) -> Result<BootTime> {
        let waited = crate::wait_for("every address to be answered for", seconds, || {
            let state = lock(&self.state);
            let last = state.answered.values().map(|(at, _)| *at).max();
            (state.answered.len() >= state.wanted.len()).then_some(last.unwrap_or_else(now))
        });
        waited.map_err(|error| {
            let state = lock(&self.state);
            LabError::Api(format!("{error}: {} of {}", state.answered.len(), state.wanted.len()))
        })
    }

    /// How many addresses each MAC address answered for.
    pub fn shares(&self) -> BTreeMap<Vec<u8>, usize> {
        let mut shares = BTreeMap::new();
        for (_, mac) in lock(&self.state).answered.values() {
            *shares.entry(mac.clone()).or_default() += 1;
        }
        shares
    }
}

impl State {
    fn record(&mut self, address: IpAddr, mac: Vec<u8>) {
        if mac != self.except && self.wanted.contains(&address) {
            if let Some(history) = &mut self.history {
                history.push((now(), address, mac.clone()));
            }
            self.answered.entry(address).or_insert_with(|| (now(), mac));
        }
    }

    fn open(&self) -> Vec<IpAddr> {
        let is_open = |address: &&IpAddr| self.history.is_some() || !self.answered.contains_key(*address);
        self.wanted.iter().filter(is_open).copied().collect()
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Sweep {
    fn drop(&mut self) {
        self.task.abort();
    }
}
