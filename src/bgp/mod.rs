//! BGP: telling routers which addresses this host serves (RFC 4271).
//!
//! `packet` is bytes, `fsm` a session with a peer, `rib_out` what the peer has been told and what not yet, `rib_in`
//! what it told us, `peers`, `annotations` and `provider` who there is to talk to; all of these compute. `speaker` looks
//! after peers that come and go, `driver` after one of them, with its sockets (`links`) and its clock: one task for each
//! peer. `lookup` asks the provider.

pub mod annotations;
pub mod driver;
pub mod fsm;
mod links;
pub mod lookup;
pub mod packet;
pub mod peers;
pub mod provider;
pub mod rib_in;
pub mod rib_out;
pub mod speaker;
