//! Addresses that no Service may have: those of the nodes, of the control plane and of the network they need, and those of a
//! kind that cannot be reached from other hosts. Used by kube-vip and the cloud provider.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::policy::limits::Limit;
use crate::model::annotation::{LOAD_BALANCER_IPS, SHARING_KEY};
use crate::model::node::NodeView;
use crate::model::service::Protocol;
use crate::model::text::quoted;
use crate::model::validation::{is_dhcp_word, unusable};
use crate::model::{HostUse, Prefix};

/// Addresses of the cluster itself, and of the network that it needs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reserved {
    /// The nodes' own addresses, each with its node.
    pub nodes: BTreeMap<IpAddr, String>,
    /// Control-plane VIPs that are no node's own address.
    pub control_plane: BTreeSet<IpAddr>,
    /// VIPs by the label `kube-vip.io/has-ip` of Nodes, which each kubelet may set on its own: an announced address stays.
    pub labelled: BTreeSet<IpAddr>,
    /// Addresses that kube-vip announces for Services. A kubelet without `--node-ip` may report one as its node's own: the
    /// newest global address of the interface (IPv6), or the first (IPv4).
    pub announced: BTreeSet<IpAddr>,
    /// Those of them that are in the status of a Service.
    pub announced_in_status: BTreeSet<IpAddr>,
    /// Addresses of Services inside the cluster (`spec.clusterIPs`).
    pub cluster: BTreeSet<IpAddr>,
    /// The nodes' pod networks.
    pub pods: BTreeSet<Prefix>,
    /// ServiceCIDRs: networks of cluster IPs.
    pub service_cidrs: BTreeSet<Prefix>,
    /// Addresses that this host needs.
    pub host_uses: BTreeMap<IpAddr, HostUse>,
}

/// Why a Service may not have an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    #[error("{address} is a {kind} address, which no Service can have")]
    Kind { address: IpAddr, kind: &'static str },
    #[error("{address} is node {node}'s own address")]
    Node { address: IpAddr, node: String },
    #[error("{0} is the control plane's VIP")]
    ControlPlane(IpAddr),
    #[error("port {port} of {address} belongs to the API server")]
    ApiServer { address: IpAddr, port: u16 },
    #[error("{0} is a cluster IP")]
    ClusterIp(IpAddr),
    #[error("{address} is in the pod network {network}")]
    Pods { address: IpAddr, network: Prefix },
    #[error("{address} is in the ServiceCIDR {network}")]
    ServiceCidr { address: IpAddr, network: Prefix },
    #[error("{address} is {usage}")]
    Host { address: IpAddr, usage: HostUse },
    #[error("{0}")]
    Limit(Limit),
    #[error("{0} is in none of the networks of svc_allowed_addresses")]
    Outside(IpAddr),
    #[error("{address} belongs to Service {owner}")]
    Service { address: IpAddr, owner: String },
    #[error("port {port} ({protocol}) of {address} belongs to Service {owner}")]
    Port { address: IpAddr, protocol: Protocol, port: u16, owner: String },
    #[error("{0}")]
    Infrastructure(String),
    #[error("{} is neither an address nor a DNS name", quoted(.0))]
    Malformed(String),
}

