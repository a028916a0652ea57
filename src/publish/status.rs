//! The desired status of a Service. The node that announces it is the only writer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use crate::model::ServiceView;
use crate::model::annotation::{DHCP_LEASE, UPNP_EXTERNAL_IP, VIP_HOST};
use crate::model::service::{ADDRESSES_KEPT, Ingress};
use crate::planner::plan::ServicePlan;
use crate::planner::reserved::Refusal;

/// A write of a Service's status and annotations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The version that the change was decided on.
    pub resource_version: String,
    /// `status.loadBalancer.ingress`.
    pub ingress: Vec<Ingress>,
    /// The announcing node; none removes the annotation.
    pub host: Option<String>,
    /// The addresses that stay the Service's although `ingress` does not contain them.
    pub kept: BTreeSet<IpAddr>,
    /// Further annotations; none removes an annotation.
    pub annotations: BTreeMap<&'static str, Option<String>>,
    /// It belongs to another node, which may have stopped, or be about to write.
    pub of_another: bool,
}

/// A Service on this node.
#[derive(Debug)]
pub struct Here<'a> {
    /// Announced addresses.
    pub held: &'a BTreeSet<IpAddr>,
    /// Addresses that a host outside the cluster has.
    pub taken: &'a BTreeSet<IpAddr>,
    pub me: &'a str,
    /// Every node announces the Service.
    pub anycast: bool,
    /// Entries for external addresses of gateways.
    pub external: Vec<Ingress>,
}

/// The write that this node has to make, if any.
///
/// The leader of its addresses writes. The last announcing node clears the status when no node can serve the Service any more.
/// Where every node announces, the first one writes. The status of an address that turns out to be another host's is cleared.
/// Addresses that the Service does not ask for any more, or may not have, are removed by the last announcing node, else by any:
/// an address in the status leads to its endpoints from every node.
/// `annotations` are further annotations of the leader; those about a DHCP lease are written also while no node can serve the
/// Service.
pub fn change(
    service: &ServicePlan,
    here: Here<'_>,
    annotations: BTreeMap<&'static str, Option<String>>,
) -> Option<Change> {
    let Here { held, taken, me, anycast, external } = here;
    let view = &*service.view;
    let host = view.annotation(VIP_HOST);
    let mine = host == Some(me) || (anycast && host.is_some());
    // Another Service may share an address, and have endpoints of its family.
    let announced: Vec<IpAddr> = service.served().filter(|address| held.contains(address)).collect();
    let refused = refused(service);
    let stale = stale(service, &refused);
    let gone = service.addresses.is_empty()
        && (service.lost_lease() || service.refusal().is_some() || !stale.is_empty());
    let given_up = view.announced_in_status().any(|address| taken.contains(&address));
    let (ingress, host) = if service.servable_here && !announced.is_empty() {
        let host = if anycast { host.unwrap_or(me) } else { me };
        let inside = announced.iter().map(|address| entry(view, *address));
        // Otherwise another node would remove what this one writes.
        let external = external.into_iter().filter(|entry| entry.ip.is_none_or(|ip| !refused.contains(&ip)));
        (inside.chain(external).collect(), Some(host.to_owned()))
    } else if mine && (!service.has_endpoints || gone || given_up) {
        (Vec::new(), None)
    } else if !stale.is_empty() {
        let rest = view.status.iter().filter(|entry| entry.ip.is_none_or(|ip| !stale.contains(&ip)));
        let rest: Vec<Ingress> = rest.cloned().collect();
        let host = host.filter(|_| rest.iter().any(|entry| entry.ip.is_some()));
        let change = Change {
            resource_version: view.resource_version.clone(),
            host: host.map(str::to_owned),
            kept: kept(service, &rest),
            ingress: rest,
            annotations: BTreeMap::new(),
            of_another: true,
        };
        return Some(change);
    } else if !service.has_endpoints && annotations.contains_key(DHCP_LEASE) {
        (view.status.clone(), host.map(str::to_owned))
    } else {
        return None;
    };
    let version = view.resource_version.clone();
    let kept = kept(service, &ingress);
    let change = Change { resource_version: version, ingress, host, kept, annotations, of_another: false };
    (!change.differences(view).is_empty()).then_some(change)
}

