//! Addresses from the network's DHCP server, one client for each lease.

pub mod v4;
