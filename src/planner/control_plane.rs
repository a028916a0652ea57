//! The control plane's VIPs as a group like any other, with addresses from the configuration, DNS or DHCP. It is planned
//! before any API server has answered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::plan::{ClusterState, Plan, PlanContext};
use crate::config::Prefixes;
use crate::config::dhcp::ControlPlaneDhcp;
use crate::dhcp::fsm::ClientState;
use crate::dhcp::identity::{Identity, Name, parse_mac};
use crate::dhcp::saved_lease::SavedLease;
use crate::dhcp::spec::{ClientSpec, ClientStatus, LeaseKey};
use crate::election::LeaseMetadata;
use crate::mdns;
use crate::mdns::records::HostRecord;
use crate::model::annotation::{DHCP_LEASE, HARDWARE_ADDRESS, VIPS};
use crate::model::interface::hardware_text;
use crate::model::{
    AddressSpec, BootTime, Candidacy, CandidacyKind, Family, GroupId, GroupPlan, InterfaceSelector,
    LeaseName, PrefixLength, Roles, Vip,
};

/// Configuration of the control plane's VIPs.
#[derive(Debug, Clone)]
pub struct ControlPlane {
    /// `vip_leasename`, whether it is elected on or not.
    pub lease: LeaseName,
    /// One group elected on the Lease, or the groups without election.
    pub groups: Vec<GroupId>,
    pub interface: String,
    pub prefixes: Prefixes,
    /// Addresses in the configuration.
    pub fixed: BTreeSet<Vip>,
    /// DNS names in the configuration.
    pub names: BTreeSet<String>,
    pub dhcp: Option<ControlPlaneDhcp>,
    /// The host name published by mDNS, and the API server's port.
    pub mdns: Option<(String, u16)>,
    /// This host still has all VIPs from an earlier process.
    pub resuming: bool,
}

impl ControlPlane {
    /// The VIPs as far as they are known.
    pub fn vips(&self, state: &ClusterState) -> BTreeSet<Vip> {
        let vip = |address: IpAddr| Vip { address, prefix: self.prefixes.of(address) };
        if self.dhcp.is_some() {
            return self.leases(state).filter_map(|(_, lease)| lease.address).map(vip).collect();
        }
        let resolved = self.names.iter().filter_map(|name| state.names.get(name)).flatten();
        self.fixed.iter().copied().chain(resolved.map(|address| vip(*address))).collect()
    }

    /// The group that an address moves with.
    pub fn group_of(&self, address: IpAddr) -> Option<&GroupId> {
        self.groups.iter().find(|group| match group {
            GroupId::ControlPlane(Some(family)) => *family == Family::of(address),
            GroupId::ControlPlane(None) | GroupId::Lease(_) | GroupId::EveryNode => true,
        })
    }

    /// Whether this host holds a valid claim to the VIPs.
    pub fn is_leader(&self, roles: &Roles, now: BootTime) -> bool {
        self.groups.iter().any(|group| roles.get(group).is_some_and(|role| role.claim(now).is_some()))
    }

    /// Adds `addresses` to the groups that they move with.
    pub(super) fn join(&self, plan: &mut Plan, addresses: impl IntoIterator<Item = AddressSpec>) {
        for spec in addresses {
            if let Some(group) = self.group_of(spec.address) {
                plan.groups.entry(group.clone()).or_default().addresses.insert(spec);
            }
        }
    }

    /// Plans the groups, the names to resolve and the DHCP leases to obtain.
    pub(super) fn plan(&self, state: &ClusterState, plan: &mut Plan) {
        for group in &self.groups {
            let candidacy = match group {
                GroupId::Lease(_) => Candidacy {
                    eligible: true,
                    resuming: self.resuming,
                    kind: CandidacyKind::ControlPlane,
                    ..Candidacy::default()
                },
                GroupId::ControlPlane(_) | GroupId::EveryNode => Candidacy::default(),
            };
            plan.groups.insert(group.clone(), GroupPlan { candidacy, ..GroupPlan::default() });
        }
        let interface = InterfaceSelector::Named(self.interface.clone());
        let specs = self.vips(state).into_iter().map(|vip| AddressSpec {
            address: vip.address,
            prefix: PrefixLength::Fixed(vip.prefix),
            interface: interface.clone(),
        });
        self.join(plan, specs);
        plan.names.extend(self.names.iter().filter(|_| self.dhcp.is_none()).cloned());
        plan.leases.extend(self.client_specs(&state.control_plane_lease));
    }

