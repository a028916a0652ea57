//! BGP: telling routers which addresses this host serves (RFC 4271).
//!
//! `packet` is bytes, `fsm` a session with a peer, `rib_out` what the peer has been told and what not yet, `rib_in`
//! what it told us; all four compute. `driver` owns sockets and clocks, one task for each peer.

pub mod fsm;
pub mod packet;
pub mod rib_in;
pub mod rib_out;
