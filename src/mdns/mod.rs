//! Host names in the local network without a DNS server (multicast DNS, RFC 6762; service discovery, RFC 6763).
//!
//! `records` assigns names and is pure; `driver` publishes them with `mdns-sd`, each by `responder`.

pub mod driver;
pub mod records;
mod responder;
