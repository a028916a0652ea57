//! Reads the rules and interfaces of the host, and removes what is left.

use super::Leftovers;
use super::ipvs::{self, VirtualService};
use crate::host::HostState;
use crate::model::{Interface, Tags};
use crate::net::netlink::NetlinkWriter;
use crate::net::nft::rules::{self, Deletion, Ruleset};

/// Where the kernel lists tables of iptables-legacy, which nf_tables does not know.
const LEGACY: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];

/// Where it lists virtual services.
const IPVS: &str = "/proc/net/ip_vs";

/// Why something could not be read or removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    #[error("the rules of nf_tables cannot be read: {0}; run it as root")]
    Read(std::io::Error),
    #[error("{0}: delete what refers to it, and run it again")]
    Rules(String),
    #[error("{0}")]
    Interface(String),
}

/// What is left on this host.
pub fn find(host: &HostState) -> Result<Leftovers, CleanupError> {
    Ok(Leftovers::of(&Ruleset::read().map_err(CleanupError::Read)?, &host.interfaces))
}

/// Virtual services of IPVS that kube-proxy did not make.
#[must_use]
pub fn virtual_services(host: &HostState) -> Vec<VirtualService> {
    let table = std::fs::read_to_string(IPVS).unwrap_or_default();
    let kube_proxy = host.interface(ipvs::KUBE_PROXY).map(|interface| interface.index);
    let addresses = kube_proxy.into_iter().flat_map(|index| host.own_addresses(index)).collect();
    ipvs::of_others(&table, &addresses)
}

/// Removes it: rules, then interfaces. Returns what is removed, and why the rest is not.
#[must_use]
pub fn remove(leftovers: Leftovers) -> (Leftovers, Vec<CleanupError>) {
    let (refused, mut errors): (Vec<Deletion>, Vec<CleanupError>) = rules::delete(&leftovers.nft)
        .into_iter()
        .map(|(deletion, error)| {
            let error = CleanupError::Rules(format!("{deletion} stays ({error})"));
            (deletion, error)
        })
        .unzip();
    let mut removed = leftovers.without(&refused);
    let remove = |interface: &Interface| -> Result<(), String> {
        let netlink = NetlinkWriter::open(Tags::default()).map_err(|error| error.to_string())?;
        netlink.remove_interface(interface.index).map_err(|error| error.to_string())
    };
    removed.interfaces.retain(|interface| {
        remove(interface).map_err(|error| errors.push(CleanupError::Interface(error))).is_ok()
    });
    (removed, errors)
}

/// Whether rules of iptables-legacy exist, which this command does not read.
#[must_use]
pub fn has_legacy_rules() -> bool {
    LEGACY.iter().any(|path| std::fs::read_to_string(path).is_ok_and(|text| !text.trim().is_empty()))
}