/// Addresses that were announced and are not, for want of endpoints: another tenant may not have them before they are again.
fn kept(service: &ServicePlan, ingress: &[Ingress]) -> BTreeSet<IpAddr> {
    let view = &service.view;
    let had = view.announced_in_status().chain(view.kept.iter().copied());
    let written = |address: &IpAddr| ingress.iter().any(|entry| entry.ip == Some(*address));
    had.filter(|address| service.addresses.contains(address) && !written(address)).collect()
}

/// Addresses that the Service may not have, whichever node decides.
fn refused(service: &ServicePlan) -> BTreeSet<IpAddr> {
    // Other controllers write the addresses of nodes to the status.
    let of_another_controller = service.view.annotation(VIP_HOST).is_none();
    let counts = |refusal: &&Refusal| match refusal {
        Refusal::Node { .. } => !of_another_controller,
        refusal => !refusal.is_local(),
    };
    let refused = service.refusals().filter(counts).filter_map(Refusal::address);
    refused.filter(|address| !service.addresses.contains(address)).collect()
}

/// Addresses in the status that the Service does not ask for any more, or may not have.
fn stale(service: &ServicePlan, refused: &BTreeSet<IpAddr>) -> BTreeSet<IpAddr> {
    let view = &*service.view;
    if service.terminating {
        return BTreeSet::new();
    }
    // What one node refuses by itself, or does not know, another may announce; nodes' addresses may be another controller's.
    let unclear = |refusal: &Refusal| match refusal {
        Refusal::Node { .. } => view.annotation(VIP_HOST).is_none(),
        refusal => refusal.is_local(),
    };
    let unclear = service.unresolved || service.refusals().any(unclear);
    let external = view.annotation(UPNP_EXTERNAL_IP).unwrap_or_default();
    let external: BTreeSet<IpAddr> = external.split(',').filter_map(|ip| ip.trim().parse().ok()).collect();
    let written = view.status.iter().filter_map(|entry| entry.ip);
    let unwanted = |ip: &IpAddr| !unclear && !service.addresses.contains(ip) && !external.contains(ip);
    written.filter(|ip| refused.contains(ip) || unwanted(ip)).collect()
}

fn entry(view: &ServiceView, address: IpAddr) -> Ingress {
    Ingress { ip: Some(address), hostname: None, ip_mode: Some("VIP".to_owned()), ports: view.ports.clone() }
}

/// A server that does not know `ipMode` drops it (Kubernetes before 1.30).
fn is_written(found: &Ingress, desired: &Ingress) -> bool {
    let mode = found.ip_mode.is_none() || found.ip_mode == desired.ip_mode;
    mode && found.ip == desired.ip && found.hostname == desired.hostname && found.ports == desired.ports
}

impl Change {
    /// Whether the entries of the status are as desired.
    pub fn status_is_written(&self, view: &ServiceView) -> bool {
        let mut pairs = view.status.iter().zip(&self.ingress);
        view.status.len() == self.ingress.len() && pairs.all(|(found, desired)| is_written(found, desired))
    }

