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
use crate::model::{IfIndex, Interface, LogOnChange};
use crate::net::packet_socket::{Filter, Membership, PacketSocket};

/// Interval of advertisements once the router is known.
const ADVERTISE_INTERVAL: Duration = Duration::from_secs(10);
/// Interval of solicitations and advertisements before that.
const SOLICIT_INTERVAL: Duration = Duration::from_secs(1);
/// Time until a failed interface is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// An interface with its link-local address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkLocalInterface {
    pub interface: Interface,
    pub own: Ipv6Addr,
}

pub type Routers = BTreeMap<IfIndex, Ipv6Addr>;

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
    loop {
        let known = routers.borrow().contains_key(&interface.index);
        advertise()?;
        if !known {
            let bytes = router::solicitation(*own, &hardware);
            socket.send(&bytes, &multicast_hardware(ALL_ROUTERS))?;
        }
        let pause = tokio::time::sleep(if known { ADVERTISE_INTERVAL } else { SOLICIT_INTERVAL });
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                packet = socket.receive(&mut buffer) => match router::from_bytes(packet?) {
                    Ok(RouterMessage::Advertisement(router)) if router != *own => {
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
