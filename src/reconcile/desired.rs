//! The desired state of this host, computed from roles, placed addresses and routes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{BootTime, IfIndex, Prefix, Role, Roles, RouteAttributes, Routes, Vip, VipPlan};

/// Everything that the desired state depends on. One value; the latest wins.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    pub groups: Vec<PlacedGroup>,
    /// This host's role in each VIP group, and the group's routes.
    pub routes: Vec<(Role, Arc<Routes>)>,
    /// Aggregates of plain routes.
    pub aggregates: Vec<Prefix>,
    /// See [`Desired::quiet`].
    pub quiet: bool,
    /// Addresses that a successor announced during a hand-over.
    pub succeeded: BTreeSet<IpAddr>,
    /// Whether an IPv4 address may stay, without announcements, after the claim expired and until the kernel drops it
    /// (`vip_preserve_on_leadership_loss`).
    pub preserve: bool,
    /// What an infinite lifetime of an elected group's address becomes until this host's role is known.
    pub adopted_lifetime: Duration,
}

/// A VIP group on this host.
#[derive(Debug, Clone, PartialEq)]
pub struct PlacedGroup {
    pub role: Role,
    /// By a Lease: its addresses are on one host.
    pub elected: bool,
    /// By interface.
    pub addresses: BTreeSet<(IfIndex, Vip)>,
}

/// The desired state of this host.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Desired {
    /// By interface index and address. Every other address of ours is removed.
    pub addresses: BTreeMap<(IfIndex, Vip), Presence>,
    /// Routes to advertise.
    pub routes: Routes,
    /// Addresses are not announced on their segment.
    pub quiet: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// Of an earlier process: kept if present, neither added, extended nor announced.
    Adopted {
        /// What an infinite lifetime becomes: without one the address would stay for as long as no API server answers.
        lifetime: Option<Duration>,
    },
    /// Kept if present, with the kernel's responses to ARP and ND suppressed: neither added, extended nor announced.
    Draining,
    /// Configured and announced while the claim is valid.
    Active {
        /// The kernel must drop it before then.
        fence_until: BootTime,
        /// The kernel must not drop it before then: the end of the claim.
        valid_until: BootTime,
    },
}

/// After the withdrawal of its routes a host accepts packets for this long: routers need time to converge.
pub const DRAIN_TAIL: Duration = Duration::from_millis(200);

/// The desired state at `now`. Claims are checked here, at the moment of use.
pub fn desired(inputs: &Inputs, now: BootTime) -> Desired {
    let mut desired = Desired { quiet: inputs.quiet, ..Desired::default() };
    desired.routes = aggregated(routes(inputs, now), &inputs.aggregates);
    for group in &inputs.groups {
        for (interface, vip) in &group.addresses {
            let Some(presence) = presence(inputs, group, vip, now) else { continue };
            // An address in two groups is active if it is in either.
            let entry = desired.addresses.entry((*interface, *vip)).or_insert(presence);
            *entry = presence.max(*entry);
        }
    }
    desired
}

/// When the desired state of `now` changes although plan and roles do not: a claim or a fence expires, or a hand-over ends.
pub fn next_change(plan: &VipPlan, roles: &Roles, now: BootTime) -> Option<BootTime> {
    let changes = plan.groups_with_roles(roles).filter_map(|(_, _, role)| match role {
        Role::Leader(claim) => Some(claim.valid_until),
        Role::HandingOver { until } if now + DRAIN_TAIL < *until => Some(*until - DRAIN_TAIL),
        Role::HandingOver { until } => Some(*until),
        Role::Follower { fence_until, .. } => *fence_until,
        Role::Starting => None,
    });
    changes.filter(|at| *at > now).min()
}

/// Routes of the groups that this host leads. During a hand-over they are advertised as draining first (RFC 8326).
fn routes(inputs: &Inputs, now: BootTime) -> Routes {
    let mut routes = Routes::new();
    for (role, of_group) in &inputs.routes {
        if role.claim(now).is_some() {
            routes.extend(of_group.iter().map(|(prefix, path)| (*prefix, path.clone())));
        }
    }
    for (role, of_group) in &inputs.routes {
        if matches!(role, Role::HandingOver { until } if now + DRAIN_TAIL < *until) {
            for (prefix, path) in of_group.iter() {
                let draining =
                    || Arc::new(RouteAttributes { draining: true, ..RouteAttributes::clone(path) });
                routes.entry(*prefix).or_insert_with(draining);
            }
        }
    }
    routes
}

