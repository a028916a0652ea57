//! Events about Services: problems, and addresses gained and lost.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Sources;
use super::not_announced::NotAnnounced;
use super::port_mappings::MappingReports;
use crate::cluster::event::{Event, service_reference};
use crate::model::{BootTime, GroupId, Role, Roles, ServiceKey};
use crate::planner::plan::{Issue, ServicePlan};

/// Reports each problem once, where this node is to report it.
#[derive(Debug, Default)]
pub(super) struct IssueReports {
    /// By Service and its UID: a Service that is created again has its own Events.
    reported: BTreeMap<(ServiceKey, String), BTreeSet<Issue>>,
    not_announced: NotAnnounced,
}

impl IssueReports {
    /// Problems that have not been reported yet.
    pub(super) fn update(
        &mut self,
        now: BootTime,
        sources: &Sources,
        mappings: &MappingReports,
    ) -> Vec<(ServiceKey, Event)> {
        self.not_announced.update(now, sources);
        let mut current = sources.plan.external.clone();
        for (key, service) in &sources.plan.services {
            let mut issues = sources.issues(key, service);
            issues.extend(mappings.issues(now, sources, key).into_iter().map(Issue::Gateway));
            issues.extend(self.not_announced.due(now, key).cloned());
            let object = (key.clone(), service.view.uid.clone());
            let known = self.reported.get(&object);
            let is_known = |issue: &Issue| known.is_some_and(|known| known.contains(issue));
            issues.retain(|issue| service.reports_here || is_of_this_node(issue) || is_known(issue));
            if !issues.is_empty() {
                current.entry(object).or_default().extend(issues);
            }
        }
        let mut events = Vec::new();
        for ((key, uid), issues) in &current {
            let known = self.reported.get(&(key.clone(), uid.clone()));
            for issue in issues.iter().filter(|issue| !known.is_some_and(|known| known.contains(issue))) {
                let (reason, message) = describe(issue, &sources.options.me);
                let about = service_reference(key, Some(uid.clone()));
                // Where no node leads an election, each one reports.
                let shared = !is_of_this_node(issue);
                events.push((key.clone(), Event { about, warning: true, reason, message, shared }));
            }
        }
        self.reported = current;
        events
    }

    /// When a Service has waited for long enough after `reported_at` that this is a problem.
    #[must_use]
    pub(super) fn poll_timeout(&self, reported_at: BootTime) -> Option<BootTime> {
        self.not_announced.poll_timeout(reported_at)
    }

    /// See [`NotAnnounced::lines`].
    pub(super) fn not_announced(&self, sources: &Sources) -> Vec<String> {
        self.not_announced.lines(sources)
    }
}

/// Whether no other node finds the problem.
fn is_of_this_node(issue: &Issue) -> bool {
    matches!(issue, Issue::Blocked(_) | Issue::Conflict(_))
}

/// The Event of a problem on this node: its reason and its message.
pub(super) fn describe(issue: &Issue, me: &str) -> (&'static str, String) {
    match issue {
        Issue::Refused(refusal) => ("AddressRefused", format!("{refusal}: {}", refusal.remedy())),
        Issue::Annotation(text) => ("AnnotationIgnored", text.clone()),
        Issue::Lease(text) => ("NoLease", format!("node {me}: {text}")),
        Issue::Gateway(text) => ("PortNotForwarded", text.clone()),
        Issue::Name(text) => ("NameNotPublished", text.clone()),
        Issue::Reported { address, node } => {
            let text = format!(
                "node {node} reports {address} as its own address; kube-vip still announces it: start the \
                 kubelet of {node} with --node-ip"
            );
            ("NodeReportsAddress", text)
        }
        Issue::Blocked(text) => ("AddressBlocked", format!("node {me} cannot announce it: {text}")),
        Issue::Conflict(text) => ("AddressConflict", format!("node {me} announces it, and so does {text}")),
        Issue::NotAnnounced(text) => ("NotAnnounced", text.clone()),
    }
}

impl Sources {
    /// Problems of a Service, but for those of its port mappings.
    fn issues(&self, key: &ServiceKey, service: &ServicePlan) -> BTreeSet<Issue> {
        let of = |problems: &BTreeMap<IpAddr, String>, issue: fn(String) -> Issue| {
            let found = service.addresses.iter().filter_map(|address| problems.get(address));
            found.cloned().map(issue).collect::<Vec<_>>()
        };
        let mut issues: BTreeSet<Issue> = service.issues.iter().cloned().collect();
        issues.extend(of(&self.host.blocked, Issue::Blocked));
        issues.extend(of(&self.host.conflicts, Issue::Conflict));
        issues.extend(self.name_issues(key, service));
        issues
    }

