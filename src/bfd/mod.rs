//! BFD: detects within a fraction of a second that the path to another host fails (RFC 5880, RFC 5881, RFC 5883).
//!
//! `packet` is the codec and `fsm` the session state machine. `path` is one
//! session with its socket; `driver` runs all of them in a thread of their own.
//! Sessions are independent of their client; today that is BGP.

pub mod driver;
pub mod fsm;
pub mod packet;
pub mod path;
