//! Addresses, their users, and which are free: pure.
//!
//! Everything is indexed: an allocation costs O(log n) in the number of Services, whatever the size of the pool.

mod shares;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kube_vip::model::family::number;
use kube_vip::model::service::{Protocol, TrafficPolicy};
use kube_vip::model::{Family, PerFamily, ServiceKey};
use kube_vip::planner::reserved::Reserved;

use crate::pools::{PoolId, Pools, RangeSet};
use shares::Shares;

/// Services of one group may share addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SharingGroup {
    pub key: SharingKey,
    /// `externalTrafficPolicy`.
    pub policy: TrafficPolicy,
    /// With policy Local, the selector of the endpoints that packets are delivered to; empty with Cluster.
    pub selector: BTreeMap<String, String>,
}

/// The permission to share.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum SharingKey {
    /// `allow-share-*` of the ConfigMap.
    Pool,
    /// The value of the annotation `kube-vip.io/sharing-key`.
    Annotation(String),
}

/// How a Service uses its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sharing {
    /// None: its addresses are exclusive.
    pub group: Option<SharingGroup>,
    pub ports: Vec<(Protocol, u16)>,
}

impl Sharing {
    /// Whether two Services can have the same address.
    fn fits(&self, other: &Self) -> bool {
        self.group.is_some()
            && self.group == other.group
            && !other.ports.is_empty()
            && !self.ports.iter().any(|port| other.ports.contains(port))
    }
}

#[derive(Debug, Default)]
pub struct Ipam {
    users: BTreeMap<IpAddr, BTreeMap<ServiceKey, Sharing>>,
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
    /// Free addresses. Those that are allocated only on request are taken out when the search meets them.
    free: RangeSet,
    used: u128,
}

/// Whether an address is allocated only on request: old routers and clients take IPv4 addresses that end in 0 or 255
/// for networks and broadcasts.
fn only_on_request(family: Family, number: u128) -> bool {
    family == Family::V4 && matches!(number & 0xff, 0 | 0xff)
}

impl Ipam {
    /// Replaces the pools. Addresses in use stay in use.
    pub fn set_pools(&mut self, pools: &Pools) {
        self.pools = pools.pools.iter().map(|_| PerFamily::default()).collect();
        for (pool, state) in pools.pools.iter().zip(&mut self.pools) {
            for family in Family::BOTH {
                let all = pool.addresses.set(family).clone();
                state[family] = FamilyState { free: all.clone(), all, used: 0 };
            }
        }
        let in_use: Vec<IpAddr> = self.users.keys().copied().collect();
        in_use.into_iter().for_each(|address| self.occupy(address));
        self.exclude_reserved();
    }

    /// Replaces the addresses that no Service may have.
    pub fn set_reserved(&mut self, reserved: Reserved) {
        if reserved == self.reserved {
            return;
        }
        let before = std::mem::replace(&mut self.reserved, reserved);
        before.addresses().for_each(|address| self.return_to_pools(address));
        self.exclude_reserved();
    }

    fn exclude_reserved(&mut self) {
        for address in self.reserved.addresses() {
            take_from_pools(&mut self.pools, address);
        }
        self.releases += 1;
    }

    pub fn reserved(&self) -> &Reserved {
        &self.reserved
    }

