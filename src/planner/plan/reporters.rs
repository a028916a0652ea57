//! Which node reports the problems of each Service: one node, however many plan it.

use std::collections::BTreeSet;

use super::values::{ClusterState, Plan};
use crate::model::annotation::VIP_HOST;
use crate::model::{CandidacyKind, GroupId};

/// The node that announces a Service reports its problems. Where no node does, the first by name of the nodes that lead an
/// election of Services does; where there is no such node, each one.
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
    for service in plan.services.values_mut() {
        let announcing = service.group.as_ref().and_then(leader).or_else(|| {
            // A node that has left stays in the annotation until another one announces the Service.
            let host = service.view.annotation(VIP_HOST)?;
            (leaders.is_empty() || leaders.contains(host)).then_some(host)
        });
        let reporter = announcing.or(leaders.first().copied());
        service.reports_here = reporter.is_none_or(|node| node == me);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{GroupPlan, Holder, LeaseName, ServiceKey, ServiceView};
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
