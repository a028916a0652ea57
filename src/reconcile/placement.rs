//! Where the planned addresses go on this host, and which managed interfaces they need.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::diff::Actual;
use crate::model::interface::ManagedInterface;
use crate::model::{
    ActualAddress, BootTime, GroupId, IfIndex, Interface, PlacementError, Roles, Tag, Vip, VipPlan,
};

/// A plan, resolved for the interfaces of this host.
#[derive(Debug, Default)]
pub(super) struct Placement {
    /// Each group's addresses, by interface.
    pub(super) targets: BTreeMap<GroupId, BTreeSet<(IfIndex, Vip)>>,
    /// The group of an address.
    pub(super) owners: BTreeMap<IpAddr, GroupId>,
    /// Why an address cannot be held here.
    pub(super) blocked: BTreeMap<IpAddr, String>,
    /// Managed interfaces to create, each with the index of its parent, and with the address that needs it.
    pub(super) missing: BTreeMap<ManagedInterface, (IfIndex, Option<IpAddr>)>,
}

/// Resolves the interface of every address in the plan. Only a leader needs managed interfaces.
pub(super) fn place(
    plan: &VipPlan,
    roles: &Roles,
    now: BootTime,
    interfaces: &[Interface],
    addresses: &[ActualAddress],
) -> Placement {
    let mut placement = Placement::default();
    let Placement { targets, owners, blocked, missing } = &mut placement;
    for (id, group, role) in plan.groups_with_roles(roles) {
        let leads = role.claim(now).is_some();
        for spec in &group.addresses {
            match spec.resolve(interfaces, addresses) {
                Ok(target) => drop(targets.entry(id.clone()).or_default().insert(target)),
                Err(error) if !leads => drop(error),
                Err(PlacementError::NotCreated { interface, parent }) => {
                    missing.insert(interface, (parent, Some(spec.address)));
                }
                Err(error) => drop(blocked.insert(spec.address, error.to_string())),
            }
            owners.insert(spec.address, id.clone());
        }
        for interface in group.interfaces.iter().filter(|_| leads) {
            let named = |name: &str| interfaces.iter().find(|found| found.name == name);
            if let (None, Some(parent)) = (named(&interface.name()), named(interface.parent())) {
                missing.entry(interface.clone()).or_insert((parent.index, None));
            }
        }
    }
    placement
}

/// Whether an address that is added becomes the first of its subnet. Addresses of the subnet that come later are secondary, and
/// the kernel drops them with the first, unless it promotes them.
pub(super) fn is_first_of_subnet(interface: IfIndex, vip: Vip, addresses: &[ActualAddress]) -> bool {
    let beside = |other: &&ActualAddress| other.interface == interface && other.vip.prefix == vip.prefix;
    let has_subnet = vip.address.is_ipv4() && vip.covers(vip.address);
    has_subnet && !addresses.iter().filter(beside).any(|other| other.vip.covers(vip.address))
}

/// Finds what an earlier process left without a tag: addresses that the plan knows, in the form that the Go program gives
/// them, and since this process began. What another program adds later is its own.
pub(super) fn adopt(plan: &VipPlan, placement: &Placement, actual: &mut Actual) {
    let Actual { addresses, untagged, adopted, .. } = actual;
    let addresses: &[ActualAddress] = addresses;
    let left: Vec<&ActualAddress> =
        addresses.iter().filter(|it| it.tag == Tag::None && untagged.contains(&it.key())).collect();
    *untagged = left.iter().map(|it| it.key()).collect();
    adopted.retain(|key| untagged.contains(key));
    for address in left.into_iter().filter(|it| plan.adoptable.contains(&it.vip.address)) {
        let planned = placement.targets.values().any(|targets| targets.contains(&address.key()));
        if address.is_adoptable(planned, addresses) {
            adopted.insert(address.key());
        }
    }
}

