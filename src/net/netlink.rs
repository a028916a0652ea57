//! Interfaces, addresses and routes of this host, by rtnetlink. The only file that knows that crate.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use nix::sys::socket::SockProtocol;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
    CacheInfo,
};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecUnspec, LinkAttribute, LinkFlags, LinkMessage, MacVlanMode, State,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteRealm, RouteScope, RouteType,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::sys::AsyncSocket;
use rtnetlink::{Handle, IpVersion, LinkMacVlan, LinkUnspec, LinkVlan, MulticastGroup, RouteMessageBuilder};

use super::requests::Requests;
use crate::model::interface::ManagedInterface;
use crate::model::route::{Table, TableRoute};
use crate::model::{ActualAddress, IfIndex, Interface, Prefix, Vip};

/// Marks an address as ours (`IFA_PROTO`, Linux 5.18). The Go program marks its routes with the same number.
const TAG: AddressProtocol = AddressProtocol::Other(248);
/// Marks an interface as ours (`IFLA_IFALIAS`; `ip link` shows it).
const LINK_ALIAS: &str = "kube-vip";
const FOREVER: u32 = u32::MAX;
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
/// Create, or replace what is there.
const REPLACE: u16 = 0x100 | 0x400;

/// A request to the kernel that failed.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refuses to {what}: {source}")]
pub struct NetlinkError {
    what: String,
    source: Refused,
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Netlink(#[from] rtnetlink::Error),
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// An address to be held on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// The interface's index.
    pub interface: IfIndex,
    /// The address and its prefix length.
    pub vip: Vip,
    /// For how long, in seconds.
    pub seconds: u32,
    /// Its scope.
    pub scope: Scope,
}

/// A change the kernel reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// An interface came, went, or changed its state or name.
    Interface,
    /// An address came, went or changed.
    Address,
}

/// Changes as they happen, but for those that this process made itself.
#[derive(Debug)]
pub struct Changes {
    messages: futures::channel::mpsc::UnboundedReceiver<(
        rtnetlink::packet_core::NetlinkMessage<RouteNetlinkMessage>,
        rtnetlink::sys::SocketAddr,
    )>,
    /// The kernel's numbers for our sockets: it says in each message whose request caused it.
    own: [u32; 2],
}

impl Changes {
    /// The next change; none when the connection to the kernel ended.
    pub async fn next(&mut self) -> Option<Change> {
        loop {
            let (message, _) = self.messages.next().await?;
            let by_us = self.own.contains(&message.header.port_number);
            match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(_)) if by_us => {}
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_),
                ) => return Some(Change::Interface),
                NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_),
                ) => return Some(Change::Address),
                // The kernel had more to tell than the socket could hold: look at everything.
                NetlinkPayload::Overrun(_) | NetlinkPayload::Error(_) => return Some(Change::Interface),
                _ => {}
            }
        }
    }
}

/// How an address is put on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// As the kernel would choose.
    Global,
    /// Valid on this host alone, for `lo`.
    Host,
}

/// A connection to the kernel.
#[derive(Debug, Clone)]
pub struct Netlink {
    handle: Handle,
    /// For requests by the thousand.
    requests: Arc<Requests>,
}

