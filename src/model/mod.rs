//! Plain values that every layer shares: no client, no clock, no IO.

pub mod address;
pub mod address_spec;
pub mod annotation;
pub mod backoff;
pub mod checksum;
pub mod family;
pub mod go;
pub mod group;
pub mod hash;
pub mod interface;
pub mod lease;
pub mod log_on_change;
pub mod node;
pub mod plan;
pub mod prefix;
pub mod role;
pub mod route;
pub mod service;
pub mod time;
pub mod validation;
pub mod vip;

pub use address::ActualAddress;
pub use address_spec::{AddressSpec, InterfaceSelector, PlacementError, PrefixLength};
pub use backoff::Backoff;
pub use family::{Family, PerFamily};
pub use group::GroupId;
pub use interface::{IfIndex, Interface};
pub use lease::LeaseName;
pub use log_on_change::LogOnChange;
pub use plan::{GroupPlan, Roles, VipPlan};
pub use prefix::Prefix;
pub use role::{Candidacy, CandidacyKind, Claim, ClaimSource, Health, Holder, Role};
pub use route::{AdvertisedRoutes, RouteAttributes, Routes};
pub use service::{ServiceKey, ServiceView};
pub use time::BootTime;
pub use vip::Vip;
