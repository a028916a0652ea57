//! Routes of Services: one for each address, with the attributes of its annotations.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::plan::values::{ClusterState, Issue, Plan, PlanContext, RouteRules};
use super::policy::addresses;
use super::policy::limits::MAX_ADDRESSES;
use super::reserved::Refusal;
use super::select::is_ignored;
use crate::model::annotation::{
    BGP_COMMUNITIES, BGP_LARGE_COMMUNITIES, BGP_LOCAL_PREF, BGP_MED, BGP_PREPEND,
};
use crate::model::route::{MAX_COMMUNITIES, community, large_community};
use crate::model::service::TrafficPolicy;
use crate::model::text::quoted;
use crate::model::{AddressSpec, Family, GroupId, Prefix, RouteAttributes, Routes, ServiceKey, ServiceView};

/// Maximum of AS path prepending.
pub(super) const MAX_PREPEND: u8 = 32;

/// Adds the routes of each group: for its addresses on this host, and for networks that every node advertises.
pub(super) fn routes(context: &PlanContext, rules: &RouteRules, state: &ClusterState, plan: &mut Plan) {
    let plain = Arc::new(RouteAttributes::default());
    let external =
        if rules.external_ips { external_routes(context, state, plan, &plain) } else { Routes::new() };
    let mut by_address = BTreeMap::new();
    for (key, service) in &plan.services {
        let Some(given) = &service.attributes else { continue };
        // A community can make routers drop all traffic of the control plane.
        let decides = context.policy.infrastructure.contain(&key.namespace);
        let addresses = service.addresses.iter().filter(|address| decides || !state.vips.contains(address));
        // Of Services that share an address the first by name decides.
        for address in addresses {
            by_address.entry(*address).or_insert_with(|| given.clone());
        }
    }
    let route = |spec: &AddressSpec| {
        let attributes = by_address.get(&spec.address).unwrap_or(&plain);
        (Prefix::host(spec.address), attributes.clone())
    };
    for (id, group) in &mut plan.groups {
        let mut routes: Routes = group.addresses.iter().map(route).collect();
        if *id == GroupId::EveryNode {
            let cidrs = state.reserved.service_cidrs.iter().filter(|_| rules.service_cidrs);
            routes.extend(rules.networks.iter().chain(cidrs).map(|prefix| (*prefix, plain.clone())));
            routes.extend(external.clone());
        }
        group.routes = Arc::new(routes);
    }
}

/// Routes to `spec.externalIPs`, which Services of any type may have. What they may not have is in [`Plan::external`].
fn external_routes(
    context: &PlanContext,
    state: &ClusterState,
    plan: &mut Plan,
    plain: &Arc<RouteAttributes>,
) -> Routes {
    let owned =
        plan.services.iter().flat_map(|(key, it)| it.addresses.iter().map(move |address| (*address, key)));
    let mut owners: BTreeMap<IpAddr, ServiceKey> =
        owned.map(|(address, key)| (address, key.clone())).collect();
    let mut services: Vec<_> =
        state.services.iter().filter(|(_, view)| !view.external_ips.is_empty()).collect();
    services.sort_by_key(|(key, view)| (view.created, *key));
    let mut routes = Routes::new();
    for (key, view) in services {
        let attributes = attributes(view).0.unwrap_or_else(|| plain.clone());
        for address in view.external_ips.iter().take(MAX_ADDRESSES) {
            let owner = owners.entry(*address).or_insert_with(|| key.clone());
            let refusal = match addresses::check(&context.policy, state, (key, view), *address) {
                Err(refusal) => Some(refusal),
                Ok(()) if owner.namespace == key.namespace || context.policy.share_addresses => None,
                Ok(()) => Some(Refusal::Service { address: *address, owner: owner.to_string() }),
            };
            if let Some(refusal) = refusal {
                let object = (key.clone(), view.uid.clone());
                plan.external.entry(object).or_default().insert(Issue::Refused(refusal));
            } else if is_served(state, &context.me, (key, view), *address) && !state.vips.contains(address) {
                routes.entry(Prefix::host(*address)).or_insert_with(|| attributes.clone());
            }
        }
    }
    routes
}

/// Whether this node can serve an external address of a Service.
fn is_served(
    state: &ClusterState,
    me: &str,
    (key, view): (&ServiceKey, &ServiceView),
    address: IpAddr,
) -> bool {
    let family = Family::of(address);
    !is_ignored(view)
        && match view.traffic_policy {
            TrafficPolicy::Cluster => state.endpoints.any(key, family),
            TrafficPolicy::Local => state.endpoints.on(key, me, family),
        }
}

