//! Addresses that another node may still hold although this host leads their group.
//!
//! A Lease guards the addresses of its group, and which group an address belongs to is computed by each node from its own view
//! of the Services and its own settings. An address that comes to this host by another way than its Lease is probed first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::{GroupId, Role, Roles, VipPlan};

/// What is known of a group.
#[derive(Debug, Default)]
struct Known {
    /// Its addresses while this host leads it.
    led: Option<BTreeSet<IpAddr>>,
    /// The last other holder of its Lease.
    holder: Option<String>,
    /// See [`Moves::suspect`].
    suspect: bool,
}

/// Addresses to be probed although a node has announced them.
#[derive(Debug, Default)]
pub(super) struct Moves {
    groups: BTreeMap<GroupId, Known>,
    moved: BTreeSet<IpAddr>,
}

impl Moves {
    pub(super) fn contains(&self, address: &IpAddr) -> bool {
        self.moved.contains(address)
    }

    /// The election does not know whether another host has the addresses of a group: all of them are probed once this host leads
    /// it. One that another host has keeps no other address of the group away.
    pub(super) fn suspect(&mut self, group: &GroupId) {
        self.groups.entry(group.clone()).or_default().suspect = true;
    }

    /// An address has moved if it joins a group that this host leads already, or if this host gains a group and the address
    /// was announced by another node than the last holder of the Lease.
    pub(super) fn update(&mut self, plan: &VipPlan, roles: &Roles) {
        self.groups.retain(|id, _| plan.groups.contains_key(id));
        let mut leading: BTreeSet<IpAddr> = BTreeSet::new();
        for (id, group, role) in plan.groups_with_roles(roles) {
            let known = self.groups.entry(id.clone()).or_default();
            if let Role::Follower { holder: Some(holder), .. } = role {
                known.holder = Some(holder.clone());
            }
            if !matches!(role, Role::Leader(_)) {
                known.led = None;
                continue;
            }
            let addresses: BTreeSet<IpAddr> = group.addresses.iter().map(|spec| spec.address).collect();
            let new = addresses.iter().filter(|address| match &known.led {
                Some(before) => !before.contains(address),
                None if known.suspect => true,
                None => plan.hosts.get(address).is_some_and(|host| Some(host) != known.holder.as_ref()),
            });
            self.moved.extend(new);
            known.suspect = false;
            leading.extend(addresses.iter().copied());
            known.led = Some(addresses);
        }
        self.moved.retain(|address| leading.contains(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AddressSpec, BootTime, Claim, GroupPlan, InterfaceSelector, LeaseName, PrefixLength};

    fn group(name: &str) -> GroupId {
        LeaseName { namespace: "kube-system".into(), name: name.into() }.into()
    }

    /// Groups with these addresses; other nodes have announced addresses.
    fn plan(groups: &[(&str, &[&str])], hosts: &[(&str, &str)]) -> VipPlan {
        let spec = |address: &&str| AddressSpec {
            address: address.parse().unwrap(),
            prefix: PrefixLength::Fixed(32),
            interface: InterfaceSelector::Named("eth0".into()),
        };
        let planned = |addresses: &[&str]| GroupPlan {
            addresses: addresses.iter().map(spec).collect(),
            ..GroupPlan::default()
        };
        VipPlan {
            groups: groups.iter().map(|(name, addresses)| (group(name), planned(addresses))).collect(),
            hosts: hosts
                .iter()
                .map(|(address, host)| (address.parse().unwrap(), (*host).to_owned()))
                .collect(),
            ..VipPlan::default()
        }
    }

    fn leads(names: &[&str]) -> Roles {
        let role = Role::Leader(Claim::of_every_node(BootTime::default()));
        names.iter().map(|name| (group(name), role.clone())).collect()
    }

    fn follows(name: &str, holder: &str) -> Roles {
        let role = Role::Follower { holder: Some(holder.to_owned()), fence_until: None };
        [(group(name), role)].into()
    }

    fn moved(moves: &Moves) -> Vec<String> {
        moves.moved.iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn an_address_that_joins_a_group_of_this_host_is_probed() {
        let mut moves = Moves::default();
        moves.update(&plan(&[("0", &["192.0.2.16"])], &[]), &leads(&["0"]));
        assert_eq!(moved(&moves), [""; 0]);
        let joined = plan(&[("0", &["192.0.2.16", "192.0.2.17"])], &[]);
        for _ in 0..2 {
            moves.update(&joined, &leads(&["0"]));
            assert_eq!(moved(&moves), ["192.0.2.17"]);
        }
        moves.update(&joined, &follows("0", "b"));
        assert_eq!(moved(&moves), [""; 0]);
    }

    #[test]
    fn every_address_of_a_suspect_group_is_probed() {
        let plan = plan(&[("0", &["192.0.2.16", "192.0.2.17"])], &[]);
        let mut moves = Moves::default();
        moves.update(&plan, &Roles::new());
        moves.suspect(&group("0"));
        moves.update(&plan, &follows("0", "b"));
        moves.update(&plan, &leads(&["0"]));
        assert_eq!(moved(&moves), ["192.0.2.16", "192.0.2.17"]);
        // Once.
        moves.update(&plan, &follows("0", "b"));
        moves.update(&plan, &leads(&["0"]));
        assert_eq!(moved(&moves), [""; 0]);
    }

    /// The number of groups is changed by a rolling update: the address was in a group of `a`, and is in one of `c` now.
    #[test]
    fn an_address_that_another_node_announced_than_the_one_the_lease_names_is_probed() {
        let plan = plan(&[("3", &["192.0.2.11", "192.0.2.12"])], &[("192.0.2.11", "a"), ("192.0.2.12", "c")]);
        let mut moves = Moves::default();
        moves.update(&plan, &follows("3", "c"));
        // Released.
        moves.update(&plan, &[(group("3"), Role::Follower { holder: None, fence_until: None })].into());
        moves.update(&plan, &leads(&["3"]));
        assert_eq!(moved(&moves), ["192.0.2.11"]);
        // From a holder that has failed nothing is probed.
        let mut moves = Moves::default();
        moves.update(&plan, &follows("3", "c"));
        let failed =
            super::VipPlan { hosts: [("192.0.2.12".parse().unwrap(), "c".to_owned())].into(), ..plan };
        moves.update(&failed, &leads(&["3"]));
        assert_eq!(moved(&moves), [""; 0]);
    }
}
