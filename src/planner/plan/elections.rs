//! The VIP group of each Service, and this host's candidacy for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::super::placement::place;
use super::super::rendezvous;
use super::values::{ClusterState, Mode, Plan, PlanContext, ServicePlan};
use crate::election::scheme::member_prefix;
use crate::model::annotation::{LEASE_NAME, VIP_HOST};
use crate::model::family::number;
use crate::model::hash::fnv1a;
use crate::model::lease::OWN_LEASES;
use crate::model::service::TrafficPolicy;
use crate::model::text::quoted;
use crate::model::{
    AddressSpec, Candidacy, CandidacyKind, GroupId, GroupPlan, LeaseName, LeaseOwner, ServiceKey, ServiceView,
};

/// Delay between the candidates of a group for a free Lease.
const GROUP_STEP: Duration = Duration::from_millis(200);
/// The same for Services elected alone: usually long enough to observe the first candidate's write.
const STEP: Duration = Duration::from_millis(30);
/// All further candidates have the last delay.
const STEPS: usize = 3;

/// Services that share an address or a Lease move together.
type Component = Vec<ServiceKey>;

/// Assigns each of these Services to its group.
pub(super) fn elect(context: &PlanContext, state: &ClusterState, plan: &mut Plan, elected: &[ServiceKey]) {
    let elects_alone = |component: &Component| component.iter().any(|key| elects_alone(context, plan, key));
    let (alone, by_mode): (Vec<_>, Vec<_>) = components(plan, elected).into_iter().partition(elects_alone);
    let by_mode: Vec<ServiceKey> = by_mode.into_iter().flatten().collect();
    if let Some(member) = &context.member {
        let kind = CandidacyKind::Heartbeat;
        let candidacy = Candidacy { eligible: true, delay: Duration::ZERO, resuming: true, kind };
        plan.groups.insert(member.clone().into(), GroupPlan { candidacy, ..GroupPlan::default() });
    }
    place_alone(context, state, plan, &alone);
    match &context.mode {
        Mode::PerService => {}
        Mode::EveryNode => {
            let addresses = addresses_of(context, state, plan, &by_mode, SERVABLE);
            assign_group(plan, &by_mode, &GroupId::EveryNode);
            plan.groups.entry(GroupId::EveryNode).or_default().addresses.extend(addresses);
        }
        Mode::Global(lease) => {
            let addresses = addresses_of(context, state, plan, &by_mode, SERVABLE);
            let resuming = state.has_all(&addresses, &plan.adoptable);
            let candidacy = Candidacy { eligible: true, resuming, ..Candidacy::default() };
            add_group(context, plan, &by_mode, (lease, None), candidacy, addresses);
        }
        Mode::Groups { base, count, most } => {
            place_in_groups(context, state, plan, &by_mode, (base, *count, *most))
        }
    }
}

/// Whether a Service needs an election of its own. Services that share an address with it join that: an address belongs to
/// one election.
fn elects_alone(context: &PlanContext, plan: &Plan, key: &ServiceKey) -> bool {
    let Some(service) = plan.services.get(key) else { return false };
    let rules = &context.rules;
    let is_local = service.view.traffic_policy == TrafficPolicy::Local;
    let by_mode = match &context.mode {
        Mode::PerService => true,
        // The leader of all announces it only with an endpoint of its own, as in the Go program.
        Mode::Global(_) => rules.local_alone && is_local,
        // A DHCP lease belongs to one host: a leader has to obtain it.
        Mode::EveryNode => service.dhcp.is_some(),
        // Services that only some nodes can serve cannot join a group.
        Mode::Groups { .. } => is_local,
    };
    by_mode || rules.elects_alone(&service.view)
}

/// The addresses of the Services that are `wanted`.
fn addresses_of(
    context: &PlanContext,
    state: &ClusterState,
    plan: &Plan,
    keys: &[ServiceKey],
    wanted: fn(&ServicePlan) -> bool,
) -> BTreeSet<AddressSpec> {
    let mut addresses: BTreeMap<IpAddr, AddressSpec> = BTreeMap::new();
    for service in keys.iter().filter_map(|key| plan.services.get(key)).filter(|service| wanted(service)) {
        // Of Services that share an address the first by name decides.
        for address in service.served().filter(|address| !state.vips.contains(address)) {
            addresses.entry(address).or_insert_with(|| place(context, &service.view, address));
        }
    }
    addresses.into_values().collect()
}

const SERVABLE: fn(&ServicePlan) -> bool = |service| service.servable_here;
const HAS_ENDPOINTS: fn(&ServicePlan) -> bool = |service| service.has_endpoints;

fn assign_group(plan: &mut Plan, keys: &[ServiceKey], group: &GroupId) {
    for key in keys {
        if let Some(service) = plan.services.get_mut(key) {
            service.group = Some(group.clone());
        }
    }
}