    /// From now on `key` holds exactly these addresses. Placeholders for DHCP are held by no Service.
    pub fn hold(&mut self, key: &ServiceKey, addresses: &[IpAddr], sharing: &Sharing) {
        let wanted: BTreeSet<IpAddr> =
            addresses.iter().copied().filter(|address| !address.is_unspecified()).collect();
        let before = self.held.remove(key).unwrap_or_default();
        for address in before.difference(&wanted) {
            self.release(key, *address);
        }
        for address in &wanted {
            let users = self.users.entry(*address).or_default();
            let first = users.is_empty();
            let before = users.insert(key.clone(), sharing.clone());
            if before.as_ref() != Some(sharing) {
                self.shares.update(*address, users);
                // A waiting Service may need a port that was released.
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

    /// The addresses that `key` holds, IPv4 first.
    pub fn held(&self, key: &ServiceKey) -> Vec<IpAddr> {
        self.held.get(key).into_iter().flatten().copied().collect()
    }

    /// The first user of `address`, by name, that cannot share it with `key`.
    pub fn conflict(&self, address: IpAddr, key: &ServiceKey, sharing: &Sharing) -> Option<&ServiceKey> {
        let users = self.users.get(&address)?;
        let mut others = users.iter().filter(|(user, _)| *user != key);
        others.find(|(_, other)| !sharing.fits(other)).map(|(user, _)| user)
    }

    /// Whether `key` can have `address`.
    pub fn is_available(&self, address: IpAddr, key: &ServiceKey, sharing: &Sharing) -> bool {
        self.conflict(address, key, sharing).is_none() && self.reserved.owner(address).is_none()
    }

    /// The lowest free address of a pool, or the highest. It is not held yet.
    pub fn next_free(&mut self, pool: PoolId, family: Family, descending: bool) -> Option<IpAddr> {
        let free = &mut self.pools.get_mut(pool)?[family].free;
        loop {
            let found = if descending { free.last() } else { free.first() }?;
            if !only_on_request(family, found) {
                return Some(family.address(found));
            }
            free.remove(found, found);
        }
    }

    /// The lowest address of a pool that a Service can share with its users.
    pub fn shareable(&self, pool: PoolId, family: Family, sharing: &Sharing) -> Option<IpAddr> {
        let all = &self.pools.get(pool)?[family].all;
        self.shares.find(all, family, sharing).map(|number| family.address(number))
    }

    /// How many addresses a pool has, without those that are allocated only on request, and how many are in use.
    pub fn usage(&self, pool: PoolId, family: Family) -> (u128, u128) {
        let Some(state) = self.pools.get(pool) else { return (0, 0) };
        let state = &state[family];
        (size(&state.all, family), state.used)
    }

    /// Increases whenever an address, or a port of one, may have become free.
    pub fn releases(&self) -> u64 {
        self.releases
    }

    fn release(&mut self, key: &ServiceKey, address: IpAddr) {
        let Some(users) = self.users.get_mut(&address) else { return };
        users.remove(key);
        self.shares.update(address, users);
        // A waiting Service may fit now even if other users remain.
        self.releases += 1;
        if users.is_empty() {
            self.users.remove(&address);
            let (family, number) = (Family::of(address), number(address));
            for state in &mut self.pools {
                let state = &mut state[family];
                state.used -= u128::from(state.all.contains(number));
            }
            self.return_to_pools(address);
        }
    }

    /// Counts the first user of an address.
    fn occupy(&mut self, address: IpAddr) {
        let (family, number) = (Family::of(address), number(address));
        for state in &mut self.pools {
            let state = &mut state[family];
            state.used += u128::from(state.all.contains(number));
            state.free.remove(number, number);
        }
    }

    fn return_to_pools(&mut self, address: IpAddr) {
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

fn take_from_pools(pools: &mut [PerFamily<FamilyState>], address: IpAddr) {
    let (family, number) = (Family::of(address), number(address));
    pools.iter_mut().for_each(|state| state[family].free.remove(number, number));
}

/// The number of addresses in a set, without those that are allocated only on request.
fn size(set: &RangeSet, family: Family) -> u128 {
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
    fn the_size_of_a_set_leaves_out_addresses_that_end_in_0_or_255() {
        for first in 0..300_u128 {
            for last in first..first + 600 {
                let set = RangeSet::from_iter([(first, last)]);
                let counted = (first..=last).filter(|number| !only_on_request(Family::V4, *number)).count();
                assert_eq!(size(&set, Family::V4), counted as u128, "{first}-{last}");
            }
        }
    }
}
