//! Changes addresses, interfaces and routes, and reads what has to be compared with them before.
//!
//! Calls block until the kernel has answered, which it does within the system call; a call for thousands of items takes
//! some milliseconds.

use std::collections::BTreeSet;

use rtnetlink::packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage,
    NetlinkPayload,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::link::{LinkAttribute, LinkMessage, MacVlanMode};
use rtnetlink::{LinkMacVlan, LinkUnspec, LinkVlan};

use super::message::{self, ALIAS};
use super::requests::Requests;
use super::{Cause, NetlinkError, of_this_kernel};
use crate::model::interface::ManagedInterface;
use crate::model::route::{Table, TableRoute};
use crate::model::{ActualAddress, Family, IfIndex, Tags, Vip};

/// An address with a lifetime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    pub interface: IfIndex,
    pub vip: Vip,
    /// Valid lifetime; `u32::MAX` is infinite.
    pub seconds: u32,
    pub scope: Scope,
    /// `IFA_PROTO`
    pub tag: u8,
}

/// The scope of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// As the kernel would choose.
    Global,
    /// Valid on this host alone, for `lo`.
    Host,
}

/// A connection for changes.
#[derive(Debug)]
pub struct NetlinkWriter {
    requests: Requests,
    tags: Tags,
}

impl NetlinkWriter {
    /// Connects. Addresses are ours by these tags.
    pub fn open(tags: Tags) -> std::io::Result<Self> {
        Ok(Self { requests: Requests::open()?, tags: of_this_kernel(tags) })
    }

    pub(super) fn port(&self) -> u32 {
        self.requests.port()
    }

    /// All addresses of all interfaces, with every earlier change of this writer in effect.
    pub fn addresses(&self) -> Result<Vec<ActualAddress>, NetlinkError> {
        let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let mut addresses = Vec::new();
        let each = |message| {
            if let RouteNetlinkMessage::NewAddress(address) = message {
                addresses.extend(message::address(self.tags, address));
            }
        };
        match self.dump(request, each) {
            Ok(()) => Ok(addresses),
            Err(error) => Err(failed("list addresses".to_owned(), error)),
        }
    }

    /// Adds addresses to interfaces, or sets their lifetimes where they exist: tagged, deprecated, so that nothing uses
    /// them as a source, and without duplicate address detection. One result each, in their order.
    pub fn hold(&self, holds: &[Hold]) -> Vec<Result<(), NetlinkError>> {
        let what = |hold: &Hold| format!("add {} to interface {}", hold.vip, hold.interface);
        let message = |hold: &Hold| RouteNetlinkMessage::NewAddress(message::held_address(hold));
        self.change(holds, NLM_F_CREATE | NLM_F_REPLACE, message, what)
    }

    /// Removes addresses from interfaces. A missing address or interface counts as success.
    pub fn remove(&self, removals: &[(IfIndex, Vip)]) -> Vec<Result<(), NetlinkError>> {
        let what = |(interface, vip): &(IfIndex, Vip)| format!("remove {vip} from interface {interface}");
        let message = |(interface, vip): &(IfIndex, Vip)| {
            RouteNetlinkMessage::DelAddress(message::bare_address(*interface, *vip))
        };
        let results = self.change(removals, 0, message, what);
        results.into_iter().map(|result| missing_is_success(result, libc::EADDRNOTAVAIL)).collect()
    }

    /// The routes of a table that have its protocol and lead to an interface.
    pub fn routes(&self, table: Table) -> Result<BTreeSet<TableRoute>, NetlinkError> {
        let mut routes = BTreeSet::new();
        for family in [Family::V4, Family::V6] {
            let each = |message| {
                if let RouteNetlinkMessage::NewRoute(route) = message
                    && message::table_of(&route) == table.id
                    && u8::from(route.header.protocol) == table.protocol
                {
                    routes.extend(message::table_route(&route));
                }
            };
            match self.dump(RouteNetlinkMessage::GetRoute(message::route_dump(table, family)), each) {
                // The kernel has no table before its first route.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                result => result.map_err(|error| failed("list routes".to_owned(), error))?,
            }
        }
        Ok(routes)
    }

