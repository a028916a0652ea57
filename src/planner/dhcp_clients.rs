//! Which DHCP clients run on this node.

use std::collections::{BTreeMap, BTreeSet};

use super::addresses::{Wanted, wanted};
use super::plan::{ClusterState, Plan, PlanContext, ServicePlan};
use crate::dhcp::fsm::ClientState;
use crate::dhcp::spec::{ClientSpec, ClientStatus, LeaseKey};
use crate::model::{BootTime, Roles};

/// Marks the leases that this node obtains as leader of their group. Returns whether that has changed.
pub(super) fn activate(
    specs: &mut BTreeMap<LeaseKey, ClientSpec>,
    context: &PlanContext,
    plan: &Plan,
    roles: &Roles,
    now: BootTime,
) -> bool {
    let leads = |service: &&ServicePlan| {
        let role = service.group.as_ref().and_then(|group| roles.get(group));
        role.is_some_and(|role| role.claim(now).is_some())
    };
    let led = plan.services.values().filter(|service| service.dhcp.is_some()).filter(leads);
    let owners: BTreeSet<&str> = led.map(|service| service.view.uid.as_str()).collect();
    let control_plane = context.control_plane.as_ref().filter(|it| it.is_leader(roles, now));
    let mut changed = false;
    for (key, spec) in specs {
        let active = owners.contains(key.owner.as_str()) || control_plane.is_some_and(|it| it.owns(key));
        changed |= spec.active != active;
        spec.active = active;
    }
    changed
}

/// Leases that are no longer planned. A lease whose address its Service still has belongs to another node.
pub(super) fn released<'a>(
    before: &'a Plan,
    plan: &'a Plan,
    state: &'a ClusterState,
) -> impl Iterator<Item = LeaseKey> {
    let kept = |key: &LeaseKey| {
        let address = state.leases.get(key).and_then(|lease| lease.address);
        let has = |wanted: &Wanted| matches!(wanted, Wanted::Ip(ip) if Some(*ip) == address);
        state.services.values().any(|view| view.uid == key.owner && wanted(view).iter().any(has))
    };
    let gone = before.leases.keys().filter(|key| !plan.leases.contains_key(*key));
    gone.filter(move |key| !kept(key)).cloned()
}

/// Whether a difference between these leases matters to the plan.
pub(super) fn differ(
    before: &BTreeMap<LeaseKey, ClientStatus>,
    after: &BTreeMap<LeaseKey, ClientStatus>,
) -> bool {
    fn planned(lease: &ClientStatus) -> impl PartialEq {
        let standby = lease.state == ClientState::Standby;
        (lease.address, lease.saved.clone(), lease.last_error.clone(), standby)
    }
    before.len() != after.len()
        || before.iter().zip(after).any(|(old, new)| old.0 != new.0 || planned(old.1) != planned(new.1))
}
