//! What Services may ask for.

use std::collections::BTreeSet;

use super::{Key, Problem, Values};
use crate::model::Prefix;

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
    let set = |list: &Vec<String>| list.iter().cloned().collect();
    let networks = values.allowed_addresses.iter().filter_map(|text| {
        let network = text.parse().ok();
        if network.is_none() {
            let origin = values.raw.origin(Key::AllowedAddresses);
            problems.push(Problem::unacceptable(origin, text, "a network such as 10.0.0.0/16 or fd00::/64"));
        }
        network
    });
    let networks = networks.collect();
    let all = values.infrastructure_namespaces.iter().any(|name| name == "*");
    Policy {
        infrastructure: match all {
            true => Namespaces::All,
            false => Namespaces::Named(set(&values.infrastructure_namespaces)),
        },
        interfaces: set(&values.allowed_interfaces),
        vlans: set(&values.allowed_vlans),
        macvlan: values.allow_macvlan,
        hardware_addresses: values.allow_hardware_addresses,
        leases: set(&values.allowed_leases),
        networks,
        share_control_plane: values.share_control_plane,
        share_addresses: values.share_addresses,
        api_ports: [values.port, values.load_balancer_port].into(),
        max_addresses: usize::try_from(values.max_addresses).unwrap_or(usize::MAX),
        max_leases: usize::try_from(values.max_leases).unwrap_or(usize::MAX),
    }
}
