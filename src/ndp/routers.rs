//! Finds the router on each of some interfaces, and lets it find us.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv6Addr;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;

use super::packet::{ALL_NODES, multicast_hardware};
use super::router::{self, ALL_ROUTERS, Heard};
use crate::model::{IfIndex, Interface};
use crate::net::packet_socket::{Filter, Membership, PacketSocket};

/// From one advertisement of ours to the next, once the router is known.
const ADVERTISE: Duration = Duration::from_secs(10);
/// While it is not, we ask, and say that we are there.
const ASK: Duration = Duration::from_secs(1);
/// How soon an interface that cannot be used is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// An interface, and the link-local address that this host has on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The interface.
    pub interface: Interface,
    /// The address.
    pub own: Ipv6Addr,
}

/// Routers by the index of their interface.
pub type Routers = BTreeMap<IfIndex, Ipv6Addr>;

/// Look for routers on the interfaces that `places` has, until nobody wants to know.
pub async fn run(mut places: watch::Receiver<Vec<Place>>, routers: watch::Sender<Routers>) {
    loop {
        let now = places.borrow_and_update().clone();
        routers.send_if_modified(|routers| {
            let before = routers.len();
            routers.retain(|interface, _| now.iter().any(|place| place.interface.index == *interface));
            routers.len() != before
        });
        let mut interfaces: FuturesUnordered<_> =
            now.into_iter().map(|place| on_interface(place, &routers)).collect();
        tokio::select! {
            changed = places.changed() => if changed.is_err() { return },
            () = routers.closed() => return,
            _ = async { while interfaces.next().await.is_some() {} std::future::pending::<()>().await } => {}
        }
    }
}

/// For ever, on one interface.
async fn on_interface(place: Place, routers: &watch::Sender<Routers>) {
    let mut told = None;
    loop {
        let Err(error) = listen(&place, routers).await;
        let text = error.to_string();
        if told.as_ref() != Some(&text) {
            tracing::warn!(
                interface = place.interface.name,
                "cannot look for a router: {text}; trying again"
            );
            told = Some(text);
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn listen(place: &Place, routers: &watch::Sender<Routers>) -> io::Result<std::convert::Infallible> {
    let Place { interface, own } = place;
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
        let pause = tokio::time::sleep(if known { ADVERTISE } else { ASK });
        tokio::pin!(pause);
        loop {
            tokio::select! {
                () = &mut pause => break,
                heard = socket.receive(&mut buffer) => match router::from_bytes(heard?) {
                    Ok(Heard::Advertisement(router)) if router != *own => {
                        routers.send_if_modified(|routers| routers.insert(interface.index, router) != Some(router));
                    }
                    // Whoever asks is answered at once: it has just come up.
                    Ok(Heard::Solicitation) => advertise()?,
                    Ok(Heard::Advertisement(_)) | Err(_) => {}
                },
            }
        }
    }
}
