//! Addresses that Services of several namespaces ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::plan::values::{Issue, ServicePlan};
use super::super::reserved::Refusal;
use crate::model::annotation::SHARING_KEY;
use crate::model::service::Protocol;
use crate::model::{ServiceKey, ServiceView};

/// Takes an address from every Service but those of the namespace that has it, and of those that name the same sharing key.
/// Of those, in several namespaces, that have a port in common one keeps it: the first that has the port in the status.
///
/// The Service with the address in the status comes first, whether it still asks for it or not; then one that asks for it: that
/// which had it last before its endpoints went, then the oldest.
pub fn separate_tenants(services: &mut BTreeMap<ServiceKey, ServicePlan>) {
    let mut candidates: BTreeMap<IpAddr, BTreeSet<Precedence>> = BTreeMap::new();
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
            candidates.entry(*address).or_default().insert((rank, view.created, key.clone()));
        }
    }
    for (address, candidates) in candidates {
        for (key, refusal) in refused(services, address, &candidates) {
            let Some(service) = services.get_mut(&key).filter(|it| it.addresses.contains(&address)) else {
                continue;
            };
            service.addresses.retain(|other| *other != address);
            service.issues.push(Issue::Refused(refusal));
        }
    }
}

/// Rank, time of creation, and Service: the least has the address.
type Precedence = ((u8, i64), i64, ServiceKey);

fn refused(
    services: &BTreeMap<ServiceKey, ServicePlan>,
    address: IpAddr,
    candidates: &BTreeSet<Precedence>,
) -> Vec<(ServiceKey, Refusal)> {
    let view = |key| services.get(key).map(|service| service.view.as_ref());
    let mut views = candidates.iter().filter_map(|(.., key)| Some((key, view(key)?))).peekable();
    let Some((owner, of_owner)) = views.peek().copied() else { return Vec::new() };
    let may_share = |(key, view): &(&ServiceKey, &ServiceView)| {
        let same_key = sharing_key(view).is_some() && sharing_key(view) == sharing_key(of_owner);
        key.namespace == owner.namespace || same_key
    };
    let (sharing, others): (Vec<_>, Vec<_>) = views.partition(may_share);
    let refusal = || Refusal::Service { address, owner: owner.to_string() };
    let mut refused: BTreeMap<&ServiceKey, Refusal> =
        others.into_iter().map(|(key, _)| (key, refusal())).collect();
    let mut owners = port_owners(address, &sharing);
    for (key, view) in sharing {
        let taken = view.ports.iter().find_map(|port| {
            let owner = owners.get(port).filter(|owner| owner.namespace != key.namespace)?;
            (!refused.contains_key(owner)).then_some((*port, *owner))
        });
        match taken {
            Some(((protocol, port), owner)) => {
                let owner = owner.to_string();
                refused.insert(key, Refusal::Port { address, protocol, port, owner });
            }
            None => owners.extend(view.ports.iter().map(|port| (*port, key))),
        }
    }
    refused.into_iter().map(|(key, refusal)| (key.clone(), refusal)).collect()
}

/// The Services that have ports of the address already: by the status, or until their endpoints went.
fn port_owners<'a>(
    address: IpAddr,
    sharing: &[(&'a ServiceKey, &ServiceView)],
) -> BTreeMap<(Protocol, u16), &'a ServiceKey> {
    let is_listed = |view: &ServiceView, port: &(Protocol, u16)| {
        let mut entries = view.status.iter().filter(|entry| entry.ip == Some(address));
        // The Go program writes no ports.
        entries.any(|entry| entry.ports.is_empty() || entry.ports.contains(port))
    };
    let listed = sharing.iter().flat_map(|(key, view)| {
        view.ports.iter().filter(|port| is_listed(view, port)).map(move |port| (*port, *key))
    });
    let kept = sharing.iter().filter(|(_, view)| view.kept.contains(&address));
    let kept = kept.flat_map(|(key, view)| view.ports.iter().map(move |port| (*port, *key)));
    let mut owners = BTreeMap::new();
    for (port, key) in listed.chain(kept) {
        owners.entry(port).or_insert(key);
    }
    owners
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
        // Nor by a change of the ports of an older Service that has the address, too.
        let changed = |before: u16, now: u16, service: ServicePlan| {
            let mut view = (*with_port(now, service.clone()).view).clone();
            view.status.iter_mut().for_each(|entry| entry.ports = vec![(Protocol::Tcp, before)]);
            ServicePlan { view: Arc::new(view), ..service }
        };
        let (a, b) = (service(1, true, Some("x")), service(2, true, Some("x")));
        assert_eq!(kept(changed(9999, 443, a.clone()), changed(443, 443, b.clone())), ["b"]);
        assert_eq!(kept(changed(443, 443, a.clone()), changed(443, 443, b.clone())), ["a"]);
        let without_status = |service: ServicePlan| {
            let view = ServiceView { status: Vec::new(), ..(*service.view).clone() };
            ServicePlan { view: Arc::new(view), ..service }
        };
        let waiting = with_port(443, keeps(without_status(b)));
        assert_eq!(kept(changed(9999, 443, a), waiting), ["b"]);
        // What another one has meanwhile is its own.
        assert_eq!(kept(service(2, true, None), keeps(service(1, false, None))), ["a"]);
        // Without its status being cleared a Service leads traffic for the address to its endpoints.
        let stale = ServicePlan { addresses: Vec::new(), ..service(2, true, None) };
        assert_eq!(kept(service(1, false, None), stale), [""; 0]);
    }
}
