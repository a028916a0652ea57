//! The plan: from the state of the cluster to the VIP groups of this host and its candidacies.
//!
//! `values` are input and output, `service` plans one Service, `elections` assigns groups, `lease_conflicts` finds leases of
//! addresses in use, `reporters` finds which node reports the problems of a Service.

mod elections;
mod lease_conflicts;
mod reporters;
mod service;
#[cfg(test)]
mod tests;
pub mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::leases::{self, DhcpSpec, Records};
use super::placement::place;
use super::policy::annotations::{Permitted, permitted};
use super::policy::limits::{Limit, limit_total, without_lease};
use super::policy::owners::separate_tenants;
use super::reserved::Refusal;
use super::routes::routes;
use crate::dhcp::spec::{ClientSpec, LeaseKey};
use crate::model::{Family, GroupId, GroupPlan, InterfaceSelector, ServiceKey, ServiceView};
use crate::upnp::mapping::mappings;
use elections::elect;
use lease_conflicts::lease_conflicts;
use reporters::assign_reporters;
use service::Surroundings;
pub use values::{ClusterState, Issue, Leader, Mode, Plan, PlanContext, RouteRules, ServicePlan};

/// Plans all VIP groups and Services. Without a list of Services only the control plane is planned.
pub fn plan(context: &PlanContext, state: &ClusterState) -> Plan {
    let mut plan = Plan { adoptable: state.adoptable(), nodes_listed: state.nodes_listed, ..Plan::default() };
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
        routes(context, rules, state, &mut plan);
        if !rules.attach {
            let groups = plan.groups.values_mut();
            groups.for_each(|group| group.addresses.retain(|spec| state.vips.contains(&spec.address)));
        }
    }
    plan.unverified = unverified(state, &plan);
    let client =
        |(key, spec): (&LeaseKey, &ClientSpec)| Some((state.leases.get(key)?.address?, spec.identity.mac));
    plan.leased = plan.leases.iter().filter_map(client).collect();
    let mapped = plan.services.iter().filter(|(_, service)| !service.terminating);
    let mapped = mapped.map(|(key, service)| (key, &*service.view, service.addresses.as_slice()));
    plan.mappings = mappings(&context.upnp, mapped);
    plan.node_labels.clone_from(&state.node_labels);
    plan
}

fn plan_services(context: &PlanContext, state: &ClusterState, plan: &mut Plan) {
    let covered = || state.services.iter().filter(|(key, view)| context.rules.covers(key, view));
    let default = context.interface.name();
    let auto = matches!(context.interface, InterfaceSelector::OfSubnet(_)).then_some("auto");
    let interfaces: Vec<&str> = [context.main_interface.as_str(), &default].into_iter().chain(auto).collect();
    let permitted: BTreeMap<&ServiceKey, Permitted> =
        covered().map(|(key, view)| (key, permitted(&context.policy, &interfaces, key, view))).collect();
    let placeable = permitted.iter().filter(|(_, service)| service.withheld.is_none());
    let mut dhcp_specs = dhcp_specs(placeable.map(|(key, service)| (*key, &service.view)));
    let requests = dhcp_specs
        .iter()
        .filter_map(|(key, spec)| Some((*key, permitted.get(key)?.view.created, spec.families.len())));
    let without_lease = without_lease(&context.policy, requests);
    dhcp_specs.retain(|key, _| !without_lease.contains(*key));
    let conflicts = lease_conflicts(context, state, &dhcp_specs);
    let surroundings = Surroundings { context, state, conflicts: &conflicts };
    for (key, Permitted { view, ignored, withheld }) in &permitted {
        let spec = dhcp_specs.remove(key);
        let terminating = state.terminating.contains(*key);
        let mut service =
            ServicePlan { view: view.clone(), terminating, dhcp: spec, ..ServicePlan::default() };
        service.issues.extend(ignored.iter().cloned().map(Issue::Annotation));
        if without_lease.contains(*key) {
            service.refuse(Refusal::Limit(Limit::Leases(context.policy.max_leases)));
        }
        match withheld {
            Some(text) => service.refuse(Refusal::Infrastructure(text.clone())),
            None => plan.names.extend(surroundings.plan(key, &mut service)),
        }
        plan.services.insert((*key).clone(), service);
    }
    plan.lease_conflicts = conflicts;
    let ignored = state.services.iter().filter(|(key, view)| context.rules.ignores(key, view));
    plan.ignored = ignored.map(|(key, _)| key.clone()).collect();
    plan.services.extend(announced_though_ignored(state, &plan.ignored));
    if !context.policy.share_addresses {
        separate_tenants(&mut plan.services);
    }
    limit_total(&context.policy, &mut plan.services);
    let mut elected = Vec::new();
    for (key, service) in &mut plan.services {
        service.group = shared_group(context, state, service);
        if service.group.is_none() && (!service.addresses.is_empty() || service.dhcp.is_some()) {
            elected.push(key.clone());
        }
    }
    elect(context, state, plan, &elected);
    plan_leases(context, plan);
    assign_reporters(&context.me, state, plan);
}

/// Services that are announced and shall be ignored: without addresses, so that their status is cleared.
fn announced_though_ignored(
    state: &ClusterState,
    ignored: &BTreeSet<ServiceKey>,
) -> impl Iterator<Item = (ServiceKey, ServicePlan)> {
    let ignored = ignored.iter().filter_map(|key| state.services.get_key_value(key));
    let announced = ignored.filter(|(_, view)| view.announced_in_status().next().is_some());
    announced.map(|(key, view)| (key.clone(), ServicePlan { view: view.clone(), ..ServicePlan::default() }))
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
        plan.leases.extend(dhcp.client_specs(&service.view, &interface, Records::Announced));
    }
}

/// The node that announces an address probes it first, and then writes it to the status of its Service.
fn unverified(state: &ClusterState, plan: &Plan) -> BTreeSet<IpAddr> {
    let services = plan.services.values();
    let announced = services.flat_map(|service| {
        service.view.announced_in_status().filter(|address| service.addresses.contains(address))
    });
    let mut verified: BTreeSet<IpAddr> = announced.chain(state.vips.iter().copied()).collect();
    // A DHCP client probes its address.
    let probed = state.leases.values().filter(|lease| lease.probed);
    verified.extend(probed.filter_map(|lease| lease.address));
    let addresses = plan.groups.values().flat_map(|group| &group.addresses);
    addresses.map(|spec| spec.address).filter(|address| !verified.contains(address)).collect()
}
