//! What kube-vip uses of a Service.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{LoadBalancerIngress, Service, ServicePort, ServiceSpec};

use super::Family;
use super::annotation::VIP_HOST;

/// The condition by which the cloud provider permits a Service's port mappings. Only the status has conditions, which authors of
/// Services may not write.
pub const UPNP_DELEGATED: &str = "kube-vip.io/UPnPDelegated";

/// The condition of a Service that is not announced with all its addresses, for want of endpoints; its message lists those that
/// stay the Service's.
pub const ADDRESSES_KEPT: &str = "kube-vip.io/AddressesKept";

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// `spec.ipFamilyPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FamilyPolicy {
    #[default]
    Single,
    PreferDual,
    RequireDual,
}

/// `spec.externalTrafficPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum TrafficPolicy {
    #[default]
    Cluster,
    Local,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServiceView {
    /// Distinguishes it from an earlier Service of the same name.
    pub uid: String,
    /// For optimistic locking.
    pub resource_version: String,
    /// Creation time in seconds since 1970.
    pub created: i64,
    pub deleting: bool,
    pub load_balancer: bool,
    /// `spec.loadBalancerClass`.
    pub class: Option<String>,
    /// `spec.loadBalancerIP`.
    pub load_balancer_ip: Option<String>,
    /// Only those of kube-vip.
    pub annotations: BTreeMap<String, String>,
    pub labels: BTreeMap<String, String>,
    pub finalizers: Vec<String>,
    /// `spec.ipFamilies`.
    pub families: Vec<Family>,
    /// `spec.ipFamilyPolicy`.
    pub family_policy: FamilyPolicy,
    pub ports: Vec<(Protocol, u16)>,
    pub named_ports: Vec<(String, Protocol, u16)>,
    /// `spec.externalTrafficPolicy`.
    pub traffic_policy: TrafficPolicy,
    /// `spec.externalIPs`.
    pub external_ips: Vec<IpAddr>,
    /// `spec.clusterIPs`.
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.selector`.
    pub selector: BTreeMap<String, String>,
    /// `status.loadBalancer.ingress`.
    pub status: Vec<Ingress>,
    /// The addresses of [`ADDRESSES_KEPT`].
    pub kept: BTreeSet<IpAddr>,
    /// Since when, in seconds since 1970.
    pub kept_since: i64,
    /// The condition [`UPNP_DELEGATED`] is true.
    pub upnp_delegated: bool,
}

/// One entry of `status.loadBalancer.ingress`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ingress {
    pub ip: Option<IpAddr>,
    pub hostname: Option<String>,
    pub ip_mode: Option<String>,
    pub ports: Vec<(Protocol, u16)>,
}

impl ServiceView {
    /// Whether this is an earlier state, that of a deleted Service of the same name included. Resource versions increase
    /// through the whole store (Kubernetes API concepts, "Resource versions": comparable since 1.35; etcd revisions before),
    /// until the store is restored from a backup: a comparison needs a way out of that.
    pub fn is_older_than(&self, other: &Self) -> bool {
        match (self.resource_version.parse::<u64>(), other.resource_version.parse::<u64>()) {
            (Ok(version), Ok(known)) => version < known,
            _ => false,
        }
    }

    /// The addresses that a node has announced for it, by the status that this node wrote.
    pub fn announced_in_status(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let announced = self.annotation(VIP_HOST).is_some();
        self.status.iter().filter(move |_| announced).filter_map(|entry| entry.ip)
    }

    /// The trimmed value of an annotation; none if it is empty.
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.annotations.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }
}

/// None for an object without a name, which no server sends.
pub fn view(service: Service) -> Option<(ServiceKey, ServiceView)> {
    let meta = service.metadata;
    let key = ServiceKey { namespace: meta.namespace?, name: meta.name? };
    let spec = service.spec.unwrap_or_default();
    let status = service.status.unwrap_or_default();
    let ingress = status.load_balancer.and_then(|balancer| balancer.ingress).unwrap_or_default();
    let mut conditions = status.conditions.iter().flatten().filter(|condition| condition.status == "True");
    let kept = conditions.clone().find(|condition| condition.type_ == ADDRESSES_KEPT);
    let kept_since = kept.map_or(0, |condition| condition.last_transition_time.0.as_second());
    let kept = kept.into_iter().flat_map(|condition| condition.message.split(", "));
    let view = ServiceView {
        uid: meta.uid.unwrap_or_default(),
        resource_version: meta.resource_version.unwrap_or_default(),
        created: meta.creation_timestamp.map_or(0, |time| time.0.as_second()),
        deleting: meta.deletion_timestamp.is_some(),
        annotations: concerning(meta.annotations.unwrap_or_default()),
        labels: meta.labels.unwrap_or_default(),
        finalizers: meta.finalizers.unwrap_or_default(),
        status: ingress.into_iter().map(ingress_of).collect(),
        kept_since,
        kept: kept.filter_map(|address| address.parse().ok()).collect(),
        upnp_delegated: conditions.any(|condition| condition.type_ == UPNP_DELEGATED),
        ..of_spec(spec)
    };
    Some((key, view))
}

fn ingress_of(ingress: LoadBalancerIngress) -> Ingress {
    let ports = ingress.ports.unwrap_or_default();
    let ports = ports.into_iter().filter_map(|port| port_of(Some(&port.protocol), port.port));
    Ingress {
        ip: ingress.ip.and_then(|ip| ip.parse().ok()),
        hostname: ingress.hostname,
        ip_mode: ingress.ip_mode,
        ports: ports.collect(),
    }
}

fn port_of(protocol: Option<&str>, port: i32) -> Option<(Protocol, u16)> {
    let protocol = match protocol {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some("SCTP") => Protocol::Sctp,
        Some(_) => return None,
    };
    Some((protocol, u16::try_from(port).ok()?))
}

/// Clients keep whole manifests in annotations: with thousands of Services that is a lot of memory.
fn concerning(mut annotations: BTreeMap<String, String>) -> BTreeMap<String, String> {
    annotations.retain(|name, _| name.contains("kube-vip.io/"));
    annotations
}

fn of_spec(spec: ServiceSpec) -> ServiceView {
    let families = spec.ip_families.unwrap_or_default();
    let ports = spec.ports.unwrap_or_default();
    let named = |port: &ServicePort| {
        let (protocol, number) = port_of(port.protocol.as_deref(), port.port)?;
        Some((port.name.clone()?, protocol, number))
    };
    ServiceView {
        load_balancer: spec.type_.as_deref() == Some("LoadBalancer"),
        class: spec.load_balancer_class,
        load_balancer_ip: spec.load_balancer_ip.filter(|ip| !ip.trim().is_empty()),
        families: families.iter().filter_map(|family| family_of(family)).collect(),
        family_policy: match spec.ip_family_policy.as_deref() {
            Some("PreferDualStack") => FamilyPolicy::PreferDual,
            Some("RequireDualStack") => FamilyPolicy::RequireDual,
            _ => FamilyPolicy::Single,
        },
        named_ports: ports.iter().filter_map(named).collect(),
        ports: ports.iter().filter_map(|port| port_of(port.protocol.as_deref(), port.port)).collect(),
        traffic_policy: match spec.external_traffic_policy.as_deref() {
            Some("Local") => TrafficPolicy::Local,
            _ => TrafficPolicy::Cluster,
        },
        cluster_ips: spec.cluster_ips.iter().flatten().filter_map(|address| address.parse().ok()).collect(),
        external_ips: spec.external_ips.iter().flatten().filter_map(|address| address.parse().ok()).collect(),
        selector: spec.selector.unwrap_or_default(),
        ..ServiceView::default()
    }
}

fn family_of(text: &str) -> Option<Family> {
    Family::BOTH.into_iter().find(|family| family.to_string() == text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_the_condition_of_the_status_permits_port_mappings() {
        for (name, status, permitted) in [
            (UPNP_DELEGATED, "True", true),
            (UPNP_DELEGATED, "False", false),
            (UPNP_DELEGATED, "Unknown", false),
            ("example.com/UPnPDelegated", "True", false),
        ] {
            let condition = json!({ "type": name, "status": status, "reason": "", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z" });
            let other = json!({ "type": "Ready", "status": "True", "reason": "", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z" });
            let object = json!({
                "metadata": { "namespace": "a", "name": "b", "annotations": { UPNP_DELEGATED: "True" } },
                "status": { "conditions": [other, condition] },
            });
            let (_, view) = view(serde_json::from_value(object).unwrap()).unwrap();
            assert_eq!(view.upnp_delegated, permitted, "{name} {status}");
        }
    }
}
