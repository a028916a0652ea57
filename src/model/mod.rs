//! Plain values that every layer shares: no client, no clock, no IO.

pub mod hash;
pub mod link;
pub mod time;
pub mod vip;

pub use link::Link;
pub use time::BootTime;
pub use vip::Vip;
