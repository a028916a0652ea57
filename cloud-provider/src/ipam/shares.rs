//! Addresses with room for another Service of a sharing group.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube_vip::model::family::number;
use kube_vip::model::service::Protocol;
use kube_vip::model::{Family, ServiceKey};

use super::{Sharing, SharingGroup};
use crate::pools::RangeSet;

type Port = (Protocol, u16);

/// For each sharing group, the addresses that only its members use, and the ports in use on them.
#[derive(Debug, Default)]
pub(super) struct Shares {
    groups: BTreeMap<(Family, SharingGroup), Share>,
    listed: BTreeMap<IpAddr, (SharingGroup, Vec<Port>)>,
}

#[derive(Debug, Default)]
struct Share {
    addresses: RangeSet,
    in_use: BTreeMap<Port, RangeSet>,
}

impl Shares {
    /// Takes the new users of an address.
    pub(super) fn update(&mut self, address: IpAddr, users: &BTreeMap<ServiceKey, Sharing>) {
        let (family, number) = (Family::of(address), number(address));
        if let Some((group, ports)) = self.listed.remove(&address)
            && let Some(share) = self.groups.get_mut(&(family, group.clone()))
        {
            share.addresses.remove(number, number);
            for port in ports {
                if let Some(in_use) = share.in_use.get_mut(&port) {
                    in_use.remove(number, number);
                    if in_use.is_empty() {
                        share.in_use.remove(&port);
                    }
                }
            }
            if share.addresses.is_empty() {
                self.groups.remove(&(family, group));
            }
        }
        let Some(group) = users.values().next().and_then(|sharing| sharing.group.clone()) else { return };
        // The ports of a Service without any are unknown: the address is not shared.
        let open = |sharing: &Sharing| sharing.group.as_ref() == Some(&group) && !sharing.ports.is_empty();
        if !users.values().all(open) {
            return;
        }
        let ports: Vec<Port> = users.values().flat_map(|sharing| sharing.ports.iter().copied()).collect();
        let share = self.groups.entry((family, group.clone())).or_default();
        share.addresses.insert(number, number);
        for port in &ports {
            share.in_use.entry(*port).or_default().insert(number, number);
        }
        self.listed.insert(address, (group, ports));
    }

    /// The lowest address within `pool` on which none of the ports is in use. Whole ranges are skipped at once:
    /// addresses are allocated in order, so that those with the same port in use are adjacent.
    pub(super) fn find(&self, pool: &RangeSet, family: Family, sharing: &Sharing) -> Option<u128> {
        let group = sharing.group.clone().filter(|_| !sharing.ports.is_empty())?;
        let share = self.groups.get(&(family, group))?;
        let in_use: Vec<&RangeSet> = sharing.ports.iter().filter_map(|port| share.in_use.get(port)).collect();
        let mut at = 0;
        loop {
            let mut next = pool.next(share.addresses.next(at)?)?;
            for ports in &in_use {
                next = ports.next_gap(next)?;
            }
            if next == at && share.addresses.contains(at) {
                return Some(at);
            }
            at = next;
        }
    }
}
