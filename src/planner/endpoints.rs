//! The endpoints of Services, merged from their EndpointSlices.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Endpoints as OldEndpoints;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use crate::model::{Family, ServiceKey};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub node: Option<String>,
    /// Accepts new connections.
    pub ready: bool,
    /// Still serves, though it may be terminating.
    pub serving: bool,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    pub service: ServiceKey,
    pub name: String,
    /// The family of its endpoints; none where it does not tell: they count for both.
    pub family: Option<Family>,
    pub endpoints: Vec<Endpoint>,
}

/// None for a slice without a Service.
pub fn of_slice(slice: EndpointSlice) -> Option<Slice> {
    let labels = slice.metadata.labels.unwrap_or_default();
    let service = ServiceKey {
        namespace: slice.metadata.namespace?,
        name: labels.get("kubernetes.io/service-name")?.clone(),
    };
    let endpoints = slice.endpoints.into_iter().map(|endpoint| {
        let conditions = endpoint.conditions.unwrap_or_default();
        // Absent means ready, and serving as much as it is ready (discovery.k8s.io/v1).
        let ready = conditions.ready.unwrap_or(true);
        let serving = conditions.serving.unwrap_or(ready);
        Endpoint { node: endpoint.node_name.or(endpoint.hostname), ready, serving }
    });
    let family = match slice.address_type.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    };
    Some(Slice { service, name: slice.metadata.name?, family, endpoints: endpoints.collect() })
}

/// The Endpoints object, which has all endpoints of a Service (`enable_endpoints`), but of its first family only.
pub fn of_endpoints(endpoints: OldEndpoints) -> Option<Slice> {
    let service = ServiceKey { namespace: endpoints.metadata.namespace?, name: endpoints.metadata.name? };
    let subsets = endpoints.subsets.unwrap_or_default();
    let addresses = subsets.into_iter().flat_map(|subset| subset.addresses.unwrap_or_default());
    let endpoints = addresses.map(|address| Endpoint {
        node: address.node_name.or(address.hostname),
        ready: true,
        serving: true,
    });
    Some(Slice { service, name: String::new(), family: None, endpoints: endpoints.collect() })
}

/// The endpoints of a slice; without a family they count for both.
type OfSlice = (Option<Family>, Vec<Endpoint>);

/// Every Service's endpoints.
#[derive(Debug, Default)]
pub struct Endpoints {
    slices: BTreeMap<ServiceKey, BTreeMap<String, OfSlice>>,
}

impl Endpoints {
    pub fn reset(&mut self, all: Vec<Slice>) {
        self.slices.clear();
        all.into_iter().for_each(|slice| self.apply(slice));
    }

    pub fn apply(&mut self, slice: Slice) {
        self.slices.entry(slice.service).or_default().insert(slice.name, (slice.family, slice.endpoints));
    }

    pub fn remove(&mut self, slice: &Slice) {
        if let Some(slices) = self.slices.get_mut(&slice.service) {
            slices.remove(&slice.name);
            if slices.is_empty() {
                self.slices.remove(&slice.service);
            }
        }
    }

    fn of(&self, service: &ServiceKey, family: Family) -> impl Iterator<Item = &Endpoint> {
        let slices = self.slices.get(service).into_iter().flat_map(BTreeMap::values);
        let of_family = slices.filter(move |(of, _)| of.is_none_or(|of| of == family));
        of_family.flat_map(|(_, endpoints)| endpoints)
    }

    /// Whether a Service has an EndpointSlice.
    pub fn exist(&self, service: &ServiceKey) -> bool {
        self.slices.contains_key(service)
    }

    /// The nodes of a Service's serving endpoints.
    pub fn nodes(&self, service: &ServiceKey) -> BTreeSet<&str> {
        let endpoints = Family::BOTH.into_iter().flat_map(|family| self.of(service, family));
        endpoints
            .filter(|endpoint| endpoint.serving)
            .filter_map(|endpoint| endpoint.node.as_deref())
            .collect()
    }

