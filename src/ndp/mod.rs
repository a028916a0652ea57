//! Neighbour discovery for virtual IPv6 addresses: announcements, probes, packets of other hosts, and the
//! router on a link (RFC 4861, RFC 4862).

pub mod driver;
pub mod packet;
pub mod router;
pub mod routers;
