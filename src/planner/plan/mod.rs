//! From what the cluster says to what this host may hold: groups of addresses, and its part in their elections.
//!
//! `values` go in and come out; `elections` has the groups, `contested` what DHCP servers must not give; the rest is here.

mod contested;
mod elections;
pub mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::addresses::{Wanted, wanted};
use super::leases::{self, DhcpSpec};
use super::placement::{macvlan, place, vlan_of};
use super::reserved::Refusal;
use super::routes::{path, routes};
use crate::dhcp::wish::{LeaseKey, Wish};
use crate::model::annotation::{LEASE_NAME, NOT_YET, SERVICE_VLAN, VIP_HOST, WITHOUT_ENDPOINTS};
use crate::model::interface::ManagedInterface;
use crate::model::service::TrafficPolicy;
use crate::model::validation::is_name;
use crate::model::{Family, LeaseName, ServiceKey, ServiceView};
use contested::contested;
use elections::elect;
pub use values::{ClusterState, Issue, Mode, Plan, PlanContext, RouteRules, ServicePlan};

/// Compute everything.
pub fn plan(context: &PlanContext, seen: &ClusterState) -> Plan {
    let mut plan = Plan::default();
    let mut elected = Vec::new();
    let covered = || seen.services.iter().filter(|(key, view)| context.rules.covers(key, view));
    let mut askings = askings(covered());
    plan.contested = contested(seen, &askings);
    for (key, view) in covered() {
        let asking = askings.remove(key);
        let handled = look_at(context, seen, (key, view), asking, &mut plan);
        let rides_along = !handled.addresses.is_empty()
            && context.control_plane.is_some()
            && handled.addresses.iter().all(|address| seen.vips.contains(address));
        // Sharing the control plane's address, it goes where that goes.
        if !rides_along && (!handled.addresses.is_empty() || handled.asking.is_some()) {
            elected.push(key.clone());
        }
        let lease = rides_along.then(|| context.control_plane.clone()).flatten();
        plan.services.insert(key.clone(), ServicePlan { lease, ..handled });
    }
    elect(context, seen, &mut plan, &elected);
    if let Some(rules) = &context.routes {
        plan.routes = routes(rules, &context.me, seen, &plan);
        if !rules.attach {
            plan.groups.values_mut().for_each(|(_, places)| places.clear());
        }
    }
    plan.fresh = fresh(seen, &plan);
    plan.leases = wishes(context, seen, &plan);
    plan.interfaces = interfaces(context, seen, &plan);
    plan
}

/// What each of these asks of DHCP servers.
fn askings<'a>(
    services: impl Iterator<Item = (&'a ServiceKey, &'a ServiceView)>,
) -> BTreeMap<&'a ServiceKey, DhcpSpec> {
    let asking = |(key, view)| Some((key, (view, DhcpSpec::of(view)?)));
    let mut found: BTreeMap<&ServiceKey, (&ServiceView, DhcpSpec)> = services.filter_map(asking).collect();
    leases::tell_apart(found.iter_mut().map(|(key, (view, asking))| (*key, *view, asking)));
    found.into_iter().map(|(key, (_, asking))| (key, asking)).collect()
}

/// Interfaces that DHCP is spoken on: they are needed before there is an address.
fn interfaces(
    context: &PlanContext,
    seen: &ClusterState,
    plan: &Plan,
) -> BTreeMap<LeaseName, BTreeSet<ManagedInterface>> {
    let mut interfaces: BTreeMap<LeaseName, BTreeSet<ManagedInterface>> = BTreeMap::new();
    for (key, handled) in plan.services.iter().filter(|(_, handled)| handled.asking.is_some()) {
        let (Some(view), Some(lease)) = (seen.services.get(key), &handled.lease) else { continue };
        let interface = place(context, view, Family::V4.address(0)).interface;
        interfaces.entry(lease.clone()).or_default().extend(interface.managed().cloned());
    }
    interfaces
}

/// What is asked of DHCP servers, if this host turns out to be the one who asks.
fn wishes(context: &PlanContext, seen: &ClusterState, plan: &Plan) -> BTreeMap<LeaseKey, Wish> {
    let asking = plan
        .services
        .iter()
        .filter_map(|(key, handled)| Some((seen.services.get(key)?, handled.asking.as_ref()?)));
    let on_interface = |(view, asking): (&ServiceView, &DhcpSpec)| {
        let interface = place(context, view, Family::V4.address(0)).interface;
        let made = interface.managed().is_some();
        asking
            .wishes(view, &interface.name())
            .into_iter()
            .map(move |(key, wish)| (key, Wish { made, ..wish }))
    };
    asking.flat_map(on_interface).collect()
}

