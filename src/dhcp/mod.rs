//! Addresses from DHCP servers, one client for each lease.
//!
//! Pure: `fsm` is the state machine of a client, `v4` and `v6` encode its messages, `datagram` the headers around them;
//! `identity` is what servers identify a client by, `saved_lease` the form in which a lease survives its process, `slot` the
//! client of one lease. `spec` is the interface to the rest of the program, channels included. `driver` runs all clients of this
//! host; `link` has their sockets. `discover` finds servers without requesting a lease.

pub mod datagram;
pub mod discover;
pub mod driver;
pub mod fsm;
pub mod identity;
mod link;
pub mod metrics;
pub mod saved_lease;
mod slot;
pub mod spec;
pub mod status;
pub mod v4;
pub mod v6;
