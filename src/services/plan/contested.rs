//! Addresses that a DHCP server gave though somebody in the cluster has them: a server that has lost its memory, or whose
//! range overlaps with what is given by hand. On the link that would not be noticed, where both are on one host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::addresses::{Wanted, wanted};
use super::super::leases::{self, Asking};
use super::values::Seen;
use crate::dhcp::record::Record;
use crate::dhcp::wish::LeaseKey;
use crate::model::annotation::DHCP_LEASE;
use crate::model::{ServiceKey, ServiceView};

/// Such leases, each with whose the address is, in words.
///
/// Whoever has an address keeps it: once a lease is written to its Service nobody contests it any more, and whoever asks
/// for just this address shares it on purpose with a Service that has it by hand.
pub(super) fn contested(seen: &Seen, askings: &BTreeMap<&ServiceKey, Asking>) -> BTreeMap<LeaseKey, String> {
    let asking = askings.iter().filter_map(|(key, asking)| Some((*key, seen.services.get(*key)?, asking)));
    let fresh: Vec<Claim<'_>> =
        asking.flat_map(|(key, view, asking)| claims(seen, key, view, asking)).collect();
    let mut found = BTreeMap::new();
    for claim in fresh.iter().filter(|claim| !claim.recorded) {
        let elsewhere = seen.reserved.check(claim.address).err().map(|refusal| refusal.to_string());
        let control_plane = || {
            seen.vips.contains(&claim.address).then(|| format!("{} is the control plane's", claim.address))
        };
        let by_hand = || {
            let mut others = seen.services.iter().filter(|(key, _)| *key != claim.service);
            let (other, _) = others
                .find(|(_, view)| wanted(view).contains(&Wanted::Ip(claim.address)))
                .filter(|_| !claim.asking.requested.contains(&claim.address))?;
            Some(format!("{} is Service {other}'s", claim.address))
        };
        let leased = || {
            let other = fresh.iter().find(|other| other.goes_before(claim))?;
            Some(format!("{} is Service {}'s by DHCP, too", claim.address, other.service))
        };
        let whose = elsewhere.or_else(control_plane).or_else(by_hand).or_else(leased);
        let sentence = |whose| format!("{whose}; the DHCP server that gave it is asked for another one");
        found.extend(whose.map(|whose| (claim.lease.clone(), sentence(whose))));
    }
    found
}

/// An address that a DHCP server gave to a Service.
struct Claim<'a> {
    service: &'a ServiceKey,
    created: i64,
    asking: &'a Asking,
    lease: LeaseKey,
    address: IpAddr,
    recorded: bool,
}

fn claims<'a>(
    seen: &'a Seen,
    service: &'a ServiceKey,
    view: &'a ServiceView,
    asking: &'a Asking,
) -> impl Iterator<Item = Claim<'a>> {
    asking.families.iter().filter_map(move |family| {
        let lease = leases::key(view, *family);
        let address = seen.leases.get(&lease)?.address?;
        let record = Record::find(view.annotation(DHCP_LEASE).unwrap_or_default(), *family);
        let recorded = record.is_some_and(|record| record.address == address);
        Some(Claim { service, created: view.created, asking, lease, address, recorded })
    })
}

impl Claim<'_> {
    /// Whether this one has the address, and not the other. Those that are one client to the server share it.
    fn goes_before(&self, other: &Self) -> bool {
        let rank = |claim: &Self| (!claim.recorded, claim.created, claim.service.clone());
        self.address == other.address
            && self.asking.identity.client_id() != other.asking.identity.client_id()
            && rank(self) < rank(other)
    }
}
