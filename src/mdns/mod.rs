//! Names in the local network without a DNS server (multicast DNS, RFC 6762; service discovery, RFC 6763).
//!
//! `names` says who is to be found under which name, and computes; `driver` has that told, by way of `mdns-sd`.

pub mod driver;
pub mod names;
