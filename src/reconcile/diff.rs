//! The ordered actions that make the host as desired.
//!
//! On loss: suppress, then remove. On gain: add, then announce. All removals precede all additions.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::model::{ActualAddress, BootTime, IfIndex, Tag, Vip};
use crate::reconcile::desired::{Desired, Presence};

/// The actual state of this host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actual {
    /// All addresses, as reported by the kernel.
    pub addresses: Vec<ActualAddress>,
    /// Announced addresses, by interface index.
    pub announcing: BTreeSet<(IfIndex, IpAddr)>,
    /// Addresses for which the kernel's responses to ARP and ND are suppressed.
    pub suppressed: BTreeSet<IpAddr>,
    /// When the kernel drops an address, by the lifetime last set.
    pub fences: BTreeMap<(IfIndex, Vip), BootTime>,
    /// Addresses that this process manages: planned now, or held earlier.
    pub managed: BTreeSet<IpAddr>,
    /// Addresses without a tag that have been here since the process began.
    pub untagged: BTreeSet<(IfIndex, Vip)>,
    /// Those of them that an earlier process left: ours.
    pub adopted: BTreeSet<(IfIndex, Vip)>,
    /// Interfaces on which no neighbour asks for addresses: down, or without ARP.
    pub isolated: BTreeSet<IfIndex>,
}

impl Actual {
    /// The state when the process begins.
    pub fn at_start(addresses: &[ActualAddress]) -> Self {
        let untagged = addresses.iter().filter(|address| address.tag == Tag::None);
        Self { untagged: untagged.map(ActualAddress::key).collect(), ..Self::default() }
    }

    /// Whether this process or an earlier one has configured an address.
    pub fn is_ours(&self, address: &ActualAddress) -> bool {
        address.is_ours() || self.adopted.contains(&address.key())
    }
}

/// An action. See [`plan`] for the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Stop announcing.
    Withdraw {
        interface: IfIndex,
        address: IpAddr,
    },
    /// Suppress the kernel's responses to ARP and ND for an address that is still configured; remove it where that fails.
    Suppress {
        interface: IfIndex,
        vip: Vip,
    },
    Remove {
        interface: IfIndex,
        vip: Vip,
    },
    /// Let the kernel respond again.
    Unsuppress {
        address: IpAddr,
    },
    /// Configure, or set the lifetime, so that the kernel drops the address before the fence.
    Hold {
        interface: IfIndex,
        vip: Vip,
        /// See [`lifetime`].
        fence_until: BootTime,
        /// The address is not configured yet.
        missing: bool,
    },
    /// Start announcing with a burst.
    Announce {
        interface: IfIndex,
        address: IpAddr,
    },
}

/// The ordered actions, and what blocks others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// In this order: withdraw, suppress, remove, unsuppress, hold, announce.
    pub actions: Vec<Action>,
    /// Addresses that another program configured on this host, which are left alone.
    pub foreign: Vec<(IfIndex, Vip)>,
}

