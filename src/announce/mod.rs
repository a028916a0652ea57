//! Telling the network where an address is.
//!
//! `schedule`, `probe` and `admission` say when to send what, and are pure; `layer2` carries it out on one interface.

pub mod layer2;
pub mod schedule;
