//! Addresses from DHCP servers, where the provider runs the DHCP clients itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use kube_vip::dhcp::identity::is_generated;
use kube_vip::dhcp::saved_lease::SavedLease;
use kube_vip::dhcp::spec::{ClientSpec, ClientStatus, LeaseKey};
use kube_vip::model::annotation::{DHCP_LEASE, HARDWARE_ADDRESS};
use kube_vip::model::interface::hardware_text;
use kube_vip::model::text::quoted;
use kube_vip::model::{Family, InterfaceSelector, ServiceKey, ServiceView};
use kube_vip::planner::leases::{self, DhcpSpec, Records};

use super::decide::Allocator;
use super::patch::Patch;
use super::reason::Reason;
use crate::ipam::Sharing;

/// State of the DHCP clients.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DhcpState {
    /// The interface of the DHCP clients.
    pub interface: String,
    /// Services may choose any hardware address.
    pub any_hardware_address: bool,
    pub leases: BTreeMap<LeaseKey, ClientStatus>,
    /// Invalid annotations of Services, as messages.
    pub invalid: BTreeMap<ServiceKey, Vec<String>>,
}

impl DhcpState {
    /// The leases to request for these Services and families. Also returns the creation times and keys of Services
    /// for which the set of invalid annotations has changed.
    pub(super) fn requests<'a>(
        &mut self,
        services: impl Iterator<Item = (&'a ServiceKey, &'a ServiceView, &'a BTreeSet<Family>)>,
    ) -> (BTreeMap<LeaseKey, ClientSpec>, Vec<(i64, ServiceKey)>) {
        let mut specs: Vec<(&ServiceKey, &ServiceView, DhcpSpec)> =
            services.map(|(key, view, families)| (key, view, self.spec(view, families))).collect();
        leases::disambiguate_client_ids(specs.iter_mut().map(|(key, view, spec)| (*key, *view, spec)));
        let invalid = specs.iter().filter(|(.., spec)| !spec.wrong.is_empty());
        let invalid = invalid.map(|(key, _, spec)| ((*key).clone(), spec.wrong.clone())).collect();
        let before = std::mem::replace(&mut self.invalid, invalid);
        let changed = specs.iter().filter(|(key, ..)| before.get(key) != self.invalid.get(key));
        let changed = changed.map(|(key, view, _)| (view.created, (*key).clone())).collect();
        let interface = InterfaceSelector::Named(self.interface.clone());
        let requests =
            specs.iter().flat_map(|(_, view, spec)| spec.client_specs(view, &interface, Records::All));
        (requests.map(|(key, request)| (key, ClientSpec { active: true, ..request })).collect(), changed)
    }

    /// The request of a Service for these families, without a hardware address that it may not have.
    fn spec(&self, view: &ServiceView, families: &BTreeSet<Family>) -> DhcpSpec {
        let families = families.iter().copied().collect();
        let given = view.annotation(HARDWARE_ADDRESS);
        let refused = given.filter(|text| !self.any_hardware_address && !is_generated(text, &view.uid));
        let Some(refused) = refused else { return DhcpSpec::for_families(view, families, None) };
        let mut permitted = view.clone();
        permitted.annotations.remove(HARDWARE_ADDRESS);
        let mut spec = DhcpSpec::for_families(&permitted, families, None);
        spec.wrong.push(format!(
            "{HARDWARE_ADDRESS}: {} may be another host's: {} is used; the provider's --dhcp-hardware-addresses permits it",
            quoted(refused),
            hardware_text(&spec.identity.mac)
        ));
        spec
    }
}

/// The keys of the leases of a Service.
pub(super) fn keys(view: &ServiceView, families: &BTreeSet<Family>) -> impl Iterator<Item = LeaseKey> {
    families.iter().map(move |family| leases::key(view, *family))
}

impl Allocator<'_> {
    /// The leased address of a Service. Without DHCP clients in this process it is the placeholder, for which the
    /// announcing node requests a lease.
    pub(super) fn leased(
        &mut self,
        (key, view): (&ServiceKey, &ServiceView),
        family: Family,
        sharing: &Sharing,
    ) -> Result<IpAddr, Reason> {
        let Some(dhcp) = self.dhcp else { return Ok(family.address(0)) };
        self.dhcp_families.insert(family);
        let lease_key = leases::key(view, family);
        let lease = dhcp.leases.get(&lease_key);
        let Some(address) = lease.and_then(|lease| lease.address) else {
            let trouble = lease.and_then(|lease| lease.last_error.clone());
            return Err(Reason::Lease { interface: dhcp.interface.clone(), family, trouble });
        };
        let Some(reason) = self.conflict(address, key, sharing, "DHCP") else { return Ok(address) };
        self.lease_conflicts.push((lease_key, reason.to_string()));
        Err(reason)
    }

    /// Whether a Service has lost an address that it had: its lease has ended, or it is the placeholder and this
    /// process runs the DHCP clients.
    pub(super) fn is_lost(&mut self, view: &ServiceView, address: IpAddr) -> bool {
        let family = Family::of(address);
        let text = view.annotation(DHCP_LEASE).unwrap_or_default();
        let leased = SavedLease::find(text, family).is_some_and(|record| record.address == address);
        match self.dhcp {
            Some(_) if address.is_unspecified() => true,
            Some(dhcp) if leased => {
                self.dhcp_families.insert(family);
                // A new session does not have the state of the lease yet.
                let lease = dhcp.leases.get(&leases::key(view, family));
                lease.is_some_and(|lease| lease.address != Some(address))
            }
            // The announcing node renews the lease.
            None if leased => true,
            _ => false,
        }
    }

    /// The invalid annotations of a Service with leases.
    pub(super) fn invalid_annotations(&self, key: &ServiceKey) -> Option<String> {
        let invalid = self.dhcp?.invalid.get(key)?;
        (!self.dhcp_families.is_empty()).then(|| invalid.join("; "))
    }

    /// Writes what another process needs to renew the leases, once the state of all of them is known.
    pub(super) fn write_leases(&self, view: &ServiceView, patch: &mut Patch) {
        let Some(dhcp) = self.dhcp else { return };
        let held = keys(view, &self.dhcp_families).map(|key| dhcp.leases.get(&key));
        let Some(held) = held.collect::<Option<Vec<&ClientStatus>>>() else { return };
        for (name, value) in leases::annotations(&dhcp.spec(view, &self.dhcp_families), held) {
            patch.annotate(view, name, value.as_deref());
        }
    }
}
