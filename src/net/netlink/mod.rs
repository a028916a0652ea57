//! Interfaces, addresses and routes of this host, by rtnetlink. No other folder uses that crate.
//!
//! [`Netlink`] reads and reports changes on one connection, [`NetlinkWriter`] changes the kernel's state on another: a dump of
//! thousands of addresses does not delay a change.

mod message;
mod requests;
mod writer;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::{StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::route::{RouteHeader, RouteMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};
use tokio::sync::watch;

pub use self::requests::BATCH;
pub use self::writer::{Hold, NetlinkWriter, Scope};
use crate::model::route::Table;
use crate::model::{ActualAddress, Family, IfIndex, Interface, Tags};

/// A request to the kernel that failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what}: {source}")]
pub struct NetlinkError {
    what: String,
    source: Cause,
}

impl From<std::io::Error> for NetlinkError {
    fn from(error: std::io::Error) -> Self {
        Self { what: "open a netlink socket".to_owned(), source: error.into() }
    }
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error(transparent)]
    Netlink(#[from] rtnetlink::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// What has to be read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    Addresses,
    /// Interfaces, and their addresses.
    Interfaces,
}

type Messages = futures::channel::mpsc::UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>;

/// Change notifications of the kernel. They are counted as they arrive, not queued: a reader may take its time.
#[derive(Debug)]
pub struct Changes {
    counts: watch::Receiver<Counts>,
    /// What was returned already.
    seen: Counts,
}

/// How many changes of each kind there were.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    addresses: u64,
    interfaces: u64,
}

impl Counts {
    fn add(&mut self, change: Change) {
        let count = match change {
            Change::Addresses => &mut self.addresses,
            Change::Interfaces => &mut self.interfaces,
        };
        *count = count.wrapping_add(1);
    }
}

impl Changes {
    fn new() -> (watch::Sender<Counts>, Self) {
        let (sender, counts) = watch::channel(Counts::default());
        (sender, Self { counts, seen: Counts::default() })
    }

    /// The next change; none when the connection has ended.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            if let Some(change) = self.pending() {
                return Some(change);
            }
            self.counts.changed().await.ok()?;
        }
    }

    /// What has changed further by now: one read answers for all of it.
    pub fn pending(&mut self) -> Option<Change> {
        let now = *self.counts.borrow_and_update();
        let seen = std::mem::replace(&mut self.seen, now);
        if now.interfaces != seen.interfaces {
            Some(Change::Interfaces)
        } else {
            (now.addresses != seen.addresses).then_some(Change::Addresses)
        }
    }
}

/// Counts changes until the connection ends. Addresses that the socket with the port `ignored` adds are left out.
async fn count(mut messages: Messages, ignored: Option<u32>, counts: watch::Sender<Counts>) {
    while let Some((message, _)) = messages.next().await {
        if let Some(change) = change_of(&message, ignored) {
            counts.send_modify(|counts| counts.add(change));
        }
    }
}

fn change_of(message: &NetlinkMessage<RouteNetlinkMessage>, ignored: Option<u32>) -> Option<Change> {
    use RouteNetlinkMessage::{DelAddress, DelLink, NewAddress, NewLink};
    let ignored = ignored == Some(message.header.port_number);
    match &message.payload {
        NetlinkPayload::InnerMessage(NewAddress(_)) if ignored => None,
        NetlinkPayload::InnerMessage(NewAddress(_) | DelAddress(_)) => Some(Change::Addresses),
        NetlinkPayload::InnerMessage(NewLink(_) | DelLink(_)) => Some(Change::Interfaces),
        // Notifications were lost: the socket's buffer was full.
        NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => Some(Change::Interfaces),
        _ => None,
    }
}

/// Notifications about the routes of one table and protocol that another program changes, as one.
#[derive(Debug)]
pub struct RouteChanges(watch::Receiver<()>);

impl RouteChanges {
    /// Connects on the current runtime.
    pub fn open(table: Table, writer: &NetlinkWriter) -> std::io::Result<Self> {
        let groups = [MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
        let (connection, _, mut messages) = rtnetlink::new_multicast_connection(&groups)?;
        let (changed, changes) = watch::channel(());
        let writer = writer.port();
        tokio::spawn(connection);
        tokio::spawn(async move {
            while let Some((message, _)) = messages.next().await {
                if concerns(&message, table, writer) {
                    changed.send_replace(());
                }
            }
        });
        Ok(Self(changes))
    }

    /// The next change; never if the connection has ended.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// Drops what has arrived by now.
    pub fn clear(&mut self) {
        self.0.mark_unchanged();
    }
}

/// Whether another socket than the writer's has changed a route of this table.
fn concerns(message: &NetlinkMessage<RouteNetlinkMessage>, table: Table, writer: u32) -> bool {
    use RouteNetlinkMessage::{DelRoute, NewRoute};
    match &message.payload {
        NetlinkPayload::InnerMessage(NewRoute(route) | DelRoute(route)) => {
            message.header.port_number != writer
                && message::table_of(route) == table.id
                && u8::from(route.header.protocol) == table.protocol
        }
        // Notifications were lost: the socket's buffer was full.
        NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => true,
        _ => false,
    }
}

/// A connection for reading.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: Handle,
    tags: Tags,
}

