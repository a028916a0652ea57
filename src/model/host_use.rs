//! Addresses that a host needs.

use std::fmt;

/// What a host needs an address for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostUse {
    /// Another program has configured it on an interface.
    Own,
    Gateway,
    Resolver,
    BgpPeer,
    ApiServer,
}

impl fmt::Display for HostUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own => "an address of a node's interface",
            Self::Gateway => "a node's default gateway",
            Self::Resolver => "a node's resolver",
            Self::BgpPeer => "a BGP peer's address",
            Self::ApiServer => "an API server's address",
        })
    }
}
