//! Addresses that Services of several namespaces ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::plan::values::{Issue, ServicePlan};
use super::super::reserved::Refusal;
use crate::model::annotation::SHARING_KEY;
use crate::model::{ServiceKey, ServiceView};

/// Takes an address from every Service but those of the namespace that has it, and of those that name the same sharing key; and
/// from Services of several namespaces that have one port in common, all but the first one.
///
/// The Service with it in the status has it, whether it still asks for it or not; else one that asks for it: that which had it
/// last before its endpoints went, then the oldest.
pub fn separate_tenants(services: &mut BTreeMap<ServiceKey, ServicePlan>) {
    let mut claims: BTreeMap<IpAddr, BTreeSet<Claim>> = BTreeMap::new();
    for (key, service) in services.iter() {
        let view = &service.view;
        let written: BTreeSet<IpAddr> = view.status.iter().filter_map(|entry| entry.ip).collect();
        let asked: BTreeSet<IpAddr> = service.addresses.iter().copied().collect();
        for address in written.union(&asked) {
            let rank = match (written.contains(address), view.kept.contains(address)) {
                (true, _) => (0, 0),
                // A condition stays when another Service gets the address.
                (false, true) => (1, view.kept_since.saturating_neg()),
                (false, false) => (2, 0),
            };
            claims.entry(*address).or_default().insert((rank, view.created, key.clone()));
        }
    }
    for (address, claims) in claims {
        for (key, refusal) in refused(services, address, &claims) {
            let Some(service) = services.get_mut(&key).filter(|it| it.addresses.contains(&address)) else {
                continue;
            };
            service.addresses.retain(|other| *other != address);
            service.issues.push(Issue::Refused(refusal));
        }
    }
}

/// Rank, time of creation, and Service: the least has the address.
type Claim = ((u8, i64), i64, ServiceKey);

fn refused(
    services: &BTreeMap<ServiceKey, ServicePlan>,
    address: IpAddr,
    claims: &BTreeSet<Claim>,
) -> Vec<(ServiceKey, Refusal)> {
    let mut refused = Vec::new();
    // Those that have the address, the first one first.
    let mut sharing: Vec<(&ServiceKey, &ServiceView)> = Vec::new();
    for (.., key) in claims {
        let Some(view) = services.get(key).map(|service| service.view.as_ref()) else { continue };
        if let Some((owner, of_owner)) = sharing.first()
            && owner.namespace != key.namespace
            && (sharing_key(view).is_none() || sharing_key(view) != sharing_key(of_owner))
        {
            let owner = owner.to_string();
            refused.push((key.clone(), Refusal::Service { address, owner }));
            continue;
        }
        let taken =
            sharing.iter().filter(|(other, _)| other.namespace != key.namespace).find_map(|(other, it)| {
                let (protocol, port) = view.ports.iter().copied().find(|port| it.ports.contains(port))?;
                Some(Refusal::Port { address, protocol, port, owner: other.to_string() })
            });
        match taken {
            Some(refusal) => refused.push((key.clone(), refusal)),
            None => sharing.push((key, view)),
        }
    }
    refused
}

fn sharing_key(view: &ServiceView) -> Option<&str> {
    view.annotation(SHARING_KEY)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::service::{Ingress, Protocol};

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
        // Nor a port of it, with a sharing key in common.
        let with_port = |port: u16, service: ServicePlan| {
            let view = ServiceView { ports: vec![(Protocol::Tcp, port)], ..(*service.view).clone() };
            ServicePlan { view: Arc::new(view), ..service }
        };
        let (a, b) = (service(1, false, Some("x")), service(2, true, Some("x")));
        assert_eq!(kept(with_port(80, a.clone()), with_port(81, b.clone())), ["a", "b"]);
        assert_eq!(kept(with_port(80, a), with_port(80, b)), ["b"]);
        // What another one has meanwhile is its own.
        assert_eq!(kept(service(2, true, None), keeps(service(1, false, None))), ["a"]);
        // Without its status being cleared a Service leads traffic for the address to its endpoints.
        let stale = ServicePlan { addresses: Vec::new(), ..service(2, true, None) };
        assert_eq!(kept(service(1, false, None), stale), [""; 0]);
    }
}
