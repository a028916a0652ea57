//! The types of values, read from the normal form of their text.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::model::go;

/// A type that a setting may have.
pub trait Value: Sized {
    /// Reads what [`super::Kind`] has accepted.
    fn read(text: &str) -> Option<Self>;
}

macro_rules! parsed {
    ($($type:ty)*) => { $(
        impl Value for $type {
            fn read(text: &str) -> Option<Self> {
                text.parse().ok()
            }
        }
    )* };
}

parsed!(bool u8 u16 u32 i64 String);

/// An empty text is none.
impl Value for Option<String> {
    fn read(text: &str) -> Option<Self> {
        Some(Some(text.to_owned()).filter(|text| !text.is_empty()))
    }
}

/// The entries between commas, without blanks around them.
impl Value for Vec<String> {
    fn read(text: &str) -> Option<Self> {
        Some(text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned).collect())
    }
}

impl Value for Duration {
    fn read(text: &str) -> Option<Self> {
        go::parse_duration(text)
    }
}

impl Value for BTreeMap<String, String> {
    fn read(text: &str) -> Option<Self> {
        if text.is_empty() { Some(Self::new()) } else { serde_json::from_str(text).ok() }
    }
}

/// An address; IPv6 also in brackets.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// The words that are not empty, for messages.
pub(super) fn named(words: &[&'static str]) -> Vec<&'static str> {
    words.iter().copied().filter(|word| !word.is_empty()).collect()
}

/// An enum of the words that a setting accepts.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$note:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$note])* $variant,)*
        }

        impl $name {
            pub const WORDS: &'static [&'static str] = &[$($word),*];
        }

        impl Value for $name {
            fn read(text: &str) -> Option<Self> {
                match text {
                    $($word => Some(Self::$variant),)*
                    _ => None,
                }
            }
        }
    };
}

words! {
    /// Which addresses of a name are used.
    DnsMode {
        /// The resolver's first.
        First = "first",
        /// The first IPv4 address.
        Ipv4 = "ipv4",
        /// The first IPv6 address.
        Ipv6 = "ipv6",
        /// The first of each family; both are required.
        Dual = "dual",
    }
}

words! {
    /// The families to request by DHCP.
    DhcpMode {
        /// Those of [`DnsMode`]; its `first` means IPv4, as in the Go program.
        AsDnsMode = "",
        Ipv4 = "ipv4",
        Ipv6 = "ipv6",
        Dual = "dual",
    }
}

words! {
    /// Source of the next hop of the family that a session does not have.
    #[derive(Default)]
    NextHopMode {
        #[default]
        None = "",
        /// Only given addresses.
        Fixed = "fixed",
        /// An address of the interface that has the source address.
        SourceAddress = "auto_sourceip",
        /// An address of the source interface.
        SourceInterface = "auto_sourceif",
    }
}

words! {
    /// Where the election is held.
    ElectionStore {
        Kubernetes = "kubernetes",
        Etcd = "etcd",
    }
}

words! {
    LogFormat {
        /// As Go's slog writes text.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

words! {
    /// How IPVS forwards packets.
    Forwarding {
        Local = "local",
        Masquerade = "masquerade",
        Tunnel = "tunnel",
        DirectRoute = "directroute",
        Bypass = "bypass",
    }
}