/// Managed interfaces that carry no address of ours, and that the plan does not need.
pub(super) fn unused_interfaces(
    plan: &VipPlan,
    roles: &Roles,
    now: BootTime,
    interfaces: &[Interface],
    addresses: &[ActualAddress],
) -> Vec<Interface> {
    if !plan.complete {
        return Vec::new();
    }
    let needed = plan.groups_with_roles(roles).flat_map(|(_, group, role)| {
        let leads = role.claim(now).is_some();
        let managed = group.addresses.iter().filter_map(|spec| spec.interface.managed());
        managed.chain(&group.interfaces).filter(move |interface| !interface.is_exclusive() || leads)
    });
    let needed: BTreeSet<String> = needed.map(ManagedInterface::name).collect();
    let ours = addresses.iter().filter(|address| address.tag == Tag::Ours);
    let used: BTreeSet<IfIndex> = ours.map(|address| address.interface).collect();
    let unused = interfaces.iter().filter(|interface| {
        interface.managed && !used.contains(&interface.index) && !needed.contains(&interface.name)
    });
    unused.cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AddressSpec, Claim, ClaimSource, GroupPlan, InterfaceSelector, PrefixLength, Role};

    const ADDRESS: &str = "192.0.2.1";

    fn vlan() -> ManagedInterface {
        ManagedInterface::Vlan { parent: "eth0".into(), tag: 7 }
    }

    fn group() -> GroupId {
        GroupId::EveryNode
    }

    /// A plan with one address on this interface.
    fn plan(interface: InterfaceSelector) -> VipPlan {
        let address = ADDRESS.parse().unwrap();
        let spec = AddressSpec { address, prefix: PrefixLength::Fixed(32), interface };
        let of_group = GroupPlan { addresses: [spec].into(), ..GroupPlan::default() };
        VipPlan { groups: [(group(), of_group)].into(), complete: true, ..VipPlan::default() }
    }

    fn roles(leads: bool) -> Roles {
        let at = |seconds| BootTime::from_boot(std::time::Duration::from_secs(seconds));
        let (since, valid_until, fence_until) = (at(0), at(3), at(4));
        let claim = Claim { since, valid_until, fence_until, source: ClaimSource::Lease };
        [(group(), if leads { Role::Leader(claim) } else { Role::FOLLOWER })].into()
    }

    fn interface(name: &str, index: u32, managed: bool) -> Interface {
        Interface { name: name.into(), index: IfIndex(index), managed, ..Interface::default() }
    }

    fn placed(plan: &VipPlan, leads: bool, interfaces: &[Interface]) -> Placement {
        place(plan, &roles(leads), BootTime::default(), interfaces, &[])
    }

    #[test]
    fn an_address_is_placed_on_its_interface_or_blocked_for_a_leader() {
        let on = |name: &str| plan(InterfaceSelector::Named(name.into()));
        let eth0 = [interface("eth0", 2, false)];
        let Placement { targets, owners, blocked, .. } = placed(&on("eth0"), true, &eth0);
        let vip = Vip::host(ADDRESS.parse().unwrap());
        assert_eq!(
            (targets[&group()].clone(), owners[&vip.address].clone()),
            ([(IfIndex(2), vip)].into(), group())
        );
        assert!(blocked.is_empty());
        let Placement { targets, owners, blocked, .. } = placed(&on("eth9"), true, &eth0);
        assert_eq!((targets.len(), owners.len(), blocked.len()), (0, 1, 1));
        assert!(placed(&on("eth9"), false, &eth0).blocked.is_empty());
    }

    #[test]
    fn what_the_go_program_left_is_adopted_if_the_plan_knows_it() {
        let host = ActualAddress::on(2, "192.0.2.2", 24);
        let left = ActualAddress::on(2, ADDRESS, 32);
        let plan = plan(InterfaceSelector::Named("eth0".into()));
        let known = VipPlan { adoptable: [left.vip.address].into(), ..plan.clone() };
        let placement = placed(&plan, false, &[interface("eth0", 2, false)]);
        for left in [left.clone(), ActualAddress { deprecated: true, ..left.clone() }] {
            let mut actual = Actual::at_start(&[host.clone(), left.clone()]);
            actual.addresses = vec![host.clone(), left.clone()];
            // A Service that only asks for the address: it may be keepalived's.
            adopt(&plan, &placement, &mut actual);
            assert!(!actual.is_ours(&left));
            adopt(&known, &placement, &mut actual);
            assert!(actual.is_ours(&left) && !actual.is_ours(&host));
            // Also by the empty plan at the end of the process.
            adopt(&VipPlan::default(), &Placement::default(), &mut actual);
            assert!(actual.is_ours(&left));
            // Another program adds it again.
            actual.addresses = vec![host.clone()];
            adopt(&known, &placement, &mut actual);
            actual.addresses.push(left.clone());
            adopt(&known, &placement, &mut actual);
            assert!(!actual.is_ours(&left));
        }
    }

    #[test]
    fn an_address_is_the_first_of_its_subnet_unless_the_hosts_own_precedes_it() {
        let on = ActualAddress::on;
        for (vip, prefix, own, expected) in [
            (ADDRESS, 24, vec![], true),
            (ADDRESS, 24, vec![on(2, "192.0.2.2", 24)], false),
            (
                ADDRESS,
                24,
                vec![on(3, "192.0.2.2", 24), on(2, "192.0.2.2", 25), on(2, "198.51.100.1", 24)],
                true,
            ),
            // A host route has no subnet, and IPv6 no secondary addresses.
            (ADDRESS, 32, vec![], false),
            ("2001:db8::1", 64, vec![], false),
        ] {
            let vip = Vip { address: vip.parse().unwrap(), prefix };
            assert_eq!(is_first_of_subnet(IfIndex(2), vip, &own), expected, "{vip} beside {own:?}");
        }
    }

    #[test]
    fn a_managed_interface_is_created_by_the_leader_alone() {
        let plan = plan(InterfaceSelector::Managed(vlan()));
        let eth0 = [interface("eth0", 2, false)];
        let missing = placed(&plan, true, &eth0).missing;
        assert_eq!(missing, [(vlan(), (IfIndex(2), ADDRESS.parse().ok()))].into());
        assert!(placed(&plan, false, &eth0).missing.is_empty());
        let both = [interface("eth0", 2, false), interface("eth0.7", 3, true)];
        let Placement { targets, missing, .. } = placed(&plan, true, &both);
        assert!(missing.is_empty() && targets[&group()].iter().all(|(index, _)| *index == IfIndex(3)));
    }

    #[test]
    fn a_managed_interface_is_removed_once_nothing_needs_it() {
        let interfaces = [interface("eth0", 2, false), interface("eth0.7", 3, true)];
        let unused = |plan: &VipPlan, tagged: &[u32]| {
            let address =
                |index: &u32| ActualAddress { tag: Tag::Ours, ..ActualAddress::on(*index, ADDRESS, 32) };
            let addresses: Vec<ActualAddress> = tagged.iter().map(address).collect();
            let found = unused_interfaces(plan, &roles(true), BootTime::default(), &interfaces, &addresses);
            found.into_iter().map(|interface| interface.name).collect::<Vec<_>>()
        };
        let none = VipPlan { complete: true, ..VipPlan::default() };
        assert_eq!(unused(&none, &[]), ["eth0.7"]);
        assert!(unused(&none, &[3]).is_empty());
        assert!(unused(&VipPlan::default(), &[]).is_empty(), "Services are not listed yet");
        assert!(unused(&plan(InterfaceSelector::Managed(vlan())), &[]).is_empty());
    }
}
