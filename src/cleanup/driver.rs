//! Reads the rules and interfaces of the host, and removes what is left.

use super::Leftovers;
use super::ipvs::{self, VirtualService};
use crate::host::HostState;
use crate::model::Tags;
use crate::net::netlink::NetlinkWriter;
use crate::net::nft::rules::{self, Deletion, Ruleset};

/// Where the kernel lists tables of iptables-legacy, which nf_tables does not know.
const LEGACY: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];

/// Where it lists virtual services.
const IPVS: &str = "/proc/net/ip_vs";

#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the rules of nf_tables cannot be read without CAP_NET_ADMIN: run it as root")]
    NotPermitted,
    #[error("the rules of nf_tables cannot be read: {0}")]
    Failed(std::io::Error),
}

impl From<std::io::Error> for ReadError {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::PermissionDenied => Self::NotPermitted,
            _ => Self::Failed(error),
        }
    }
}

/// Why something is not removed.
#[derive(Debug, thiserror::Error)]
pub enum CleanupError {
    #[error("{0} stays, since something refers to it: delete that, and run it again")]
    Referred(Deletion),
    #[error("{deletion} stays: {error}")]
    Rule { deletion: Deletion, error: std::io::Error },
    #[error("interface {name} stays: {reason}")]
    Interface { name: String, reason: String },
}

/// What is left on this host.
pub fn find(host: &HostState) -> Result<Leftovers, ReadError> {
    Ok(Leftovers::of(&Ruleset::read()?, &host.interfaces))
}

/// Virtual services of IPVS that kube-proxy did not make.
#[must_use]
pub fn virtual_services(host: &HostState) -> Vec<VirtualService> {
    let table = std::fs::read_to_string(IPVS).unwrap_or_default();
    let kube_proxy = host.interface(ipvs::KUBE_IPVS_INTERFACE);
    let addresses = kube_proxy.map(|interface| host.own_addresses(interface.index).collect());
    ipvs::of_others(&table, addresses.as_ref())
}

/// Removes it: rules, then interfaces. Returns what is removed, and why the rest is not.
#[must_use]
pub fn remove(leftovers: Leftovers) -> (Leftovers, Vec<CleanupError>) {
    let refused = rules::delete(&leftovers.nft);
    let mut removed = leftovers;
    removed.nft.retain(|deletion| refused.iter().all(|(other, _)| other != deletion));
    let of_rule = |(deletion, error): (Deletion, std::io::Error)| match error.raw_os_error() {
        Some(libc::EBUSY) => CleanupError::Referred(deletion),
        _ => CleanupError::Rule { deletion, error },
    };
    let mut errors: Vec<CleanupError> = refused.into_iter().map(of_rule).collect();
    let netlink = NetlinkWriter::open(Tags::default()).map_err(|error| error.to_string());
    let remove = |index| {
        let netlink = netlink.as_ref().map_err(Clone::clone)?;
        netlink.remove_interface(index).map_err(|error| error.to_string())
    };
    removed.interfaces.retain(|interface| {
        let failed = |reason| CleanupError::Interface { name: interface.name.clone(), reason };
        remove(interface.index).map_err(|reason| errors.push(failed(reason))).is_ok()
    });
    (removed, errors)
}

/// Whether rules of iptables-legacy exist, which this command does not read.
#[must_use]
pub fn has_legacy_rules() -> bool {
    LEGACY.iter().any(|path| std::fs::read_to_string(path).is_ok_and(|text| !text.trim().is_empty()))
}