    /// Addresses lost without a hand-over since this node announced `before`.
    pub(super) fn losses(&self, before: &BTreeSet<IpAddr>, roles: &Roles) -> Vec<Event> {
        let lost: BTreeSet<IpAddr> = before.difference(&self.host.held).copied().collect();
        let me = &self.options.me;
        let mut events = Vec::new();
        for (key, service) in self.plan.services.iter().filter(|(_, service)| service.servable_here) {
            let addresses = service.addresses.iter().filter(|address| lost.contains(address));
            let addresses: Vec<String> = addresses.map(IpAddr::to_string).collect();
            let Some(group @ GroupId::Lease(lease)) = &service.group else { continue };
            let Some(Role::Follower { holder, .. }) = roles.get(group) else { continue };
            if addresses.is_empty() {
                continue;
            }
            let why = match holder.as_ref().filter(|holder| *holder != me) {
                Some(holder) => format!("Lease {lease} names {holder}"),
                None => format!("Lease {lease} could not be renewed in time"),
            };
            let text = format!("node {me} no longer announces {}: {why}", addresses.join(", "));
            events.push(self.event(key, true, "AddressLost", text));
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{HostStatus, ServiceView};
    use crate::planner::plan::Plan;

    fn sources(blocked: &[(&str, &str)]) -> Sources {
        let key = ServiceKey { namespace: "lab".into(), name: "web".into() };
        let addresses = vec!["192.0.2.1".parse().unwrap()];
        let lease = crate::model::LeaseName { namespace: "lab".into(), name: "kubevip-web".into() };
        let group = Some(GroupId::Lease(lease));
        let service = ServicePlan { addresses, group, servable_here: true, ..ServicePlan::default() };
        let blocked = blocked.iter().map(|(address, text)| (address.parse().unwrap(), (*text).to_owned()));
        Sources {
            plan: Arc::new(Plan { services: [(key, service)].into(), ..Plan::default() }),
            host: HostStatus { blocked: blocked.collect(), ..HostStatus::default() },
            ..Sources::default()
        }
    }

    #[test]
    fn a_problem_is_reported_once_and_again_when_it_has_returned() {
        let mut reports = IssueReports::default();
        let mut reported = |blocked| {
            let (now, mappings) = (BootTime::default(), MappingReports::default());
            reports.update(now, &sources(blocked), &mappings).len()
        };
        let down: &[(&str, &str)] = &[("192.0.2.1", "eth0 is down")];
        assert_eq!([reported(down), reported(down)], [1, 0]);
        assert_eq!(reported(&[("192.0.2.1", "eth0 is away")]), 1);
        assert_eq!([reported(&[]), reported(down)], [0, 1]);
        assert_eq!(reported(&[("192.0.2.2", "of another Service")]), 0);
    }

    #[test]
    fn a_problem_of_the_service_is_reported_by_one_node_and_not_again_when_it_returns_to_it() {
        let mut reports = IssueReports::default();
        let mut reported = |here: bool| {
            let mut sources = sources(&[]);
            for service in Arc::get_mut(&mut sources.plan).unwrap().services.values_mut() {
                service.reports_here = here;
                service.issues =
                    vec![Issue::Annotation("kube-vip.io/rp_filter: `3` is not 0, 1 or 2".into())];
            }
            reports.update(BootTime::default(), &sources, &MappingReports::default()).len()
        };
        assert_eq!([false, true, false, true].map(&mut reported), [0, 1, 0, 0]);
    }

    #[test]
    fn a_service_that_waits_is_reported_once_by_one_node() {
        let mut reports = IssueReports::default();
        let mut reported = |seconds, here| {
            let mut sources = sources(&[]);
            let services = &mut Arc::get_mut(&mut sources.plan).unwrap().services;
            services.values_mut().for_each(|service| service.reports_here = here);
            let now = BootTime::from_boot(std::time::Duration::from_secs(seconds));
            let events = reports.update(now, &sources, &MappingReports::default());
            assert!(events.iter().all(|(_, event)| event.reason == "NotAnnounced" && event.shared));
            events.len()
        };
        let table = [(100, true, 0), (129, true, 0), (130, false, 0), (130, true, 1), (200, true, 0)];
        for (seconds, here, expected) in table {
            assert_eq!(reported(seconds, here), expected, "{seconds} {here}");
        }
    }

    #[test]
    fn a_service_that_is_created_again_has_its_own_events() {
        let mut reports = IssueReports::default();
        let mut reported = |uid: &str| {
            let mut sources = sources(&[("192.0.2.1", "eth0 is down")]);
            for service in Arc::get_mut(&mut sources.plan).unwrap().services.values_mut() {
                service.view = Arc::new(ServiceView { uid: uid.into(), ..ServiceView::default() });
            }
            reports.update(BootTime::default(), &sources, &MappingReports::default()).len()
        };
        assert_eq!(["a", "a", "b"].map(&mut reported), [1, 0, 1]);
    }

    #[test]
    fn a_lost_address_is_reported_with_the_reason() {
        let sources = sources(&[]);
        let before = ["192.0.2.1".parse().unwrap()].into();
        let group = sources.plan.services.values().next().unwrap().group.clone().unwrap();
        let text = |holder: Option<&str>| {
            let role = Role::Follower { holder: holder.map(str::to_owned), fence_until: None };
            let events = sources.losses(&before, &[(group.clone(), role)].into());
            events.into_iter().next().unwrap().message
        };
        assert!(text(Some("node-2")).ends_with("192.0.2.1: Lease lab/kubevip-web names node-2"));
        assert!(text(None).ends_with("192.0.2.1: Lease lab/kubevip-web could not be renewed in time"));
        assert!(sources.losses(&before, &Roles::new()).is_empty());
        assert!(sources.losses(&BTreeSet::new(), &Roles::new()).is_empty());
    }
}
