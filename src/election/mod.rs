//! Which host may hold a VIP: a claim that expires, won in an election.
//!
//! `record` is the Lease as client-go reads and writes it, `decide` derives from it what this host may do, `elector` is the
//! state machine of one election. `anycast` takes its place where every node advertises, `host_health` combines what makes
//! this host a worse candidate. `elections` has all of them, and is pure; `watches` decides which Leases it follows, `scheme`
//! whether nodes that elect Services otherwise keep this one away.
//! `driver` connects it to the API server (`request`, `lease_watch`), to the planner and to the main loop.
//! The rest of the program sees a [`Role`](crate::model::Role).

pub mod anycast;
pub mod channels;
mod deadlines;
pub mod decide;
pub mod driver;
pub mod elections;
pub mod elector;
pub mod health;
pub mod holders;
pub mod host_health;
mod lease_watch;
pub mod metrics;
pub mod observer;
pub mod record;
pub mod reporter;
pub mod request;
pub mod scheme;
pub mod status;
pub mod watches;

use std::collections::BTreeMap;

pub use elector::{Elector, Settings};
pub use observer::{FailedCall, Observer};
pub use record::{Candidate, LeaderElectionRecord, LeaseObject, WallTime};
pub use scheme::Scheme;

/// The metadata of a Lease.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LeaseMetadata {
    /// None until the Lease was read.
    pub uid: Option<String>,
    pub annotations: BTreeMap<String, String>,
}
