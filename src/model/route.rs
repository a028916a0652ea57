//! Routes to this host that others are told of.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Prefix;

/// What routers are told of a route besides its prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Path {
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

/// Routes by prefix. Most have the same path.
pub type Routes = BTreeMap<Prefix, Arc<Path>>;