impl Refusal {
    /// Whether it depends on this host: others may decide differently.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Host { .. })
    }

    /// The address that is refused, if it is one.
    pub fn address(&self) -> Option<IpAddr> {
        match self {
            Self::Kind { address, .. }
            | Self::Node { address, .. }
            | Self::ControlPlane(address)
            | Self::ApiServer { address, .. }
            | Self::ClusterIp(address)
            | Self::Pods { address, .. }
            | Self::ServiceCidr { address, .. }
            | Self::Host { address, .. }
            | Self::Outside(address)
            | Self::Service { address, .. }
            | Self::Port { address, .. } => Some(*address),
            Self::Limit(_) | Self::Infrastructure(_) | Self::Malformed(_) => None,
        }
    }

    /// What to do about it, for messages of kube-vip, which shares the VIPs it holds itself with Services.
    pub fn remedy(&self) -> String {
        match self {
            Self::Kind { .. }
            | Self::Node { .. }
            | Self::ClusterIp(_)
            | Self::Pods { .. }
            | Self::ServiceCidr { .. }
            | Self::Outside(_) => "ask for another address".to_owned(),
            Self::Host { usage: HostUse::Resolver, .. } => {
                "ask for another address, or add the namespace to svc_infrastructure_namespaces".to_owned()
            }
            Self::Host { .. } => "ask for another address".to_owned(),
            Self::Limit(limit) => limit.remedy().to_owned(),
            Self::ControlPlane(_) => {
                "set svc_share_control_plane and svc_enable in the kube-vip that holds it, or ask for another address"
                    .to_owned()
            }
            Self::ApiServer { .. } | Self::Port { .. } => "ask for another address, or use another port".to_owned(),
            Self::Service { .. } => format!(
                "ask for another address, or share it: both Services need the same {SHARING_KEY}, or the agents \
                 svc_share_addresses"
            ),
            Self::Infrastructure(_) => "remove the annotation, or ask the administrator".to_owned(),
            Self::Malformed(text) if is_dhcp_word(text) => {
                format!("write 0.0.0.0 in {LOAD_BALANCER_IPS} for an IPv4 address from a DHCP server, and :: for IPv6")
            }
            Self::Malformed(_) => format!("correct the annotation {LOAD_BALANCER_IPS}"),
        }
    }
}