/// Plans an election of these Services, on a Lease that has an owner or none. On the control plane's Lease their addresses
/// join its group.
fn add_group(
    context: &PlanContext,
    plan: &mut Plan,
    keys: &[ServiceKey],
    (lease, owner): (&LeaseName, Option<LeaseOwner>),
    candidacy: Candidacy,
    addresses: BTreeSet<AddressSpec>,
) {
    let group = GroupId::from(lease.clone());
    assign_group(plan, keys, &group);
    match context.control_plane.as_ref().filter(|control_plane| control_plane.groups.contains(&group)) {
        Some(control_plane) => control_plane.join(plan, addresses),
        // A Service may name the Lease of all others as its own.
        None => {
            let planned = plan.groups.entry(group).or_default();
            planned.candidacy = candidacy;
            planned.owner = owner;
            planned.addresses.extend(addresses);
        }
    }
}

/// The Lease that is named after a Service.
fn own_lease(key: &ServiceKey) -> LeaseName {
    LeaseName { namespace: key.namespace.clone(), name: format!("{OWN_LEASES}{}", key.name) }
}

/// The Lease of a Service with an election of its own.
fn lease_of(key: &ServiceKey, view: &ServiceView) -> LeaseName {
    let own = || own_lease(key);
    let requested = requested_lease(key, view).filter(|_| view.traffic_policy == TrafficPolicy::Cluster);
    requested.and_then(Result::ok).unwrap_or_else(own)
}

/// The Lease that a Service's annotation names, or what is wrong with it.
pub(super) fn requested_lease(key: &ServiceKey, view: &ServiceView) -> Option<Result<LeaseName, String>> {
    let text = view.annotation(LEASE_NAME)?;
    let lease = LeaseName::parse(&key.namespace, text);
    Some(lease.ok_or_else(|| format!("{LEASE_NAME}: {} is not {}", quoted(text), LeaseName::ALLOWED)))
}

/// Services that share an address or a Lease, oldest first.
fn components(plan: &Plan, keys: &[ServiceKey]) -> Vec<Component> {
    let mut services: Vec<_> = keys.iter().filter_map(|key| plan.services.get_key_value(key)).collect();
    services.sort_by_key(|(key, service)| (service.view.created, *key));
    let mut components: Vec<Component> = Vec::new();
    let mut by_address: BTreeMap<IpAddr, usize> = BTreeMap::new();
    let mut by_lease: BTreeMap<LeaseName, usize> = BTreeMap::new();
    for (key, service) in services {
        let lease = lease_of(key, &service.view);
        let linked = service.addresses.iter().filter_map(|address| by_address.get(address));
        let linked: BTreeSet<usize> = linked.chain(by_lease.get(&lease)).copied().collect();
        let home = linked.first().copied().unwrap_or(components.len());
        if home == components.len() {
            components.push(Component::default());
        }
        for other in linked.into_iter().filter(|other| *other != home) {
            let moved = components.get_mut(other).map(std::mem::take).unwrap_or_default();
            if let Some(component) = components.get_mut(home) {
                component.extend(moved);
            }
            by_address.values_mut().chain(by_lease.values_mut()).for_each(|index| {
                if *index == other {
                    *index = home;
                }
            });
        }
        if let Some(component) = components.get_mut(home) {
            component.push(key.clone());
        }
        by_address.extend(service.addresses.iter().map(|address| (*address, home)));
        by_lease.insert(lease, home);
    }
    components.retain(|component| !component.is_empty());
    components
}

/// Elections of components, on the Lease of the oldest Service.
fn place_alone(context: &PlanContext, state: &ClusterState, plan: &mut Plan, components: &[Component]) {
    let lease = |component: &Component| {
        let services = component.iter().filter_map(|key| plan.services.get_key_value(key));
        let (key, oldest) = services.min_by_key(|(key, service)| (service.view.created, *key))?;
        let lease = lease_of(key, &oldest.view);
        // What is created for a Service that is gone would be deleted at once.
        let owned = lease == own_lease(key) && !oldest.terminating;
        let owner = LeaseOwner { service: key.name.clone(), uid: oldest.view.uid.clone() };
        Some((lease, owned.then_some(owner)))
    };
    let leases: Vec<Option<(LeaseName, Option<LeaseOwner>)>> = components.iter().map(lease).collect();
    let holders = leases.iter().flatten().filter_map(|(lease, _)| state.holders.get(lease));
    let present: BTreeSet<&str> =
        holders.filter(|holder| holder.is_current).map(|holder| holder.identity.as_str()).collect();
    for (component, lease) in components.iter().zip(leases) {
        let Some((lease, owner)) = lease else { continue };
        let services = || component.iter().filter_map(|key| plan.services.get(key));
        let servable_here = services().any(|service| service.servable_here);
        let leased = services().any(|service| service.dhcp.is_some());
        // A leader has to renew the DHCP lease although no node can serve the Service.
        let asleep = leased && services().all(|service| !service.has_endpoints);
        let eligible = servable_here || asleep;
        let announced = services().any(|service| service.view.annotation(VIP_HOST).is_some());
        let addresses = match eligible {
            true => addresses_of(context, state, plan, component, SERVABLE),
            // Without endpoints it had no address.
            false if leased && !announced => BTreeSet::new(),
            // A node that cannot serve them any more keeps the addresses, without announcing, until another node has them.
            false => addresses_of(context, state, plan, component, HAS_ENDPOINTS),
        };
        // Candidates do not write to a free Lease at the same time: all but one write would be wasted.
        let able = present.iter().copied().filter(|node| asleep || can_serve(state, plan, component, node));
        let rank = rendezvous::rank(&context.me, able, &lease).min(STEPS);
        let delay = STEP * u32::try_from(rank).unwrap_or(0);
        let candidacy = Candidacy {
            eligible,
            delay,
            resuming: state.has_all(&addresses, &plan.adoptable),
            kind: CandidacyKind::Services,
        };
        add_group(context, plan, component, (&lease, owner), candidacy, addresses);
    }
}