/// The actions from `actual` to `desired`.
pub fn plan(desired: &Desired, actual: &Actual, now: BootTime) -> Plan {
    let (ours, foreign): (Vec<_>, Vec<_>) = actual
        .addresses
        .iter()
        .filter(|address| actual.managed.contains(&address.vip.address))
        .partition(|address| actual.is_ours(address));
    let mut plan = Plan { foreign: in_the_way(foreign, desired, actual), ..Plan::default() };
    let blocked: BTreeSet<IpAddr> = plan.foreign.iter().map(|(_, vip)| vip.address).collect();

    let hold = holdable(desired, &blocked, &ours, now);
    let inactive = desired.addresses.iter().filter(|(_, it)| !matches!(it, Presence::Active { .. }));
    let keep: BTreeMap<(IfIndex, Vip), Presence> = inactive.map(|(key, it)| (*key, *it)).collect();
    let held: BTreeSet<(IfIndex, IpAddr)> =
        hold.keys().map(|(interface, vip)| (*interface, vip.address)).collect();
    let withdrawn = actual.announcing.iter().filter(|target| !held.contains(target));
    plan.actions.extend(withdrawn.map(|&(interface, address)| Action::Withdraw { interface, address }));
    let stays = |address: &&&ActualAddress| {
        let key = address.key();
        !address.dad_failed && (hold.contains_key(&key) || keep.contains_key(&key))
    };
    let (staying, leaving): (Vec<&&ActualAddress>, Vec<_>) = ours.iter().partition(stays);
    let present: BTreeMap<(IfIndex, Vip), Option<Duration>> =
        staying.iter().map(|address| (address.key(), address.valid_for)).collect();
    // Where routes lead to an address no neighbour asks for it.
    for (&(interface, vip), presence) in keep.iter().filter(|(key, _)| present.contains_key(key)) {
        if *presence == Presence::Draining && !desired.quiet && !actual.suppressed.contains(&vip.address) {
            plan.actions.push(Action::Suppress { interface, vip });
        }
    }
    let removals = leaving.iter().map(|it| Action::Remove { interface: it.interface, vip: it.vip });
    plan.actions.extend(removals);
    // A draining address stays as it is. One that is removed may be here still if that fails: the next look shows it.
    let draining = keep.keys().map(|(_, vip)| vip.address);
    let removed = leaving.iter().map(|address| address.vip.address);
    let active: BTreeSet<IpAddr> = hold.keys().map(|(_, vip)| vip.address).collect();
    let kept: BTreeSet<IpAddr> = draining.chain(removed).filter(|it| !active.contains(it)).collect();
    let restored = actual.suppressed.iter().filter(|address| !kept.contains(address));
    plan.actions.extend(restored.map(|address| Action::Unsuppress { address: *address }));
    plan.actions.extend(limits(&keep, &present, now));
    let mut announce = Vec::new();
    for (&(interface, vip), &(seconds, fence_until, valid_until)) in &hold {
        let missing = !present.contains_key(&(interface, vip));
        let current = present.get(&(interface, vip)).copied().flatten();
        let until = now + Duration::from_secs(seconds.into());
        let applied = actual.fences.get(&(interface, vip)).copied();
        let agrees = applied.zip(current).is_some_and(|(applied, left)| is_close(left, applied.since(now)));
        // A lifetime that outlasts the claim is extended with a later renewal, and only if that gains enough: with many
        // addresses each extension costs.
        let lasts = applied.is_some_and(|applied| applied <= fence_until && applied >= valid_until);
        let gains = applied.is_none_or(|applied| applied > fence_until || until > applied + MIN_EXTENSION);
        // An infinite lifetime is not extended.
        let settled = seconds == 0 || (seconds == FOREVER && applied.is_some() && current.is_none());
        if missing || (!settled && (!agrees || (!lasts && gains))) {
            plan.actions.push(Action::Hold { interface, vip, fence_until, missing });
        }
        if !desired.quiet && (missing || !actual.announcing.contains(&(interface, vip.address))) {
            announce.push(Action::Announce { interface, address: vip.address });
        }
    }
    plan.actions.extend(announce);
    plan
}

/// Gives addresses of an earlier process a lifetime that have none.
fn limits(
    keep: &BTreeMap<(IfIndex, Vip), Presence>,
    present: &BTreeMap<(IfIndex, Vip), Option<Duration>>,
    now: BootTime,
) -> impl Iterator<Item = Action> {
    keep.iter().filter_map(move |(key, presence)| match presence {
        Presence::Adopted { lifetime: Some(lifetime) } if present.get(key) == Some(&None) => {
            let (interface, vip) = *key;
            Some(Action::Hold { interface, vip, fence_until: now + *lifetime, missing: false })
        }
        _ => None,
    })
}

