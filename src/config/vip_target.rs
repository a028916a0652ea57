//! The control plane's VIPs, as typed.

use std::net::IpAddr;

use super::origin::Origin;
use super::raw::Raw;
use super::settings::Key;

/// A VIP as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VipTarget {
    /// An address.
    Ip(IpAddr),
    /// A name to look up.
    Name(String),
}

impl VipTarget {
    /// The name, if it is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => Some(name),
            Self::Ip(_) => None,
        }
    }
}

impl std::fmt::Display for VipTarget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// The VIPs of `address`, or of its deprecated name.
pub fn targets(raw: &Raw) -> Vec<VipTarget> {
    let items = raw.list(key(raw)).into_iter();
    let target = |text: &str| match text.trim_start_matches('[').trim_end_matches(']').parse() {
        Ok(address) => VipTarget::Ip(address),
        Err(_) => VipTarget::Name(text.to_owned()),
    };
    items.map(target).collect()
}

/// Where they came from.
pub(super) fn origin(raw: &Raw) -> Origin {
    raw.origin(key(raw))
}

fn key(raw: &Raw) -> Key {
    if raw.text(Key::Address).is_empty() { Key::VipAddress } else { Key::Address }
}