    /// The keys of the control plane's DHCP leases.
    fn key(&self, family: Family) -> LeaseKey {
        LeaseKey { owner: self.lease.to_string(), family }
    }

    pub fn owns(&self, key: &LeaseKey) -> bool {
        self.dhcp.is_some() && key.owner == self.lease.to_string()
    }

    fn leases<'a>(
        &'a self,
        state: &'a ClusterState,
    ) -> impl Iterator<Item = (&'a LeaseKey, &'a ClientStatus)> {
        state.leases.iter().filter(|(key, _)| self.owns(key))
    }

    /// The Lease's UID distinguishes this cluster from others with the same names; a Lease that was created again carries
    /// the hardware address that servers know in an annotation.
    fn client_specs(&self, lease: &LeaseMetadata) -> BTreeMap<LeaseKey, ClientSpec> {
        let Some(dhcp) = &self.dhcp else { return BTreeMap::new() };
        let annotation = |name: &str| lease.annotations.get(name).map(String::as_str);
        let own = lease.uid.as_deref().map(Identity::mac_of);
        let Some(mac) = annotation(HARDWARE_ADDRESS).and_then(parse_mac).or(own) else {
            return BTreeMap::new();
        };
        let hostname = dhcp.name.as_deref().and_then(|name| Name::new(name, true));
        let identity = Identity { mac, hostname, by_mac: false, broadcast: true };
        let text = annotation(DHCP_LEASE).unwrap_or_default();
        let spec = |family: &Family| ClientSpec {
            interface: self.interface.clone(),
            managed: false,
            identity: identity.clone(),
            requested: None,
            active: false,
            saved: SavedLease::find(text, *family),
        };
        dhcp.families.iter().map(|family| (self.key(*family), spec(family))).collect()
    }

    /// Annotations that the Lease should carry: the VIPs, for processes that announce Services alone, and what the next leader
    /// needs to continue the DHCP leases.
    pub fn lease_annotations(&self, state: &ClusterState) -> Vec<(&'static str, String)> {
        let vips: Vec<String> = state.vips.iter().map(IpAddr::to_string).collect();
        let vips = (!vips.is_empty()).then(|| (VIPS, vips.join(",")));
        vips.into_iter().chain(self.dhcp_annotations(state)).collect()
    }

    fn dhcp_annotations(&self, state: &ClusterState) -> Vec<(&'static str, String)> {
        let held: Vec<&ClientStatus> = self.leases(state).map(|(_, held)| held).collect();
        // A host that only follows the lease has no more than these annotations.
        if held.is_empty() || held.iter().any(|held| held.state == ClientState::Standby) {
            return Vec::new();
        }
        let records =
            held.iter().filter(|held| held.address.is_some()).filter_map(|held| held.saved.as_ref());
        let text = records.map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let lease = &state.control_plane_lease;
        let own = lease.uid.as_deref().map(Identity::mac_of);
        let own = own.filter(|_| !lease.annotations.contains_key(HARDWARE_ADDRESS));
        let first = own.map(|own| (HARDWARE_ADDRESS, hardware_text(&own)));
        first.into_iter().chain([(DHCP_LEASE, text)]).collect()
    }

    /// The host record to publish by mDNS while this host is leader.
    pub fn host_record(&self, vips: &BTreeSet<Vip>) -> Option<HostRecord> {
        let (name, port) = self.mdns.clone()?;
        let addresses: BTreeSet<IpAddr> = vips.iter().map(|vip| vip.address).collect();
        (!addresses.is_empty()).then(|| mdns::records::control_plane(name, addresses, port))
    }
}

/// The addresses of all VIPs.
pub(super) fn vips(context: &PlanContext, state: &ClusterState) -> BTreeSet<Vip> {
    context.control_plane.as_ref().map(|control_plane| control_plane.vips(state)).unwrap_or_default()
}
