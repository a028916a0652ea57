//! The plan: from the state of the cluster to the VIP groups of this host and its candidacies.
//!
//! `values` are input and output, `elections` assigns groups, `lease_conflicts` finds leases of addresses in use.

mod elections;
mod lease_conflicts;
#[cfg(test)]
mod tests;
pub mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::addresses::{Wanted, wanted};
use super::leases::{self, DhcpSpec};
use super::placement::{macvlan, place, vlan_of};
use super::policy::addresses;
use super::policy::annotations::{Permitted, permitted};
use super::policy::owners::separate_tenants;
use super::reserved::Refusal;
use super::routes::{attributes, routes};
use crate::dhcp::fsm::ClientState;
use crate::model::annotation::{LEASE_NAME, NOT_YET, SERVICE_VLAN, WITHOUT_ENDPOINTS};
use crate::model::service::TrafficPolicy;
use crate::model::validation::is_name;
use crate::model::{Family, GroupId, GroupPlan, ServiceKey, ServiceView};
use crate::upnp::mapping::mappings;
use elections::{elect, requested_lease};
use lease_conflicts::lease_conflicts;
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
    let mapped = plan.services.iter().filter(|(_, service)| !service.terminating);
    let mapped = mapped.map(|(key, service)| (key, &*service.view, service.addresses.as_slice()));
    plan.mappings = mappings(context.upnp, mapped);
    plan.node_labels.clone_from(&state.node_labels);
    plan
}

fn plan_services(context: &PlanContext, state: &ClusterState, plan: &mut Plan) {
    let mut elected = Vec::new();
    let covered = || state.services.iter().filter(|(key, view)| context.rules.covers(key, view));
    let interfaces = [context.main_interface.as_str(), &context.interface.name()];
    let permitted: BTreeMap<&ServiceKey, Permitted> =
        covered().map(|(key, view)| (key, permitted(&context.policy, &interfaces, key, view))).collect();
    let placeable = permitted.iter().filter(|(_, service)| service.withheld.is_none());
    let mut dhcp_specs = dhcp_specs(placeable.map(|(key, service)| (*key, &service.view)));
    plan.lease_conflicts = lease_conflicts(state, &dhcp_specs);
    for (key, Permitted { view, ignored, withheld }) in &permitted {
        let spec = dhcp_specs.remove(key);
        let terminating = state.terminating.contains(*key);
        let mut service =
            ServicePlan { view: view.clone(), terminating, dhcp: spec, ..ServicePlan::default() };
        service.issues.extend(ignored.iter().cloned().map(Issue::Annotation));
        match withheld {
            Some(text) => service.issues.push(Issue::Refused(Refusal::Infrastructure(text.clone()))),
            None => plan_service(context, state, key, &mut service, plan),
        }
        plan.services.insert((*key).clone(), service);
    }
    if !context.policy.share_addresses {
        separate_tenants(&mut plan.services);
    }
    for (key, service) in &mut plan.services {
        service.group = shared_group(context, state, service);
        if service.group.is_none() && (!service.addresses.is_empty() || service.dhcp.is_some()) {
            elected.push(key.clone());
        }
    }
    elect(context, state, plan, &elected);
    plan_leases(context, plan);
}

/// The control plane's group, if all addresses of a Service are its VIPs.
fn shared_group(context: &PlanContext, state: &ClusterState, service: &ServicePlan) -> Option<GroupId> {
    let control_plane = context.control_plane.as_ref()?;
    let shared = service.addresses.iter().all(|address| state.vips.contains(address));
    control_plane.group_of(*service.addresses.first()?).filter(|_| shared).cloned()
}

/// DHCP parameters of each Service that requests a lease.
fn dhcp_specs<'a>(
    services: impl Iterator<Item = (&'a ServiceKey, &'a Arc<ServiceView>)>,
) -> BTreeMap<&'a ServiceKey, DhcpSpec> {
    let requests =
        |(key, view): (&'a ServiceKey, &'a Arc<ServiceView>)| Some((key, view, DhcpSpec::of(view)?));
    let mut found: Vec<_> = services.filter_map(requests).collect();
    leases::disambiguate_client_ids(found.iter_mut().map(|(key, view, spec)| (*key, &***view, spec)));
    found.into_iter().map(|(key, _, spec)| (key, spec)).collect()
}

/// Plans the DHCP leases to obtain where this host is leader. Their managed interfaces are needed before there is an address.
fn plan_leases(context: &PlanContext, plan: &mut Plan) {
    for service in plan.services.values() {
        let Some(dhcp) = &service.dhcp else { continue };
        let interface = place(context, &service.view, Family::V4.address(0)).interface;
        if let Some(group) = service.group.as_ref().and_then(|group| plan.groups.get_mut(group)) {
            group.interfaces.extend(interface.managed().cloned());
        }
        plan.leases.extend(dhcp.client_specs(&service.view, &interface));
    }
}

