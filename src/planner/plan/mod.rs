//! The plan: from the state of the cluster to the VIP groups of this host and its candidacies.
//!
//! `values` are input and output, `elections` assigns groups, `contested` finds leases of addresses in use.

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
use crate::dhcp::spec::{ClientSpec, LeaseKey};
use crate::model::annotation::{LEASE_NAME, NOT_YET, SERVICE_VLAN, VIP_HOST, WITHOUT_ENDPOINTS};
use crate::model::service::TrafficPolicy;
use crate::model::validation::is_name;
use crate::model::{Family, GroupId, GroupPlan, ServiceKey, ServiceView};
use contested::contested;
use elections::elect;
pub use values::{ClusterState, Issue, Mode, Plan, PlanContext, RouteRules, ServicePlan};

/// Plans all VIP groups and Services. Without a list of Services only the control plane is planned.
pub fn plan(context: &PlanContext, state: &ClusterState) -> Plan {
    let mut plan = Plan::default();
    if let Some(control_plane) = &context.control_plane {
        control_plane.plan(state, &mut plan);
    }
    if context.services && context.routes.is_some() {
        plan.groups.insert(GroupId::EveryNode, GroupPlan::default());
    }
    if state.listed {
        plan_services(context, state, &mut plan);
    }
    if let Some(rules) = &context.routes {
        routes(rules, &context.me, state, &mut plan);
        if !rules.attach {
            let groups = plan.groups.values_mut();
            groups.for_each(|group| group.addresses.retain(|spec| state.vips.contains(&spec.address)));
        }
    }
    plan.unverified = unverified(state, &plan);
    plan
}

fn plan_services(context: &PlanContext, state: &ClusterState, plan: &mut Plan) {
    let mut elected = Vec::new();
    let covered = || state.services.iter().filter(|(key, view)| context.rules.covers(key, view));
    let mut dhcp_specs = askings(covered());
    plan.contested = contested(state, &dhcp_specs);
    for (key, view) in covered() {
        let spec = dhcp_specs.remove(key);
        let service = plan_service(context, state, (key, view), spec, plan);
        let group = shared_group(context, state, &service);
        if group.is_none() && (!service.addresses.is_empty() || service.asking.is_some()) {
            elected.push(key.clone());
        }
        plan.services.insert(key.clone(), ServicePlan { group, ..service });
    }
    elect(context, state, plan, &elected);
    plan.leases.extend(wishes(context, state, plan));
    add_interfaces(context, state, plan);
}

/// The control plane's group, if all addresses of a Service are its VIPs.
fn shared_group(context: &PlanContext, state: &ClusterState, service: &ServicePlan) -> Option<GroupId> {
    let control_plane = context.control_plane.as_ref()?;
    let shared = service.addresses.iter().all(|address| state.vips.contains(address));
    control_plane.group_of(*service.addresses.first()?).filter(|_| shared).cloned()
}

/// DHCP parameters of each Service that requests a lease.
fn askings<'a>(
    services: impl Iterator<Item = (&'a ServiceKey, &'a ServiceView)>,
) -> BTreeMap<&'a ServiceKey, DhcpSpec> {
    let asking = |(key, view)| Some((key, (view, DhcpSpec::of(view)?)));
    let mut found: BTreeMap<&ServiceKey, (&ServiceView, DhcpSpec)> = services.filter_map(asking).collect();
    leases::disambiguate_client_ids(found.iter_mut().map(|(key, (view, asking))| (*key, *view, asking)));
    found.into_iter().map(|(key, (_, asking))| (key, asking)).collect()
}

/// Managed interfaces for DHCP are needed before there is an address.
fn add_interfaces(context: &PlanContext, state: &ClusterState, plan: &mut Plan) {
    for (key, service) in plan.services.iter().filter(|(_, service)| service.asking.is_some()) {
        let (Some(view), Some(group)) = (state.services.get(key), &service.group) else { continue };
        let interface = place(context, view, Family::V4.address(0)).interface;
        if let Some(group) = plan.groups.get_mut(group) {
            group.interfaces.extend(interface.managed().cloned());
        }
    }
}

/// DHCP leases to obtain where this host is leader.
fn wishes(context: &PlanContext, seen: &ClusterState, plan: &Plan) -> BTreeMap<LeaseKey, ClientSpec> {
    let asking = plan
        .services
        .iter()
        .filter_map(|(key, handled)| Some((seen.services.get(key)?, handled.asking.as_ref()?)));
    let on_interface = |(view, asking): (&ServiceView, &DhcpSpec)| {
        let interface = place(context, view, Family::V4.address(0)).interface;
        let managed = interface.managed().is_some();
        asking
            .wishes(view, &interface.name())
            .into_iter()
            .map(move |(key, wish)| (key, ClientSpec { managed, ..wish }))
    };
    asking.flat_map(on_interface).collect()
}

/// The node that announces an address probes it first, and then writes it to the status of its Service.
fn unverified(state: &ClusterState, plan: &Plan) -> BTreeSet<IpAddr> {
    let announced = |view: &&ServiceView| view.annotation(VIP_HOST).is_some();
    let verified = state.services.values().filter(announced).flat_map(|view| &view.status);
    let mut verified: BTreeSet<IpAddr> = verified.filter_map(|ingress| ingress.ip).collect();
    verified.extend(&state.vips);
    // A DHCP client probes its address.
    let probed = state.leases.values().filter(|lease| lease.probed);
    verified.extend(probed.filter_map(|lease| lease.address));
    let addresses = plan.groups.values().flat_map(|group| &group.addresses);
    addresses.map(|spec| spec.address).filter(|address| !verified.contains(address)).collect()
}

/// A Service's addresses, and whether they can be served.
fn plan_service(
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
            handled.issues.extend(held.last_error.clone().map(Issue::Lease));
            handled.addresses.extend(held.address);
        }
    }
    for wanted in wanted(view) {
        let found = match wanted {
            Wanted::Ip(address) if address.is_unspecified() => continue,
            // The address for the name is leased.
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
            // Sharing a VIP of this process is intended.
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
            "{name}: {what} is not available in this version; the Service is announced without it"
        ))
    }));
    if context.routes.is_some() {
        let (path, wrong) = path(view);
        handled.path = path;
        handled.issues.extend(wrong.into_iter().map(Issue::Annotation));
    }
    handled.issues.extend(annotation_problems(context, view).into_iter().map(Issue::Annotation));
    handled
}

/// Annotations about interfaces and elections that cannot be followed.
fn annotation_problems(context: &PlanContext, view: &ServiceView) -> Vec<String> {
    let mut problems = Vec::new();
    if let Some(Err(wrong)) = macvlan(view, &context.main_interface) {
        problems.push(wrong);
    }
    if let Some(vlan) = view.annotation(SERVICE_VLAN).filter(|vlan| vlan_of(vlan).is_none()) {
        problems.push(format!(
            "{SERVICE_VLAN}: `{vlan}` is not an interface with a VLAN's number, such as eth0.200, from 1 to 4094"
        ));
    }
    if view.annotation(LEASE_NAME).is_some() && view.traffic_policy == TrafficPolicy::Local {
        problems.push(format!(
            "{LEASE_NAME}: Services with externalTrafficPolicy Local are elected alone, since only some nodes can \
             serve them; remove the annotation, or set the policy to Cluster"
        ));
    }
    problems
}
