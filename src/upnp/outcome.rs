//! How it goes with gateways: all that the rest of the program hears of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::forward::ForwardKey;

/// How it goes with gateways.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Those that were found, and their addresses outside.
    pub gateways: BTreeMap<IpAddr, Option<IpAddr>>,
    /// What is open, or why not, by gateway.
    pub ports: BTreeMap<ForwardKey, BTreeMap<IpAddr, Result<(), String>>>,
    /// What is in the way of all of it.
    pub trouble: Option<String>,
    /// Retired addresses for which no gateway has a port of ours any more.
    pub swept: BTreeSet<IpAddr>,
}

impl Outcome {
    /// Whether a port is open on any gateway.
    pub fn is_open(&self, key: &ForwardKey) -> bool {
        self.ports.get(key).is_some_and(|gateways| gateways.values().any(Result::is_ok))
    }
}
