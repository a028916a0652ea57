//! Who has which address, and which are free.
//!
//! The one place where addresses are given: everything is indexed, so that an allocation costs O(log n) in the
//! number of Services, whatever the size of the pool. Pure.

mod shares;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kube_vip::model::family::number;
use kube_vip::model::service::{Protocol, TrafficPolicy};
use kube_vip::model::{Family, PerFamily, ServiceKey};
use kube_vip::planner::reserved::{Refusal, Reserved};

use crate::pools::{PoolId, Pools, RangeSet};
use shares::Shares;

/// Services that may share addresses with each other: the same group and the same way of the packets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Circle {
    /// What lets them share.
    pub group: Group,
    /// `externalTrafficPolicy`.
    pub policy: TrafficPolicy,
    /// With policy Local the packets go where these endpoints are; empty with Cluster.
    pub selector: BTreeMap<String, String>,
}

/// What lets Services share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// `allow-share-*` of the ConfigMap.
    Pool,
    /// The key in an annotation.
    Key(String),
}

/// How a Service uses its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tenancy {
    /// With whom it may share; nobody when there is none.
    pub circle: Option<Circle>,
    /// Its ports.
    pub ports: Vec<(Protocol, u16)>,
}

impl Tenancy {
    /// Both can have the same address.
    fn fits(&self, other: &Self) -> bool {
        self.circle.is_some()
            && self.circle == other.circle
            && !other.ports.is_empty()
            && !self.ports.iter().any(|port| other.ports.contains(port))
    }
}

/// Addresses and their users.
#[derive(Debug, Default)]
pub struct Ipam {
    users: BTreeMap<IpAddr, BTreeMap<ServiceKey, Tenancy>>,
    held: BTreeMap<ServiceKey, BTreeSet<IpAddr>>,
    reserved: Reserved,
    pools: Vec<PerFamily<FamilyState>>,
    shares: Shares,
    releases: u64,
}

/// One family of one pool.
#[derive(Debug, Default)]
struct FamilyState {
    all: RangeSet,
    /// Free, and not yet found to be of the kind that is only given when asked for.
    free: RangeSet,
    used: u128,
}

/// IPv4 addresses that end in 0 or 255 are only given when asked for: old routers and clients take them for
/// networks and broadcasts.
fn only_on_request(family: Family, number: u128) -> bool {
    family == Family::V4 && matches!(number & 0xff, 0 | 0xff)
}

impl Ipam {
    /// Give from these pools from now on. What is held stays held.
    pub fn set_pools(&mut self, pools: &Pools) {
        self.pools = pools.pools.iter().map(|_| PerFamily::default()).collect();
        for (pool, state) in pools.pools.iter().zip(&mut self.pools) {
            for family in Family::BOTH {
                let all = pool.addresses.set(family).clone();
                state[family] = FamilyState { free: all.clone(), all, used: 0 };
            }
        }
        let taken: Vec<IpAddr> = self.users.keys().copied().collect();
        taken.into_iter().for_each(|address| self.occupy(address));
        self.exclude_reserved();
    }

    /// Replaces the addresses that no Service may have.
    pub fn set_reserved(&mut self, reserved: Reserved) {
        if reserved == self.reserved {
            return;
        }
        let before = std::mem::replace(&mut self.reserved, reserved);
        before.addresses().for_each(|address| self.give_back_to_pools(address));
        self.exclude_reserved();
    }

    fn exclude_reserved(&mut self) {
        let reserved: Vec<IpAddr> = self.reserved.addresses().collect();
        reserved.into_iter().for_each(|address| self.take_from_pools(address));
        self.releases += 1;
    }

    pub fn reserved_addresses(&self) -> &Reserved {
        &self.reserved
    }

    /// The node or control plane that has an address.
    pub fn reserved(&self, address: IpAddr) -> Option<Refusal> {
        self.reserved.owner(address)
    }

    /// From now on `key` holds exactly these addresses. Placeholders for DHCP are not held by anybody.
    pub fn hold(&mut self, key: &ServiceKey, addresses: &[IpAddr], tenancy: &Tenancy) {
        let wanted: BTreeSet<IpAddr> =
            addresses.iter().copied().filter(|address| !address.is_unspecified()).collect();
        let before = self.held.remove(key).unwrap_or_default();
        for address in before.difference(&wanted) {
            self.leave(key, *address);
        }
        for address in &wanted {
            let users = self.users.entry(*address).or_default();
            let first = users.is_empty();
            let before = users.insert(key.clone(), tenancy.clone());
            if before.as_ref() != Some(tenancy) {
                self.shares.update(*address, users);
                // A port that was given up may be what somebody waits for.
                self.releases += u64::from(before.is_some());
            }
            if first {
                self.occupy(*address);
            }
        }
        if !wanted.is_empty() {
            self.held.insert(key.clone(), wanted);
        }
    }