/// Whether a node can serve any Service of the component.
fn can_serve(state: &ClusterState, plan: &Plan, component: &Component, node: &str) -> bool {
    let mut services = component.iter().filter_map(|key| plan.services.get_key_value(key));
    services.any(|(key, service)| is_served_by(state, key, service, node))
}

/// Whether a node can serve a Service, if any can.
pub(super) fn is_served_by(
    state: &ClusterState,
    key: &ServiceKey,
    service: &ServicePlan,
    node: &str,
) -> bool {
    match service.view.traffic_policy {
        TrafficPolicy::Local => {
            service.families().iter().any(|family| state.endpoints.on(key, node, *family))
        }
        TrafficPolicy::Cluster => true,
    }
}

/// Spreads Services over a fixed number of groups.
fn place_in_groups(
    context: &PlanContext,
    state: &ClusterState,
    plan: &mut Plan,
    keys: &[ServiceKey],
    (base, count, most): (&LeaseName, usize, usize),
) {
    let prefix = member_prefix(base);
    let here = state.holders.iter().filter(|(lease, _)| lease.namespace == base.namespace);
    // A member with an overdue renewal gets no groups, and its groups are reassigned before their Leases expire.
    let there = here.filter(|(lease, holder)| holder.is_current && lease.name.starts_with(&prefix));
    let mut members: BTreeSet<String> = there.map(|(_, holder)| holder.identity.clone()).collect();
    members.insert(context.me.clone());
    let holder = |group| state.holders.get(&Mode::lease_of(base, group));
    let holders: BTreeMap<usize, String> =
        (0..count).filter_map(|group| Some((group, holder(group)?.identity.clone()))).collect();
    let mut by_group: BTreeMap<usize, Vec<ServiceKey>> = BTreeMap::new();
    for component in components(plan, keys) {
        let group = group_of(plan, &component, count);
        by_group.entry(group).or_default().extend(component);
    }
    for (group, list) in rendezvous::candidates(count, &members, &holders, most).into_iter().enumerate() {
        let lease = Mode::lease_of(base, group);
        let keys = by_group.remove(&group).unwrap_or_default();
        let addresses = addresses_of(context, state, plan, &keys, SERVABLE);
        let rank = list.iter().position(|node| *node == context.me);
        let mine = holders.get(&group) == Some(&context.me);
        // A member with more than its share hands over to one with less.
        let eligible = rank.is_some_and(|rank| rank == 0 || !mine);
        let delay = GROUP_STEP * u32::try_from(rank.unwrap_or(0)).unwrap_or(0);
        let resuming = state.has_all(&addresses, &plan.adoptable);
        let candidacy = Candidacy { eligible, delay, resuming, kind: CandidacyKind::Services };
        add_group(context, plan, &keys, (&lease, None), candidacy, addresses);
    }
}

/// The group of a component, by its lowest address: pools are allocated in order, so consecutive addresses get different
/// groups. For DHCP the group is needed before the address.
fn group_of(plan: &Plan, component: &Component, count: usize) -> usize {
    let leased = |key: &&ServiceKey| plan.services.get(*key).is_some_and(|service| service.dhcp.is_some());
    if let Some(key) = component.iter().find(leased) {
        let spread = usize::try_from(fnv1a(key.to_string().as_bytes()) >> 1);
        return spread.unwrap_or(0) % count.max(1);
    }
    let services = component.iter().filter_map(|key| plan.services.get(key));
    let lowest = services.flat_map(|service| &service.addresses).min();
    let count = u128::try_from(count.max(1)).unwrap_or(1);
    let folded = lowest.map_or(0, |address| {
        let number = number(*address);
        number ^ (number >> 64)
    });
    usize::try_from(folded % count).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{InterfaceSelector, PrefixLength};

    /// A Service may name the Lease of all others as its own.
    #[test]
    fn elections_on_one_lease_are_one_group_with_the_addresses_of_both() {
        let (context, mut plan) = (PlanContext::example(), Plan::default());
        let lease = LeaseName { namespace: "kube-system".into(), name: "plndr-svcs-lock".into() };
        let spec = |last| AddressSpec {
            address: [192, 0, 2, last].into(),
            prefix: PrefixLength::Fixed(32),
            interface: InterfaceSelector::Named("eth0".into()),
        };
        for last in [1, 2] {
            add_group(&context, &mut plan, &[], (&lease, None), Candidacy::default(), [spec(last)].into());
        }
        assert_eq!(plan.groups[&GroupId::from(lease)].addresses, [spec(1), spec(2)].into());
    }
}
