//! A network interface as the rest of the program sees it.

use std::fmt;

/// The kernel's number of an interface; a rename does not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct IfIndex(pub u32);

impl fmt::Display for IfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A network interface (interface).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// The kernel's index; it survives a rename.
    pub index: IfIndex,
    /// Its name now.
    pub name: String,
    /// Administratively up, with carrier; or of a kind that does not tell.
    pub up: bool,
    /// Hardware type as in ARP: 1 for Ethernet, 32 for InfiniBand.
    pub hardware_type: u16,
    /// Its hardware address: 6 bytes on Ethernet, 20 on InfiniBand, none on some virtual interfaces.
    pub hardware_address: Vec<u8>,
    /// The hardware address that reaches everybody.
    pub broadcast: Vec<u8>,
    /// We made it, and may remove it.
    pub managed: bool,
    /// Its own setting of reverse path filtering (RFC 3704): 0 for none, 1 for strict, 2 for loose.
    pub reverse_path: i32,
}

/// An interface of ours on another one: it is made where it is missing, and removed when nothing needs it any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ManagedInterface {
    /// An 802.1Q interface. Its name is that of the other one, a dot, and the number.
    Vlan {
        /// The other one.
        parent: String,
        /// The VLAN's number.
        tag: u16,
    },
    /// An interface with a hardware address of its own.
    Macvlan {
        /// The other one.
        parent: String,
        /// Its name.
        name: String,
        /// Its hardware address.
        hardware: [u8; 6],
        /// Its setting of reverse path filtering.
        reverse_path: u8,
    },
}

impl ManagedInterface {
    /// Its name.
    pub fn name(&self) -> String {
        match self {
            Self::Vlan { parent, tag } => format!("{parent}.{tag}"),
            Self::Macvlan { name, .. } => name.clone(),
        }
    }

    /// The name of the interface that it is on.
    pub fn parent(&self) -> &str {
        match self {
            Self::Vlan { parent, .. } | Self::Macvlan { parent, .. } => parent,
        }
    }

    /// Whether it may be on one host only: two stations with one hardware address confuse every switch.
    pub fn is_exclusive(&self) -> bool {
        matches!(self, Self::Macvlan { .. })
    }
}

/// ARP's number for Ethernet (RFC 826, IANA "ARP Parameters").
pub const ETHERNET: u16 = 1;
/// ARP's number for IP over InfiniBand (RFC 4391).
pub const INFINIBAND: u16 = 32;

/// A hardware address as people write it.
pub fn hardware_text(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if digits.is_empty() { "an unknown station".to_owned() } else { digits.join(":") }
}

impl Interface {
    /// Whether neighbours are found by ARP and NDP on it, so that announcing makes sense.
    pub fn has_neighbours(&self) -> bool {
        match self.hardware_type {
            ETHERNET => self.hardware_address.len() == 6,
            INFINIBAND => self.hardware_address.len() == 20,
            _ => false,
        }
    }
}
