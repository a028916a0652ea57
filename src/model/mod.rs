//! Plain values that every layer shares: no client, no clock, no IO.

pub mod hash;
pub mod time;
pub mod vip;

pub use time::BootTime;
pub use vip::Vip;
