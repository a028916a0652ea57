//! Leases of addresses that are in use in the cluster: from a DHCP server that has lost its leases, or whose range overlaps
//! with static addresses. A probe does not detect that where both are on one host.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::super::addresses::{Wanted, wanted};
use super::super::leases::{self, DhcpSpec};
use super::super::policy::addresses;
use super::super::policy::limits::MAX_ADDRESSES;
use super::super::reserved::Refusal;
use super::values::{ClusterState, PlanContext};
use crate::dhcp::saved_lease::SavedLease;
use crate::dhcp::spec::LeaseKey;
use crate::model::annotation::DHCP_LEASE;
use crate::model::{ServiceKey, ServiceView};

/// Such leases, each with the owner of its address.
///
/// The present owner keeps an address: a lease recorded in its Service is uncontested while it is extended.
pub(super) fn lease_conflicts(
    context: &PlanContext,
    state: &ClusterState,
    specs: &BTreeMap<&ServiceKey, DhcpSpec>,
) -> BTreeMap<LeaseKey, String> {
    let requests = specs.iter().filter_map(|(key, spec)| Some((*key, state.services.get(*key)?, spec)));
    let claims: Vec<Claim<'_>> =
        requests.flat_map(|(key, view, spec)| claims(state, key, view, spec)).collect();
    if claims.iter().all(|claim| claim.recorded) {
        return BTreeMap::new();
    }
    let by_hand = by_hand(context, state);
    let whose = |claim: &Claim<'_>| {
        let address = claim.address;
        let reserved = || match state.reserved.check(address) {
            Err(refusal) => Some(refusal.to_string()),
            Ok(()) => state.vips.contains(&address).then(|| Refusal::ControlPlane(address).to_string()),
        };
        let given_by_hand = || {
            let mut others = by_hand.get(&address)?.iter().filter(|other| **other != claim.service);
            Some(format!("{address} belongs to Service {}", others.next()?))
        };
        let leased = || {
            let other = claims.iter().find(|other| other.goes_before(claim))?;
            Some(format!("{address} is leased to Service {}, too", other.service))
        };
        reserved().or_else(given_by_hand).or_else(leased)
    };
    let sentence = |whose| format!("{whose}; the DHCP server that gave it is asked for another one");
    let new = claims.iter().filter(|claim| !claim.recorded);
    new.filter_map(|claim| Some((claim.lease.clone(), sentence(whose(claim)?)))).collect()
}

/// Static addresses of Services: those in the status, and those that a Service may have. Others are not in use, and declining
/// them would take them from all hosts of the network.
fn by_hand<'a>(context: &PlanContext, state: &'a ClusterState) -> BTreeMap<IpAddr, Vec<&'a ServiceKey>> {
    let mut found: BTreeMap<IpAddr, Vec<&ServiceKey>> = BTreeMap::new();
    for (key, view) in &state.services {
        let covered = context.rules.covers(key, view);
        let may_have =
            |address| covered && addresses::check(&context.policy, state, (key, view), address).is_ok();
        for wanted in wanted(view).into_iter().take(MAX_ADDRESSES) {
            if let Wanted::Ip(address) = wanted
                && (view.status.iter().any(|entry| entry.ip == Some(address)) || may_have(address))
            {
                found.entry(address).or_default().push(key);
            }
        }
    }
    found
}

/// A leased address of a Service.
struct Claim<'a> {
    service: &'a ServiceKey,
    created: i64,
    spec: &'a DhcpSpec,
    lease: LeaseKey,
    address: IpAddr,
    recorded: bool,
}

fn claims<'a>(
    state: &'a ClusterState,
    service: &'a ServiceKey,
    view: &'a ServiceView,
    spec: &'a DhcpSpec,
) -> impl Iterator<Item = Claim<'a>> {
    spec.families.iter().filter_map(move |family| {
        let lease = leases::key(view, *family);
        let held = state.leases.get(&lease)?;
        let address = held.address?;
        let written = SavedLease::find(view.annotation(DHCP_LEASE).unwrap_or_default(), *family);
        let recorded =
            written.zip(held.saved.as_ref()).is_some_and(|(written, now)| written.continues_as(now));
        Some(Claim { service, created: view.created, spec, lease, address, recorded })
    })
}

impl Claim<'_> {
    /// Whether this lease has precedence. Leases of one client ID share the address.
    fn goes_before(&self, other: &Self) -> bool {
        let rank = |claim: &Self| (!claim.recorded, claim.created, claim.service.clone());
        self.address == other.address
            && self.spec.identity.client_id() != other.spec.identity.client_id()
            && rank(self) < rank(other)
    }
}
