//! DHCP for IPv4 (RFC 2131): `fsm` is one client, and computes.

pub mod fsm;
