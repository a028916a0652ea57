//! Between the values of `model` and the messages of rtnetlink.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope, CacheInfo,
};
use rtnetlink::packet_route::link::{
    AfSpecInet, AfSpecUnspec, InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage, State,
};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteRealm, RouteScope, RouteType, RouteVia,
};

use super::writer::{Hold, Scope};
use crate::model::route::{RouteForm, Table, TableRoute};
use crate::model::{ActualAddress, Family, IfIndex, Interface, Prefix, Tags, Vip};

/// Marks an interface as ours (`IFLA_IFALIAS`; `ip link` shows it).
pub(super) const ALIAS: &str = "kube-vip";
/// INFINITY_LIFE_TIME of the kernel.
const FOREVER: u32 = u32::MAX;

/// Asks the kernel, on a socket with NETLINK_GET_STRICT_CHK, for the routes of one table, protocol and family alone.
pub(super) fn route_dump(table: Table, family: Family) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.protocol = table.protocol.into();
    message.attributes.push(RouteAttribute::Table(table.id));
    message
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

pub(super) fn route_message(table: Table, realm: Option<u16>, route: &TableRoute) -> RouteMessage {
    let (kind, scope) = (RouteType::from(route.form.kind), RouteScope::from(route.form.scope));
    let Prefix { address, length } = route.prefix;
    let mut message = match address {
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
    };
    if route.form.metric != 0 {
        message.attributes.push(RouteAttribute::Priority(route.form.metric));
    }
    message
}

pub(super) fn table_of(message: &RouteMessage) -> u32 {
    let attribute = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    attribute.unwrap_or(message.header.table.into())
}

pub(super) fn table_route(message: &RouteMessage) -> Option<TableRoute> {
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet(address)) => Some(IpAddr::from(*address)),
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => Some(IpAddr::from(*address)),
        _ => None,
    })?;
    let prefix = Prefix::new(address, message.header.destination_prefix_length);
    let header = &message.header;
    let form = RouteForm { kind: header.kind.into(), scope: header.scope.into(), metric: metric(message) };
    Some(TableRoute { prefix, interface: output(message)?, form })
}

pub(super) fn bare_address(interface: IfIndex, vip: Vip) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = interface.0;
    message.header.prefix_len = vip.prefix;
    message.header.family = address_family(Family::of(vip.address));
    message.attributes.push(AddressAttribute::Address(vip.address));
    // No broadcast address: for a /32 it would be the VIP itself.
    message.attributes.push(AddressAttribute::Local(vip.address));
    message
}

pub(super) fn held_address(hold: &Hold) -> AddressMessage {
    let mut message = bare_address(hold.interface, hold.vip);
    message.header.scope = match hold.scope {
        Scope::Global => AddressScope::Universe,
        Scope::Host => AddressScope::Host,
    };
    let mut cache = CacheInfo::default();
    cache.ifa_preferred = 0;
    cache.ifa_valid = hold.seconds;
    message.attributes.push(AddressAttribute::CacheInfo(cache));
    message.attributes.push(AddressAttribute::Protocol(hold.tag.into()));
    if hold.vip.address.is_ipv6() {
        message.header.flags |= AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    message
}

pub(super) fn metric(route: &RouteMessage) -> u32 {
    let find = |attribute: &RouteAttribute| match attribute {
        RouteAttribute::Priority(metric) => Some(*metric),
        _ => None,
    };
    route.attributes.iter().find_map(find).unwrap_or(0)
}

/// The next hops of a route.
pub(super) fn gateways(route: &RouteMessage) -> Vec<IpAddr> {
    fn of(attributes: &[RouteAttribute]) -> impl Iterator<Item = IpAddr> + '_ {
        attributes.iter().filter_map(|attribute| match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(address))
            | RouteAttribute::Via(RouteVia::Inet(address)) => Some(IpAddr::V4(*address)),
            RouteAttribute::Gateway(RouteAddress::Inet6(address))
            | RouteAttribute::Via(RouteVia::Inet6(address)) => Some(IpAddr::V6(*address)),
            _ => None,
        })
    }
    let hops = route.attributes.iter().filter_map(|attribute| match attribute {
        RouteAttribute::MultiPath(hops) => Some(hops.iter().flat_map(|hop| of(&hop.attributes))),
        _ => None,
    });
    of(&route.attributes).chain(hops.flatten()).collect()
}