/// Replaces plain routes by the aggregate that contains them. Routes with attributes stay: routers treat them differently.
fn aggregated(mut routes: Routes, aggregates: &[Prefix]) -> Routes {
    for aggregate in aggregates {
        let inside = |prefix: &Prefix| prefix.length > aggregate.length && aggregate.contains(prefix.address);
        let (within, rest): (Routes, Routes) = routes.into_iter().partition(|(prefix, _)| inside(prefix));
        routes = rest;
        let plain = |path: &RouteAttributes| {
            *path == RouteAttributes { draining: path.draining, ..RouteAttributes::default() }
        };
        let (given_up, kept): (Routes, Routes) = within.into_iter().partition(|(_, path)| plain(path));
        // The aggregate drains once all its routes do.
        let path = given_up.values().min_by_key(|path| path.draining).or_else(|| kept.values().next());
        if let Some(path) = path {
            let path = RouteAttributes { draining: path.draining, ..RouteAttributes::default() };
            routes.insert(*aggregate, Arc::new(path));
        }
        routes.extend(kept);
    }
    routes
}

fn presence(inputs: &Inputs, group: &PlacedGroup, vip: &Vip, now: BootTime) -> Option<Presence> {
    if let Some(claim) = group.role.claim(now) {
        return Some(Presence::Active { fence_until: claim.fence_until, valid_until: claim.valid_until });
    }
    match &group.role {
        Role::Starting => {
            Some(Presence::Adopted { lifetime: group.elected.then_some(inputs.adopted_lifetime) })
        }
        Role::HandingOver { until } if now < *until && !inputs.succeeded.contains(&vip.address) => {
            Some(Presence::Draining)
        }
        // An IPv6 address would fail the next holder's duplicate address detection.
        Role::Follower { fence_until: Some(fence_until), .. }
            if now < *fence_until && inputs.preserve && vip.address.is_ipv4() =>
        {
            Some(Presence::Draining)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::{Claim, ClaimSource, GroupId, GroupPlan, LeaseName};

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    fn inputs(role: Role) -> Inputs {
        let vips = ["192.0.2.1", "2001:db8::1"].map(|address| Vip::host(address.parse().unwrap()));
        let addresses = vips.map(|vip| (IfIndex(2), vip)).into();
        let routes = vips.map(|vip| (Prefix::host(vip.address), Arc::default())).into();
        Inputs {
            groups: vec![PlacedGroup { role: role.clone(), elected: true, addresses }],
            routes: vec![(role, Arc::new(routes))],
            aggregates: Vec::new(),
            succeeded: BTreeSet::new(),
            preserve: false,
            adopted_lifetime: Duration::from_millis(3700),
            quiet: false,
        }
    }

    fn claim() -> Role {
        Role::Leader(Claim {
            since: at(0),
            valid_until: at(3000),
            fence_until: at(4700),
            source: ClaimSource::Lease,
        })
    }

    fn presences(inputs: &Inputs, now: BootTime) -> Vec<Presence> {
        desired(inputs, now).addresses.into_values().collect()
    }

    #[test]
    fn a_valid_claim_activates_every_address_until_its_fence() {
        let held = Presence::Active { fence_until: at(4700), valid_until: at(3000) };
        assert_eq!(presences(&inputs(claim()), at(2999)), [held, held]);
    }

    #[test]
    fn an_expired_claim_activates_nothing() {
        assert_eq!(presences(&inputs(claim()), at(3000)), []);
    }

    #[test]
    fn addresses_of_an_earlier_process_stay_while_starting() {
        let mut inputs = inputs(Role::Starting);
        let limited = Presence::Adopted { lifetime: Some(Duration::from_millis(3700)) };
        assert_eq!(presences(&inputs, at(0)), [limited, limited]);
        // Without an election no other host waits for the address.
        inputs.groups[0].elected = false;
        let kept = Presence::Adopted { lifetime: None };
        assert_eq!(presences(&inputs, at(0)), [kept, kept]);
    }

    #[test]
    fn a_hand_over_keeps_an_address_silently_until_the_successor_has_it() {
        let mut inputs = inputs(Role::HandingOver { until: at(500) });
        let kept = Presence::Draining;
        assert_eq!(presences(&inputs, at(499)), [kept, kept]);
        inputs.succeeded.insert("192.0.2.1".parse().unwrap());
        assert_eq!(presences(&inputs, at(499)), [kept]);
        assert_eq!(presences(&inputs, at(500)), []);
    }

    #[test]
    fn preserving_keeps_ipv4_alone_and_only_until_the_fence() {
        let role = Role::Follower { holder: None, fence_until: Some(at(4700)) };
        let preserving = Inputs { preserve: true, ..inputs(role.clone()) };
        assert_eq!(presences(&preserving, at(4699)), [Presence::Draining]);
        assert_eq!(presences(&preserving, at(4700)), []);
        assert_eq!(presences(&inputs(role), at(4699)), []);
    }

    /// The main loop reconciles at this moment and not before.
    #[test]
    fn the_desired_state_is_the_same_until_the_next_change() {
        let handing_over = Role::HandingOver { until: at(3700) };
        let follower = Role::Follower { holder: None, fence_until: Some(at(4700)) };
        let id = GroupId::Lease(LeaseName { namespace: "default".into(), name: "web".into() });
        for role in [Role::Starting, claim(), handing_over, follower] {
            let inputs = Inputs { preserve: true, ..inputs(role.clone()) };
            let plan = VipPlan { groups: [(id.clone(), GroupPlan::default())].into(), ..VipPlan::default() };
            let roles = Roles::from([(id.clone(), role.clone())]);
            for now in (0..6000).step_by(100).map(at) {
                let end = next_change(&plan, &roles, now).unwrap_or(at(9000));
                assert!(now < end, "{role:?}: {now:?}");
                let last = BootTime::from_boot(end.since(at(1)));
                assert_eq!(desired(&inputs, now), desired(&inputs, last), "{role:?}: {now:?} and {last:?}");
            }
        }
    }

    fn announced(inputs: &Inputs, now: BootTime) -> Vec<(String, bool)> {
        let routes = desired(inputs, now).routes;
        routes.iter().map(|(prefix, path)| (prefix.to_string(), path.draining)).collect()
    }

    fn both(draining: bool) -> [(String, bool); 2] {
        ["192.0.2.1/32", "2001:db8::1/128"].map(|text| (text.to_owned(), draining))
    }

    #[test]
    fn routes_follow_the_claim_and_drain_before_a_hand_over_ends() {
        assert_eq!(announced(&inputs(claim()), at(2999)), both(false));
        assert_eq!(announced(&inputs(claim()), at(3000)), []);
        assert_eq!(announced(&inputs(Role::Starting), at(0)), []);
        let leaving = inputs(Role::HandingOver { until: at(500) });
        assert_eq!(announced(&leaving, at(299)), both(true));
        // Packets are still accepted.
        assert_eq!(announced(&leaving, at(300)), []);
        assert_eq!(presences(&leaving, at(499)).len(), 2);
        // A route of another leading group stays.
        let mut two = inputs(claim());
        two.routes.extend(leaving.routes);
        assert_eq!(announced(&two, at(0)), both(false));
    }

    #[test]
    fn an_aggregate_replaces_plain_routes() {
        let mut inputs = inputs(claim());
        inputs.aggregates = vec!["192.0.2.0/24".parse().unwrap(), "198.51.100.0/24".parse().unwrap()];
        let path = Arc::new(RouteAttributes { med: Some(1), ..RouteAttributes::default() });
        inputs.routes.push((claim(), Arc::new([("192.0.2.9/32".parse().unwrap(), path)].into())));
        let expected =
            ["192.0.2.0/24", "192.0.2.9/32", "2001:db8::1/128"].map(|text| (text.to_owned(), false));
        assert_eq!(announced(&inputs, at(0)), expected);
    }

    #[test]
    fn an_address_of_two_groups_is_active_if_it_is_in_either() {
        let following = Role::Follower { holder: None, fence_until: None };
        let leaving = Role::HandingOver { until: at(500) };
        let held = Presence::Active { fence_until: at(4700), valid_until: at(3000) };
        for other in [following, leaving, Role::Starting] {
            for order in [[claim(), other.clone()], [other, claim()]] {
                let groups = order.map(|role| inputs(role).groups.remove(0)).into();
                let both = Inputs { groups, ..inputs(claim()) };
                assert_eq!(presences(&both, at(0)), [held, held]);
            }
        }
    }
}
