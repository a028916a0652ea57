//! Host names in the local network without a DNS server (multicast DNS, RFC 6762; service discovery, RFC 6763).
//!
//! `records` assigns names and is pure; `driver` publishes them with `mdns-sd`, each by `responder`; `goodbye` withdraws
//! what the library leaves in some caches.

/// The thread of `mdns-sd`, which parses what any host on the link sends.
pub const THREAD: &str = "mDNS_daemon";

pub mod driver;
mod goodbye;
pub mod records;
mod responder;
