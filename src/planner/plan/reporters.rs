//! Which node leads the group of each Service, and which one reports its problems: one node, however many plan it.

use std::collections::BTreeSet;

use super::elections::is_served_by;
use super::values::{ClusterState, Leader, Plan};
use crate::model::annotation::VIP_HOST;
use crate::model::{CandidacyKind, GroupId};

/// Nodes with endpoints that a message names.
const MAX_SERVING_NODES: usize = 4;

/// The node that announces a Service reports its problems. Where no node does, one of the nodes that lead an election of Services
/// does: the first by name that can serve it, else the first of all; where there is no such node, each one.
pub(super) fn assign_reporters(me: &str, state: &ClusterState, plan: &mut Plan) {
    let leader = |group: &GroupId| match group {
        GroupId::Lease(lease) => {
            let holder = state.holders.get(lease).filter(|holder| holder.is_current)?;
            Some(holder.identity.as_str())
        }
        GroupId::ControlPlane(_) | GroupId::EveryNode => None,
    };
    let elections = plan.groups.iter().filter(|(_, group)| group.candidacy.kind == CandidacyKind::Services);
    let leaders: BTreeSet<&str> = elections.filter_map(|(group, _)| leader(group)).collect();
    for (key, service) in &mut plan.services {
        let serves = |node: &str| is_served_by(state, key, service, node);
        let leads = service.group.as_ref().and_then(leader);
        let announcing = leads.or_else(|| {
            // A node that has left stays in the annotation until another one announces the Service.
            let host = service.view.annotation(VIP_HOST)?;
            (leaders.is_empty() || leaders.contains(host)).then_some(host)
        });
        let other = || leaders.iter().find(|node| serves(node)).or(leaders.first()).copied();
        let reports_here = announcing.or_else(other).is_none_or(|node| node == me);
        let leader = leads.map(|node| Leader { node: node.to_owned(), serves: serves(node) });
        service.reports_here = reports_here;
        service.leader = leader;
        if service.misses_endpoint() {
            let nodes = state.endpoints.nodes(key).into_iter().take(MAX_SERVING_NODES);
            service.serving_nodes = nodes.map(str::to_owned).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::service::TrafficPolicy;
    use crate::model::{GroupPlan, Holder, LeaseName, ServiceKey, ServiceView};
    use crate::planner::endpoints::{Endpoint, Slice};
    use crate::planner::plan::ServicePlan;

    fn lease(name: &str) -> LeaseName {
        LeaseName { namespace: "shop".into(), name: name.into() }
    }

    /// The nodes that report on a Service with this group and this annotation, where these nodes lead elections.
    fn reporters(leaders: &[(&str, &str)], group: Option<GroupId>, host: Option<&str>) -> Vec<&'static str> {
        let reports = |me: &&str| {
            let mut state = ClusterState::default();
            let mut plan = Plan::default();
            for (name, node) in leaders {
                let (identity, is_current) =
                    (node.trim_start_matches('-').to_owned(), !node.starts_with('-'));
                state.holders.insert(lease(name), Holder { identity, is_current });
                plan.groups.insert(lease(name).into(), GroupPlan::default());
            }
            // Of another component.
            state.holders.insert(lease("other"), Holder { identity: "a".into(), is_current: true });
            let annotations = host.map(|host| (VIP_HOST.to_owned(), host.to_owned())).into_iter().collect();
            let view = Arc::new(ServiceView { annotations, ..ServiceView::default() });
            let key = ServiceKey { namespace: "shop".into(), name: "web".into() };
            let service = ServicePlan { view, group: group.clone(), ..ServicePlan::default() };
            plan.services.insert(key.clone(), service);
            assign_reporters(me, &state, &mut plan);
            plan.services[&key].reports_here
        };
        ["n1", "n2", "n3"].into_iter().filter(reports).collect()
    }

    /// A node that could announce the Service knows why it does not.
    #[test]
    fn a_node_that_can_serve_a_service_reports_before_others() {
        let key = ServiceKey { namespace: "shop".into(), name: "web".into() };
        for (nodes, holder, reporter, leader, missing) in [
            (&["n3"][..], None, "n3", None, vec!["n3"]),
            (&["n9"], None, "n2", None, vec!["n9"]),
            (&["n3"], Some("n3"), "n3", Some(("n3", true)), vec![]),
            (&["n3", "n9"], Some("n2"), "n2", Some(("n2", false)), vec!["n3", "n9"]),
        ] {
            for me in ["n1", "n2", "n3"] {
                let (mut state, mut plan) = (ClusterState::default(), Plan::default());
                let held = [("one", "n2"), ("two", "n3")].into_iter().chain(holder.map(|node| ("web", node)));
                for (name, identity) in held {
                    let holder = Holder { identity: identity.into(), is_current: true };
                    state.holders.insert(lease(name), holder);
                    plan.groups.insert(lease(name).into(), GroupPlan::default());
                }
                let endpoint =
                    |node: &&str| Endpoint { node: Some((*node).into()), ready: true, serving: true };
                let endpoints = nodes.iter().map(endpoint).collect();
                state.endpoints.apply(Slice {
                    service: key.clone(),
                    name: "a".into(),
                    family: None,
                    endpoints,
                });
                let view = ServiceView { traffic_policy: TrafficPolicy::Local, ..ServiceView::default() };
                let service = ServicePlan {
                    view: Arc::new(view),
                    group: Some(lease("web").into()),
                    has_endpoints: true,
                    servable_here: nodes.contains(&me),
                    ..ServicePlan::default()
                };
                plan.services.insert(key.clone(), service);
                assign_reporters(me, &state, &mut plan);
                let service = &plan.services[&key];
                assert_eq!(service.reports_here, me == reporter, "{nodes:?} {holder:?} {me}");
                let found = service.leader.as_ref().map(|leader| (leader.node.as_str(), leader.serves));
                assert_eq!(found, leader, "{nodes:?} {holder:?} {me}");
                // This node does not wait for itself.
                let missing =
                    if leader.is_none() && nodes.contains(&me) { &[][..] } else { missing.as_slice() };
                assert_eq!(service.serving_nodes, missing, "{nodes:?} {holder:?} {me}");
            }
        }
    }

    #[test]
    fn one_node_reports_on_a_service() {
        let of = |name: &str| Some(GroupId::from(lease(name)));
        let two = [("one", "n2"), ("two", "n3")];
        type Row<'a> = (&'a [(&'a str, &'a str)], Option<GroupId>, Option<&'a str>, &'a [&'a str]);
        let table: [Row<'_>; 7] = [
            // Its leader, before the node that announced it.
            (&two, of("two"), Some("n2"), &["n3"]),
            (&two, None, Some("n3"), &["n3"]),
            // The announcing node has left, or none announces it.
            (&two, None, Some("n9"), &["n2"]),
            (&two, None, None, &["n2"]),
            (&[("one", "-n1"), ("two", "n3")], of("one"), None, &["n3"]),
            // Without elections.
            (&[], Some(GroupId::EveryNode), Some("n1"), &["n1"]),
            (&[], None, None, &["n1", "n2", "n3"]),
        ];
        for (leaders, group, host, expected) in table {
            assert_eq!(reporters(leaders, group.clone(), host), expected, "{leaders:?} {group:?} {host:?}");
        }
    }
}
