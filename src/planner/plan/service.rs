//! The plan of one Service: its addresses, whether they can be served, and what is wrong with its annotations.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::addresses::{Wanted, wanted};
use super::super::leases;
use super::super::placement::macvlan;
use super::super::policy::addresses;
use super::super::policy::limits::{Limit, MAX_ADDRESSES, MAX_NAMES};
use super::super::reserved::Refusal;
use super::super::routes::attributes;
use super::elections::requested_lease;
use super::values::{ClusterState, Issue, PlanContext, ServicePlan};
use crate::dhcp::fsm::ClientState;
use crate::dhcp::spec::LeaseKey;
use crate::model::annotation::{LEASE_NAME, NOT_YET, SERVICE_VLAN, WITHOUT_ENDPOINTS};
use crate::model::interface::vlan_of;
use crate::model::service::TrafficPolicy;
use crate::model::text::quoted;
use crate::model::validation::{is_dhcp_word, is_name};
use crate::model::{Family, ServiceKey, ServiceView};

/// What the plan of a Service depends on, beside the Service.
pub(super) struct Surroundings<'a> {
    pub(super) context: &'a PlanContext,
    pub(super) state: &'a ClusterState,
    /// See [`super::Plan::lease_conflicts`].
    pub(super) conflicts: &'a BTreeMap<LeaseKey, String>,
}

impl Surroundings<'_> {
    /// Plans a Service's addresses, and whether they can be served. Returns the DNS names to resolve for it.
    pub(super) fn plan(&self, key: &ServiceKey, service: &mut ServicePlan) -> BTreeSet<String> {
        let (context, state) = (self.context, self.state);
        let view = service.view.clone();
        self.add_leased(key, service);
        let names = self.add_requested(key, service);
        let reported = service.addresses.iter().filter_map(|address| {
            let node = state.reserved.reported_by(*address)?.to_owned();
            Some(Issue::Reported { address: *address, node })
        });
        service.issues.extend(reported);
        let forced = match view.annotation(WITHOUT_ENDPOINTS) {
            Some(value) => value.eq_ignore_ascii_case("true"),
            None => context.policy.without_endpoints,
        };
        match view.traffic_policy {
            // Its endpoints are deleted with it; it keeps its address until its port mappings are closed.
            _ if service.terminating => (service.has_endpoints, service.servable_here) = (true, true),
            TrafficPolicy::Cluster if forced => (service.has_endpoints, service.servable_here) = (true, true),
            _ => self.find_endpoints(key, service),
        }
        let mut problems = annotation_problems(context, key, &view);
        if context.routes.is_some() {
            let (attributes, wrong) = attributes(&view);
            service.attributes = attributes;
            problems.extend(wrong);
        }
        service.issues.extend(problems.into_iter().map(Issue::Annotation));
        names
    }

    /// Notes for which families of a Service's addresses there are endpoints.
    fn find_endpoints(&self, key: &ServiceKey, service: &mut ServicePlan) {
        let endpoints = &self.state.endpoints;
        let families = service.families();
        let anywhere = |family: &Family| endpoints.any(key, *family);
        let here = |family: &Family| match service.view.traffic_policy {
            TrafficPolicy::Cluster => anywhere(family),
            TrafficPolicy::Local => endpoints.on(key, &self.context.me, *family),
        };
        let (has_endpoints, servable_here) = (families.iter().any(anywhere), families.iter().any(here));
        let served = |family: &Family| if servable_here { here(family) } else { anywhere(family) };
        let unserved = families.iter().copied().find(|family| has_endpoints && !served(family));
        (service.has_endpoints, service.servable_here) = (has_endpoints, servable_here);
        service.unserved = unserved;
        service.has_slices = endpoints.exist(key);
    }

    /// Adds leased addresses, and the annotations with the leases.
    fn add_leased(&self, key: &ServiceKey, service: &mut ServicePlan) {
        let Some(dhcp) = service.dhcp.clone() else { return };
        let view = service.view.clone();
        service.issues.extend(dhcp.wrong.iter().cloned().map(Issue::Annotation));
        let mut uncontested = Vec::new();
        let mut known = true;
        for family in &dhcp.families {
            let lease_key = leases::key(&view, *family);
            let Some(lease) = self.state.leases.get(&lease_key) else {
                known = false;
                continue;
            };
            if let Some(conflict) = self.conflicts.get(&lease_key) {
                service.issues.push(Issue::Lease(conflict.clone()));
                continue;
            }
            service.issues.extend(lease.last_error.clone().map(Issue::Lease));
            match lease.address.map(|address| self.check(key, &view, address)) {
                Some(Err(refusal)) => service.refuse(refusal),
                Some(Ok(())) | None => service.addresses.extend(lease.address),
            }
            service.unresolved |= lease.address.is_none();
            uncontested.push(lease);
        }
        service.unresolved |= !known;
        // A node that only follows a lease, or has not started its client yet, has no more than these annotations.
        if known && uncontested.iter().all(|lease| lease.state != ClientState::Standby) {
            service.lease_annotations = leases::annotations(&dhcp, uncontested);
        }
    }

    /// Adds the addresses of annotations, spec and status. Returns the DNS names among them.
    fn add_requested(&self, key: &ServiceKey, service: &mut ServicePlan) -> BTreeSet<String> {
        let view = service.view.clone();
        let mut names = BTreeSet::new();
        for wanted in wanted(&view) {
            let found = match wanted {
                Wanted::Ip(address) if address.is_unspecified() => continue,
                // The address for the name is leased.
                Wanted::Name(_) if service.dhcp.is_some() => continue,
                Wanted::Ip(address) => vec![address],
                Wanted::Name(name) if !is_name(&name) || is_dhcp_word(&name) => {
                    service.refuse(Refusal::Malformed(name));
                    continue;
                }
                Wanted::Name(name) if names.len() == MAX_NAMES && !names.contains(&name) => {
                    service.refuse(Refusal::Limit(Limit::Names));
                    continue;
                }
                Wanted::Name(name) => {
                    let found = self.state.names.get(&name).cloned().unwrap_or_default();
                    // The names may have other addresses on other hosts.
                    service.unresolved = true;
                    names.insert(name);
                    found
                }
            };
            for address in found {
                match self.check(key, &view, address) {
                    Err(refusal) => service.refuse(refusal),
                    Ok(()) if service.addresses.contains(&address) => {}
                    Ok(()) if service.addresses.len() == MAX_ADDRESSES => {
                        service.refuse(Refusal::Limit(Limit::Addresses));
                    }
                    Ok(()) => service.addresses.push(address),
                }
            }
        }
        names
    }

    fn check(&self, key: &ServiceKey, view: &ServiceView, address: IpAddr) -> Result<(), Refusal> {
        addresses::check(&self.context.policy, self.state, (key, view), address)
    }
}

