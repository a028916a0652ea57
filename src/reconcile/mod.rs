//! Makes the host as desired, and keeps it so.
//!
//! ```text
//! plan, roles ─► placement ─► desired ─► diff ─► execute ─► netlink, nft, announcements
//!                     HostState ───────────┘        └─► results (routes, HostStatus)
//! ```
//!
//! `placement`, `desired` and `diff` are pure. `driver` takes this path after every change of its inputs, at every deadline,
//! and periodically.

mod channels;
pub mod desired;
pub mod diff;
pub mod driver;
mod execute;
mod interface_changes;
pub mod interfaces;
pub mod metrics;
mod moves;
mod neighbours;
mod placement;
pub mod reporter;
mod results;
