//! Discovers the router on each of several interfaces, and advertises this host to it.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv6Addr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;

use super::packet::{ALL_NODES, multicast_hardware};
use super::router::{self, ALL_ROUTERS, RouterMessage};
use crate::model::{BootTime, IfIndex, Interface, LogOnChange};
use crate::net::clock;
use crate::net::netlink::link_local_neighbours;
use crate::net::packet_socket::{Filter, Membership, PacketSocket};

/// Interval of advertisements once the router is known. After this long without one of the router it is solicited.
const ADVERTISE_INTERVAL: Duration = Duration::from_secs(10);
/// Interval of solicitations and advertisements before that.
const SOLICIT_INTERVAL: Duration = Duration::from_secs(1);
/// Silence of the router, solicited several times, after which another one may replace it.
const SILENCE: Duration = Duration::from_secs(30);
/// Time without an advertisement after which the neighbour table is read, once per interval of solicitations.
const ADVERTISE_WAIT: Duration = Duration::from_secs(4);
/// Time until a failed interface is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// An interface with its link-local address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkLocalInterface {
    pub interface: Interface,
    pub own: Ipv6Addr,
}

pub type Routers = BTreeMap<IfIndex, Ipv6Addr>;

/// The router of an interface, and when it last advertised itself. The first one stays while it does: a host that advertises
/// itself as a router does not replace it.
#[derive(Debug, Default)]
struct KnownRouter(Option<(Ipv6Addr, BootTime)>);

impl KnownRouter {
    /// Takes an advertisement. Returns whether it is that of the interface's router.
    fn handle_advertisement(&mut self, now: BootTime, router: Ipv6Addr) -> bool {
        let other = |(known, heard): (Ipv6Addr, BootTime)| known != router && now.since(heard) < SILENCE;
        if self.0.is_some_and(other) {
            return false;
        }
        self.0 = Some((router, now));
        true
    }

    /// Whether none has advertised itself for so long that a router without advertisements counts.
    fn is_missing(&self, now: BootTime, began: BootTime) -> bool {
        match self.0 {
            None => now.since(began) >= ADVERTISE_WAIT,
            Some((_, heard)) => now.since(heard) >= SILENCE,
        }
    }

    /// Whether it has to be solicited.
    fn is_silent(&self, now: BootTime) -> bool {
        self.0.is_none_or(|(_, heard)| now.since(heard) >= ADVERTISE_INTERVAL)
    }
}

/// The router of an interface whose only neighbour it is, as the Go program finds it.
fn only_neighbour(neighbours: &[(IfIndex, Ipv6Addr)], interface: IfIndex) -> Option<Ipv6Addr> {
    let mut here = neighbours.iter().filter(|(of, _)| *of == interface).map(|(_, address)| *address);
    let first = here.next()?;
    here.all(|other| other == first).then_some(first)
}

/// Runs until one of the channels is closed.
pub async fn run(mut links: watch::Receiver<Vec<LinkLocalInterface>>, routers: watch::Sender<Routers>) {
    loop {
        let now = links.borrow_and_update().clone();
        routers.send_if_modified(|routers| {
            let before = routers.len();
            routers.retain(|interface, _| now.iter().any(|link| link.interface.index == *interface));
            routers.len() != before
        });
        let mut searches: FuturesUnordered<_> =
            now.into_iter().map(|link| on_interface(link, &routers)).collect();
        tokio::select! {
            changed = links.changed() => if changed.is_err() { return },
            () = routers.closed() => return,
            _ = async { while searches.next().await.is_some() {} std::future::pending::<()>().await } => {}
        }
    }
}