    /// The fields of a Service that are not as desired.
    pub fn differences(&self, view: &ServiceView) -> Vec<&'static str> {
        let status = (!self.status_is_written(view)).then_some("status.loadBalancer.ingress");
        let host = (view.annotation(VIP_HOST) != self.host.as_deref()).then_some(VIP_HOST);
        let kept = (view.kept != self.kept).then_some("status.conditions");
        let annotations = self.annotations.iter();
        let annotations = annotations.filter(|(name, value)| view.annotation(name) != value.as_deref());
        status.into_iter().chain(host).chain(kept).chain(annotations.map(|(name, _)| *name)).collect()
    }

    /// Whether both write the same, to whatever version.
    pub fn is_same(&self, other: &Self) -> bool {
        (&self.ingress, &self.host, &self.kept, &self.annotations)
            == (&other.ingress, &other.host, &other.kept, &other.annotations)
    }

    /// The strategic merge patch of the status; it fails if the Service has changed.
    pub fn to_json(&self, now: &Time) -> Value {
        let entries: Vec<Value> = self.ingress.iter().map(entry_to_json).collect();
        let ingress = if entries.is_empty() { Value::Null } else { json!(entries) };
        let mut annotations = self.annotations.clone();
        annotations.insert(VIP_HOST, self.host.clone());
        json!({
            "metadata": {
                "resourceVersion": self.resource_version,
                "annotations": annotations,
            },
            "status": { "conditions": [self.condition(now)], "loadBalancer": { "ingress": ingress } },
        })
    }

    fn condition(&self, now: &Time) -> Value {
        if self.kept.is_empty() {
            return json!({ "type": ADDRESSES_KEPT, "$patch": "delete" });
        }
        let addresses: Vec<String> = self.kept.iter().map(ToString::to_string).collect();
        json!({
            "type": ADDRESSES_KEPT,
            "status": "True",
            "reason": "NotAnnounced",
            "message": addresses.join(", "),
            "lastTransitionTime": now,
        })
    }
}

