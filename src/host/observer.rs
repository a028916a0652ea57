//! The only reader of the kernel's interfaces and addresses, but for what a writer reads back.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::{HostState, HostWatch};
use crate::model::{BootTime, IfIndex, LogOnChange, Tags};
use crate::net::clock;
use crate::net::netlink::{Change, Changes, Netlink, NetlinkError, NetlinkWriter};

/// Time between reads without a notification.
const RESYNC: Duration = Duration::from_secs(30);
/// Time between reads of the gateways: a host may have many routes.
const GATEWAYS_INTERVAL: Duration = Duration::from_secs(600);
/// Time until a failed read is repeated.
const RETRY: Duration = Duration::from_millis(200);
/// The longest pause between two reads: with thousands of addresses a read takes milliseconds.
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// Publishes the state of this host.
#[derive(Debug)]
pub struct Observer {
    netlink: Netlink,
    changes: Changes,
    /// When the gateways are read next.
    gateways_at: BootTime,
    state: watch::Sender<Arc<HostState>>,
}

impl Observer {
    /// Connects, and reads the state for the first time. Addresses that `ignored` adds are not observed.
    pub async fn start(ignored: Option<&NetlinkWriter>, tags: Tags) -> Result<Self, NetlinkError> {
        let (netlink, changes) = Netlink::open_ignoring(tags, ignored)?;
        let state = read_all(&netlink).await?;
        Ok(Self {
            netlink,
            changes,
            gateways_at: clock::now() + GATEWAYS_INTERVAL,
            state: watch::Sender::new(Arc::new(state)),
        })
    }

    /// Follows the state.
    pub fn subscribe(&self) -> HostWatch {
        self.state.subscribe()
    }

    /// The interface of the default route.
    pub async fn default_route_interface(&self) -> Result<Option<IfIndex>, NetlinkError> {
        self.netlink.default_route_interface().await
    }

    /// Reads after each notification, at once unless reads have used up their share of time, and every 30 s. Ends with
    /// the last subscriber, or with the connection to the kernel.
    pub async fn run(mut self) {
        let state = self.state.clone();
        tokio::select! {
            () = state.closed() => {}
            Err(ended) = self.observe() => tracing::error!("{ended}"),
        }
    }

    async fn observe(&mut self) -> Result<Infallible, &'static str> {
        let mut log = LogOnChange::default();
        loop {
            let change = tokio::select! {
                change = self.changes.next() => change.ok_or("the kernel closed the netlink connection")?,
                () = tokio::time::sleep(RESYNC) => Change::Interfaces,
            };
            let mut unread = Some(change);
            while let Some(change) = unread.take().max(self.changes.pending()) {
                let began = clock::now();
                let updated = self.update(change).await;
                let mut pause = clock::pause_after(began, MAX_PAUSE);
                match updated {
                    Ok(()) => drop(log.clear()),
                    Err(error) => {
                        if log.set(error.to_string()) {
                            tracing::error!("{error}; trying again");
                        }
                        unread = Some(change);
                        pause = RETRY;
                    }
                }
                tokio::time::sleep(pause).await;
            }
        }
    }

    /// Publishes after every notification, whether the state differs or not: an address that was not observed may have
    /// been removed.
    async fn update(&mut self, change: Change) -> Result<(), NetlinkError> {
        let before = self.state.borrow().clone();
        let mut state = match change {
            Change::Interfaces => read(&self.netlink).await?,
            Change::Addresses => {
                let interfaces = before.interfaces.clone();
                HostState { interfaces, addresses: self.netlink.addresses().await?, ..HostState::default() }
            }
        };
        state.gateways.clone_from(&before.gateways);
        if clock::now() >= self.gateways_at {
            state.gateways = self.netlink.gateways().await?;
            self.gateways_at = clock::now() + GATEWAYS_INTERVAL;
        }
        self.state.send_replace(Arc::new(state));
        Ok(())
    }
}

async fn read(netlink: &Netlink) -> Result<HostState, NetlinkError> {
    let (interfaces, addresses) = (netlink.interfaces().await?, netlink.addresses().await?);
    Ok(HostState { interfaces, addresses, ..HostState::default() })
}

async fn read_all(netlink: &Netlink) -> Result<HostState, NetlinkError> {
    Ok(HostState { gateways: netlink.gateways().await?, ..read(netlink).await? })
}

/// Reads the state of this host once, and the interface of the default route.
pub async fn read_once() -> Result<(HostState, Option<IfIndex>), NetlinkError> {
    let (netlink, _changes) = Netlink::open(Tags::default())?;
    Ok((read_all(&netlink).await?, netlink.default_route_interface().await?))
}
