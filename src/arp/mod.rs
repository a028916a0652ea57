//! ARP for virtual IPv4 addresses: announcing, probing, noticing others (RFC 826, RFC 5227).

pub mod driver;
pub mod packet;