    /// What `key` holds, IPv4 first.
    pub fn held(&self, key: &ServiceKey) -> Vec<IpAddr> {
        self.held.get(key).into_iter().flatten().copied().collect()
    }

    /// Who has `address` and cannot share it with `key`; the first by name.
    pub fn conflict(&self, address: IpAddr, key: &ServiceKey, tenancy: &Tenancy) -> Option<&ServiceKey> {
        let users = self.users.get(&address)?;
        let mut others = users.iter().filter(|(user, _)| *user != key);
        others.find(|(_, other)| !tenancy.fits(other)).map(|(user, _)| user)
    }

    /// The lowest free address of a pool, or the highest. It is not held yet.
    pub fn free(&mut self, pool: PoolId, family: Family, descending: bool) -> Option<IpAddr> {
        let free = &mut self.pools.get_mut(pool)?[family].free;
        loop {
            let found = if descending { free.last() } else { free.first() }?;
            if !only_on_request(family, found) {
                return Some(family.address(found));
            }
            // Not met again until somebody gives it back.
            free.remove(found, found);
        }
    }

    /// The lowest address of a pool that `tenancy` can share with those who have it.
    pub fn shareable(&self, pool: PoolId, family: Family, tenancy: &Tenancy) -> Option<IpAddr> {
        let all = &self.pools.get(pool)?[family].all;
        self.shares.find(all, family, tenancy).map(|number| family.address(number))
    }

    /// How many addresses of a pool can be given without being asked for, and how many are in use.
    pub fn fill(&self, pool: PoolId, family: Family) -> (u128, u128) {
        let Some(state) = self.pools.get(pool) else { return (0, 0) };
        let state = &state[family];
        (usable(&state.all, family), state.used)
    }

    /// Changes whenever an address became free, or may have.
    pub fn releases(&self) -> u64 {
        self.releases
    }

    fn leave(&mut self, key: &ServiceKey, address: IpAddr) {
        let Some(users) = self.users.get_mut(&address) else { return };
        users.remove(key);
        self.shares.update(address, users);
        // Whoever waits may fit now even if others stay.
        self.releases += 1;
        if users.is_empty() {
            self.users.remove(&address);
            let (family, number) = (Family::of(address), number(address));
            for state in &mut self.pools {
                let state = &mut state[family];
                state.used -= u128::from(state.all.contains(number));
            }
            self.give_back_to_pools(address);
        }
    }

    /// The first user of an address came.
    fn occupy(&mut self, address: IpAddr) {
        let (family, number) = (Family::of(address), number(address));
        for state in &mut self.pools {
            let state = &mut state[family];
            state.used += u128::from(state.all.contains(number));
            state.free.remove(number, number);
        }
    }

    fn take_from_pools(&mut self, address: IpAddr) {
        let (family, number) = (Family::of(address), number(address));
        self.pools.iter_mut().for_each(|state| state[family].free.remove(number, number));
    }

    fn give_back_to_pools(&mut self, address: IpAddr) {
        if self.users.contains_key(&address) || self.reserved.owner(address).is_some() {
            return;
        }
        let (family, number) = (Family::of(address), number(address));
        for state in &mut self.pools {
            let state = &mut state[family];
            if state.all.contains(number) {
                state.free.insert(number, number);
            }
        }
    }
}

/// How many addresses of a set can be given without being asked for.
fn usable(set: &RangeSet, family: Family) -> u128 {
    if family == Family::V6 {
        return set.len();
    }
    let below = |number: u128| number / 256 * 2 + u128::from(!number.is_multiple_of(256));
    let special = set.ranges().map(|(first, last)| below(last + 1) - below(first));
    set.len().saturating_sub(special.sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usable_addresses_are_counted_without_the_ends_of_256() {
        for first in 0..300_u128 {
            for last in first..first + 600 {
                let set = RangeSet::from_iter([(first, last)]);
                let counted = (first..=last).filter(|number| !only_on_request(Family::V4, *number)).count();
                assert_eq!(usable(&set, Family::V4), counted as u128, "{first}-{last}");
            }
        }
    }
}