pub(super) fn output(route: &RouteMessage) -> Option<IfIndex> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(interface) => Some(IfIndex(*interface)),
        RouteAttribute::MultiPath(hops) => hops.first().map(|hop| IfIndex(hop.interface_index)),
        _ => None,
    })
}

/// None for other neighbours, and for those that do not answer.
pub(super) fn link_local_neighbour(message: &NeighbourMessage) -> Option<(IfIndex, Ipv6Addr)> {
    use NeighbourState::{Delay, Permanent, Probe, Reachable, Stale};
    let known = matches!(message.header.state, Reachable | Stale | Delay | Probe | Permanent);
    let address = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => Some(*address),
        _ => None,
    })?;
    (known && address.is_unicast_link_local()).then_some((IfIndex(message.header.ifindex), address))
}

pub(super) fn interface(message: LinkMessage) -> Interface {
    let mut interface = Interface {
        index: IfIndex(message.header.index),
        name: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        hardware_type: u16::from(message.header.link_layer_type),
        no_arp: message.header.flags.contains(LinkFlags::Noarp),
        hardware_address: Vec::new(),
        broadcast: Vec::new(),
        managed: false,
        is_macvlan: false,
        reverse_path: 0,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name = name,
            LinkAttribute::IfAlias(alias) => interface.managed = alias == ALIAS,
            LinkAttribute::LinkInfo(parts) => {
                interface.is_macvlan = parts.contains(&LinkInfo::Kind(InfoKind::MacVlan));
            }
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

pub(super) fn address(tags: Tags, message: AddressMessage) -> Option<ActualAddress> {
    let (mut any, mut local) = (None, None);
    let (mut mark, mut flags, mut cache) = (None, AddressFlags::empty(), None);
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Address(address) => any = Some(address),
            AddressAttribute::Local(address) => local = Some(address),
            AddressAttribute::Flags(value) => flags = value,
            AddressAttribute::CacheInfo(value) => cache = Some(value),
            AddressAttribute::Protocol(value) => mark = Some(value.into()),
            _ => {}
        }
    }
    // On a point-to-point interface IFA_ADDRESS is the other end's.
    let address: IpAddr = match message.header.family {
        AddressFamily::Inet => local.or(any)?,
        _ => any.or(local)?,
    };
    let valid = cache.map_or(FOREVER, |cache| cache.ifa_valid);
    // The kernel reports an infinite preferred lifetime for every address with an infinite valid lifetime, deprecated or not.
    let deprecated =
        flags.contains(AddressFlags::Deprecated) || cache.is_some_and(|cache| cache.ifa_preferred == 0);
    Some(ActualAddress {
        interface: IfIndex(message.header.index),
        vip: Vip { address, prefix: message.header.prefix_len },
        tag: tags.owner(mark, deprecated),
        deprecated,
        valid_for: (valid != FOREVER).then(|| Duration::from_secs(valid.into())),
        dad_failed: flags.contains(AddressFlags::Dadfailed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_link_local_ones_that_answer() {
        use NeighbourState::{Failed, Incomplete, Noarp, Reachable, Stale};
        for (address, state, found) in [
            ("fe80::1", Reachable, true),
            ("fe80::1", Stale, true),
            ("fe80::1", Failed, false),
            ("fe80::1", Incomplete, false),
            ("ff02::1", Noarp, false),
            ("fd00::1", Reachable, false),
        ] {
            let address: Ipv6Addr = address.parse().unwrap();
            let mut message = NeighbourMessage::default();
            message.header.ifindex = 7;
            message.header.state = state;
            message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)));
            assert_eq!(link_local_neighbour(&message), found.then_some((IfIndex(7), address)), "{address}");
        }
    }
}
