//! Plain values that every layer shares: no client, no clock, no IO.

pub mod address;
pub mod annotation;
pub mod checksum;
pub mod family;
pub mod hash;
pub mod lease;
pub mod legal;
pub mod link;
pub mod node;
pub mod prefix;
pub mod route;
pub mod service;
pub mod time;
pub mod vip;

pub use address::ActualAddress;
pub use family::{Family, PerFamily};
pub use lease::LeaseName;
pub use link::Link;
pub use prefix::Prefix;
pub use route::{Announced, Path, Routes};
pub use service::{ServiceKey, ServiceView};
pub use time::BootTime;
pub use vip::Vip;
