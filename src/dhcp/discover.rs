//! Discovers DHCP servers, without requesting a lease.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::fsm::{Envelope, FrameSource, Message, Reply, Server};
use super::identity::Identity;
use super::link::{DhcpLink, Received};
use crate::host::HostState;
use crate::model::hash::fnv1a;
use crate::model::{Family, Interface};
use crate::net::clock;

/// Messages are repeated, since one may be lost.
const MESSAGES: u32 = 3;
const INTERVAL: Duration = Duration::from_secs(1);
const QUEUE: usize = 16;

/// The servers that reply to DHCPDISCOVER or SOLICIT on an interface, with the reason of those that offer no address.
///
/// # Errors
/// If a message cannot be sent.
pub async fn servers(
    host: &HostState,
    interface: &Interface,
    family: Family,
) -> std::io::Result<BTreeSet<(Server, Option<String>)>> {
    let (received, mut received_out) = mpsc::channel(QUEUE);
    let mut link = DhcpLink::new(interface.clone(), host.link_local(interface.index), received);
    // Of its own, so that a server does not take it for a client that has a lease.
    let mac = Identity::mac_of(&format!("doctor {:?}", interface.hardware_address));
    let identity = Identity { mac, hostname: None, by_mac: true, broadcast: true };
    let now = clock::now().since_boot();
    let xid = (fnv1a(&now.as_nanos().to_le_bytes()) & 0xff_ffff) as u32;
    let mut servers = BTreeSet::new();
    for number in 0..MESSAGES {
        let source = if number % 2 == 0 { FrameSource::Interface } else { FrameSource::Client };
        link.send(
            family,
            &identity,
            Envelope { xid, elapsed: INTERVAL * number, source },
            &Message::Discover(None),
        )?;
        link.set_promiscuous(true);
        let until = Instant::now() + INTERVAL;
        while let Ok(Some((_, message))) = timeout_at(until, received_out.recv()).await {
            match message {
                Received::Reply(_, client, id, reply) if id == xid && identity.is(family, &client) => {
                    servers.insert(match reply {
                        Reply::Offer(terms) | Reply::Ack(terms) => (terms.server, None),
                        Reply::Nak(server, why) => (server, Some(why)),
                    });
                }
                _ => {}
            }
        }
        if !servers.is_empty() {
            break;
        }
    }
    Ok(servers)
}
