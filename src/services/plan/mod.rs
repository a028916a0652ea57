//! From what the cluster says to what this host may hold: groups of addresses, and its part in their elections.
//!
//! `values` go in and come out; `elections` has the groups, `contested` what DHCP servers must not give; the rest is here.

mod contested;
mod elections;
pub mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::addresses::{Refusal, Wanted, wanted};
use super::leases::{self, Asking};
use super::places::{macvlan, place, vlan_of};
use super::routes::{path, routes};
use crate::dhcp::wish::{LeaseKey, Wish};
use crate::model::annotation::{LEASE_NAME, NOT_YET, SERVICE_VLAN, VIP_HOST, WITHOUT_ENDPOINTS};
use crate::model::legal::is_name;
use crate::model::link::MadeLink;
use crate::model::service::TrafficPolicy;
use crate::model::{Family, LeaseName, ServiceKey, ServiceView};
use contested::contested;
use elections::elect;
pub use values::{Handled, Mode, Plan, Remark, RouteRules, Seen, World};

/// Compute everything.
pub fn plan(world: &World, seen: &Seen) -> Plan {
    let mut plan = Plan::default();
    let mut elected = Vec::new();
    let covered = || seen.services.iter().filter(|(key, view)| world.rules.covers(key, view));
    let mut askings = askings(covered());
    plan.contested = contested(seen, &askings);
    for (key, view) in covered() {
        let asking = askings.remove(key);
        let handled = look_at(world, seen, (key, view), asking, &mut plan);
        let rides_along = !handled.addresses.is_empty()
            && world.control_plane.is_some()
            && handled.addresses.iter().all(|address| seen.vips.contains(address));
        // Sharing the control plane's address, it goes where that goes.
        if !rides_along && (!handled.addresses.is_empty() || handled.asking.is_some()) {
            elected.push(key.clone());
        }
        let lease = rides_along.then(|| world.control_plane.clone()).flatten();
        plan.services.insert(key.clone(), Handled { lease, ..handled });
    }
    elect(world, seen, &mut plan, &elected);
    if let Some(rules) = &world.routes {
        plan.routes = routes(rules, &world.me, seen, &plan);
        if !rules.attach {
            plan.groups.values_mut().for_each(|(_, places)| places.clear());
        }
    }
    plan.fresh = fresh(seen, &plan);
    plan.leases = wishes(world, seen, &plan);
    plan.links = links(world, seen, &plan);
    plan
}

/// What each of these asks of DHCP servers.
fn askings<'a>(
    services: impl Iterator<Item = (&'a ServiceKey, &'a ServiceView)>,
) -> BTreeMap<&'a ServiceKey, Asking> {
    let asking = |(key, view)| Some((key, (view, Asking::of(view)?)));
    let mut found: BTreeMap<&ServiceKey, (&ServiceView, Asking)> = services.filter_map(asking).collect();
    leases::tell_apart(found.iter_mut().map(|(key, (view, asking))| (*key, *view, asking)));
    found.into_iter().map(|(key, (_, asking))| (key, asking)).collect()
}

/// Links that DHCP is spoken on: they are needed before there is an address.
fn links(world: &World, seen: &Seen, plan: &Plan) -> BTreeMap<LeaseName, BTreeSet<MadeLink>> {
    let mut links: BTreeMap<LeaseName, BTreeSet<MadeLink>> = BTreeMap::new();
    for (key, handled) in plan.services.iter().filter(|(_, handled)| handled.asking.is_some()) {
        let (Some(view), Some(lease)) = (seen.services.get(key), &handled.lease) else { continue };
        let link = place(world, view, Family::V4.address(0)).link;
        links.entry(lease.clone()).or_default().extend(link.made().cloned());
    }
    links
}

