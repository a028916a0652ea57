//! Which addresses a Service has, and which of them can be announced.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::annotation::{LOAD_BALANCER_IPS, UPNP_EXTERNAL_IP};
use crate::model::service::Ingress;
use crate::model::validation::unusable;
use crate::model::{Family, ServiceView};

/// An address as it stands in a Service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wanted {
    /// An address.
    Ip(IpAddr),
    /// A name to look up.
    Name(String),
}

/// The addresses of a Service, in the Go program's order of sources: the annotation; what the status has, unless
/// `spec.loadBalancerIP` says otherwise; `spec.loadBalancerIP`.
pub fn wanted(view: &ServiceView) -> Vec<Wanted> {
    let one = |text: &str| match text.parse() {
        Ok(address) => Wanted::Ip(address),
        Err(_) => Wanted::Name(text.to_owned()),
    };
    if let Some(text) = view.annotation(LOAD_BALANCER_IPS) {
        let elements = text.split(',').map(str::trim).filter(|element| !element.is_empty());
        return elements.map(one).collect();
    }
    // That of a gateway whose ports lead here is none of the Service's own.
    let outside = view.annotation(UPNP_EXTERNAL_IP).unwrap_or_default();
    let outside: Vec<IpAddr> = outside.split(',').filter_map(|ip| ip.parse().ok()).collect();
    let own = |ingress: &&Ingress| ingress.ip.is_none_or(|ip| !outside.contains(&ip));
    let status: Vec<&Ingress> = view.status.iter().filter(own).collect();
    let spec = view.load_balancer_ip.as_deref().map(|text| one(text.trim()));
    let differs = match &spec {
        Some(Wanted::Ip(address)) => {
            let mut same_family = status.iter().filter_map(|ingress| ingress.ip);
            same_family.any(|ip| Family::of(ip) == Family::of(*address) && ip != *address)
        }
        _ => false,
    };
    if !status.is_empty() && !differs {
        return status
            .iter()
            .filter_map(|ingress| {
                let name = || ingress.hostname.clone().map(Wanted::Name);
                ingress.ip.map(Wanted::Ip).or_else(name)
            })
            .collect();
    }
    spec.into_iter().collect()
}

/// What is known of addresses that are not for Services.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reserved {
    /// The nodes' own, each with the node.
    pub nodes: BTreeMap<IpAddr, String>,
    /// The control plane's, where this process does not hold it itself.
    pub control_plane: BTreeSet<IpAddr>,
}

/// Why an address cannot be announced.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Refusal {
    /// It is of a kind that no Service can have.
    #[error("{address} is a {kind} address, which no Service can have: ask for another address")]
    Kind {
        /// The address.
        address: IpAddr,
        /// What is wrong with it.
        kind: &'static str,
    },
    /// It is a node's.
    #[error("{address} is node {node}'s own: ask for another address")]
    Node {
        /// The address.
        address: IpAddr,
        /// The node.
        node: String,
    },
    /// It is the control plane's.
    #[error(
        "{0} is the control plane's: let the kube-vip that holds it serve Services, too, or ask for another address"
    )]
    ControlPlane(IpAddr),
    /// It is no name.
    #[error("`{0}` is neither an address nor a DNS name: correct the annotation {LOAD_BALANCER_IPS}")]
    Malformed(String),
}

impl Reserved {
    /// Whether an address can be announced.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, address: IpAddr) -> Result<(), Refusal> {
        if let Some(kind) = unusable(address) {
            return Err(Refusal::Kind { address, kind });
        }
        if self.control_plane.contains(&address) {
            return Err(Refusal::ControlPlane(address));
        }
        match self.nodes.get(&address) {
            Some(node) => Err(Refusal::Node { address, node: node.clone() }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Behind a gateway with one address outside.
    const OUTSIDE: &str = "100.200.0.1";

    fn seen(annotation: Option<&str>, spec: Option<&str>, status: &[&str]) -> Vec<String> {
        let mut view = ServiceView { load_balancer_ip: spec.map(str::to_owned), ..ServiceView::default() };
        if let Some(text) = annotation {
            view.annotations.insert(LOAD_BALANCER_IPS.into(), text.into());
        }
        view.annotations.insert(UPNP_EXTERNAL_IP.into(), OUTSIDE.into());
        view.status = status
            .iter()
            .map(|text| match text.parse() {
                Ok(ip) => Ingress { ip: Some(ip), ..Ingress::default() },
                Err(_) => Ingress { hostname: Some((*text).into()), ..Ingress::default() },
            })
            .collect();
        let text = |wanted| match wanted {
            Wanted::Ip(ip) => ip.to_string(),
            Wanted::Name(name) => name,
        };
        wanted(&view).into_iter().map(text).collect()
    }

    #[test]
    fn sources_have_an_order() {
        let none: [&str; 0] = [];
        assert_eq!(
            seen(Some("192.0.2.1, fd00::1,"), Some("192.0.2.9"), &["192.0.2.8"]),
            ["192.0.2.1", "fd00::1"]
        );
        assert_eq!(seen(Some("web.example.com"), None, &[]), ["web.example.com"]);
        assert_eq!(seen(None, Some("192.0.2.9"), &["192.0.2.8"]), ["192.0.2.9"]);
        assert_eq!(seen(None, Some("192.0.2.9"), &["192.0.2.9", "fd00::9"]), ["192.0.2.9", "fd00::9"]);
        assert_eq!(seen(None, Some("192.0.2.9"), &["fd00::9"]), ["fd00::9"]);
        assert_eq!(seen(None, None, &["192.0.2.8", "name.example"]), ["192.0.2.8", "name.example"]);
        assert_eq!(seen(None, Some("192.0.2.9"), &[]), ["192.0.2.9"]);
        assert_eq!(seen(None, None, &[]), none);
        assert_eq!(seen(None, None, &["192.0.2.8", OUTSIDE]), ["192.0.2.8"]);
        assert_eq!(seen(None, None, &[OUTSIDE]), none);
        let both = seen(None, Some("192.0.2.9"), &["192.0.2.9", OUTSIDE, "fd00::9"]);
        assert_eq!(both, ["192.0.2.9", "fd00::9"]);
    }

    #[test]
    fn what_cannot_be_announced() {
        let reserved = Reserved {
            nodes: [("192.0.2.1".parse().unwrap(), "node-1".to_owned())].into(),
            control_plane: ["192.0.2.2".parse().unwrap()].into(),
        };
        for (address, part) in [
            ("192.0.2.1", "node node-1's own"),
            ("192.0.2.2", "the control plane's"),
            ("127.0.0.1", "loopback"),
            ("::1", "loopback"),
            ("224.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("169.254.1.1", "link-local"),
            ("fe80::1", "link-local"),
            ("::ffff:192.0.2.1", "mapped"),
        ] {
            let error = reserved.check(address.parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(reserved.check("192.0.2.3".parse().unwrap()), Ok(()));
    }
}
