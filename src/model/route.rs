//! Routes to this host that are advertised to routers.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::{Family, IfIndex, Prefix};

/// Communities of each kind that a Service, and a BGP peer as its defaults, may have. The attributes of a route then leave
/// room for prefixes in a message (RFC 4271: 4,096 octets).
pub const MAX_COMMUNITIES: usize = 64;

/// What a route carries besides its prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct RouteAttributes {
    /// Communities (RFC 1997).
    pub communities: Vec<u32>,
    /// Large communities (RFC 8092).
    pub large_communities: Vec<[u32; 3]>,
    /// LOCAL_PREF (RFC 4271 §5.1.5), for peers in the same AS: the greatest wins.
    pub local_pref: Option<u32>,
    /// MULTI_EXIT_DISC (RFC 4271 §5.1.4): the least wins.
    pub med: Option<u32>,
    /// How many further times our AS is prepended to the AS_PATH.
    pub prepend: Option<u8>,
    /// GRACEFUL_SHUTDOWN (RFC 8326): this host is about to withdraw the route.
    pub draining: bool,
}

/// A routing table of the kernel, and the marks of our routes in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Table {
    pub id: u32,
    /// `rtm_protocol` of our routes.
    pub protocol: u8,
    /// `rtm_type` of our routes: 1 unicast, 2 local.
    pub kind: u8,
}

impl Table {
    /// The form in which the kernel shows a route that was added to this table without a metric.
    pub fn form(&self, family: Family) -> RouteForm {
        const LOCAL: u8 = 2;
        const UNIVERSE: u8 = 0;
        const LINK: u8 = 253;
        match family {
            Family::V4 => {
                let scope = if self.kind == LOCAL { LINK } else { UNIVERSE };
                RouteForm { kind: self.kind, scope, metric: 0 }
            }
            // IPv6 routes have no scope, and IP6_RT_PRIO_USER is their metric.
            Family::V6 => RouteForm { kind: self.kind, scope: UNIVERSE, metric: 1024 },
        }
    }

    pub fn route(&self, prefix: Prefix, interface: IfIndex) -> TableRoute {
        TableRoute { prefix, interface, form: self.form(prefix.family()) }
    }
}

/// A route to an interface, without a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TableRoute {
    pub prefix: Prefix,
    pub interface: IfIndex,
    pub form: RouteForm,
}

/// What distinguishes two routes to one prefix in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteForm {
    /// `rtm_type`.
    pub kind: u8,
    /// `rtm_scope`.
    pub scope: u8,
    /// RTA_PRIORITY.
    pub metric: u32,
}

/// Routes by prefix. Most share their attributes.
pub type Routes = BTreeMap<Prefix, Arc<RouteAttributes>>;

/// The routes of this host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AdvertisedRoutes {
    pub routes: Arc<Routes>,
    /// All addresses of the control plane and of Services, advertised now or not.
    pub known: Arc<BTreeSet<IpAddr>>,
    /// This host's role in every group is known.
    pub decided: bool,
    /// `routes` is final: routes that an earlier process advertised beyond them are stale.
    pub complete: bool,
}

/// Parses a community: `65000:100`, a number, or a well-known name (RFC 1997, RFC 8326).
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

/// Parses a large community: `65000:1:2` (RFC 8092).
pub fn large_community(text: &str) -> Option<[u32; 3]> {
    let parts = text.split(':').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>()?;
    parts.try_into().ok()
}
