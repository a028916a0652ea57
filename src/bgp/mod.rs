//! BGP speaker that advertises the addresses this host serves to its routers (RFC 4271).
//!
//! `packet` is the codec, `fsm` the session state machine, `rib_out` and `rib_in` the Adj-RIBs, `peers` computes which
//! peers this node has. `speaker` manages all peers, `driver` runs one of them in a task with its connections
//! (`transports`), its clock and its BFD state (`path`). `status` and `metrics` publish the result.

pub mod driver;
pub mod fsm;
pub mod metrics;
pub mod packet;
mod path;
pub mod peers;
pub mod rib_in;
pub mod rib_out;
pub mod speaker;
pub mod status;
mod transports;
