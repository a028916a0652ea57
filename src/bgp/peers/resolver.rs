//! Combines the configuration with the Node's annotations or the provider's reply, and with this host: the peers now.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Host, Resolved, annotations, provider, resolve};
use crate::config::Bgp;
use crate::config::bgp::{PeerTarget, SecretName};
use crate::ndp::routers::LinkLocalInterface;

#[derive(Debug)]
pub struct PeerResolver {
    bgp: Bgp,
    elected: bool,
    pub host: Host,
    /// Annotations of the Node; None until it was read.
    annotations: Option<BTreeMap<String, String>>,
    /// Last reply of the provider.
    pub reply: Option<Value>,
}

impl PeerResolver {
    pub fn new(bgp: Bgp, elected: bool, host: Host) -> Self {
        Self { bgp, elected, host, annotations: None, reply: None }
    }

    /// Whether peers depend on the Node.
    pub fn needs_node(&self) -> bool {
        self.bgp.annotations.is_some() || self.bgp.peers.iter().any(|peer| !peer.node_selector.is_empty())
    }

    pub fn set_node(&mut self, labels: BTreeMap<String, String>, annotations: BTreeMap<String, String>) {
        self.host.labels = Some(labels);
        self.annotations = Some(annotations);
    }

    /// Secrets that contain passwords.
    pub fn secrets(&self) -> BTreeSet<SecretName> {
        self.bgp.peers.iter().filter_map(|peer| peer.password_secret.clone()).collect()
    }

    /// Interfaces of unnumbered peers, as far as they have a link-local address.
    pub fn router_interfaces(&self) -> Vec<LinkLocalInterface> {
        let find = |name: &String| {
            let interface = self.host.state.interface(name)?;
            let own = self.host.state.link_local(interface.index)?;
            Some(LinkLocalInterface { interface: interface.clone(), own })
        };
        let unnumbered = self.bgp.peers.iter().filter_map(|peer| match &peer.target {
            PeerTarget::Unnumbered(name) => Some(name),
            PeerTarget::Address(_) => None,
        });
        unnumbered.filter_map(find).collect()
    }

    /// The peers of this node.
    ///
    /// # Errors
    /// Why they are unknown: the former peers stay until this is fixed.
    pub fn resolve(&self) -> Result<Resolved, Vec<String>> {
        let bgp = match (&self.bgp.annotations, &self.bgp.provider) {
            (Some(prefix), _) => match &self.annotations {
                Some(annotations) => annotations::apply(&self.bgp, prefix, annotations)?,
                None => return Err(vec![format!("waiting for Node {}", self.host.node)]),
            },
            // The provider may define the local AS, so configured peers wait for its reply, too.
            (None, Some(provider)) => match &self.reply {
                Some(reply) => provider::apply(&self.bgp, &provider.shape, reply).map_err(|problems| {
                    let prefix = format!("provider {}", provider.url);
                    problems.into_iter().map(|problem| format!("{prefix}: {problem}")).collect::<Vec<_>>()
                })?,
                None => return Err(vec![format!("waiting for provider {}", provider.url)]),
            },
            (None, None) => self.bgp.clone(),
        };
        Ok(resolve(&bgp, &self.host, self.elected))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::bgp::peers::tests::{bgp, host};
    use crate::config::bgp::{Provider, Shape};

    fn names(resolver: &PeerResolver) -> Result<Vec<String>, String> {
        let resolved = resolver.resolve().map_err(|problems| problems.join("; "))?;
        Ok(resolved.0.into_iter().map(|config| config.name).collect())
    }

    #[test]
    fn annotations_are_awaited_and_replace_configured_peers() {
        let bgp = Bgp { annotations: Some("test".into()), ..bgp("192.0.2.254:65001") };
        let mut resolver = PeerResolver::new(bgp, false, host());
        assert!(resolver.needs_node());
        assert_eq!(names(&resolver), Err("waiting for Node a".into()));
        let pairs = [("node-asn", "65010"), ("src-ip", "192.0.2.1"), ("peer-asn", "65020")];
        let mut annotations: BTreeMap<String, String> =
            pairs.iter().map(|(key, value)| (format!("test/{key}"), (*value).to_owned())).collect();
        resolver.set_node(BTreeMap::new(), annotations.clone());
        assert!(names(&resolver).unwrap_err().contains("test/bgp-peers-0-peer-ip"));
        annotations.insert("test/peer-ip".into(), "192.0.2.253".into());
        resolver.set_node(BTreeMap::new(), annotations);
        assert_eq!(names(&resolver), Ok(vec!["192.0.2.253:179".into()]));
    }

    #[test]
    fn a_provider_is_awaited_and_adds_to_configured_peers() {
        let provider = Provider {
            url: "https://192.0.2.2/".into(),
            token: None,
            header: String::new(),
            ca: None,
            shape: Shape::equinix(),
        };
        let bgp = Bgp { provider: Some(provider), ..bgp("192.0.2.254:65001") };
        let mut resolver = PeerResolver::new(bgp, false, host());
        assert!(!resolver.needs_node());
        assert_eq!(names(&resolver), Err("waiting for provider https://192.0.2.2/".into()));
        resolver.reply = Some(json!({ "bgp_neighbors": [] }));
        assert!(names(&resolver).unwrap_err().starts_with("provider https://192.0.2.2/: "));
        resolver.reply = Some(json!({ "bgp_neighbors": [
            { "customer_as": 65000, "peer_as": 65001, "peer_ips": ["192.0.2.253"] },
        ]}));
        assert_eq!(names(&resolver), Ok(vec!["192.0.2.254:179".into(), "192.0.2.253:179".into()]));
    }

    #[test]
    fn router_interfaces_need_a_link_local_address() {
        let mut resolver = PeerResolver::new(bgp("unnumbered:eth0,unnumbered:eth9"), false, host());
        let names: Vec<String> =
            resolver.router_interfaces().into_iter().map(|link| link.interface.name).collect();
        assert_eq!(names, ["eth0"]);
        Arc::make_mut(&mut resolver.host.state).addresses.clear();
        assert_eq!(resolver.router_interfaces(), []);
    }
}
