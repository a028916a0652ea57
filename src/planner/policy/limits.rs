//! How much a Service, and all Services of a namespace, may ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::plan::values::ServicePlan;
use super::super::reserved::Refusal;
use crate::config::Policy;
use crate::model::ServiceKey;

/// Addresses of a Service: each node that can serve it may have to hold and announce all of them.
pub const MAX_ADDRESSES: usize = 16;
/// DNS names of a Service: every node resolves all names.
pub const MAX_NAMES: usize = 4;

/// What a Service has asked for too much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Limit {
    #[error("a Service has at most {MAX_ADDRESSES} addresses, and this one asks for more")]
    Addresses,
    #[error("a Service has at most {MAX_NAMES} DNS names, and this one asks for more")]
    Names,
    #[error("the Services of the cluster have {0} addresses, which is the limit")]
    Total(usize),
    #[error("the Services of the namespace ask for more than {0} DHCP leases")]
    Leases(usize),
}

impl Limit {
    pub(in crate::planner) fn remedy(self) -> &'static str {
        match self {
            Self::Addresses | Self::Names => "split it into several Services",
            Self::Total(_) => "delete Services, or set svc_max_addresses of the agents",
            Self::Leases(_) => "delete Services, or set svc_max_leases of the agents",
        }
    }
}

/// The Services whose leases exceed the limit of their namespace: the youngest ones. `requests` have the creation time and the
/// number of leases of each Service.
pub fn without_lease<'a>(
    policy: &Policy,
    requests: impl Iterator<Item = (&'a ServiceKey, i64, usize)>,
) -> BTreeSet<ServiceKey> {
    let mut by_age: Vec<_> = requests.map(|(key, created, leases)| (created, key, leases)).collect();
    by_age.sort_unstable();
    let mut leased: BTreeMap<&str, usize> = BTreeMap::new();
    let mut excess = |(_, key, leases): &(i64, &'a ServiceKey, usize)| {
        let total = leased.entry(key.namespace.as_str()).or_default();
        let fits = *total + leases <= policy.max_leases;
        *total += if fits { *leases } else { 0 };
        !fits
    };
    by_age.into_iter().filter(|request| excess(request)).map(|(_, key, _)| key.clone()).collect()
}

/// Takes addresses from the youngest Services where all together have too many, those that are not announced yet first. An
/// address that several Services share counts once.
pub fn limit_total(policy: &Policy, services: &mut BTreeMap<ServiceKey, ServicePlan>) {
    let total: BTreeSet<IpAddr> = services.values().flat_map(|service| &service.addresses).copied().collect();
    let max = policy.max_addresses;
    if total.len() <= max {
        return;
    }
    let mut by_age: Vec<_> = services.iter_mut().collect();
    by_age.sort_by_key(|(key, service)| (service.view.created, (*key).clone()));
    let asked = by_age.iter().flat_map(|(_, service)| {
        let announced: BTreeSet<IpAddr> = service.view.announced_in_status().collect();
        service.addresses.iter().map(move |address| (!announced.contains(address), *address))
    });
    // The sort is stable: of those that are announced, and of the others, the oldest come first.
    let mut asked: Vec<(bool, IpAddr)> = asked.collect();
    asked.sort_by_key(|(new, _)| *new);
    let mut fitting = BTreeSet::new();
    for (_, address) in asked {
        if fitting.len() < max {
            fitting.insert(address);
        }
    }
    for (_, service) in by_age {
        let before = service.addresses.len();
        service.addresses.retain(|address| fitting.contains(address));
        if service.addresses.len() < before {
            service.refuse(Refusal::Limit(Limit::Total(max)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::ServiceView;
    use crate::model::annotation::VIP_HOST;
    use crate::model::service::Ingress;

    fn key(namespace: &str, name: &str) -> ServiceKey {
        ServiceKey { namespace: namespace.into(), name: name.into() }
    }

    #[test]
    fn the_oldest_services_of_a_namespace_have_its_leases() {
        let keys = [key("a", "old"), key("a", "dual"), key("a", "new"), key("b", "new")];
        let requests = || keys.iter().zip([(1, 1), (2, 2), (3, 1), (4, 1)]);
        let without = |max_leases| {
            let policy = Policy { max_leases, ..Policy::default() };
            let requests = requests().map(|(key, (created, leases))| (key, created, leases));
            without_lease(&policy, requests).into_iter().map(|key| key.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(without(4), [""; 0]);
        assert_eq!(without(3), ["a/new"]);
        // One lease still fits after the dual-stack Service.
        assert_eq!(without(2), ["a/dual"]);
        assert_eq!(without(0).len(), 4);
    }

    #[test]
    fn addresses_that_are_announced_precede_those_that_an_older_service_asks_for_later() {
        let service = |created, announced: &str, addresses: &[&str]| {
            let ip = announced.parse().ok();
            let view = ServiceView {
                created,
                status: vec![Ingress { ip, ..Ingress::default() }],
                annotations: [(VIP_HOST.to_owned(), "node-1".to_owned())].into(),
                ..ServiceView::default()
            };
            let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
            ServicePlan { view: Arc::new(view), addresses, ..ServicePlan::default() }
        };
        let mut services = BTreeMap::from([
            (key("a", "old"), service(1, "192.0.2.1", &["192.0.2.1", "192.0.2.8", "192.0.2.9"])),
            (key("b", "new"), service(2, "192.0.2.2", &["192.0.2.2"])),
        ]);
        limit_total(&Policy { max_addresses: 3, ..Policy::default() }, &mut services);
        let kept = services.values().map(|service| service.addresses.len());
        assert_eq!(kept.collect::<Vec<_>>(), [2, 1]);
    }

    #[test]
    fn the_youngest_services_lose_what_exceeds_the_total() {
        let service = |created, addresses: &[&str]| ServicePlan {
            view: Arc::new(ServiceView { created, ..ServiceView::default() }),
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            ..ServicePlan::default()
        };
        let shared = "192.0.2.1";
        let all = [("a", 3, vec!["192.0.2.2", shared]), ("b", 1, vec![shared]), ("c", 2, vec!["192.0.2.3"])];
        for (max, kept) in [(3, [2, 1, 1]), (2, [1, 1, 1]), (1, [1, 1, 0]), (0, [0, 0, 0])] {
            let mut services: BTreeMap<ServiceKey, ServicePlan> =
                all.iter().map(|(name, created, list)| (key("lab", name), service(*created, list))).collect();
            limit_total(&Policy { max_addresses: max, ..Policy::default() }, &mut services);
            assert_eq!(services.values().map(|it| it.addresses.len()).collect::<Vec<_>>(), kept, "{max}");
            let refused = services.values().filter(|it| !it.issues.is_empty()).count();
            assert_eq!(
                refused,
                services.values().zip([2, 1, 1]).filter(|(it, n)| it.addresses.len() < *n).count()
            );
        }
    }
}
