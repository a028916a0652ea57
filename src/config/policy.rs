//! What Services may ask for.

use std::collections::BTreeSet;

use super::{Key, Problem, Values};
use crate::model::interface::vlan_of;
use crate::model::validation::{is_interface, is_label};
use crate::model::{LeaseName, Prefix};

/// What the authors of Services may choose. The default permits what concerns their own Services alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// Namespaces whose Services may choose infrastructure: interfaces, VLANs, hardware addresses and any Lease.
    pub infrastructure: Namespaces,
    /// Interfaces that every Service may choose, beside the default one.
    pub interfaces: BTreeSet<String>,
    /// VLAN interfaces, as `parent.tag`, that every Service may choose.
    pub vlans: BTreeSet<String>,
    /// Every Service may have a macvlan interface.
    pub macvlan: bool,
    /// Every Service may choose its hardware address.
    pub hardware_addresses: bool,
    /// Leases, as `namespace/name`, that every Service may be elected on.
    pub leases: BTreeSet<String>,
    /// Networks from which Services may have addresses; empty: any.
    pub networks: Vec<Prefix>,
    /// Services may have the control plane's VIP, but for the API server's port.
    pub share_control_plane: bool,
    /// Services of several namespaces may have one address, as the cloud provider's `allow-share-…` gives it to them.
    pub share_addresses: bool,
    /// The ports of the API server on the VIP.
    pub api_ports: BTreeSet<u16>,
    /// Most addresses of all Services together: after failures one node may have to hold all of them.
    pub max_addresses: usize,
    /// Most DHCP leases of the Services of a namespace.
    pub max_leases: usize,
    /// Services with `externalTrafficPolicy: Cluster` are announced although they have no ready endpoints.
    pub without_endpoints: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            infrastructure: Namespaces::default(),
            interfaces: BTreeSet::new(),
            vlans: BTreeSet::new(),
            macvlan: false,
            hardware_addresses: false,
            leases: BTreeSet::new(),
            networks: Vec::new(),
            share_control_plane: false,
            share_addresses: false,
            api_ports: BTreeSet::new(),
            max_addresses: usize::MAX,
            max_leases: usize::MAX,
            without_endpoints: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Namespaces {
    All,
    Named(BTreeSet<String>),
}

impl Default for Namespaces {
    fn default() -> Self {
        Self::Named(BTreeSet::new())
    }
}

impl Namespaces {
    pub fn contain(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(namespace),
        }
    }
}

pub(super) fn read(values: &Values, problems: &mut Vec<Problem>) -> Policy {
    let mut list = |key, items: &[String], allowed, is_allowed: fn(&str) -> bool| -> BTreeSet<String> {
        for item in items.iter().filter(|item| !is_allowed(item)) {
            problems.push(Problem::unacceptable(values.raw.origin(key), item, allowed));
        }
        items.iter().cloned().collect()
    };
    let namespaces = list(
        Key::InfrastructureNamespaces,
        &values.infrastructure_namespaces,
        "the name of a namespace, or `*`",
        |name| name == "*" || is_label(name),
    );
    let interfaces = list(
        Key::AllowedInterfaces,
        &values.allowed_interfaces,
        "the name of an interface of at most 15 bytes, or `auto`",
        is_interface,
    );
    let vlans = list(
        Key::AllowedVlans,
        &values.allowed_vlans,
        "`<parent>.<VLAN ID>`, such as eth0.200, with an ID from 1 to 4094",
        |name| vlan_of(name).is_some(),
    );
    let leases = list(Key::AllowedLeases, &values.allowed_leases, "`namespace/name` of a Lease", |name| {
        name.contains('/') && LeaseName::parse("", name).is_some()
    });
    let networks = list(
        Key::AllowedAddresses,
        &values.allowed_addresses,
        "a network such as 10.0.0.0/16 or fd00::/64, without bits beyond its length",
        |text| network(text).is_some(),
    );
    Policy {
        infrastructure: match namespaces.contains("*") {
            true => Namespaces::All,
            false => Namespaces::Named(namespaces),
        },
        interfaces,
        vlans,
        macvlan: values.allow_macvlan,
        hardware_addresses: values.allow_hardware_addresses,
        leases,
        networks: networks.iter().filter_map(|text| network(text)).collect(),
        share_control_plane: values.share_control_plane,
        share_addresses: values.share_addresses,
        api_ports: [values.port, values.load_balancer_port].into(),
        max_addresses: usize::try_from(values.max_addresses).unwrap_or(usize::MAX),
        max_leases: usize::try_from(values.max_leases).unwrap_or(usize::MAX),
        without_endpoints: values.without_endpoints,
    }
}

/// A network whose text has no bits beyond its length: those would be a typing mistake.
fn network(text: &str) -> Option<Prefix> {
    let network: Prefix = text.parse().ok()?;
    let address = text.split('/').next()?.trim().parse().ok();
    (address == Some(network.address)).then_some(network)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_no_bits_beyond_its_length() {
        for (text, good) in [
            ("10.0.0.0/16", true),
            ("192.0.2.1", true),
            ("fd00::/64", true),
            ("10.0.0.1/16", false),
            ("fd00::1/64", false),
            ("10.0.0.0/33", false),
            ("web", false),
        ] {
            assert_eq!(network(text).is_some(), good, "{text}");
        }
    }
}
