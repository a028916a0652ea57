//! The planner's result: every VIP group that this host may hold.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::address_spec::AddressSpec;
use super::interface::ManagedInterface;
use super::role::{Candidacy, Role};
use super::{GroupId, Routes};

/// VIPs that move together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupPlan {
    pub candidacy: Candidacy,
    pub owner: Option<LeaseOwner>,
    pub addresses: BTreeSet<AddressSpec>,
    /// Routes that are advertised while this host leads the group.
    pub routes: Arc<Routes>,
    /// Interfaces that the leader needs before it has an address for them.
    pub interfaces: BTreeSet<ManagedInterface>,
}

/// The one Service that a Lease stands for: the cluster's garbage collector deletes the Lease with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseOwner {
    /// Its name; its namespace is the Lease's.
    pub service: String,
    pub uid: String,
}

impl GroupPlan {
    /// The role until the elections have seen the plan: a candidate is starting, any other host a follower.
    fn initial_role(&self) -> &'static Role {
        if self.candidacy.eligible { &Role::Starting } else { &Role::FOLLOWER }
    }
}

/// Every VIP group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VipPlan {
    pub groups: BTreeMap<GroupId, GroupPlan>,
    /// Addresses that no node has announced so far: another host on the segment may have them.
    pub unverified: BTreeSet<IpAddr>,
    /// Other nodes that announce addresses, as the status of Services says.
    pub hosts: BTreeMap<IpAddr, String>,
    /// Leased addresses, each with the hardware address of its DHCP client.
    pub leased: BTreeMap<IpAddr, [u8; 6]>,
    /// Addresses of all Services, whether this host can serve them or not.
    pub known: Arc<BTreeSet<IpAddr>>,
    /// Addresses that kube-vip has announced or is configured to announce: an earlier process may have left them here without
    /// a tag.
    pub adoptable: BTreeSet<IpAddr>,
    /// All Services are listed: an address that is in no group is unwanted.
    pub complete: bool,
}

/// Roles by group, as the elections publish them.
pub type Roles = BTreeMap<GroupId, Role>;

impl VipPlan {
    /// The role in `group`.
    pub fn role<'a>(&self, group: &GroupId, roles: &'a Roles) -> &'a Role {
        let initial = || self.groups.get(group).map_or(&Role::FOLLOWER, GroupPlan::initial_role);
        roles.get(group).unwrap_or_else(initial)
    }

    /// Every group with its role. One pass over both maps: with thousands of groups, lookups by name are expensive.
    pub fn groups_with_roles<'a>(
        &'a self,
        roles: &'a Roles,
    ) -> impl Iterator<Item = (&'a GroupId, &'a GroupPlan, &'a Role)> + Clone {
        let mut roles = roles.iter().peekable();
        self.groups.iter().map(move |(id, group)| {
            while roles.next_if(|(other, _)| *other < id).is_some() {}
            let known = roles.next_if(|(other, _)| *other == id).map(|(_, role)| role);
            (id, group, known.unwrap_or_else(|| group.initial_role()))
        })
    }

    /// Whether a frame about an address, with this hardware address, is about this host: some routers answer ARP requests by
    /// their DHCP leases.
    pub fn is_of_own_lease(&self, address: IpAddr, mac: &[u8]) -> bool {
        self.leased.get(&address).is_some_and(|own| *own == mac)
    }

    /// Whether both plans contain the same groups. `unverified`, `hosts` and `leased` are read with the next change.
    pub fn holds_the_same(&self, other: &Self) -> bool {
        self.groups == other.groups
            && self.complete == other.complete
            && self.known == other.known
            && self.adoptable == other.adoptable
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::LeaseName;

    fn group(number: u8) -> GroupId {
        GroupId::Lease(LeaseName { namespace: "default".into(), name: format!("kubevip-{number}") })
    }

    fn role(number: u8) -> Role {
        Role::Follower { holder: Some(format!("node-{number}")), fence_until: None }
    }

    proptest! {
        /// The elections may know groups that are in no plan any more, and not yet all of the plan.
        #[test]
        fn one_pass_finds_the_same_roles_as_lookups(planned: BTreeMap<u8, bool>, known: BTreeSet<u8>) {
            let of_group = |eligible| GroupPlan {
                candidacy: Candidacy { eligible, ..Candidacy::default() },
                ..GroupPlan::default()
            };
            let groups = planned.into_iter().map(|(number, eligible)| (group(number), of_group(eligible)));
            let plan = VipPlan { groups: groups.collect(), ..VipPlan::default() };
            let roles: Roles = known.into_iter().map(|number| (group(number), role(number))).collect();
            let found: Vec<_> = plan.groups_with_roles(&roles).map(|(id, _, role)| (id, role)).collect();
            let looked_up: Vec<_> = plan.groups.keys().map(|id| (id, plan.role(id, &roles))).collect();
            prop_assert_eq!(found, looked_up);
        }
    }
}
