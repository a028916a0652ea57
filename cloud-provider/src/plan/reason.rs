//! Why a Service waits, in one sentence that also says what to do.
//!
//! The Go program's texts are kept as parts of ours: people search for them.

use std::net::IpAddr;

use kube_vip::model::{Family, ServiceKey};
use kube_vip::planner::reserved::Refusal;

use crate::pools::{Pool, Unavailable};

/// Why a Service has no address, or not the one it asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Its namespace has no usable pool.
    #[error(transparent)]
    Pool(#[from] Unavailable),
    /// The pool has no address of the wanted family at all.
    #[error(
        "could not find suitable pool for the IP family of the service: {pool} has no {family} addresses; add some, \
         or change ipFamilies of the Service"
    )]
    Family {
        /// The pool's keys.
        pool: String,
        /// The family.
        family: Family,
    },
    /// It wants two families, and the pool has one.
    #[error(
        "service requires dual-stack, but the configuration does not have both IPv4 and IPv6 pools listed for the \
         namespace: {0} has one family only; add the other to it"
    )]
    NotDual(String),
    /// Every address is in use.
    #[error(
        "{prefix}no addresses available in [{name}] {kind} [{text}]: all {size} {family} addresses are in use; enlarge {keys}, or delete a Service that needs none"
    )]
    Exhausted {
        /// What was wanted, as the Go program puts it.
        prefix: &'static str,
        /// The namespace or `global`.
        name: String,
        /// `cidr` or `range`.
        kind: &'static str,
        /// The pool's value.
        text: String,
        /// How many addresses it has of the family.
        size: u128,
        /// The family.
        family: Family,
        /// The pool's keys.
        keys: String,
    },
    /// The requested address belongs to another Service.
    #[error(
        "{field}: {address} is in use by Service {holder}: ask for another address, or let both share it \
         (allow-share-* in the ConfigMap, or the annotation kube-vip.io/sharing-key on both)"
    )]
    Taken {
        /// Where it was asked for.
        field: &'static str,
        /// The address.
        address: IpAddr,
        /// Who has it.
        holder: ServiceKey,
    },
    /// No Service may have the requested address.
    #[error("{field}: {refusal}: ask for another address")]
    Refused {
        /// Where it was asked for.
        field: &'static str,
        address: IpAddr,
        refusal: Refusal,
    },
    /// No DHCP server has given an address.
    #[error("no {family} address from a DHCP server on interface {interface} yet{}", .trouble.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
    Lease {
        /// The interface.
        interface: String,
        /// The family.
        family: Family,
        /// What is in the way, as far as is known.
        trouble: Option<String>,
    },
    /// What was asked for is no address.
    #[error("{field}: unable to parse IP `{text}`: write addresses or DNS names, separated by commas")]
    Malformed {
        /// Where it was asked for.
        field: &'static str,
        /// The element.
        text: String,
    },
}

impl Reason {
    /// The family that is missing, where it is one.
    pub fn family(&self) -> Option<Family> {
        match self {
            Self::Exhausted { family, .. } | Self::Family { family, .. } | Self::Lease { family, .. } => {
                Some(*family)
            }
            Self::Taken { address, .. } | Self::Refused { address, .. } => Some(Family::of(*address)),
            Self::Pool(_) | Self::NotDual(_) | Self::Malformed { .. } => None,
        }
    }

    /// A pool without a free address of `family`.
    pub fn exhausted(pool: &Pool, family: Family, size: u128, prefix: &'static str) -> Self {
        Self::Exhausted {
            prefix,
            name: pool.name.clone(),
            kind: pool.kind(),
            text: pool.text.clone(),
            size,
            family,
            keys: pool.keys.join(", "),
        }
    }
}