impl Netlink {
    /// Connect, and subscribe to changes. The connection lives on the current runtime.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open() -> std::io::Result<(Self, Changes)> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr];
        let (mut connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)?;
        let mut address = rtnetlink::sys::SocketAddr::new(0, 0);
        connection.socket_mut().socket_mut().get_address(&mut address)?;
        tokio::spawn(connection);
        let requests = Requests::open(SockProtocol::NetlinkRoute)?;
        let own = [address.port_number(), requests.port()];
        Ok((Self { handle, requests: Arc::new(requests) }, Changes { messages, own }))
    }

    /// Connect without hearing of changes.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn connect() -> std::io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self { handle, requests: Arc::new(Requests::open(SockProtocol::NetlinkRoute)?) })
    }

    /// All interfaces.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn interfaces(&self) -> Result<Vec<Interface>, NetlinkError> {
        let messages: Vec<LinkMessage> =
            self.handle.link().get().execute().try_collect().await.map_err(failed("list interfaces"))?;
        Ok(messages.into_iter().map(interface).collect())
    }

    /// All addresses of all interfaces.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn addresses(&self) -> Result<Vec<ActualAddress>, NetlinkError> {
        let messages: Vec<AddressMessage> =
            self.handle.address().get().execute().try_collect().await.map_err(failed("list addresses"))?;
        Ok(messages.into_iter().filter_map(address).collect())
    }

    /// Put addresses on interfaces, or set their lifetimes where they are there: deprecated, so that nothing uses them as a
    /// source, tagged, without duplicate address detection, and dropped by the kernel after so many seconds. One
    /// outcome for each, in their order.
    pub fn hold(&self, holds: &[Hold]) -> Vec<Result<(), NetlinkError>> {
        let what = |hold: &Hold| format!("put {} on interface {}", hold.vip, hold.interface);
        self.change(holds, REPLACE, |hold| RouteNetlinkMessage::NewAddress(held_address(hold)), what)
    }

    /// Remove addresses from interfaces. That one is gone already, or its interface is, counts as success.
    pub fn remove(&self, removals: &[(IfIndex, Vip)]) -> Vec<Result<(), NetlinkError>> {
        let what = |(interface, vip): &(IfIndex, Vip)| format!("remove {vip} from interface {interface}");
        let message = |(interface, vip): &(IfIndex, Vip)| {
            RouteNetlinkMessage::DelAddress(bare_address(*interface, *vip))
        };
        self.remove_all(removals, &[libc::EADDRNOTAVAIL, libc::ENODEV], message, what)
    }

    /// One removal for each item. An error that says that it is gone already counts as success.
    fn remove_all<T>(
        &self,
        items: &[T],
        gone: &[i32],
        message: impl Fn(&T) -> RouteNetlinkMessage,
        what: impl Fn(&T) -> String,
    ) -> Vec<Result<(), NetlinkError>> {
        let mut outcomes = self.change(items, 0, message, what);
        for outcome in &mut outcomes {
            if let Err(NetlinkError { source: Refused::Io(error), .. }) = outcome
                && error.raw_os_error().is_some_and(|number| gone.contains(&number))
            {
                *outcome = Ok(());
            }
        }
        outcomes
    }

    async fn list_routes(&self, request: RouteMessage) -> Result<Vec<RouteMessage>, NetlinkError> {
        let routes = self.handle.route().get(request).execute();
        routes.try_collect().await.map_err(failed("list routes"))
    }

    /// The routes of a table that have this protocol, and lead to an interface.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn routes(&self, table: Table) -> Result<BTreeSet<TableRoute>, NetlinkError> {
        let mut found = BTreeSet::new();
        for request in [
            RouteMessageBuilder::<Ipv4Addr>::new().table_id(table.id).build(),
            RouteMessageBuilder::<Ipv6Addr>::new().table_id(table.id).build(),
        ] {
            let messages = self.list_routes(request).await?;
            let here = |message: &&RouteMessage| {
                table_of(message) == table.id && u8::from(message.header.protocol) == table.protocol
            };
            found.extend(messages.iter().filter(here).filter_map(table_route));
        }
        Ok(found)
    }

    /// Put routes into a table; one to the same destination is replaced.
    pub fn put_routes(
        &self,
        table: Table,
        realm: Option<u16>,
        routes: &[TableRoute],
    ) -> Vec<Result<(), NetlinkError>> {
        let what = |route: &TableRoute| format!("put {} into table {}", route.prefix, table.id);
        let message = |route: &TableRoute| RouteNetlinkMessage::NewRoute(route_message(table, realm, route));
        self.change(routes, REPLACE, message, what)
    }

    /// Remove routes from a table. That one is gone already counts as success.
    pub fn remove_routes(&self, table: Table, routes: &[TableRoute]) -> Vec<Result<(), NetlinkError>> {
        let what = |route: &TableRoute| format!("remove {} from table {}", route.prefix, table.id);
        let message = |route: &TableRoute| RouteNetlinkMessage::DelRoute(route_message(table, None, route));
        self.remove_all(routes, &[libc::ESRCH, libc::ENODEV], message, what)
    }

    /// One request for each item, all at once.
    fn change<T>(
        &self,
        items: &[T],
        flags: u16,
        message: impl Fn(&T) -> RouteNetlinkMessage,
        what: impl Fn(&T) -> String,
    ) -> Vec<Result<(), NetlinkError>> {
        let requests = items.iter().map(|item| {
            let mut request = NetlinkMessage::from(message(item));
            request.header.flags = REQUEST | ACK | flags;
            request.finalize();
            let mut bytes = vec![0; request.buffer_len()];
            request.serialize(&mut bytes);
            bytes
        });
        let outcomes = self.requests.send(requests.collect());
        let outcomes = items.iter().zip(outcomes);
        let failed = |item: &T, error| NetlinkError { what: what(item), source: Refused::Io(error) };
        outcomes.map(|(item, outcome)| outcome.map_err(|error| failed(item, error))).collect()
    }

    /// Make an interface on the one with this index, mark it as ours, and set it up.
    ///
    /// # Errors
    /// What the kernel says: it may not know interfaces of that kind.
    pub async fn add_interface(
        &self,
        parent: IfIndex,
        interface: &ManagedInterface,
    ) -> Result<(), NetlinkError> {
        let name = interface.name();
        let failed = |source: rtnetlink::Error| NetlinkError {
            what: format!("make interface {name}"),
            source: source.into(),
        };
        let message = match interface {
            ManagedInterface::Vlan { tag, .. } => LinkVlan::new(&name, parent.0, *tag).up().build(),
            ManagedInterface::Macvlan { hardware, .. } => {
                LinkMacVlan::new(&name, parent.0, MacVlanMode::Bridge).address(hardware.to_vec()).up().build()
            }
        };
        self.handle.link().add(message).execute().await.map_err(failed)?;
        let mark = LinkAttribute::IfAlias(LINK_ALIAS.to_owned());
        let marked = LinkUnspec::new_with_name(&name).append_extra_attribute(mark).build();
        self.handle.link().set(marked).execute().await.map_err(failed)
    }

    /// Remove an interface.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn remove_interface(&self, index: IfIndex) -> Result<(), NetlinkError> {
        self.handle.link().del(index.0).execute().await.map_err(failed("remove an interface"))
    }

    /// The interface of the default route: IPv4's, else IPv6's.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn default_route_interface(&self) -> Result<Option<IfIndex>, NetlinkError> {
        for version in [IpVersion::V4, IpVersion::V6] {
            let request = match version {
                IpVersion::V4 => RouteMessageBuilder::<Ipv4Addr>::new().build(),
                IpVersion::V6 => RouteMessageBuilder::<Ipv6Addr>::new().build(),
            };
            let routes = self.list_routes(request).await?;
            let best = routes
                .iter()
                .filter(|route| route.header.destination_prefix_length == 0)
                .filter(|route| route.header.table == RouteHeader::RT_TABLE_MAIN)
                .filter_map(|route| Some((metric(route), output(route)?)))
                .min();
            if let Some((_, interface)) = best {
                return Ok(Some(interface));
            }
        }
        Ok(None)
    }
}

