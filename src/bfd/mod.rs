//! BFD: whether packets get through to another host, found out in a fraction of a second (RFC 5880, RFC 5881, RFC 5883).
//!
//! `packet` is bytes and `fsm` a session; both compute. `driver` has the sockets and the clock, for all sessions in one
//! task. Nothing here knows what a session is for: BGP is told when the way to a peer breaks, and hosts could watch each
//! other in the same way.

pub mod driver;
pub mod fsm;
pub mod packet;