    /// Whether a Service has a serving endpoint of this family.
    pub fn any(&self, service: &ServiceKey, family: Family) -> bool {
        self.of(service, family).any(|endpoint| endpoint.serving)
    }

    /// Whether `node` has a ready endpoint of a Service; where no node has one, an endpoint that still serves.
    pub fn on(&self, service: &ServiceKey, node: &str, family: Family) -> bool {
        let here = |endpoint: &&Endpoint| {
            endpoint.node.as_deref().is_some_and(|name| name.eq_ignore_ascii_case(node))
        };
        if self.of(service, family).any(|endpoint| endpoint.ready) {
            return self.of(service, family).filter(here).any(|endpoint| endpoint.ready);
        }
        self.of(service, family).filter(here).any(|endpoint| endpoint.serving)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> ServiceKey {
        ServiceKey { namespace: "default".into(), name: "web".into() }
    }

    fn slice(name: &str, endpoints: &[(&str, bool, bool)]) -> Slice {
        let endpoints = endpoints.iter().map(|(node, ready, serving)| Endpoint {
            node: Some((*node).into()),
            ready: *ready,
            serving: *serving,
        });
        Slice { service: key(), name: name.into(), family: None, endpoints: endpoints.collect() }
    }

    #[test]
    fn all_slices_count_together() {
        let mut endpoints = Endpoints::default();
        endpoints.reset(vec![slice("a", &[("one", true, true)]), slice("b", &[("two", true, true)])]);
        endpoints.apply(slice("b", &[]));
        let on = |node| endpoints.on(&key(), node, Family::V6);
        assert!(endpoints.any(&key(), Family::V4) && on("ONE") && !on("two"));
        endpoints.remove(&slice("a", &[]));
        assert!(!endpoints.any(&key(), Family::V4));
    }

    #[test]
    fn a_slice_counts_for_its_family() {
        let of_family = |family, slice| Slice { family: Some(family), ..slice };
        let mut endpoints = Endpoints::default();
        endpoints.apply(of_family(Family::V4, slice("a", &[("one", true, true)])));
        endpoints.apply(of_family(Family::V6, slice("b", &[("two", true, true), ("one", false, false)])));
        let nodes = |family| ["one", "two"].map(|node| endpoints.on(&key(), node, family));
        assert_eq!((nodes(Family::V4), nodes(Family::V6)), ([true, false], [false, true]));
        endpoints.apply(of_family(Family::V6, slice("b", &[("one", false, false)])));
        assert_eq!(Family::BOTH.map(|family| endpoints.any(&key(), family)), [true, false]);
    }

    #[test]
    fn a_terminating_endpoint_counts_where_no_other_is_ready() {
        let mut endpoints = Endpoints::default();
        endpoints.apply(slice("a", &[("one", false, true), ("two", true, true), ("three", false, false)]));
        assert_eq!(
            ["one", "two", "three"].map(|node| endpoints.on(&key(), node, Family::V4)),
            [false, true, false]
        );
        endpoints.apply(slice("a", &[("one", false, true), ("three", false, false)]));
        assert_eq!(
            ["one", "two", "three"].map(|node| endpoints.on(&key(), node, Family::V4)),
            [true, false, false]
        );
    }

    #[test]
    fn conditions_that_are_absent_mean_ready() {
        let json = serde_json::json!({
            "metadata": { "namespace": "default", "name": "web-1", "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4",
            "endpoints": [
                { "addresses": ["10.0.0.1"], "nodeName": "one" },
                { "addresses": ["10.0.0.2"], "conditions": { "ready": false, "serving": true, "terminating": true } },
                { "addresses": ["10.0.0.3"], "conditions": { "ready": false } },
            ],
        });
        let slice = of_slice(serde_json::from_value(json).unwrap()).unwrap();
        let seen: Vec<_> =
            slice.endpoints.iter().map(|endpoint| (endpoint.ready, endpoint.serving)).collect();
        assert_eq!(seen, [(true, true), (false, true), (false, false)]);
        assert_eq!(slice.family, Some(Family::V4));
    }
}
