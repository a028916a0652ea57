//! ARP for virtual IPv4 addresses: announcements, probes, and packets of other hosts (RFC 826, RFC 5227).

pub mod driver;
pub mod packet;
