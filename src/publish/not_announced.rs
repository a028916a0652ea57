//! Why a Service has no announced address.
//!
//! Each Service that this program is responsible for is announced, or has a reason: one Event by one node, and a line in
//! `kube-vip status`. A problem with an Event of its own is the reason; [`Issue::NotAnnounced`] is any other.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Sources;
use super::events::describe;
use crate::model::annotation::{IGNORE, IMPLEMENTATION, LOAD_BALANCER_IPS, WITHOUT_ENDPOINTS};
use crate::model::service::TrafficPolicy;
use crate::model::text::quoted;
use crate::model::{BootTime, Family, GroupId, ServiceKey};
use crate::planner::addresses::{Wanted, wanted};
use crate::planner::plan::{Issue, Plan, ServicePlan};

/// A provider, an election and the first endpoints usually take less: a Service that waits for longer has an Event.
const USUAL_WAIT: Duration = Duration::from_secs(30);
/// Nodes and DNS names that a message lists.
const MAX_LISTED: usize = 3;

/// The Services that wait, each with the reason and since when it is that.
#[derive(Debug, Default)]
pub(super) struct NotAnnounced {
    reasons: BTreeMap<ServiceKey, (Issue, BootTime)>,
}

impl NotAnnounced {
    pub(super) fn update(&mut self, now: BootTime, sources: &Sources) {
        let plan = &sources.plan;
        let provider = has_provider(plan);
        let mut before = std::mem::take(&mut self.reasons);
        for (key, service) in plan.services.iter().filter(|(key, _)| !plan.ignored.contains(*key)) {
            let Some(issue) = reason(sources, provider, service) else { continue };
            let since =
                before.remove(key).filter(|(known, _)| *known == issue).map_or(now, |(_, since)| since);
            self.reasons.insert(key.clone(), (issue, since));
        }
    }

    /// The reason that an Event has to report, if none does so already.
    pub(super) fn due(&self, now: BootTime, key: &ServiceKey) -> Option<&Issue> {
        let (issue, since) = self.reasons.get(key)?;
        (matches!(issue, Issue::NotAnnounced(_)) && now >= *since + USUAL_WAIT).then_some(issue)
    }

    /// When a reason is due that was not at `reported_at`.
    #[must_use]
    pub(super) fn poll_timeout(&self, reported_at: BootTime) -> Option<BootTime> {
        let own = self.reasons.values().filter(|(issue, _)| matches!(issue, Issue::NotAnnounced(_)));
        let ends = own.map(|(_, since)| *since + USUAL_WAIT);
        ends.filter(|end| *end > reported_at).min()
    }

    /// Each Service that waits, and each that is ignored, with the reason.
    pub(super) fn lines(&self, sources: &Sources) -> Vec<String> {
        let with_reason = self.reasons.iter().map(|(key, (issue, _))| {
            let (_, text) = describe(issue, &sources.options.me);
            format!("{key}: {text}")
        });
        let ignored = sources.plan.ignored.iter();
        with_reason.chain(ignored.map(|key| format!("{key}: ignored, {IGNORE} is \"true\""))).collect()
    }
}

/// Whether the cloud provider manages any Service.
fn has_provider(plan: &Plan) -> bool {
    let (label, value) = IMPLEMENTATION;
    let mut labels = plan.services.values().map(|service| &service.view.labels);
    labels.any(|labels| labels.get(label).is_some_and(|found| found == value))
}

/// Why no node announces an address of the Service, as far as this node knows; none if one does. `provider`: see
/// [`has_provider`].
fn reason(sources: &Sources, provider: bool, service: &ServicePlan) -> Option<Issue> {
    if service.terminating || is_announced(sources, service) {
        return None;
    }
    explanation(sources, service).or_else(|| {
        let text = without_peer(sources, service)
            .or_else(|| without_address(provider, service))
            .or_else(|| without_endpoints(service))
            .or_else(|| without_local_endpoint(sources, service))
            .unwrap_or_else(|| without_node(sources, service));
        Some(Issue::NotAnnounced(text))
    })
}

/// Whether this node announces an address of the Service, or another one as far as this node knows.
fn is_announced(sources: &Sources, service: &ServicePlan) -> bool {
    let options = &sources.options;
    if is_held(sources, service) {
        return !options.bgp || sources.has_session;
    }
    let written = service.view.announced_in_status().any(|address| service.addresses.contains(&address));
    let by_another =
        written || (!options.write_status && service.has_endpoints && !service.addresses.is_empty());
    match (&service.group, &service.leader) {
        // What the leader does not announce, no other node announces, whatever the status says.
        (_, Some(leader)) => by_another && leader.node != options.me,
        // Without a leader, too; that of the control plane is not among the known ones.
        (Some(group @ GroupId::Lease(_)), None) => by_another && options.control_plane.contains(group),
        (_, None) => by_another,
    }
}

fn is_held(sources: &Sources, service: &ServicePlan) -> bool {
    service.servable_here && sources.held(service).next().is_some()
}

/// A problem that has an Event of its own.
fn explanation(sources: &Sources, service: &ServicePlan) -> Option<Issue> {
    let is_of_address = |issue: &&Issue| matches!(issue, Issue::Refused(_) | Issue::Lease(_));
    let of_address = service.issues.iter().find(is_of_address).filter(|_| service.addresses.is_empty());
    of_address.cloned().or_else(|| {
        let mut blocked = service.addresses.iter().filter_map(|address| sources.host.blocked.get(address));
        blocked.next().cloned().map(Issue::Blocked)
    })
}