impl Reserved {
    /// The addresses of these nodes, and the control plane's addresses that others have published.
    pub fn new<'a>(
        nodes: impl IntoIterator<Item = &'a NodeView>,
        published: impl IntoIterator<Item = IpAddr>,
    ) -> Self {
        let (mut own, mut control_plane) = (BTreeMap::new(), BTreeSet::from_iter(published));
        let (mut pods, mut labelled) = (BTreeSet::new(), BTreeSet::new());
        for node in nodes {
            pods.extend(&node.pods);
            own.extend(node.own.iter().map(|address| (*address, node.name.clone())));
            labelled.extend(&node.vips);
        }
        control_plane.retain(|address| !own.contains_key(address));
        labelled.retain(|address| !own.contains_key(address) && !control_plane.contains(address));
        Self { nodes: own, control_plane, labelled, pods, ..Self::default() }
    }

    /// The same where kube-vip announces these addresses, by the status of Services.
    #[must_use]
    pub fn announcing(self, announced: impl IntoIterator<Item = IpAddr>) -> Self {
        let announced: BTreeSet<IpAddr> = announced.into_iter().collect();
        Self { announced_in_status: announced.clone(), announced, ..self }
    }

    /// The node that reports an announced address as its own.
    pub fn reported_by(&self, address: IpAddr) -> Option<&str> {
        let node = self.nodes.get(&address).filter(|_| self.announced.contains(&address))?;
        Some(node)
    }

    /// Fails with the reason if no Service may have the address, but for what this host needs it for.
    pub fn check(&self, address: IpAddr) -> Result<(), Refusal> {
        let kind = unusable(address).map(|kind| Refusal::Kind { address, kind });
        kind.or_else(|| self.owner(address)).or_else(|| self.inside(address)).map_or(Ok(()), Err)
    }

    /// What this host needs an address for. A host that uses a Service as its resolver goes on doing so, and an announced
    /// address is on an interface of its node.
    pub fn host_use(&self, address: IpAddr) -> Option<HostUse> {
        let usage = *self.host_uses.get(&address)?;
        let of_service = matches!(usage, HostUse::Own | HostUse::Resolver);
        (!of_service || !self.announced.contains(&address)).then_some(usage)
    }

    /// Why an address is one inside the cluster. A pool may overlap networks that no CNI uses: what is allocated stays.
    fn inside(&self, address: IpAddr) -> Option<Refusal> {
        let cluster = self.cluster.contains(&address).then_some(Refusal::ClusterIp(address));
        cluster.or_else(|| {
            let within =
                |networks: &BTreeSet<Prefix>| networks.iter().copied().find(|it| it.contains(address));
            let pods = within(&self.pods).map(|network| Refusal::Pods { address, network });
            pods.or_else(|| Some(Refusal::ServiceCidr { address, network: within(&self.service_cidrs)? }))
        })
    }

    /// The node or control plane that has the address, as a refusal.
    pub fn owner(&self, address: IpAddr) -> Option<Refusal> {
        if self.control_plane.contains(&address) || self.is_labelled(&address) {
            return Some(Refusal::ControlPlane(address));
        }
        let node = self.nodes.get(&address).filter(|_| !self.announced.contains(&address))?;
        Some(Refusal::Node { address, node: node.clone() })
    }

    fn is_labelled(&self, address: &IpAddr) -> bool {
        self.labelled.contains(address) && !self.announced_in_status.contains(address)
    }

    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let nodes = self.nodes.keys().filter(|address| !self.announced.contains(address));
        let labelled = self.labelled.iter().filter(|address| self.is_labelled(address));
        nodes.chain(labelled).chain(&self.control_plane).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_cluster_and_unreachable_ones_are_refused() {
        let node = |name: &str, own: &[&str], vips: &[&str]| {
            let parse = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
            NodeView { name: name.into(), own: parse(own), vips: parse(vips), ..NodeView::default() }
        };
        let nodes = [
            node("node-1", &["192.0.2.1", "192.0.2.4"], &["192.0.2.2"]),
            node("node-2", &[], &["192.0.2.4"]),
        ];
        let reserved = Reserved::new(&nodes, "192.0.2.5".parse().ok());
        let published_own = Reserved::new(&nodes, "192.0.2.1".parse().ok());
        assert_eq!(reserved.addresses().count(), 4);
        for (address, owned, part) in [
            ("192.0.2.1", true, "node node-1's own"),
            ("192.0.2.2", true, "the control plane's"),
            ("192.0.2.4", true, "node node-1's own"),
            ("192.0.2.5", true, "the control plane's"),
            ("127.0.0.1", false, "loopback"),
            ("::1", false, "loopback"),
            ("224.0.0.1", false, "multicast"),
            ("ff02::1", false, "multicast"),
            ("255.255.255.255", false, "broadcast"),
            ("169.254.1.1", false, "link-local"),
            ("fe80::1", false, "link-local"),
            ("::ffff:192.0.2.1", false, "mapped"),
        ] {
            let address = address.parse().unwrap();
            let refusal = reserved.check(address).unwrap_err();
            assert!(refusal.to_string().contains(part), "{refusal}");
            assert_eq!(reserved.owner(address), owned.then_some(refusal));
        }
        let published = published_own.check("192.0.2.1".parse().unwrap()).unwrap_err();
        assert!(matches!(published, Refusal::Node { .. }), "{published}");
        assert_eq!(reserved.check("192.0.2.3".parse().unwrap()), Ok(()));
        let vip = "192.0.2.1".parse().unwrap();
        let announcing = reserved.announcing([vip]);
        assert_eq!((announcing.check(vip), announcing.reported_by(vip)), (Ok(()), Some("node-1")));
        assert_eq!(announcing.addresses().count(), 3);
        // A label of a Node takes no announced address away, unlike what the cluster publishes.
        let addresses: [IpAddr; 2] = ["192.0.2.2", "192.0.2.5"].map(|text| text.parse().unwrap());
        let announcing = announcing.announcing(addresses);
        assert_eq!(announcing.owner(addresses[0]), None);
        assert_eq!(announcing.owner(addresses[1]), Some(Refusal::ControlPlane(addresses[1])));
        assert_eq!(announcing.addresses().count(), 3);
        assert_eq!(announcing.reported_by("192.0.2.4".parse().unwrap()), None);
        // One that is only planned is not announced yet.
        let planned = Reserved { announced_in_status: BTreeSet::new(), ..announcing };
        assert_eq!(planned.owner(addresses[0]), Some(Refusal::ControlPlane(addresses[0])));
    }
}
