//! Interfaces, addresses and routes of this host, by rtnetlink. No other folder uses that crate.
//!
//! [`Netlink`] reads and reports changes on one connection, [`NetlinkWriter`] changes the kernel's state on another: a dump of
//! thousands of addresses does not delay a change.

mod message;
mod requests;
mod writer;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::{FutureExt, StreamExt, TryStreamExt};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteHeader, RouteMessage};
use rtnetlink::sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup, RouteMessageBuilder};

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

/// Change notifications of the kernel.
#[derive(Debug)]
pub struct Changes {
    messages: futures::channel::mpsc::UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    /// The port of the socket whose additions of addresses are not reported.
    ignored: Option<u32>,
}

impl Changes {
    /// Without the addresses that a writer adds or extends: they are renewed all the time, by the thousand.
    pub fn ignoring(self, writer: Option<&NetlinkWriter>) -> Self {
        Self { ignored: writer.map(NetlinkWriter::port), ..self }
    }

    /// The next change; none when the connection has ended.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            let (message, _) = self.messages.next().await?;
            if let Some(change) = self.change(message) {
                return Some(change);
            }
        }
    }

    /// What has changed further by now: one read answers for all of it.
    pub fn pending(&mut self) -> Option<Change> {
        let mut pending = None;
        while let Some(Some((message, _))) = self.messages.next().now_or_never() {
            pending = pending.max(self.change(message));
        }
        pending
    }

    fn change(&self, message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Change> {
        use RouteNetlinkMessage::{DelAddress, DelLink, NewAddress, NewLink};
        let ignored = self.ignored == Some(message.header.port_number);
        match message.payload {
            NetlinkPayload::InnerMessage(NewAddress(_)) if ignored => None,
            NetlinkPayload::InnerMessage(NewAddress(_) | DelAddress(_)) => Some(Change::Addresses),
            NetlinkPayload::InnerMessage(NewLink(_) | DelLink(_)) => Some(Change::Interfaces),
            // Notifications were lost: the socket's buffer was full.
            NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => Some(Change::Interfaces),
            _ => None,
        }
    }
}

/// Notifications about the routes of one table and protocol that another program changes.
#[derive(Debug)]
pub struct RouteChanges {
    messages: futures::channel::mpsc::UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    table: Table,
    /// The port of our own socket.
    writer: u32,
}

impl RouteChanges {
    /// Connects on the current runtime.
    pub fn open(table: Table, writer: &NetlinkWriter) -> std::io::Result<Self> {
        let groups = [MulticastGroup::Ipv4Route, MulticastGroup::Ipv6Route];
        let (connection, _, messages) = rtnetlink::new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        Ok(Self { messages, table, writer: writer.port() })
    }

    /// The next change; never if the connection has ended.
    pub async fn next(&mut self) {
        while let Some((message, _)) = self.messages.next().await {
            if self.concerns(&message) {
                return;
            }
        }
        std::future::pending().await
    }

    /// Drops what has arrived by now.
    pub fn clear(&mut self) {
        while let Some(Some(_)) = self.messages.next().now_or_never() {}
    }

    fn concerns(&self, message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
        use RouteNetlinkMessage::{DelRoute, NewRoute};
        match &message.payload {
            NetlinkPayload::InnerMessage(NewRoute(route) | DelRoute(route)) => {
                message.header.port_number != self.writer
                    && message::table_of(route) == self.table.id
                    && u8::from(route.header.protocol) == self.table.protocol
            }
            // Notifications were lost: the socket's buffer was full.
            NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => true,
            _ => false,
        }
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
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)?;
        tokio::spawn(connection);
        Ok((Self { handle, tags: of_this_kernel(tags) }, Changes { messages, ignored: None }))
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

/// The tags as this kernel stores them.
fn of_this_kernel(tags: Tags) -> Tags {
    tags.on_kernel(&std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default())
}

fn failed(what: &'static str) -> impl Fn(rtnetlink::Error) -> NetlinkError {
    move |source| NetlinkError { what: what.to_owned(), source: source.into() }
}