    /// Adds routes to a table; one to the same destination is replaced. One result each, in their order.
    pub fn put_routes(
        &self,
        table: Table,
        realm: Option<u16>,
        routes: &[TableRoute],
    ) -> Vec<Result<(), NetlinkError>> {
        let what = |route: &TableRoute| format!("add {} to table {}", route.prefix, table.id);
        let message =
            |route: &TableRoute| RouteNetlinkMessage::NewRoute(message::route_message(table, realm, route));
        self.change(routes, NLM_F_CREATE | NLM_F_REPLACE, message, what)
    }

    /// Removes routes from a table. A missing route or interface counts as success.
    pub fn remove_routes(&self, table: Table, routes: &[TableRoute]) -> Vec<Result<(), NetlinkError>> {
        let what = |route: &TableRoute| format!("remove {} from table {}", route.prefix, table.id);
        let message =
            |route: &TableRoute| RouteNetlinkMessage::DelRoute(message::route_message(table, None, route));
        let results = self.change(routes, 0, message, what);
        results.into_iter().map(|result| missing_is_success(result, libc::ESRCH)).collect()
    }

    /// Creates an interface on the one with this index, marks it as ours, and sets it up.
    ///
    /// # Errors
    /// For instance if the kernel lacks the module for this kind.
    pub fn add_interface(&self, parent: IfIndex, interface: &ManagedInterface) -> Result<(), NetlinkError> {
        let name = interface.name();
        let created = match interface {
            ManagedInterface::Vlan { tag, .. } => LinkVlan::new(&name, parent.0, *tag).up().build(),
            ManagedInterface::Macvlan { hardware, .. } => {
                LinkMacVlan::new(&name, parent.0, MacVlanMode::Bridge).address(hardware.to_vec()).up().build()
            }
        };
        // The kernel ignores the alias in the request that creates an interface.
        let alias = LinkAttribute::IfAlias(ALIAS.to_owned());
        let marked = LinkUnspec::new_with_name(&name).append_extra_attribute(alias).build();
        let what = |_: &_| format!("create interface {name}");
        let create = |message: &LinkMessage| RouteNetlinkMessage::NewLink(message.clone());
        let mark = |message: &LinkMessage| RouteNetlinkMessage::SetLink(message.clone());
        let created = self.change(&[created], NLM_F_CREATE | NLM_F_EXCL, create, what);
        created.into_iter().collect::<Result<(), _>>()?;
        self.change(&[marked], 0, mark, what).into_iter().collect()
    }

    /// Removes an interface.
    pub fn remove_interface(&self, index: IfIndex) -> Result<(), NetlinkError> {
        let mut message = LinkMessage::default();
        message.header.index = index.0;
        let message = |_: &_| RouteNetlinkMessage::DelLink(message.clone());
        let results = self.change(&[()], 0, message, |_| format!("remove interface {index}"));
        results.into_iter().try_for_each(|result| missing_is_success(result, libc::ENODEV))
    }

    /// One request for each item, all of them in as few system calls as possible.
    fn change<T>(
        &self,
        items: &[T],
        flags: u16,
        message: impl Fn(&T) -> RouteNetlinkMessage,
        what: impl Fn(&T) -> String,
    ) -> Vec<Result<(), NetlinkError>> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        let requests = items.iter().map(|item| serialize(message(item), flags)).collect();
        let results = items.iter().zip(self.requests.send(requests));
        results.map(|(item, result)| result.map_err(|error| failed(what(item), error))).collect()
    }

    fn dump(
        &self,
        request: RouteNetlinkMessage,
        mut each: impl FnMut(RouteNetlinkMessage),
    ) -> std::io::Result<()> {
        self.requests.dump(serialize(request, NLM_F_REQUEST | NLM_F_DUMP), |bytes| {
            // A message that this version of the crate cannot read describes nothing of ours.
            if let Ok(NetlinkMessage { payload: NetlinkPayload::InnerMessage(message), .. }) =
                NetlinkMessage::deserialize(bytes)
            {
                each(message);
            }
        })
    }
}

fn serialize(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut request = NetlinkMessage::from(message);
    request.header.flags = flags;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    bytes
}

fn failed(what: String, error: std::io::Error) -> NetlinkError {
    NetlinkError { what, source: Cause::Io(error) }
}

fn missing_is_success(result: Result<(), NetlinkError>, number: i32) -> Result<(), NetlinkError> {
    match result {
        Err(NetlinkError { source: Cause::Io(error), .. })
            if [Some(number), Some(libc::ENODEV)].contains(&error.raw_os_error()) =>
        {
            Ok(())
        }
        result => result,
    }
}
