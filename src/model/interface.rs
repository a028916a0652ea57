//! Network interfaces.

use std::fmt;

use super::validation::is_interface;

/// The kernel's number of an interface; a rename does not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct IfIndex(pub u32);

impl fmt::Display for IfIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A network interface as the kernel reports it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Interface {
    pub index: IfIndex,
    pub name: String,
    /// Administratively up, with carrier; or of a kind without carrier detection.
    pub up: bool,
    /// Hardware type as in ARP: 1 for Ethernet, 32 for InfiniBand.
    pub hardware_type: u16,
    /// IFF_NOARP: neither ARP nor NDP, as on kube-proxy's `kube-ipvs0`.
    pub no_arp: bool,
    /// 6 bytes on Ethernet, 20 on InfiniBand, none on some virtual interfaces.
    pub hardware_address: Vec<u8>,
    /// The hardware address for broadcast.
    pub broadcast: Vec<u8>,
    /// Created by kube-vip, which may remove it.
    pub managed: bool,
    pub is_macvlan: bool,
    /// The interface's `rp_filter` (RFC 3704): 0 off, 1 strict, 2 loose.
    pub reverse_path: i32,
}

/// An interface that kube-vip creates where it is missing, and removes when nothing uses it any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ManagedInterface {
    /// An 802.1Q interface, named `parent.tag`.
    Vlan {
        parent: String,
        /// The VLAN ID.
        tag: u16,
    },
    /// An interface with a hardware address of its own.
    Macvlan {
        parent: String,
        name: String,
        hardware: [u8; 6],
        /// `rp_filter`, as in [`Interface::reverse_path`].
        reverse_path: u8,
    },
}

impl ManagedInterface {
    pub fn name(&self) -> String {
        match self {
            Self::Vlan { parent, tag } => format!("{parent}.{tag}"),
            Self::Macvlan { name, .. } => name.clone(),
        }
    }

    /// The name of the underlying interface.
    pub fn parent(&self) -> &str {
        match self {
            Self::Vlan { parent, .. } | Self::Macvlan { parent, .. } => parent,
        }
    }

    /// Whether it may exist on one host only: a hardware address on two ports confuses every switch.
    pub fn is_exclusive(&self) -> bool {
        matches!(self, Self::Macvlan { .. })
    }
}

/// `parent.tag`, with a tag from 1 to 4094 (IEEE 802.1Q).
pub fn vlan_of(text: &str) -> Option<(&str, u16)> {
    let (parent, tag) = text.rsplit_once('.')?;
    let tag = tag.parse().ok().filter(|tag| (1..=4094).contains(tag))?;
    (!parent.is_empty() && is_interface(text)).then_some((parent, tag))
}

/// ARPHRD_ETHER (IANA "ARP Parameters").
pub const ETHERNET: u16 = 1;
/// ARPHRD_INFINIBAND (RFC 4391).
pub const INFINIBAND: u16 = 32;

/// A hardware address in colon notation.
pub fn hardware_text(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    if digits.is_empty() { "unknown".to_owned() } else { digits.join(":") }
}

impl Interface {
    /// Drops packets that arrive on it if replies would leave by another interface (RFC 3704, strict mode). `for_all` is the
    /// setting for all interfaces: the larger one applies (ip-sysctl).
    pub fn is_strict(&self, for_all: i32) -> bool {
        self.reverse_path.max(for_all) == 1
    }

    /// Whether the interface uses ARP and NDP, so that addresses can be announced on it.
    pub fn has_neighbours(&self) -> bool {
        let length = match self.hardware_type {
            ETHERNET => 6,
            INFINIBAND => 20,
            _ => return false,
        };
        !self.no_arp && self.hardware_address.len() == length
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vlan_is_an_interface_name_with_a_tag() {
        for (text, expected) in [
            ("eth0.200", Some(("eth0", 200))),
            ("eth0.7.200", Some(("eth0.7", 200))),
            ("eth0.0", None),
            ("eth0.4095", None),
            (".200", None),
            ("a-long-parent.200", None),
            ("e%d.7", None),
        ] {
            assert_eq!(vlan_of(text), expected, "{text}");
        }
    }
}
