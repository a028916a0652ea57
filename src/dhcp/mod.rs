//! Addresses from the network's DHCP server, one client for each lease.
//!
//! `fsm` is a client, and computes; `v4` and `v6` are its messages as bytes, `datagram` what is around them, `identity`
//! who it is; `wish` is what the rest of the program asks for and hears back; `record` is what others have to know to go on with a lease; `driver` has all clients of this host.

pub mod datagram;
pub mod driver;
pub mod fsm;
pub mod identity;
pub mod record;
pub mod segment;
pub mod v4;
pub mod v6;
pub mod wish;