impl Netlink {
    /// Connects on the current runtime, and subscribes to changes. Addresses are ours by these tags.
    pub fn open(tags: Tags) -> std::io::Result<(Self, Changes)> {
        Self::open_ignoring(tags, None)
    }

    /// The same without changes by a writer that adds or extends addresses: they are renewed all the time, by the thousand.
    pub fn open_ignoring(tags: Tags, writer: Option<&NetlinkWriter>) -> std::io::Result<(Self, Changes)> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)?;
        let (counts, changes) = Changes::new();
        tokio::spawn(connection);
        tokio::spawn(count(messages, writer.map(NetlinkWriter::port), counts));
        Ok((Self { handle, tags: of_this_kernel(tags) }, changes))
    }

    /// All interfaces.
    pub async fn interfaces(&self) -> Result<Vec<Interface>, NetlinkError> {
        let messages = self.handle.link().get().execute().map_ok(message::interface);
        messages.try_collect().await.map_err(failed("list interfaces"))
    }

    /// All addresses of all interfaces.
    pub async fn addresses(&self) -> Result<Vec<ActualAddress>, NetlinkError> {
        let messages = self.handle.address().get().execute();
        let address = |message| std::future::ready(Ok(message::address(self.tags, message)));
        let addresses = messages.try_filter_map(address);
        addresses.try_collect().await.map_err(failed("list addresses"))
    }

    /// The interface of the default route with the least metric: IPv4's, else IPv6's.
    pub async fn default_route_interface(&self) -> Result<Option<IfIndex>, NetlinkError> {
        for family in Family::BOTH {
            let routes = self.default_routes(family).await?;
            let main = routes.iter().filter(|route| route.header.table == RouteHeader::RT_TABLE_MAIN);
            let best = main.filter_map(|route| Some((message::metric(route), message::output(route)?))).min();
            if let Some((_, interface)) = best {
                return Ok(Some(interface));
            }
        }
        Ok(None)
    }

    /// The gateways of the default routes in all tables.
    pub async fn gateways(&self) -> Result<BTreeSet<IpAddr>, NetlinkError> {
        let mut gateways = BTreeSet::new();
        for family in Family::BOTH {
            gateways.extend(self.default_routes(family).await?.iter().flat_map(message::gateways));
        }
        Ok(gateways)
    }

    /// A host may have all routes of the Internet: they are not collected.
    async fn default_routes(&self, family: Family) -> Result<Vec<RouteMessage>, NetlinkError> {
        let request = match family {
            Family::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
            Family::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
        };
        let is_default = |route: &RouteMessage| route.header.destination_prefix_length == 0;
        let routes = self.handle.route().get(request).execute();
        let routes = routes.try_filter(|route| std::future::ready(is_default(route)));
        routes.try_collect().await.map_err(failed("list routes"))
    }
}

/// The IPv6 neighbours on all interfaces with link-local addresses that the kernel can send to: its neighbour table.
pub async fn link_local_neighbours() -> Result<Vec<(IfIndex, Ipv6Addr)>, NetlinkError> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    // Ends with the handle.
    tokio::spawn(connection);
    let messages = handle.neighbours().get().set_address_family(AddressFamily::Inet6).execute();
    let neighbours = messages.try_filter_map(|it| std::future::ready(Ok(message::link_local_neighbour(&it))));
    neighbours.try_collect().await.map_err(failed("list neighbours"))
}

/// The tags as this kernel stores them.
fn of_this_kernel(tags: Tags) -> Tags {
    tags.on_kernel(&std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default())
}

fn failed(what: &'static str) -> impl Fn(rtnetlink::Error) -> NetlinkError {
    move |source| NetlinkError { what: what.to_owned(), source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn any_number_of_changes_is_read_as_one() {
        let (counts, mut changes) = Changes::new();
        for kind in [Change::Addresses, Change::Interfaces] {
            for _ in 0..10_000 {
                counts.send_modify(|counts| counts.add(kind));
            }
            assert_eq!((changes.next().await, changes.pending()), (Some(kind), None));
        }
        for change in [Change::Interfaces, Change::Addresses] {
            counts.send_modify(|counts| counts.add(change));
        }
        // The end of the connection is seen after what came before.
        drop(counts);
        assert_eq!(changes.next().await, Some(Change::Interfaces), "and their addresses");
        assert_eq!(changes.next().await, None);
    }
}