fn route_message(table: Table, realm: Option<u16>, route: &TableRoute) -> RouteMessage {
    let kind = RouteType::from(table.kind);
    let scope = if kind == RouteType::Local { RouteScope::Link } else { RouteScope::Universe };
    let Prefix { address, length } = route.prefix;
    match address {
        IpAddr::V4(address) => {
            let builder = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(address, length);
            let builder = builder.table_id(table.id).protocol(table.protocol.into()).scope(scope);
            let builder = builder.kind(kind).output_interface(route.interface.0);
            match realm {
                // The kernel has realms for IPv4 alone.
                Some(realm) => builder.realm(RouteRealm { source: 0, destination: realm }).build(),
                None => builder.build(),
            }
        }
        IpAddr::V6(address) => {
            let builder = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(address, length);
            let builder = builder.table_id(table.id).protocol(table.protocol.into()).scope(scope);
            builder.kind(kind).output_interface(route.interface.0).build()
        }
    }
}

fn table_of(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or(message.header.table.into())
}

fn table_route(message: &RouteMessage) -> Option<TableRoute> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::from(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    })?;
    let prefix = Prefix::new(address, message.header.destination_prefix_length);
    Some(TableRoute { prefix, interface: output(message)? })
}

fn bare_address(interface: IfIndex, vip: Vip) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = interface.0;
    message.header.prefix_len = vip.prefix;
    message.header.family = match vip.address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.attributes.push(AddressAttribute::Address(vip.address));
    // No broadcast address: for a /32 it would be the VIP itself.
    message.attributes.push(AddressAttribute::Local(vip.address));
    message
}