/// What is asked of DHCP servers, if this host turns out to be the one who asks.
fn wishes(world: &World, seen: &Seen, plan: &Plan) -> BTreeMap<LeaseKey, Wish> {
    let asking = plan
        .services
        .iter()
        .filter_map(|(key, handled)| Some((seen.services.get(key)?, handled.asking.as_ref()?)));
    let on_link = |(view, asking): (&ServiceView, &Asking)| {
        let link = place(world, view, Family::V4.address(0)).link;
        let made = link.made().is_some();
        asking.wishes(view, &link.name()).into_iter().map(move |(key, wish)| (key, Wish { made, ..wish }))
    };
    asking.flat_map(on_link).collect()
}

/// Whoever announces an address says so in the status and the annotation of its Service, and asked before it did.
fn fresh(seen: &Seen, plan: &Plan) -> BTreeSet<IpAddr> {
    let announced = |view: &&ServiceView| view.annotation(VIP_HOST).is_some();
    let known = seen.services.values().filter(announced).flat_map(|view| &view.status);
    let known: BTreeSet<IpAddr> = known.filter_map(|ingress| ingress.ip).collect();
    let places = plan.groups.values().flat_map(|(_, places)| places);
    places.map(|place| place.address).filter(|address| !known.contains(address)).collect()
}

/// A Service's addresses, and whether they can be served.
fn look_at(
    world: &World,
    seen: &Seen,
    (key, view): (&ServiceKey, &ServiceView),
    asking: Option<Asking>,
    plan: &mut Plan,
) -> Handled {
    let mut handled = Handled { asking, ..Handled::default() };
    if let Some(asking) = &handled.asking {
        let wrong = asking.wrong.iter().cloned().map(Remark::Annotation);
        handled.remarks.extend(wrong);
        for family in &asking.families {
            let lease = leases::key(view, *family);
            let Some(held) = seen.leases.get(&lease) else { continue };
            if let Some(whose) = plan.contested.get(&lease) {
                handled.remarks.push(Remark::Lease(whose.clone()));
                continue;
            }
            handled.remarks.extend(held.trouble.clone().map(Remark::Lease));
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
                handled.remarks.push(Remark::Refused(Refusal::Malformed(name)));
                continue;
            }
        };
        for address in found {
            // What this process itself holds for the control plane is shared on purpose.
            let own = seen.vips.contains(&address);
            match seen.reserved.check(address) {
                Err(refusal) if !own => handled.remarks.push(Remark::Refused(refusal)),
                _ if handled.addresses.contains(&address) => {}
                _ => handled.addresses.push(address),
            }
        }
    }
    let forced = view.annotation(WITHOUT_ENDPOINTS).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let any = seen.endpoints.any(key);
    (handled.alive, handled.servable) = match view.traffic_policy {
        TrafficPolicy::Cluster => (any || forced, any || forced),
        TrafficPolicy::Local => (any, seen.endpoints.on(key, &world.me)),
    };
    let not_yet =
        NOT_YET.iter().filter(|(name, _)| view.annotation(name).is_some_and(|value| value != "false"));
    handled.remarks.extend(not_yet.map(|(name, what)| {
        Remark::Annotation(format!(
            "{name}: {what} is not available in this version yet; the Service is announced without"
        ))
    }));
    if world.routes.is_some() {
        let (path, wrong) = path(view);
        handled.path = path;
        handled.remarks.extend(wrong.into_iter().map(Remark::Annotation));
    }
    if let Some(Err(wrong)) = macvlan(view, &world.main_link) {
        handled.remarks.push(Remark::Annotation(wrong));
    }
    if let Some(vlan) = view.annotation(SERVICE_VLAN).filter(|vlan| vlan_of(vlan).is_none()) {
        handled.remarks.push(Remark::Annotation(format!(
            "{SERVICE_VLAN}: `{vlan}` is not a link with a VLAN's number, such as eth0.200, from 1 to 4094"
        )));
    }
    if view.annotation(LEASE_NAME).is_some() && view.traffic_policy == TrafficPolicy::Local {
        handled.remarks.push(Remark::Annotation(format!(
            "{LEASE_NAME}: Services with externalTrafficPolicy Local are elected alone, since only some nodes can \
             serve them; remove the annotation, or set the policy to Cluster"
        )));
    }
    handled
}
