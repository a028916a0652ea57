//! The difference between the desired routes and those in the table.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::route::{Table, TableRoute};
use crate::model::{IfIndex, Prefix};

/// The table, and which of its routes belong to this process.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actual {
    /// All routes of our table and protocol.
    pub routes: BTreeSet<TableRoute>,
    /// Prefixes that this process added, or found as desired.
    pub ours: BTreeSet<Prefix>,
    /// Addresses of the control plane and of Services: kube-vip owns their routes.
    pub known: BTreeSet<IpAddr>,
    /// Prefixes of routes that no agent on this host has (`vip_cleanroutingtable`).
    pub stale: BTreeSet<Prefix>,
}

/// Removals come before additions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    pub remove: Vec<TableRoute>,
    /// In the table as desired.
    pub keep: Vec<TableRoute>,
    /// A route to the same prefix on another interface is replaced.
    pub put: Vec<TableRoute>,
}

/// The changes that lead to `desired`, an interface for each prefix.
///
/// A route of another process is removed only if it is stale: another kube-vip on this host may use the same table.
pub fn plan(table: Table, desired: &BTreeMap<Prefix, IfIndex>, actual: &Actual) -> Plan {
    let desired_route = |(prefix, interface): (&Prefix, &IfIndex)| table.route(*prefix, *interface);
    let wanted = |route: &TableRoute| desired.get_key_value(&route.prefix).map(desired_route) == Some(*route);
    let removable = |route: &TableRoute| {
        let elsewhere = desired.contains_key(&route.prefix);
        let host = route.prefix == Prefix::host(route.prefix.address);
        let known =
            actual.ours.contains(&route.prefix) || (host && actual.known.contains(&route.prefix.address));
        known || elsewhere || actual.stale.contains(&route.prefix)
    };
    let (keep, mut remove): (Vec<_>, Vec<_>) = actual.routes.iter().partition(|route| wanted(route));
    remove.retain(removable);
    let put = desired.iter().map(desired_route);
    Plan { remove, keep, put: put.filter(|route| !actual.routes.contains(route)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: Table = Table { id: 198, protocol: 248, kind: 1 };

    fn route(text: &str, interface: u32) -> TableRoute {
        TABLE.route(text.parse().unwrap(), IfIndex(interface))
    }

    #[test]
    fn stale_routes_are_removed_and_missing_ones_added() {
        let desired = [("192.0.2.1/32", 2), ("192.0.2.2/32", 2)];
        let desired = desired.map(|(text, interface)| (text.parse().unwrap(), IfIndex(interface))).into();
        let mut actual = Actual {
            routes: [
                route("192.0.2.1/32", 2),
                route("192.0.2.2/32", 3),
                route("192.0.2.8/32", 2),
                route("192.0.2.9/32", 2),
            ]
            .into(),
            ours: ["192.0.2.1/32", "192.0.2.9/32"].map(|text| text.parse().unwrap()).into(),
            ..Actual::default()
        };
        let plain = plan(TABLE, &desired, &actual);
        assert_eq!(plain.put, [route("192.0.2.2/32", 2)]);
        assert_eq!(plain.remove, [route("192.0.2.2/32", 3), route("192.0.2.9/32", 2)]);
        // A route of an earlier process to a known address.
        actual.known.insert("192.0.2.8".parse().unwrap());
        assert_eq!(plan(TABLE, &desired, &actual).remove.len(), 3);
        actual.known.clear();
        // A route to an unknown address may be another agent's.
        assert_eq!(plan(TABLE, &desired, &actual).remove.len(), 2);
        actual.stale = ["192.0.2.8/32", "192.0.2.1/32"].map(|text| text.parse().unwrap()).into();
        assert_eq!(plan(TABLE, &desired, &actual).remove.len(), 3);
        actual.routes = [route("192.0.2.1/32", 2), route("192.0.2.2/32", 2)].into();
        let keep = actual.routes.iter().copied().collect();
        assert_eq!(plan(TABLE, &desired, &actual), Plan { keep, ..Plan::default() });
    }

    #[test]
    fn a_route_of_another_form_is_another_route() {
        let prefix: Prefix = "192.0.2.1/32".parse().unwrap();
        let desired = [(prefix, IfIndex(2))].into();
        let ours = route("192.0.2.1/32", 2);
        let mut other = ours;
        other.form.metric = 100;
        let mut actual = Actual { routes: [ours, other].into(), ..Actual::default() };
        assert_eq!(
            plan(TABLE, &desired, &actual),
            Plan { remove: vec![other], keep: vec![ours], put: vec![] }
        );
        actual.routes = [other].into();
        assert_eq!(
            plan(TABLE, &desired, &actual),
            Plan { remove: vec![other], keep: vec![], put: vec![ours] }
        );
    }
}