fn held_address(hold: &Hold) -> AddressMessage {
    let mut message = bare_address(hold.interface, hold.vip);
    message.header.scope = match hold.scope {
        Scope::Global => AddressScope::Universe,
        Scope::Host => AddressScope::Host,
    };
    let mut cache = CacheInfo::default();
    cache.ifa_preferred = 0;
    cache.ifa_valid = hold.seconds;
    message.attributes.push(AddressAttribute::CacheInfo(cache));
    message.attributes.push(AddressAttribute::Protocol(TAG));
    if hold.vip.address.is_ipv6() {
        message.header.flags |= AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

fn failed(what: &'static str) -> impl Fn(rtnetlink::Error) -> NetlinkError {
    move |source| NetlinkError { what: what.to_owned(), source: source.into() }
}

fn metric(route: &RouteMessage) -> u32 {
    let find = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    };
    route.attributes.iter().find_map(find).unwrap_or(0)
}

fn output(route: &RouteMessage) -> Option<IfIndex> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(interface) => Some(IfIndex(*interface)),
        RouteAttribute::MultiPath(hops) => hops.first().map(|hop| IfIndex(hop.interface_index)),
        _ => None,
    })
}

fn interface(message: LinkMessage) -> Interface {
    let mut interface = Interface {
        index: IfIndex(message.header.index),
        name: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        hardware_type: u16::from(message.header.link_layer_type),
        hardware_address: Vec::new(),
        broadcast: Vec::new(),
        managed: false,
        reverse_path: 0,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::IfAlias(alias) => interface.managed = alias == LINK_ALIAS,
            LinkAttribute::Address(bytes) => interface.hardware_address = bytes,
            LinkAttribute::Broadcast(bytes) => interface.broadcast = bytes,
            LinkAttribute::AfSpecUnspec(families) => {
                let settings = families.into_iter().filter_map(|family| match family {
                    AfSpecUnspec::Inet(settings) => Some(settings),
                    _ => None,
                });
                for setting in settings.flatten() {
                    if let AfSpecInet::DevConf(setting) = setting {
                        interface.reverse_path = setting.rp_filter;
                    }
                }
            }
            LinkAttribute::OperState(state) => interface.up &= matches!(state, State::Up | State::Unknown),
            _ => {}
        }
    }
    interface
}

fn address(message: AddressMessage) -> Option<ActualAddress> {
    let (mut any, mut local) = (None, None);
    let (mut tagged, mut flags, mut cache) = (false, AddressFlags::empty(), None);
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Address(address) => any = Some(address),
            AddressAttribute::Local(address) => local = Some(address),
            AddressAttribute::Flags(value) => flags = value,
            AddressAttribute::CacheInfo(value) => cache = Some(value),
            AddressAttribute::Protocol(value) => tagged = value == TAG,
            _ => {}
        }
    }
    // On a point-to-point interface IFA_ADDRESS is the other end's.
    let address: IpAddr = match message.header.family {
        AddressFamily::Inet => local.or(any)?,
        _ => any.or(local)?,
    };
    let valid = cache.map_or(FOREVER, |cache| cache.ifa_valid);
    Some(ActualAddress {
        interface: IfIndex(message.header.index),
        vip: Vip { address, prefix: message.header.prefix_len },
        tagged,
        // The kernel reports an endless preferred lifetime for whatever is valid for ever, deprecated or not.
        deprecated: flags.contains(AddressFlags::Deprecated)
            || cache.is_some_and(|cache| cache.ifa_preferred == 0),
        valid_for: (valid != FOREVER).then(|| Duration::from_secs(valid.into())),
        dad_failed: flags.contains(AddressFlags::Dadfailed),
    })
}
