//! Addresses that Services of several namespaces ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::plan::values::{Issue, ServicePlan};
use super::super::reserved::Refusal;
use crate::model::annotation::SHARING_KEY;
use crate::model::{ServiceKey, ServiceView};

/// Takes an address from every Service but those of the namespace that has it, and of those that name the same sharing key.
///
/// The Service with it in the status has it, whether it still asks for it or not; else one that asks for it: that which had it
/// last before its endpoints went, then the oldest.
pub fn separate_tenants(services: &mut BTreeMap<ServiceKey, ServicePlan>) {
    let mut owners = BTreeMap::new();
    for (key, service) in services.iter() {
        let written: BTreeSet<IpAddr> = service.view.status.iter().filter_map(|entry| entry.ip).collect();
        let asked: BTreeSet<IpAddr> = service.addresses.iter().copied().collect();
        for address in written.union(&asked) {
            let view = &service.view;
            let rank = match (written.contains(address), view.kept.contains(address)) {
                (true, _) => (0, 0),
                // A condition stays when another Service gets the address.
                (false, true) => (1, view.kept_since.saturating_neg()),
                (false, false) => (2, 0),
            };
            let candidate = (rank, view.created, key.clone(), sharing_key(view));
            let owner = owners.entry(*address).or_insert_with(|| candidate.clone());
            // The least has the address.
            if candidate < *owner {
                *owner = candidate;
            }
        }
    }
    for (key, service) in services.iter_mut() {
        let own = sharing_key(&service.view);
        let refused = |address: &IpAddr| {
            let (.., owner, shared) = owners.get(address)?;
            let same = owner.namespace == key.namespace || (own.is_some() && own == *shared);
            (!same).then(|| Refusal::Service { address: *address, owner: owner.to_string() })
        };
        let issues = &mut service.issues;
        service.addresses.retain(|address| {
            let refusal = refused(address);
            let keep = refusal.is_none();
            issues.extend(refusal.map(Issue::Refused));
            keep
        });
    }
}

fn sharing_key(view: &ServiceView) -> Option<String> {
    view.annotation(SHARING_KEY).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::service::Ingress;

    const ADDRESS: &str = "192.0.2.65";

    fn service(created: i64, announced: bool, sharing: Option<&str>) -> ServicePlan {
        let ip = ADDRESS.parse().ok();
        let mut view = ServiceView { created, ..ServiceView::default() };
        if announced {
            view.status = vec![Ingress { ip, ..Ingress::default() }];
        }
        view.annotations.extend(sharing.map(|value| (SHARING_KEY.to_owned(), value.to_owned())));
        ServicePlan { view: Arc::new(view), addresses: ip.into_iter().collect(), ..ServicePlan::default() }
    }

    /// The Services that keep the address, of `a/web` and `b/web`.
    fn kept(a: ServicePlan, b: ServicePlan) -> Vec<String> {
        let key = |namespace: &str| ServiceKey { namespace: namespace.into(), name: "web".into() };
        let mut services = BTreeMap::from([(key("a"), a), (key("b"), b)]);
        separate_tenants(&mut services);
        for service in services.values().filter(|service| service.view.status.is_empty()) {
            assert_eq!(service.addresses.is_empty(), !service.issues.is_empty());
        }
        services
            .into_iter()
            .filter(|(_, it)| !it.addresses.is_empty())
            .map(|(key, _)| key.namespace)
            .collect()
    }

    #[test]
    fn an_address_belongs_to_the_tenant_that_has_it() {
        assert_eq!(kept(service(1, false, None), service(2, false, None)), ["a"]);
        assert_eq!(kept(service(2, false, None), service(1, false, None)), ["b"]);
        // An older Service that asks for it later does not get it.
        assert_eq!(kept(service(1, false, None), service(2, true, None)), ["b"]);
        assert_eq!(kept(service(1, false, Some("x")), service(2, true, None)), ["b"]);
        assert_eq!(kept(service(1, false, Some("x")), service(2, true, Some("y"))), ["b"]);
        assert_eq!(kept(service(1, false, Some("x")), service(2, true, Some("x"))), ["a", "b"]);
        // Nor while the other one has no endpoints.
        let keeps = |service: ServicePlan| {
            let mut view = (*service.view).clone();
            view.kept.extend(&service.addresses);
            ServicePlan { view: Arc::new(view), ..service }
        };
        assert_eq!(kept(service(1, false, None), keeps(service(2, false, None))), ["b"]);
        // The one that had it last, whatever the older one had before.
        let since = |kept_since: i64, service: ServicePlan| {
            let view = ServiceView { kept_since, ..(*keeps(service).view).clone() };
            ServicePlan {
                view: Arc::new(view),
                addresses: vec![ADDRESS.parse().unwrap()],
                ..ServicePlan::default()
            }
        };
        let (first, last) = (since(5, service(1, false, None)), since(6, service(2, false, None)));
        assert_eq!(kept(first, last), ["b"]);
        // What another one has meanwhile is its own.
        assert_eq!(kept(service(2, true, None), keeps(service(1, false, None))), ["a"]);
        // Without its status being cleared a Service leads traffic for the address to its endpoints.
        let stale = ServicePlan { addresses: Vec::new(), ..service(2, true, None) };
        assert_eq!(kept(service(1, false, None), stale), [""; 0]);
    }
}
