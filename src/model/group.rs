//! Which VIPs move together.

use std::fmt;

use super::{Family, LeaseName};

/// Identifies a VIP group. Text that users write becomes a [`GroupId::Lease`], and nothing else.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GroupId {
    /// Elected on this Lease.
    Lease(LeaseName),
    /// The control plane's VIPs without election: advertised while the local API server is healthy. Where health is
    /// probed by family, each family is a group.
    ControlPlane(Option<Family>),
    /// Services without election: every node that can serve them advertises them.
    EveryNode,
}

impl From<LeaseName> for GroupId {
    fn from(lease: LeaseName) -> Self {
        Self::Lease(lease)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lease(lease) => lease.fmt(f),
            Self::ControlPlane(None) => f.write_str("control plane"),
            Self::ControlPlane(Some(family)) => write!(f, "control plane, {family}"),
            Self::EveryNode => f.write_str("every node"),
        }
    }
}
