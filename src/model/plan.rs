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
    pub addresses: BTreeSet<AddressSpec>,
    /// Routes that are advertised while this host leads the group.
    pub routes: Arc<Routes>,
    /// Interfaces that the leader needs before it has an address for them.
    pub interfaces: BTreeSet<ManagedInterface>,
}

/// Every VIP group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VipPlan {
    pub groups: BTreeMap<GroupId, GroupPlan>,
    /// Addresses that no node has announced so far: another host on the segment may have them.
    pub unverified: BTreeSet<IpAddr>,
    /// Addresses of all Services, whether this host can serve them or not.
    pub known: Arc<BTreeSet<IpAddr>>,
    /// All Services are listed: an address that is in no group is unwanted.
    pub complete: bool,
}

/// Roles by group, as the elections publish them.
pub type Roles = BTreeMap<GroupId, Role>;

impl VipPlan {
    /// The role in `group`. Until the elections have seen the plan a candidate is starting, any other host a follower.
    pub fn role<'a>(&self, group: &GroupId, roles: &'a Roles) -> &'a Role {
        match roles.get(group) {
            Some(role) => role,
            None if self.groups.get(group).is_some_and(|plan| plan.candidacy.eligible) => &Role::Starting,
            None => &Role::FOLLOWER,
        }
    }

    /// Whether both plans contain the same groups. `unverified` is read with the next change.
    pub fn holds_the_same(&self, other: &Self) -> bool {
        self.groups == other.groups && self.complete == other.complete && self.known == other.known
    }
}
