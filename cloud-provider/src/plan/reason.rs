//! Why a Service has no address, and what to do about it.
//!
//! The Go program's messages are kept as parts of these: users search for them.

use std::net::IpAddr;

use kube_vip::model::text::quoted;
use kube_vip::model::{Family, ServiceKey};
use kube_vip::planner::reserved::Refusal;

use crate::pools::{Pool, Unavailable};

/// Why a Service has no address, or not the one it asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error(transparent)]
    Pool(#[from] Unavailable),
    #[error(
        "could not find suitable pool for the IP family of the service: {pool} has no {family} addresses; add some, \
         or change ipFamilies of the Service"
    )]
    Family { pool: String, family: Family },
    #[error(
        "service requires dual-stack, but the configuration does not have both IPv4 and IPv6 pools listed for the \
         namespace: {0} has one family only; add the other to it"
    )]
    NotDual(String),
    #[error(
        "{prefix}no addresses available in [{name}] {kind} [{text}]: all {size} {family} addresses are in use; enlarge {keys}, or delete Services"
    )]
    Exhausted {
        /// The beginning of the Go program's message.
        prefix: &'static str,
        /// The namespace or `global`.
        name: String,
        /// `cidr` or `range`.
        kind: &'static str,
        text: String,
        /// Number of the pool's addresses of this family.
        size: u128,
        family: Family,
        keys: String,
    },
    #[error(
        "{field}: {address} is in use by Service {holder}: ask for another address, or let both share it \
         (allow-share-* in the ConfigMap, or the annotation kube-vip.io/sharing-key on both)"
    )]
    Taken {
        /// The field with the request.
        field: &'static str,
        address: IpAddr,
        holder: ServiceKey,
    },
    /// No Service may have the requested address.
    #[error("{field}: {refusal}: ask for another address")]
    Refused {
        /// The field with the request.
        field: &'static str,
        address: IpAddr,
        refusal: Refusal,
    },
    #[error("no {family} address from a DHCP server on interface {interface} yet{}", .trouble.as_ref().map(|text| format!(": {text}")).unwrap_or_default())]
    Lease {
        interface: String,
        family: Family,
        /// The last error of the DHCP client.
        trouble: Option<String>,
    },
    #[error(
        "{field}: unable to parse IP {}: write addresses or DNS names, separated by commas, and 0.0.0.0 or :: for an address \
         from a DHCP server",
        quoted(.text)
    )]
    Malformed {
        /// The field with the request.
        field: &'static str,
        text: String,
    },
    #[error(
        "the API server refuses to change the Service: {0}; apply the role that `kube-vip-cloud-provider manifest` prints, or \
         correct the admission policy that the message names"
    )]
    Write(String),
}

impl Reason {
    /// The family of the missing address, if it is a single one.
    pub fn family(&self) -> Option<Family> {
        match self {
            Self::Exhausted { family, .. } | Self::Family { family, .. } | Self::Lease { family, .. } => {
                Some(*family)
            }
            Self::Taken { address, .. } | Self::Refused { address, .. } => Some(Family::of(*address)),
            Self::Pool(_) | Self::NotDual(_) | Self::Malformed { .. } | Self::Write(_) => None,
        }
    }

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
