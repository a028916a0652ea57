//! Reads the rules and interfaces of the host, and removes what is left.

use super::Leftovers;
use crate::model::{Interface, Tags};
use crate::net::netlink::NetlinkWriter;
use crate::net::nft::rules::{self, Ruleset};

/// Where the kernel lists tables of iptables-legacy, which nf_tables does not know.
const LEGACY: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];

/// Why something could not be read or removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    #[error("the rules of nf_tables cannot be read: {0}; run it as root")]
    Read(std::io::Error),
    #[error(
        "cannot remove all rules ({0}): delete rules of your own that refer to the listed chains or sets, and run it again"
    )]
    Rules(std::io::Error),
    #[error("{0}")]
    Interface(String),
}

/// What is left on this host, whose interfaces are these.
pub fn find(interfaces: &[Interface]) -> Result<Leftovers, CleanupError> {
    Ok(Leftovers::of(&Ruleset::read().map_err(CleanupError::Read)?, interfaces))
}

/// Removes it: rules, then interfaces.
pub fn remove(leftovers: &Leftovers) -> Result<(), CleanupError> {
    rules::delete(&leftovers.nft).map_err(CleanupError::Rules)?;
    let failed = |error: &dyn std::fmt::Display| CleanupError::Interface(error.to_string());
    let netlink = NetlinkWriter::open(Tags::default()).map_err(|error| failed(&error))?;
    for interface in &leftovers.interfaces {
        netlink.remove_interface(interface.index).map_err(|error| failed(&error))?;
    }
    Ok(())
}

/// Whether rules of iptables-legacy exist, which this command does not read.
#[must_use]
pub fn has_legacy_rules() -> bool {
    LEGACY.iter().any(|path| std::fs::read_to_string(path).is_ok_and(|text| !text.trim().is_empty()))
}