/// The route attributes of a Service's annotations, if it has any, and what is wrong with them.
pub(super) fn attributes(view: &ServiceView) -> (Option<Arc<RouteAttributes>>, Vec<String>) {
    let mut wrong = Vec::new();
    let mut list = |name: &str, example: &str| {
        let items = view.annotation(name).unwrap_or_default().split(',').map(str::trim);
        let items: Vec<&str> = items.filter(|item| !item.is_empty()).collect();
        let good = |item: &&str| match name {
            BGP_COMMUNITIES => community(item).is_some(),
            _ => large_community(item).is_some(),
        };
        let bad: Vec<&&str> = items.iter().filter(|item| !good(item)).collect();
        if let Some(item) = bad.first() {
            let more =
                if bad.len() > 1 { format!(", nor are {} more", bad.len() - 1) } else { String::new() };
            wrong.push(format!("{name}: {} is not a community such as {example}{more}", quoted(item)));
        }
        let mut seen = BTreeSet::new();
        let good: Vec<&str> = items.into_iter().filter(good).filter(|item| seen.insert(*item)).collect();
        if good.len() > MAX_COMMUNITIES {
            wrong.push(format!(
                "{name}: {} communities are too many; only the first {MAX_COMMUNITIES} are advertised",
                good.len()
            ));
        }
        good.into_iter().take(MAX_COMMUNITIES)
    };
    let communities = list(BGP_COMMUNITIES, "65000:100 or no-export");
    let large = list(BGP_LARGE_COMMUNITIES, "65000:1:2");
    let mut number = |name: &str, most: u32| {
        let text = view.annotation(name)?;
        let value = text.parse::<u32>().ok().filter(|value| *value <= most);
        if value.is_none() {
            wrong.push(format!("{name}: {} is not a number from 0 to {most}", quoted(text)));
        }
        value
    };
    let attributes = RouteAttributes {
        communities: communities.filter_map(community).collect(),
        large_communities: large.filter_map(large_community).collect(),
        local_pref: number(BGP_LOCAL_PREF, u32::MAX),
        med: number(BGP_MED, u32::MAX),
        prepend: number(BGP_PREPEND, MAX_PREPEND.into()).and_then(|times| times.try_into().ok()),
        draining: false,
    };
    ((attributes != RouteAttributes::default()).then(|| Arc::new(attributes)), wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_become_route_attributes() {
        let with = |pairs: &[(&str, &str)]| ServiceView {
            annotations: pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            ..ServiceView::default()
        };
        let (good, wrong) = attributes(&with(&[
            (BGP_COMMUNITIES, "65000:100, no-export"),
            (BGP_LARGE_COMMUNITIES, "65000:1:2"),
            (BGP_LOCAL_PREF, "200"),
            (BGP_PREPEND, "3"),
        ]));
        let good = good.unwrap();
        assert_eq!(
            (good.communities.as_slice(), good.prepend),
            (&[65_000 << 16 | 100, 0xffff_ff01][..], Some(3))
        );
        assert_eq!((good.large_communities.as_slice(), good.local_pref), (&[[65_000, 1, 2]][..], Some(200)));
        assert!(wrong.is_empty());
        let (rest, wrong) =
            attributes(&with(&[(BGP_COMMUNITIES, "65000:100,gold"), (BGP_MED, "x"), (BGP_PREPEND, "99")]));
        let rest = rest.unwrap();
        assert_eq!((rest.communities.len(), rest.med, rest.prepend), (1, None, None));
        assert_eq!(wrong.len(), 3);
        assert_eq!(
            wrong[0],
            "kube-vip.io/bgp-communities: `gold` is not a community such as 65000:100 or no-export"
        );
        let list = |count: u32| (0..count).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let (most, wrong) = attributes(&with(&[(BGP_COMMUNITIES, &list(64))]));
        assert_eq!((most.unwrap().communities.len(), wrong.len()), (64, 0));
        let (most, wrong) = attributes(&with(&[(BGP_COMMUNITIES, &list(5_000))]));
        assert_eq!(most.unwrap().communities.len(), 64);
        assert_eq!(
            wrong,
            ["kube-vip.io/bgp-communities: 5000 communities are too many; only the first 64 are advertised"]
        );
        let (_, wrong) = attributes(&with(&[(BGP_COMMUNITIES, "x,y,z")]));
        assert_eq!(
            wrong,
            [
                "kube-vip.io/bgp-communities: `x` is not a community such as 65000:100 or no-export, nor are 2 more"
            ]
        );
    }
}