async fn on_interface(link: LinkLocalInterface, routers: &watch::Sender<Routers>) {
    let mut log = LogOnChange::default();
    loop {
        let Err(error) = listen(&link, routers).await;
        if log.set(error.to_string()) {
            tracing::warn!(interface = link.interface.name, "router discovery failed: {error}; trying again");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn listen(
    link: &LinkLocalInterface,
    routers: &watch::Sender<Routers>,
) -> io::Result<std::convert::Infallible> {
    let LinkLocalInterface { interface, own } = link;
    let hardware: [u8; 6] = interface
        .hardware_address
        .as_slice()
        .try_into()
        .map_err(|_| io::Error::other("the interface is not Ethernet"))?;
    let socket = PacketSocket::open(interface.index, Filter::RouterDiscovery)?;
    let groups = Membership::new(interface.index)?;
    groups.join(ALL_ROUTERS);
    let advertise = || {
        let bytes = router::advertisement(*own, &hardware);
        socket.send(&bytes, &multicast_hardware(ALL_NODES))
    };
    let mut buffer = [0; 1500];
    let began = clock::now();
    let mut known = KnownRouter(routers.borrow().get(&interface.index).map(|router| (*router, clock::now())));
    loop {
        let silent = known.is_silent(clock::now());
        advertise()?;
        if silent {
            let bytes = router::solicitation(*own, &hardware);
            socket.send(&bytes, &multicast_hardware(ALL_ROUTERS))?;
        }
        if known.is_missing(clock::now(), began) {
            let neighbours = link_local_neighbours().await.map_err(io::Error::other)?;
            if let Some(router) = only_neighbour(&neighbours, interface.index) {
                routers.send_if_modified(|routers| routers.insert(interface.index, router) != Some(router));
            }
        }
        let pause = tokio::time::sleep(if silent { SOLICIT_INTERVAL } else { ADVERTISE_INTERVAL });
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                packet = socket.receive(&mut buffer) => match router::from_bytes(packet?) {
                    Ok(RouterMessage::Advertisement(router))
                        if router != *own && known.handle_advertisement(clock::now(), router) =>
                    {
                        routers.send_if_modified(|routers| routers.insert(interface.index, router) != Some(router));
                    }
                    // A router that solicits has just started.
                    Ok(RouterMessage::Solicitation) => advertise()?,
                    Ok(RouterMessage::Advertisement(_)) | Err(_) => {}
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_boot(Duration::from_secs(seconds))
    }

    fn router(last: u16) -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last)
    }

    #[test]
    fn a_second_router_replaces_the_first_one_only_after_its_silence() {
        let mut known = KnownRouter::default();
        assert!(known.is_silent(at(0)));
        assert!(known.handle_advertisement(at(0), router(1)));
        // Another host advertises itself every second, and the router every 20 seconds, as it is solicited.
        for second in 1..120 {
            if second % 20 == 0 {
                assert!(known.handle_advertisement(at(second), router(1)));
            }
            assert!(!known.handle_advertisement(at(second), router(2)), "{second}");
            assert_eq!(known.is_silent(at(second)), second % 20 >= 10, "{second}");
        }
        assert!(!known.handle_advertisement(at(129), router(2)));
        assert!(known.handle_advertisement(at(130), router(2)));
        assert!(!known.handle_advertisement(at(131), router(1)));
    }

    #[test]
    fn the_neighbour_table_counts_when_no_router_advertises_itself() {
        let mut known = KnownRouter::default();
        assert!(!known.is_missing(at(13), at(10)) && known.is_missing(at(14), at(10)));
        assert!(known.handle_advertisement(at(14), router(1)));
        assert!(!known.is_missing(at(43), at(10)) && known.is_missing(at(44), at(10)));
    }

    #[test]
    fn a_neighbour_is_the_router_if_there_is_no_other() {
        type Row = (&'static [(u32, u16)], Option<u16>);
        let table: [Row; 5] = [
            (&[], None),
            (&[(2, 1)], Some(1)),
            (&[(2, 1), (3, 9)], Some(1)),
            (&[(2, 1), (2, 9)], None),
            (&[(3, 9)], None),
        ];
        for (neighbours, expected) in table {
            let neighbours: Vec<_> =
                neighbours.iter().map(|(interface, last)| (IfIndex(*interface), router(*last))).collect();
            assert_eq!(only_neighbour(&neighbours, IfIndex(2)), expected.map(router), "{neighbours:?}");
        }
    }
}