/// The active addresses that can be held, each with the whole seconds until its fence, the fence, and the end of the claim.
///
/// Where it is too late for another second, one that is there stays until its claim or its lifetime ends.
fn holdable(
    desired: &Desired,
    blocked: &BTreeSet<IpAddr>,
    ours: &[&ActualAddress],
    now: BootTime,
) -> BTreeMap<(IfIndex, Vip), (u32, BootTime, BootTime)> {
    let there = ours.iter().filter(|it| !it.dad_failed).map(|it| (it.interface, it.vip));
    let there: BTreeSet<(IfIndex, Vip)> = there.collect();
    let active = desired.addresses.iter().filter_map(|(key, presence)| match presence {
        Presence::Active { fence_until, valid_until } => Some((*key, *fence_until, *valid_until)),
        Presence::Adopted { .. } | Presence::Draining => None,
    });
    let free = active.filter(|((_, vip), ..)| !blocked.contains(&vip.address));
    let hold = free.filter_map(|(key, fence_until, valid_until)| {
        let seconds = whole_seconds(fence_until.since(now));
        (seconds > 0 || there.contains(&key)).then_some((key, (seconds, fence_until, valid_until)))
    });
    hold.collect()
}

/// Addresses of other programs that exclude ours. On an isolated interface one does so only where ours is to go: service
/// proxies put every external address there (kube-proxy in IPVS mode).
fn in_the_way(foreign: Vec<&ActualAddress>, desired: &Desired, actual: &Actual) -> Vec<(IfIndex, Vip)> {
    let targets: BTreeSet<(IfIndex, IpAddr)> = match foreign.is_empty() {
        true => BTreeSet::new(),
        false => desired.addresses.keys().map(|(interface, vip)| (*interface, vip.address)).collect(),
    };
    let excludes = |address: &&ActualAddress| {
        !actual.isolated.contains(&address.interface)
            || targets.contains(&(address.interface, address.vip.address))
    };
    foreign.into_iter().filter(excludes).map(|address| (address.interface, address.vip)).collect()
}

/// The valid lifetime in seconds of an address that the kernel must drop before its fence, and the end of that lifetime. None
/// where no whole second is left.
pub fn lifetime(fence_until: BootTime, now: BootTime) -> Option<(u32, BootTime)> {
    let seconds = whole_seconds(fence_until.since(now));
    (seconds > 0).then(|| (seconds, now + Duration::from_secs(seconds.into())))
}

/// The kernel counts lifetimes in whole seconds; rounding up would outlive the fence.
fn whole_seconds(left: Duration) -> u32 {
    u32::try_from(left.as_secs()).unwrap_or(u32::MAX)
}

/// The kernel's infinite lifetime.
const FOREVER: u32 = u32::MAX;

/// Least gain of an extension.
const MIN_EXTENSION: Duration = Duration::from_millis(200);

