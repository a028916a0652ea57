//! Routes to this host that others are told of.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{IfIndex, Prefix};

/// What routers are told of a route besides its prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct RouteAttributes {
    /// Communities (RFC 1997).
    pub communities: Vec<u32>,
    /// Large communities (RFC 8092).
    pub large_communities: Vec<[u32; 3]>,
    /// Which of several ways out of an AS is liked best: the greatest. Only for peers in our AS.
    pub local_pref: Option<u32>,
    /// Which of several ways into an AS is liked best: the least.
    pub med: Option<u32>,
    /// How often our AS stands in the path once more.
    pub prepend: Option<u8>,
    /// This host is about to go: others are to be preferred (RFC 8326).
    pub draining: bool,
}

/// A table of the kernel, and how our routes in it are marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    /// Its number.
    pub id: u32,
    /// The protocol number of our routes.
    pub protocol: u8,
    /// Their type: 1 is unicast, 2 local.
    pub kind: u8,
}

/// A route in a table of the kernel: to an interface, without a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableRoute {
    /// Its destination.
    pub prefix: Prefix,
    /// The interface's index.
    pub interface: IfIndex,
}

/// Routes by prefix. Most have the same path.
pub type Routes = BTreeMap<Prefix, Arc<RouteAttributes>>;

/// What this host announces to routers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AdvertisedRoutes {
    /// The routes.
    pub routes: Arc<Routes>,
    /// Addresses that are ours to announce, whether they are announced now or not.
    pub known: Arc<BTreeSet<IpAddr>>,
    /// There are no others: whoever has more from an earlier process of ours can drop it.
    pub complete: bool,
}

/// A community: `65000:100`, a number, or the name of a well-known one (RFC 1997, RFC 8326).
pub fn community(text: &str) -> Option<u32> {
    match text.to_lowercase().as_str() {
        "no-export" => return Some(0xffff_ff01),
        "no-advertise" => return Some(0xffff_ff02),
        "no-export-subconfed" => return Some(0xffff_ff03),
        "graceful-shutdown" => return Some(0xffff_0000),
        _ => {}
    }
    match text.split_once(':') {
        Some((high, low)) => {
            let (high, low): (u16, u16) = (high.parse().ok()?, low.parse().ok()?);
            Some(u32::from(high) << 16 | u32::from(low))
        }
        None => text.parse().ok(),
    }
}

/// A large community: `65000:1:2` (RFC 8092).
pub fn large_community(text: &str) -> Option<[u32; 3]> {
    let parts = text.split(':').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>()?;
    parts.try_into().ok()
}
