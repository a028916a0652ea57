//! Neighbour discovery for virtual IPv6 addresses: announcing, probing, noticing others (RFC 4861, RFC 4862).

pub mod driver;
pub mod packet;
pub mod router;
pub mod routers;