/// Whether both agree within the kernel's whole seconds.
fn is_close(left: Duration, wanted: Duration) -> bool {
    left.as_secs().abs_diff(wanted.as_secs()) <= 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    fn vip(text: &str) -> Vip {
        Vip::host(text.parse().unwrap())
    }

    fn held(vips: &[&str], fence: u64) -> Desired {
        let presence = Presence::Active { fence_until: at(fence), valid_until: at(fence - 1700) };
        let addresses = vips.iter().map(|text| ((ETH0, vip(text)), presence)).collect();
        Desired { addresses, ..Desired::default() }
    }

    fn on_interface(text: &str, seconds: u64) -> ActualAddress {
        ActualAddress {
            interface: ETH0,
            vip: vip(text),
            tag: Tag::Ours,
            deprecated: true,
            valid_for: Some(Duration::from_secs(seconds)),
            dad_failed: false,
        }
    }

    fn managing(vips: &[&str]) -> Actual {
        Actual { managed: vips.iter().map(|text| vip(text).address).collect(), ..Actual::default() }
    }

    /// A host that holds `text` until `until`, with a remaining lifetime of `seconds`.
    fn holding(text: &str, until: u64, seconds: u64) -> Actual {
        let mut actual = managing(&[text]);
        actual.addresses.push(on_interface(text, seconds));
        actual.announcing.insert((ETH0, vip(text).address));
        actual.fences.insert((ETH0, vip(text)), at(until));
        actual
    }

    const ETH0: IfIndex = IfIndex(2);
    const ETH1: IfIndex = IfIndex(3);
    const A: &str = "192.0.2.1";
    const B: &str = "192.0.2.2";

    #[test]
    fn a_gain_adds_before_it_announces() {
        let plan = plan(&held(&[A, B], 4700), &managing(&[A, B]), at(10));
        let hold =
            |text| Action::Hold { interface: ETH0, vip: vip(text), fence_until: at(4700), missing: true };
        let announce = |text| Action::Announce { interface: ETH0, address: vip(text).address };
        assert_eq!(plan.actions, [hold(A), hold(B), announce(A), announce(B)]);
    }

    #[test]
    fn with_routes_an_address_is_not_announced_and_may_have_an_infinite_lifetime() {
        let never = BootTime::from_boot(Duration::MAX);
        let presence = Presence::Active { fence_until: never, valid_until: never };
        let quiet =
            Desired { addresses: [((ETH0, vip(A)), presence)].into(), quiet: true, ..Desired::default() };
        let first = plan(&quiet, &managing(&[A]), at(10));
        let [Action::Hold { fence_until, missing: true, .. }] = first.actions.as_slice() else {
            panic!("{first:?}")
        };
        let (seconds, until) = lifetime(*fence_until, at(10)).unwrap();
        assert_eq!(seconds, FOREVER);
        let mut actual = managing(&[A]);
        actual.addresses.push(ActualAddress { valid_for: None, ..on_interface(A, 0) });
        actual.fences.insert((ETH0, vip(A)), until);
        assert_eq!(plan(&quiet, &actual, at(60_000)), Plan::default());
        actual.addresses[0].valid_for = Some(Duration::from_secs(9));
        assert_eq!(plan(&quiet, &actual, at(60_000)).actions.len(), 1);
    }

    #[test]
    fn a_loss_withdraws_before_it_removes() {
        let plan = plan(&Desired::default(), &holding(A, 4010, 4), at(10));
        let address = vip(A).address;
        assert_eq!(
            plan.actions,
            [Action::Withdraw { interface: ETH0, address }, Action::Remove { interface: ETH0, vip: vip(A) }]
        );
    }

    #[test]
    fn no_action_without_a_difference() {
        assert_eq!(plan(&held(&[A], 4700), &holding(A, 4010, 3), at(1200)), Plan::default());
    }

    #[test]
    fn a_renewed_claim_extends_the_lifetime_without_a_new_announcement() {
        let plan = plan(&held(&[A], 6700), &holding(A, 4010, 2), at(2010));
        let hold = Action::Hold { interface: ETH0, vip: vip(A), fence_until: at(6700), missing: false };
        assert_eq!(plan.actions, [hold]);
    }

    #[test]
    fn a_lifetime_that_outlasts_the_claim_is_not_extended_yet() {
        let presence = |renewed: u64| Presence::Active {
            fence_until: at(renewed + 14_700),
            valid_until: at(renewed + 10_000),
        };
        let wanted = |renewed| Desired {
            addresses: [((ETH0, vip(A)), presence(renewed))].into(),
            ..Desired::default()
        };
        let actual = holding(A, 14_000, 12);
        assert_eq!(plan(&wanted(2000), &actual, at(2000)), Plan::default());
        assert_eq!(plan(&wanted(4001), &holding(A, 14_000, 10), at(4001)).actions.len(), 1);
    }

    #[test]
    fn a_lifetime_beyond_the_fence_is_shortened() {
        let plan = plan(&held(&[A], 4700), &holding(A, 6000, 5), at(1000));
        let hold = Action::Hold { interface: ETH0, vip: vip(A), fence_until: at(4700), missing: false };
        assert_eq!(plan.actions, [hold]);
    }

    #[test]
    fn the_lifetime_never_outlives_the_fence() {
        for millis in (0..4800).step_by(50) {
            match lifetime(at(4700), at(millis)) {
                Some((seconds, until)) => {
                    assert!(until <= at(4700) && until == at(millis) + Duration::from_secs(seconds.into()));
                }
                None => assert!(millis > 3700),
            }
        }
    }

    #[test]
    fn an_address_removed_by_hand_comes_back_with_an_announcement() {
        let mut actual = holding(A, 4010, 4);
        actual.addresses.clear();
        let plan = plan(&held(&[A], 4700), &actual, at(10));
        assert!(matches!(
            plan.actions.as_slice(),
            [Action::Hold { missing: true, .. }, Action::Announce { .. }]
        ));
    }

    #[test]
    fn an_address_of_the_go_program_is_adopted_and_gets_a_lifetime() {
        let mut actual = managing(&[A]);
        actual.addresses.push(ActualAddress { tag: Tag::None, valid_for: None, ..on_interface(A, 0) });
        actual.adopted.insert((ETH0, vip(A)));
        let adopted = plan(&held(&[A], 4700), &actual, at(10));
        assert!(matches!(
            adopted.actions.as_slice(),
            [Action::Hold { missing: false, .. }, Action::Announce { .. }]
        ));
        let dropped = plan(&Desired::default(), &actual, at(10));
        assert_eq!(dropped.actions, [Action::Remove { interface: ETH0, vip: vip(A) }]);
    }

    #[test]
    fn an_address_of_another_program_is_left_alone_and_reported() {
        let mut actual = managing(&[A]);
        // keepalived deprecates its IPv6 addresses, too.
        for deprecated in [false, true] {
            let foreign = ActualAddress { tag: Tag::None, deprecated, valid_for: None, ..on_interface(A, 0) };
            actual.addresses = vec![foreign];
            for desired in [held(&[A], 4700), Desired::default()] {
                let plan = plan(&desired, &actual, at(10));
                assert_eq!(
                    (plan.actions.as_slice(), plan.foreign.as_slice()),
                    (&[][..], &[(ETH0, vip(A))][..])
                );
            }
        }
    }

    /// The claim may outlast the last whole second before the fence.
    #[test]
    fn an_address_stays_to_the_end_of_its_claim_without_another_second() {
        assert_eq!(plan(&held(&[A], 3700), &holding(A, 3010, 0), at(2900)), Plan::default());
        let missing = plan(&held(&[A], 3700), &managing(&[A]), at(2900));
        assert_eq!(missing, Plan::default());
    }

    #[test]
    fn an_address_on_an_isolated_interface_is_not_in_the_way() {
        let mut actual = managing(&[A]);
        let foreign =
            ActualAddress { tag: Tag::None, deprecated: false, valid_for: None, ..on_interface(A, 0) };
        actual.addresses.push(ActualAddress { interface: ETH1, ..foreign.clone() });
        actual.isolated = [ETH1].into();
        let announced = plan(&held(&[A], 4700), &actual, at(10));
        assert!(matches!(announced.actions.as_slice(), [Action::Hold { .. }, Action::Announce { .. }]));
        assert_eq!(announced.foreign, []);
        // Ours is to go there: the other program's address would get our lifetime.
        (actual.addresses, actual.isolated) = (vec![foreign], [ETH0].into());
        let there = plan(&held(&[A], 4700), &actual, at(10));
        assert_eq!((there.actions.as_slice(), there.foreign.as_slice()), (&[][..], &[(ETH0, vip(A))][..]));
    }

    #[test]
    fn unmanaged_addresses_are_never_touched() {
        let mut actual = managing(&[A]);
        actual.addresses.push(on_interface(B, 4));
        assert_eq!(plan(&Desired::default(), &actual, at(10)), Plan::default());
    }

    #[test]
    fn another_prefix_or_interface_is_removed_before_the_right_one_is_added() {
        let mut actual = managing(&[A]);
        actual.addresses.push(ActualAddress { vip: Vip { prefix: 24, ..vip(A) }, ..on_interface(A, 4) });
        actual.addresses.push(ActualAddress { interface: ETH1, ..on_interface(A, 4) });
        let plan = plan(&held(&[A], 4700), &actual, at(10));
        assert!(matches!(
            plan.actions.as_slice(),
            [
                Action::Remove { .. },
                Action::Remove { interface: ETH1, .. },
                Action::Hold { .. },
                Action::Announce { .. }
            ]
        ));
    }

    #[test]
    fn failed_duplicate_detection_is_repaired_by_adding_again() {
        let mut actual = holding("2001:db8::1", 4010, 4);
        actual.addresses[0].dad_failed = true;
        let plan = plan(&held(&["2001:db8::1"], 4700), &actual, at(10));
        assert!(matches!(
            plan.actions.as_slice(),
            [Action::Remove { .. }, Action::Hold { missing: true, .. }, Action::Announce { .. }]
        ));
    }

    #[test]
    fn a_hand_over_suppresses_responses_until_the_address_is_removed() {
        let key = (ETH0, vip(A));
        let leaving = Desired { addresses: [(key, Presence::Draining)].into(), ..Desired::default() };
        let address = vip(A).address;
        let mut actual = holding(A, 4010, 4);
        let first = plan(&leaving, &actual, at(10));
        assert_eq!(
            first.actions,
            [
                Action::Withdraw { interface: ETH0, address },
                Action::Suppress { interface: ETH0, vip: vip(A) }
            ]
        );
        actual.announcing.clear();
        actual.suppressed.insert(address);
        assert_eq!(plan(&leaving, &actual, at(20)), Plan::default());
        // While the removal fails, the kernel would reply again.
        for millis in [30, 230] {
            let removal = plan(&Desired::default(), &actual, at(millis));
            assert_eq!(removal.actions, [Action::Remove { interface: ETH0, vip: vip(A) }]);
        }
        let again = plan(&held(&[A], 4700), &actual, at(30)).actions;
        assert_eq!(again, [Action::Unsuppress { address }, Action::Announce { interface: ETH0, address }]);
        actual.addresses.clear();
        let last = plan(&Desired::default(), &actual, at(240));
        assert_eq!(last.actions, [Action::Unsuppress { address }]);
    }

    #[test]
    fn only_an_address_that_is_here_and_announced_is_suppressed() {
        let leaving =
            Desired { addresses: [((ETH0, vip(A)), Presence::Draining)].into(), ..Desired::default() };
        let mut actual = managing(&[A]);
        // It could not be suppressed, and was removed.
        assert_eq!(plan(&leaving, &actual, at(10)), Plan::default());
        actual.addresses.push(on_interface(A, 4));
        assert_eq!(plan(&leaving, &actual, at(10)).actions.len(), 1);
        // Routers may need it until they have converged.
        assert_eq!(plan(&Desired { quiet: true, ..leaving }, &actual, at(10)), Plan::default());
    }

    #[test]
    fn an_adopted_address_is_neither_added_nor_extended_but_gets_a_lifetime_once() {
        for lifetime in [None, Some(Duration::from_millis(3700))] {
            let presence = Presence::Adopted { lifetime };
            let kept = Desired { addresses: [((ETH0, vip(A)), presence)].into(), ..Desired::default() };
            assert_eq!(plan(&kept, &managing(&[A]), at(10)), Plan::default());
            let mut actual = managing(&[A]);
            actual.addresses.push(on_interface(A, 2));
            assert_eq!(plan(&kept, &actual, at(10)), Plan::default());
            actual.addresses[0].valid_for = None;
            let hold = Action::Hold { interface: ETH0, vip: vip(A), fence_until: at(3710), missing: false };
            let expected: &[Action] = if lifetime.is_some() { &[hold] } else { &[] };
            assert_eq!(plan(&kept, &actual, at(10)).actions, expected);
        }
    }
}