fn entry_to_json(entry: &Ingress) -> Value {
    let ports: Vec<Value> = entry
        .ports
        .iter()
        .map(|(protocol, port)| json!({ "port": port, "protocol": protocol.to_string() }))
        .collect();
    json!({ "ip": entry.ip, "ipMode": entry.ip_mode, "ports": ports })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::service::Protocol;
    use crate::model::{Family, HostUse};
    use crate::planner::plan::Issue;

    const A: &str = "192.0.2.1";
    static NONE: BTreeSet<IpAddr> = BTreeSet::new();

    /// An elected node that holds these addresses.
    fn here(held: &BTreeSet<IpAddr>) -> Here<'_> {
        Here { held, taken: &NONE, me: "me", anycast: false, external: Vec::new() }
    }

    fn view() -> ServiceView {
        ServiceView { ports: vec![(Protocol::Tcp, 80)], ..ServiceView::default() }
    }

    fn planned(servable_here: bool, has_endpoints: bool) -> ServicePlan {
        ServicePlan {
            addresses: vec![A.parse().unwrap()],
            servable_here,
            has_endpoints,
            ..ServicePlan::default()
        }
    }

    fn of(view: &ServiceView, service: &ServicePlan) -> ServicePlan {
        ServicePlan { view: Arc::new(view.clone()), ..service.clone() }
    }

    fn published(mut view: ServiceView, host: &str) -> ServiceView {
        view.status = vec![entry(&view, A.parse().unwrap())];
        view.annotations.insert(VIP_HOST.into(), host.into());
        view
    }

    #[test]
    fn the_leader_writes_the_status_and_the_last_one_clears_it() {
        let held: BTreeSet<IpAddr> = [A.parse().unwrap()].into();
        let none = BTreeSet::new();
        let writes = |view: &ServiceView, service: &ServicePlan, held: &BTreeSet<IpAddr>| {
            change(&of(view, service), here(held), BTreeMap::new())
                .map(|change| (change.ingress.len(), change.host))
        };
        let mine = Some((1, Some("me".to_owned())));
        assert_eq!(writes(&view(), &planned(true, true), &held), mine);
        assert_eq!(writes(&published(view(), "other"), &planned(true, true), &held), mine);
        assert_eq!(writes(&published(view(), "me"), &planned(true, true), &held), None);
        // Ports follow.
        let changed = ServiceView { ports: vec![(Protocol::Tcp, 81)], ..published(view(), "me") };
        assert_eq!(writes(&changed, &planned(true, true), &held), mine);
        // Not announced here: only cleared where no node can serve it.
        assert_eq!(writes(&published(view(), "me"), &planned(true, true), &none), None);
        assert_eq!(writes(&published(view(), "me"), &planned(false, false), &none), Some((0, None)));
        assert_eq!(writes(&published(view(), "other"), &planned(false, false), &none), None);
    }

    /// A Service without endpoints does not lose its address to another tenant.
    #[test]
    fn addresses_are_kept_while_there_are_no_endpoints() {
        let (a, b): (IpAddr, IpAddr) = (A.parse().unwrap(), "192.0.2.2".parse().unwrap());
        let kept = |view: &ServiceView, service: &ServicePlan, held: &[IpAddr]| {
            let held = held.iter().copied().collect();
            let change = change(&of(view, service), here(&held), BTreeMap::new());
            change.map(|change| Vec::from_iter(change.kept))
        };
        let cleared = ServiceView { kept: [a].into(), ..view() };
        let none = planned(false, false);
        assert_eq!(kept(&published(view(), "me"), &none, &[]), Some(vec![a]));
        assert_eq!(kept(&cleared, &none, &[]), None);
        assert_eq!(kept(&cleared, &planned(true, true), &[a]), Some(Vec::new()));
        // With endpoints of one family it keeps the address of the other.
        let both = ServicePlan { addresses: vec![a, b], ..planned(true, true) };
        assert_eq!(kept(&published(view(), "me"), &both, &[b]), Some(vec![a]));
        // What it does not ask for any more it does not keep.
        let other = ServicePlan { addresses: vec![b], ..none };
        assert_eq!(kept(&published(view(), "me"), &other, &[]), Some(Vec::new()));
    }

    #[test]
    fn the_condition_of_kept_addresses_is_read_again() {
        let change = Change {
            resource_version: "7".into(),
            ingress: Vec::new(),
            host: None,
            kept: ["192.0.2.1", "2001:db8::1"].map(|address| address.parse().unwrap()).into(),
            annotations: BTreeMap::new(),
            of_another: false,
        };
        let now = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
        let mut written = change.to_json(&now);
        written["metadata"] = json!({ "namespace": "lab", "name": "web" });
        let read = |written: Value| {
            let (_, view) = crate::model::service::view(serde_json::from_value(written).unwrap()).unwrap();
            view.kept
        };
        assert_eq!(read(written.clone()), change.kept);
        written["status"]["conditions"][0]["status"] = json!("False");
        assert_eq!(read(written), BTreeSet::new());
    }

    /// Otherwise no node would probe it again, and packets of all nodes would not reach the other host.
    #[test]
    fn an_address_that_another_host_has_is_taken_back_from_the_status() {
        let (a, b): (IpAddr, IpAddr) = (A.parse().unwrap(), "192.0.2.2".parse().unwrap());
        let both = ServicePlan { addresses: vec![a, b], ..planned(true, true) };
        let writes = |view: &ServiceView, service: &ServicePlan, held: &[IpAddr], taken: &[IpAddr]| {
            let (held, taken) = (held.iter().copied().collect(), taken.iter().copied().collect());
            let change = change(&of(view, service), Here { taken: &taken, ..here(&held) }, BTreeMap::new());
            change
                .map(|change| (change.ingress.iter().filter_map(|it| it.ip).collect::<Vec<_>>(), change.host))
        };
        let [mine, of_another] = ["me", "other"].map(|host| published(view(), host));
        let one = planned(true, true);
        assert_eq!(writes(&mine, &one, &[], &[a]), Some((vec![], None)));
        assert_eq!(writes(&mine, &one, &[], &[b]), None);
        assert_eq!(writes(&of_another, &one, &[], &[a]), None);
        assert_eq!(writes(&view(), &one, &[], &[a]), None);
        let mut of_both = mine;
        of_both.status.push(entry(&of_both, b));
        assert_eq!(writes(&of_both, &both, &[b], &[a]), Some((vec![b], Some("me".to_owned()))));
        assert_eq!(writes(&of_both, &both, &[], &[a]), Some((vec![], None)));
    }

    #[test]
    fn an_address_of_a_family_without_endpoints_is_not_in_the_status() {
        let six: IpAddr = "2001:db8::1".parse().unwrap();
        // Another Service has the address, too, and endpoints of that family.
        let held: BTreeSet<IpAddr> = [A.parse().unwrap(), six].into();
        let both = ServicePlan { addresses: vec![A.parse().unwrap(), six], ..planned(true, true) };
        let without = ServicePlan { unserved: Some(Family::V6), ..both.clone() };
        let ingress = |view: &ServiceView, service: &ServicePlan| {
            let change = change(&of(view, service), here(&held), BTreeMap::new())?;
            Some(change.ingress.iter().filter_map(|entry| entry.ip).collect::<Vec<_>>())
        };
        let only = published(view(), "me");
        assert_eq!(ingress(&view(), &without), Some(vec![A.parse().unwrap()]));
        assert_eq!(ingress(&only, &without), None);
        assert_eq!(ingress(&only, &both), Some(both.addresses.clone()));
        let mut before = only;
        before.status.push(entry(&before, six));
        assert_eq!(ingress(&before, &without), Some(vec![A.parse().unwrap()]));
    }

    /// Otherwise it would be written again for ever.
    #[test]
    fn a_server_that_drops_the_ip_mode_has_the_status_all_the_same() {
        let held: BTreeSet<IpAddr> = [A.parse().unwrap()].into();
        let mut before_1_30 = published(view(), "me");
        before_1_30.status[0].ip_mode = None;
        assert_eq!(change(&of(&before_1_30, &planned(true, true)), here(&held), BTreeMap::new()), None);
        before_1_30.status[0].ports.clear();
        let change = change(&of(&before_1_30, &planned(true, true)), here(&held), BTreeMap::new()).unwrap();
        assert_eq!(change.differences(&before_1_30), ["status.loadBalancer.ingress"]);
    }

    #[test]
    fn the_status_of_a_refused_address_is_cleared() {
        let none = BTreeSet::new();
        let refused = ServicePlan {
            addresses: Vec::new(),
            issues: vec![Issue::Refused(Refusal::ControlPlane(A.parse().unwrap()))],
            ..planned(true, true)
        };
        let change = change(&of(&published(view(), "me"), &refused), here(&none), BTreeMap::new()).unwrap();
        assert_eq!((change.ingress.len(), change.host), (0, None));
    }

    #[test]
    fn addresses_that_a_service_does_not_ask_for_are_removed_by_any_node() {
        let none = BTreeSet::new();
        // Whether another node removes an address from the status, and whether the last announcing node does.
        let removes = |service: &ServicePlan, host: Option<&str>| {
            let mut view = published(view(), "me");
            view.annotations.remove(VIP_HOST);
            view.annotations.extend(host.map(|host| (VIP_HOST.to_owned(), host.to_owned())));
            let change = change(&of(&view, service), here(&none), BTreeMap::new())?;
            assert_eq!((change.ingress.len(), change.host), (0, None));
            Some(change.of_another)
        };
        let without = ServicePlan { addresses: Vec::new(), ..planned(true, true) };
        let with = |refusal| ServicePlan { issues: vec![Issue::Refused(refusal)], ..without.clone() };
        let address: IpAddr = A.parse().unwrap();
        let refused = with(Refusal::Service { address, owner: "shop/web".into() });
        let local = with(Refusal::Host { address, usage: HostUse::Gateway });
        let node = with(Refusal::Node { address, node: "node-1".into() });
        let unresolved = ServicePlan { unresolved: true, ..without.clone() };
        let refused_and_nodes = ServicePlan {
            issues: [
                &refused.issues[..],
                &with(Refusal::Node { address: "192.0.2.8".parse().unwrap(), node: "b".into() }).issues,
            ]
            .concat(),
            ..without.clone()
        };
        let refused_unresolved = ServicePlan { unresolved: true, ..refused.clone() };
        let elsewhere = ServicePlan { addresses: vec!["192.0.2.9".parse().unwrap()], ..planned(true, true) };
        for (name, service, mine, of_another, without_host) in [
            ("asks for none", &without, Some(false), Some(true), Some(true)),
            ("refused", &refused, Some(false), Some(true), Some(true)),
            ("asks for another one", &elsewhere, Some(true), Some(true), Some(true)),
            ("refused, and asks for a node's", &refused_and_nodes, Some(false), Some(true), Some(true)),
            ("refused by this host alone", &local, Some(false), None, None),
            // Without our annotation another controller has written it.
            ("a node's", &node, Some(false), Some(true), None),
            ("asks for what is not known yet", &unresolved, None, None, None),
            (
                "refused, and asks for what is not known yet",
                &refused_unresolved,
                Some(false),
                Some(true),
                Some(true),
            ),
        ] {
            assert_eq!(removes(service, Some("me")), mine, "{name}, mine");
            assert_eq!(removes(service, Some("gone")), of_another, "{name}, of another");
            assert_eq!(removes(service, None), without_host, "{name}, without host");
        }
    }

    /// Otherwise two nodes write the status by turns.
    #[test]
    fn an_external_address_that_is_refused_is_not_written() {
        let held: BTreeSet<IpAddr> = [A.parse().unwrap()].into();
        let external = Ingress { ip: "100.64.0.1".parse().ok(), ..Ingress::default() };
        let refusal = Refusal::Outside("100.64.0.1".parse().unwrap());
        for (issues, written) in [(vec![], 2), (vec![Issue::Refused(refusal)], 1)] {
            let service = ServicePlan { issues, ..planned(true, true) };
            let here = Here { external: vec![external.clone()], ..here(&held) };
            let change = change(&of(&view(), &service), here, BTreeMap::new()).unwrap();
            assert_eq!(change.ingress.len(), written);
        }
    }

    #[test]
    fn a_lease_is_recorded_although_no_node_can_serve_the_service() {
        let none = BTreeSet::new();
        let writes = |view: &ServiceView, service: &ServicePlan, annotations| {
            change(&of(view, service), here(&none), annotations)
        };
        let lease = |text: &str| BTreeMap::from([(DHCP_LEASE, Some(text.to_owned()))]);
        let asleep = planned(false, false);
        let change = writes(&view(), &asleep, lease("new")).unwrap();
        assert_eq!((change.ingress, change.host, change.annotations), (Vec::new(), None, lease("new")));
        let mut written = view();
        written.annotations.insert(DHCP_LEASE.into(), "new".into());
        assert_eq!(writes(&written, &asleep, lease("new")), None);
        // Where a node can serve it, the lease is written with the status.
        assert_eq!(writes(&view(), &planned(true, true), lease("new")), None);
    }

    #[test]
    fn an_anycast_status_is_written_once() {
        let held: BTreeSet<IpAddr> = [A.parse().unwrap()].into();
        let writes = |view: &ServiceView, service: &ServicePlan| {
            let here = Here { anycast: true, ..here(&held) };
            let change = change(&of(view, service), here, BTreeMap::new());
            change.map(|change| (change.ingress.len(), change.host))
        };
        assert_eq!(writes(&view(), &planned(true, true)), Some((1, Some("me".to_owned()))));
        assert_eq!(writes(&published(view(), "other"), &planned(true, true)), None);
        let changed = ServiceView { ports: vec![(Protocol::Tcp, 81)], ..published(view(), "other") };
        assert_eq!(writes(&changed, &planned(true, true)), Some((1, Some("other".to_owned()))));
        // The one that wrote it may be gone.
        assert_eq!(writes(&published(view(), "other"), &planned(false, false)), Some((0, None)));
        assert_eq!(writes(&view(), &planned(false, false)), None);
    }
}
