//! What is wanted of DHCP servers, and what came of it: all that the rest of the program knows of DHCP.

use std::net::IpAddr;

use super::fsm::Stage;
use super::identity::Identity;
use super::record::Record;
use crate::model::Family;

/// A lease: whose, and of which family.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseKey {
    /// What tells the owner from all others, also from one of the same name.
    pub owner: String,
    /// The family.
    pub family: Family,
}

/// A lease that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// The interface to ask on.
    pub interface: String,
    /// That interface is made for it, and may take a moment to be there.
    pub made: bool,
    /// Who asks.
    pub identity: Identity,
    /// An address that is preferred.
    pub wanted: Option<IpAddr>,
    /// This host asks. Otherwise another one does, and we look at the time of what it got.
    pub active: bool,
    /// What is known of the lease from elsewhere.
    pub record: Option<Record>,
}

/// How a lease stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The address, while the lease is good.
    pub address: Option<IpAddr>,
    /// What others have to know.
    pub record: Option<Record>,
    /// How far it is.
    pub stage: Stage,
    /// What is in the way, in words.
    pub trouble: Option<String>,
}
