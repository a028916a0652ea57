//! Which routes have to come and go so that the table is as desired.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::model::route::TableRoute;
use crate::model::{IfIndex, Prefix};

/// What is known of the table.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actual {
    /// Every route of our table and protocol.
    pub routes: BTreeSet<TableRoute>,
    /// Those that this process put there, or has found there as desired.
    pub ours: BTreeSet<Prefix>,
    /// Addresses of the control plane and of Services: a route to one of them is nobody else's.
    pub known: BTreeSet<IpAddr>,
    /// All that is wanted is known by now.
    pub complete: bool,
    /// Whatever else has our protocol is left over, too (`vip_cleanroutingtable`).
    pub clean: bool,
}

/// What has to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// These go.
    pub remove: Vec<TableRoute>,
    /// These come; one to the same prefix on another interface is replaced.
    pub put: Vec<TableRoute>,
}

/// How the table becomes as desired: the interface's index for each prefix.
///
/// A route that this process did not put there is only removed where that is asked for, and not before everything that
/// is wanted is known: another kube-vip on this host may use the same table.
pub fn plan(desired: &BTreeMap<Prefix, IfIndex>, actual: &Actual) -> Plan {
    let wanted = |route: &&TableRoute| desired.get(&route.prefix) == Some(&route.interface);
    let removable = |route: &&TableRoute| {
        // On the wrong interface it is replaced, unless there are two.
        let elsewhere = desired.contains_key(&route.prefix);
        let host = route.prefix == Prefix::host(route.prefix.address);
        let known =
            actual.ours.contains(&route.prefix) || (host && actual.known.contains(&route.prefix.address));
        known || elsewhere || (actual.clean && actual.complete)
    };
    let routes = actual.routes.iter();
    let remove = routes.filter(|route| !wanted(route)).filter(removable).copied().collect();
    let there = |route: &TableRoute| actual.routes.contains(route);
    let put = desired.iter().map(|(prefix, interface)| TableRoute { prefix: *prefix, interface: *interface });
    Plan { remove, put: put.filter(|route| !there(route)).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(text: &str, interface: u32) -> TableRoute {
        TableRoute { prefix: text.parse().unwrap(), interface: IfIndex(interface) }
    }

    #[test]
    fn what_comes_and_what_goes() {
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
        let plain = plan(&desired, &actual);
        assert_eq!(plain.put, [route("192.0.2.2/32", 2)]);
        assert_eq!(plain.remove, [route("192.0.2.2/32", 3), route("192.0.2.9/32", 2)]);
        // What an earlier process left of an address that is known.
        actual.known.insert("192.0.2.8".parse().unwrap());
        assert_eq!(plan(&desired, &actual).remove.len(), 3);
        actual.known.clear();
        // What nobody knows goes where that is asked for, and everything wanted is known.
        actual.clean = true;
        assert_eq!(plan(&desired, &actual).remove.len(), 2);
        actual.complete = true;
        assert!(plan(&desired, &actual).remove.contains(&route("192.0.2.8/32", 2)));
        actual.routes = [route("192.0.2.1/32", 2), route("192.0.2.2/32", 2)].into();
        assert_eq!(plan(&desired, &actual), Plan::default());
    }
}