/// Whoever announces an address says so in the status and the annotation of its Service, and asked before it did.
fn fresh(seen: &ClusterState, plan: &Plan) -> BTreeSet<IpAddr> {
    let announced = |view: &&ServiceView| view.annotation(VIP_HOST).is_some();
    let known = seen.services.values().filter(announced).flat_map(|view| &view.status);
    let known: BTreeSet<IpAddr> = known.filter_map(|ingress| ingress.ip).collect();
    let places = plan.groups.values().flat_map(|(_, places)| places);
    places.map(|place| place.address).filter(|address| !known.contains(address)).collect()
}

/// A Service's addresses, and whether they can be served.
fn look_at(
    context: &PlanContext,
    seen: &ClusterState,
    (key, view): (&ServiceKey, &ServiceView),
    asking: Option<DhcpSpec>,
    plan: &mut Plan,
) -> ServicePlan {
    let mut handled = ServicePlan { asking, ..ServicePlan::default() };
    if let Some(asking) = &handled.asking {
        let wrong = asking.wrong.iter().cloned().map(Issue::Annotation);
        handled.issues.extend(wrong);
        for family in &asking.families {
            let lease = leases::key(view, *family);
            let Some(held) = seen.leases.get(&lease) else { continue };
            if let Some(whose) = plan.contested.get(&lease) {
                handled.issues.push(Issue::Lease(whose.clone()));
                continue;
            }
            handled.issues.extend(held.trouble.clone().map(Issue::Lease));
            handled.addresses.extend(held.address);
        }
    }
    for wanted in wanted(view) {
        let found = match wanted {
            Wanted::Ip(address) if address.is_unspecified() => continue,
            // Its address comes from a DHCP server.
            Wanted::Name(_) if handled.asking.is_some() => continue,
            Wanted::Ip(address) => vec![address],
            Wanted::Name(name) if is_name(&name) => {
                plan.names.insert(name.clone());
                seen.names.get(&name).cloned().unwrap_or_default()
            }
            Wanted::Name(name) => {
                handled.issues.push(Issue::Refused(Refusal::Malformed(name)));
                continue;
            }
        };
        for address in found {
            // What this process itself holds for the control plane is shared on purpose.
            let own = seen.vips.contains(&address);
            match seen.reserved.check(address) {
                Err(refusal) if !own => handled.issues.push(Issue::Refused(refusal)),
                _ if handled.addresses.contains(&address) => {}
                _ => handled.addresses.push(address),
            }
        }
    }
    let forced = view.annotation(WITHOUT_ENDPOINTS).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let any = seen.endpoints.any(key);
    (handled.has_endpoints, handled.servable_here) = match view.traffic_policy {
        TrafficPolicy::Cluster => (any || forced, any || forced),
        TrafficPolicy::Local => (any, seen.endpoints.on(key, &context.me)),
    };
    let not_yet =
        NOT_YET.iter().filter(|(name, _)| view.annotation(name).is_some_and(|value| value != "false"));
    handled.issues.extend(not_yet.map(|(name, what)| {
        Issue::Annotation(format!(
            "{name}: {what} is not available in this version yet; the Service is announced without"
        ))
    }));
    if context.routes.is_some() {
        let (path, wrong) = path(view);
        handled.path = path;
        handled.issues.extend(wrong.into_iter().map(Issue::Annotation));
    }
    if let Some(Err(wrong)) = macvlan(view, &context.main_interface) {
        handled.issues.push(Issue::Annotation(wrong));
    }
    if let Some(vlan) = view.annotation(SERVICE_VLAN).filter(|vlan| vlan_of(vlan).is_none()) {
        handled.issues.push(Issue::Annotation(format!(
            "{SERVICE_VLAN}: `{vlan}` is not an interface with a VLAN's number, such as eth0.200, from 1 to 4094"
        )));
    }
    if view.annotation(LEASE_NAME).is_some() && view.traffic_policy == TrafficPolicy::Local {
        handled.issues.push(Issue::Annotation(format!(
            "{LEASE_NAME}: Services with externalTrafficPolicy Local are elected alone, since only some nodes can \
             serve them; remove the annotation, or set the policy to Cluster"
        )));
    }
    handled
}
