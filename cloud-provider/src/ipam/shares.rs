//! Which addresses have room for another Service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use kube_vip::model::family::number;
use kube_vip::model::service::Protocol;
use kube_vip::model::{Family, ServiceKey};

use super::{Circle, Tenancy};
use crate::pools::RangeSet;

type Port = (Protocol, u16);

/// For each circle, the addresses that only its members have, and those among them where a port is taken.
#[derive(Debug, Default)]
pub(super) struct Shares {
    circles: BTreeMap<(Family, Circle), Share>,
    listed: BTreeMap<IpAddr, (Circle, Vec<Port>)>,
}

#[derive(Debug, Default)]
struct Share {
    addresses: RangeSet,
    taken: BTreeMap<Port, RangeSet>,
}

impl Shares {
    /// The users of an address changed.
    pub(super) fn update(&mut self, address: IpAddr, users: &BTreeMap<ServiceKey, Tenancy>) {
        let (family, number) = (Family::of(address), number(address));
        if let Some((circle, ports)) = self.listed.remove(&address)
            && let Some(share) = self.circles.get_mut(&(family, circle.clone()))
        {
            share.addresses.remove(number, number);
            for port in ports {
                if let Some(taken) = share.taken.get_mut(&port) {
                    taken.remove(number, number);
                    if taken.is_empty() {
                        share.taken.remove(&port);
                    }
                }
            }
            if share.addresses.is_empty() {
                self.circles.remove(&(family, circle));
            }
        }
        let Some(circle) = users.values().next().and_then(|tenancy| tenancy.circle.clone()) else { return };
        // Somebody without ports is not known to leave room.
        let open = |tenancy: &Tenancy| tenancy.circle.as_ref() == Some(&circle) && !tenancy.ports.is_empty();
        if !users.values().all(open) {
            return;
        }
        let ports: Vec<Port> = users.values().flat_map(|tenancy| tenancy.ports.iter().copied()).collect();
        let share = self.circles.entry((family, circle.clone())).or_default();
        share.addresses.insert(number, number);
        for port in &ports {
            share.taken.entry(*port).or_default().insert(number, number);
        }
        self.listed.insert(address, (circle, ports));
    }

    /// The lowest address within `pool` where none of the ports is taken. Whole ranges are passed over at once:
    /// addresses are given in order, so that those with the same port lie side by side.
    pub(super) fn find(&self, pool: &RangeSet, family: Family, tenancy: &Tenancy) -> Option<u128> {
        let circle = tenancy.circle.clone().filter(|_| !tenancy.ports.is_empty())?;
        let share = self.circles.get(&(family, circle))?;
        let taken: Vec<&RangeSet> = tenancy.ports.iter().filter_map(|port| share.taken.get(port)).collect();
        let mut at = 0;
        loop {
            let mut next = pool.next(share.addresses.next(at)?)?;
            for taken in &taken {
                next = taken.next_gap(next)?;
            }
            if next == at && share.addresses.contains(at) {
                return Some(at);
            }
            at = next;
        }
    }
}