/// Annotations about interfaces and elections that cannot be applied.
fn annotation_problems(context: &PlanContext, key: &ServiceKey, view: &ServiceView) -> Vec<String> {
    let not_yet =
        NOT_YET.iter().filter(|(name, _)| view.annotation(name).is_some_and(|value| value != "false"));
    let not_yet = not_yet.map(|(name, what)| {
        format!("{name}: {what} is not available in this version; the Service is announced without it")
    });
    let mut problems: Vec<String> = not_yet.collect();
    if let Some(Err(wrong)) = macvlan(view, &context.main_interface) {
        problems.push(wrong);
    }
    if let Some(vlan) = view.annotation(SERVICE_VLAN).filter(|vlan| vlan_of(vlan).is_none()) {
        problems.push(format!(
            "{SERVICE_VLAN}: {} is not `<parent>.<VLAN ID>`, such as eth0.200, with an ID from 1 to 4094",
            quoted(vlan)
        ));
    }
    let lease = requested_lease(key, view);
    if let Some(Err(wrong)) = &lease {
        problems.push(wrong.clone());
    }
    if lease.is_some() && view.traffic_policy == TrafficPolicy::Local {
        problems.push(format!(
            "{LEASE_NAME}: Services with externalTrafficPolicy Local are elected alone, since only some nodes can \
             serve them; remove the annotation, or set the policy to Cluster"
        ));
    }
    problems
}
