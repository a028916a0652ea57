//! Events and status about the DHCP leases of Services.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Sources;
use crate::cluster::event::Event;
use crate::dhcp::fsm::ClientState;
use crate::dhcp::spec::{ClientStatus, LeaseKey};
use crate::dhcp::status::LeaseStatus;
use crate::model::ServiceKey;
use crate::planner::control_plane::ControlPlane;

/// The state of leases.
pub(super) type Leases = BTreeMap<LeaseKey, ClientStatus>;

impl Sources {
    /// Leases that were requested or obtained, as Events.
    pub(super) fn lease_events(&self, before: &Leases, after: &Leases) -> Vec<Event> {
        let owners = self.lease_owners();
        let news = after.iter().filter_map(|(key, lease)| {
            let (reason, text) = self.lease_news(key, before.get(key), lease)?;
            Some(self.event(owners.get(key.owner.as_str())?, false, reason, text))
        });
        news.collect()
    }

    /// Leases for `kube-vip status`.
    pub(super) fn lease_lines(
        &self,
        control_plane: Option<&ControlPlane>,
        leases: &Leases,
    ) -> Vec<LeaseStatus> {
        let owners = self.lease_owners();
        let line = |(key, lease): (&LeaseKey, &ClientStatus)| {
            let owner = match owners.get(key.owner.as_str()) {
                Some(service) => service.to_string(),
                None => control_plane.filter(|it| it.owns(key)).map(|_| "control plane".to_owned())?,
            };
            Some(LeaseStatus::of(&owner, key, lease))
        };
        leases.iter().filter_map(line).collect()
    }

    /// The leases of Services with this address.
    pub(super) fn leases_of_services<'a>(
        &self,
        leases: &'a Leases,
        address: IpAddr,
    ) -> impl Iterator<Item = &'a LeaseKey> {
        let owners: BTreeSet<String> = self.lease_owners().into_keys().map(str::to_owned).collect();
        let leased = leases.iter().filter(move |(_, lease)| lease.address == Some(address));
        leased.map(|(key, _)| key).filter(move |key| owners.contains(&key.owner))
    }

    /// Services by UID.
    fn lease_owners(&self) -> BTreeMap<&str, &ServiceKey> {
        let leased = self.plan.services.iter().filter(|(_, service)| service.dhcp.is_some());
        leased.map(|(key, service)| (service.view.uid.as_str(), key)).collect()
    }

    fn lease_news(
        &self,
        key: &LeaseKey,
        before: Option<&ClientStatus>,
        after: &ClientStatus,
    ) -> Option<(&'static str, String)> {
        let (me, family) = (&self.options.me, key.family);
        let address = |lease: &ClientStatus| lease.address.filter(|_| lease.state != ClientState::Standby);
        match (before.and_then(address), address(after)) {
            (before, Some(address)) if before != Some(address) && after.state == ClientState::Bound => {
                let server = after.saved.as_ref().map(|lease| lease.server.to_string()).unwrap_or_default();
                Some(("AddressLeased", format!("node {me} has {address} from the DHCP server {server}")))
            }
            (None, None)
                if after.state == ClientState::Selecting
                    && before.is_none_or(|lease| lease.state == ClientState::Standby) =>
            {
                let interface = self.plan.leases.get(key).map(|spec| spec.interface.as_str());
                let interface = interface.unwrap_or_default();
                let text = format!("node {me} asks for an {family} address by DHCP on interface {interface}");
                Some(("AskingForLease", text))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::dhcp::identity::Identity;
    use crate::model::{Family, ServiceView};
    use crate::planner::leases::DhcpSpec;
    use crate::planner::plan::{Plan, ServicePlan};

    /// The address of the control plane is defended: without it the cluster has no API server.
    #[test]
    fn a_conflict_concerns_the_leases_of_services_alone() {
        let view = ServiceView { uid: "web-uid".into(), ..ServiceView::default() };
        let identity =
            Identity { mac: Identity::mac_of("web-uid"), hostname: None, by_mac: false, broadcast: true };
        let dhcp =
            DhcpSpec { families: vec![Family::V4], identity, requested: Vec::new(), wrong: Vec::new() };
        let service = ServicePlan { view: Arc::new(view), dhcp: Some(dhcp), ..ServicePlan::default() };
        let key = ServiceKey { namespace: "lab".into(), name: "web".into() };
        let plan = Plan { services: [(key, service)].into(), ..Plan::default() };
        let sources = Sources { plan: Arc::new(plan), ..Sources::default() };
        let address: IpAddr = [192, 0, 2, 1].into();
        let of = |owner: &str| LeaseKey { owner: owner.to_owned(), family: Family::V4 };
        let lease = ClientStatus {
            address: Some(address),
            saved: None,
            state: ClientState::Bound,
            probed: false,
            last_error: None,
        };
        let leases: Leases =
            ["web-uid", "kube-system/plndr-cp-lock"].map(|owner| (of(owner), lease.clone())).into();
        let found: Vec<&LeaseKey> = sources.leases_of_services(&leases, address).collect();
        assert_eq!(found, [&of("web-uid")]);
    }
}