/// It is advertised, and no peer receives that.
fn without_peer(sources: &Sources, service: &ServicePlan) -> Option<String> {
    is_held(sources, service).then(|| {
        format!(
            "node {} advertises it to no BGP peer, since no session is established: see the lines `BGP peer` of \
             `kube-vip status` on that node",
            sources.options.me
        )
    })
}

fn without_address(provider: bool, service: &ServicePlan) -> Option<String> {
    if !service.addresses.is_empty() {
        return None;
    }
    if service.dhcp.is_some() {
        // Without a leader no node asks.
        let node = &service.leader.as_ref()?.node;
        return Some(format!(
            "node {node} asks for an address by DHCP and has none yet: see the lines `DHCP` of `kube-vip status` on that node"
        ));
    }
    let wanted = wanted(&service.view).into_iter();
    let names = wanted.filter_map(|wanted| match wanted {
        Wanted::Name(name) => Some(quoted(&name).to_string()),
        Wanted::Ip(_) => None,
    });
    let names: Vec<String> = names.collect();
    let text = match (names.is_empty(), provider) {
        (false, _) => format!(
            "the DNS name {} has no address: add a record of the family of dns_mode, or ask for an address in {LOAD_BALANCER_IPS}",
            list(&names)
        ),
        (true, true) => format!(
            "the Service asks for no address in {LOAD_BALANCER_IPS}, and kube-vip-cloud-provider has given it none: see its \
             Events on the Service, and `kube-vip-cloud-provider pools`"
        ),
        (true, false) => format!(
            "the Service asks for no address in {LOAD_BALANCER_IPS}, and no address provider has given it one: install \
             kube-vip-cloud-provider, or set the annotation"
        ),
    };
    Some(text)
}

fn without_endpoints(service: &ServicePlan) -> Option<String> {
    let view = &service.view;
    let mut addresses = service.addresses.iter();
    let family = Family::of(*addresses.next().filter(|_| !service.has_endpoints)?);
    let family = match addresses.all(|address| Family::of(*address) == family) {
        true => format!("{family} "),
        false => String::new(),
    };
    let remedy = match (service.has_slices, view.selector.is_empty()) {
        (true, _) => "check the pods that its selector matches",
        (false, false) => "it has no EndpointSlice: check kube-controller-manager, which creates them",
        (false, true) => "it has neither a selector nor an EndpointSlice: add one of them",
    };
    let despite = match view.traffic_policy {
        TrafficPolicy::Cluster => format!("; {WITHOUT_ENDPOINTS}: \"true\" announces it nevertheless"),
        TrafficPolicy::Local => String::new(),
    };
    Some(format!("the Service has no ready {family}endpoints: {remedy}{despite}"))
}

/// The nodes with endpoints are not the ones that could announce it.
fn without_local_endpoint(sources: &Sources, service: &ServicePlan) -> Option<String> {
    if !service.misses_endpoint() {
        return None;
    }
    let options = &sources.options;
    let nodes = match service.serving_nodes.as_slice() {
        [] => "its endpoints name no node".to_owned(),
        nodes => format!("its endpoints are on {}", list(nodes)),
    };
    let cluster = "set externalTrafficPolicy to Cluster";
    let text = match (&service.group, &service.leader) {
        (Some(group), Some(leader)) => {
            let remedy = match options.common.as_ref() == Some(group) {
                true => "set svc_local_election for all agents, if none is of the Go program",
                false => "run kube-vip there",
            };
            format!(
                "externalTrafficPolicy is Local, and node {}, which leads Lease {group}, has no endpoint; {nodes}: {remedy}, or \
                 {cluster}",
                leader.node
            )
        }
        (Some(group), None) if options.control_plane.contains(group) => format!(
            "externalTrafficPolicy is Local, and the node with the control plane's VIP has no endpoint; {nodes}: {cluster}"
        ),
        _ => format!(
            "externalTrafficPolicy is Local, and no agent announces it on a node with an endpoint; {nodes}: run kube-vip there \
             with the name of the Node as vip_nodename, see `kube-vip status` there, or {cluster}"
        ),
    };
    let problem = sources.plan.node_problem.as_ref().map(|problem| format!("; {problem}"));
    Some(text + &problem.unwrap_or_default())
}

/// Nothing is wrong with the Service, and no node announces it.
fn without_node(sources: &Sources, service: &ServicePlan) -> String {
    let checks = "check, with `kube-vip status` on the nodes, that kube-vip runs, is not drained, reaches an API server, and \
                  that its interface is up";
    let Some(GroupId::Lease(lease)) = &service.group else {
        return format!("no node announces it: {checks}");
    };
    match (&service.leader, sources.refused.get(lease)) {
        (Some(leader), _) => format!(
            "node {}, which leads Lease {lease}, does not announce it: see `kube-vip status` and the log of kube-vip on that node",
            leader.node
        ),
        (None, Some((verb, why))) => format!(
            "no node leads Lease {lease}, and the API server refuses to {verb} it: {why}; apply the role that `kube-vip manifest \
             rbac` prints, or correct what the message names"
        ),
        (None, None) => format!("no node leads Lease {lease}: {checks}"),
    }
}

/// The first of them.
fn list(names: &[String]) -> String {
    let listed: Vec<&str> = names.iter().take(MAX_LISTED).map(String::as_str).collect();
    let others = if names.len() > MAX_LISTED { " and others" } else { "" };
    format!("{}{others}", listed.join(", "))
}

#[cfg(test)]
mod tests;