/// The node that announces an address probes it first, and then writes it to the status of its Service.
fn unverified(state: &ClusterState, plan: &Plan) -> BTreeSet<IpAddr> {
    let mut verified: BTreeSet<IpAddr> = state.services.values().flat_map(|view| view.announced()).collect();
    verified.extend(&state.vips);
    // A DHCP client probes its address.
    let probed = state.leases.values().filter(|lease| lease.probed);
    verified.extend(probed.filter_map(|lease| lease.address));
    let addresses = plan.groups.values().flat_map(|group| &group.addresses);
    addresses.map(|spec| spec.address).filter(|address| !verified.contains(address)).collect()
}

/// Plans a Service's addresses, and whether they can be served.
fn plan_service(
    context: &PlanContext,
    state: &ClusterState,
    key: &ServiceKey,
    service: &mut ServicePlan,
    plan: &mut Plan,
) {
    let view = service.view.clone();
    if let Some(dhcp) = &service.dhcp {
        service.issues.extend(dhcp.wrong.iter().cloned().map(Issue::Annotation));
        let mut uncontested = Vec::new();
        let mut known = true;
        for family in &dhcp.families {
            let key = leases::key(&view, *family);
            let Some(lease) = state.leases.get(&key) else {
                known = false;
                continue;
            };
            if let Some(conflict) = plan.lease_conflicts.get(&key) {
                service.issues.push(Issue::Lease(conflict.clone()));
                continue;
            }
            service.issues.extend(lease.last_error.clone().map(Issue::Lease));
            match lease.address.map(|address| addresses::check(&context.policy, state, &view, address)) {
                Some(Err(refusal)) => service.issues.push(Issue::Refused(refusal)),
                Some(Ok(())) | None => service.addresses.extend(lease.address),
            }
            uncontested.push(lease);
        }
        // A node that only follows a lease, or has not started its client yet, has no more than these annotations.
        if known && uncontested.iter().all(|lease| lease.state != ClientState::Standby) {
            service.lease_annotations = leases::annotations(dhcp, uncontested);
        }
    }
    for wanted in wanted(&view) {
        let found = match wanted {
            Wanted::Ip(address) if address.is_unspecified() => continue,
            // The address for the name is leased.
            Wanted::Name(_) if service.dhcp.is_some() => continue,
            Wanted::Ip(address) => vec![address],
            Wanted::Name(name) if is_name(&name) => {
                plan.names.insert(name.clone());
                state.names.get(&name).cloned().unwrap_or_default()
            }
            Wanted::Name(name) => {
                service.issues.push(Issue::Refused(Refusal::Malformed(name)));
                continue;
            }
        };
        for address in found {
            match addresses::check(&context.policy, state, &view, address) {
                Err(refusal) => service.issues.push(Issue::Refused(refusal)),
                Ok(()) if service.addresses.contains(&address) => {}
                Ok(()) => service.addresses.push(address),
            }
        }
    }
    let reported = service.addresses.iter().filter_map(|address| {
        let node = state.reserved.reported_by(*address)?.to_owned();
        Some(Issue::Reported { address: *address, node })
    });
    service.issues.extend(reported);
    let forced = view.annotation(WITHOUT_ENDPOINTS).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let any = state.endpoints.any(key);
    (service.has_endpoints, service.servable_here) = match view.traffic_policy {
        // Its endpoints are deleted with it; it keeps its address until its port mappings are closed.
        _ if service.terminating => (true, true),
        TrafficPolicy::Cluster => (any || forced, any || forced),
        TrafficPolicy::Local => (any, state.endpoints.on(key, &context.me)),
    };
    let mut problems = annotation_problems(context, key, &view);
    if context.routes.is_some() {
        let (attributes, wrong) = attributes(&view);
        service.attributes = attributes;
        problems.extend(wrong);
    }
    service.issues.extend(problems.into_iter().map(Issue::Annotation));
}

/// Annotations about interfaces and elections that cannot be applied.
fn annotation_problems(context: &PlanContext, key: &ServiceKey, view: &ServiceView) -> Vec<String> {
    let not_yet =
        NOT_YET.iter().filter(|(name, _)| view.annotation(name).is_some_and(|value| value != "false"));
    let not_yet = not_yet.map(|(name, what)| {
        format!("{name}: {what} is not available in this version; the Service is announced without it")
    });
    let mut problems: Vec<String> = not_yet.collect();
    if let Some(Err(wrong)) = macvlan(view, &context.main_interface) {
        problems.push(wrong);
    }
    if let Some(vlan) = view.annotation(SERVICE_VLAN).filter(|vlan| vlan_of(vlan).is_none()) {
        problems.push(format!(
            "{SERVICE_VLAN}: `{vlan}` is not `<parent>.<VLAN ID>`, such as eth0.200, with an ID from 1 to 4094"
        ));
    }
    let lease = requested_lease(key, view);
    if let Some(Err(wrong)) = &lease {
        problems.push(wrong.clone());
    }
    if lease.is_some() && view.traffic_policy == TrafficPolicy::Local {
        problems.push(format!(
            "{LEASE_NAME}: Services with externalTrafficPolicy Local are elected alone, since only some nodes can \
             serve them; remove the annotation, or set the policy to Cluster"
        ));
    }
    problems
}
