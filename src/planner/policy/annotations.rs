//! Annotations about infrastructure: they concern more than the Service that has them.

use std::sync::Arc;

use crate::config::Policy;
use crate::dhcp::identity::is_generated;
use crate::model::annotation::{
    HARDWARE_ADDRESS, LEASE_NAME, MACVLAN_NAME, RP_FILTER, SERVICE_INTERFACE, SERVICE_VLAN,
};
use crate::model::lease::OWN_LEASES;
use crate::model::text::quoted;
use crate::model::{LeaseName, ServiceKey, ServiceView};

/// A Service without the annotations that it may not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permitted {
    pub view: Arc<ServiceView>,
    /// The annotations that are ignored, each with the setting that permits it.
    pub ignored: Vec<String>,
    /// The same where the Service cannot be announced without it: its address belongs on another network.
    pub withheld: Option<String>,
}

/// Takes out what the Service may not choose. `default` are interfaces that need no permission.
pub fn permitted(policy: &Policy, default: &[&str], key: &ServiceKey, view: &Arc<ServiceView>) -> Permitted {
    let mut permitted = Permitted { view: view.clone(), ignored: Vec::new(), withheld: None };
    if policy.infrastructure.contain(&key.namespace) {
        return permitted;
    }
    for name in INFRASTRUCTURE {
        let Some(value) = view.annotation(name) else { continue };
        let Some(setting) = refused(policy, default, (key, view), name, value) else { continue };
        let text = format!(
            "{name}: namespace {} may not choose {}; {setting} permits it, or svc_infrastructure_namespaces all of this \
             to the namespace",
            key.namespace,
            quoted(value)
        );
        Arc::make_mut(&mut permitted.view).annotations.remove(name);
        match name {
            SERVICE_INTERFACE | SERVICE_VLAN | MACVLAN_NAME => permitted.withheld = Some(text),
            _ => permitted.ignored.push(text),
        }
    }
    permitted
}

/// The annotations that this module decides on.
pub(super) const INFRASTRUCTURE: [&str; 6] =
    [SERVICE_INTERFACE, SERVICE_VLAN, MACVLAN_NAME, RP_FILTER, HARDWARE_ADDRESS, LEASE_NAME];

/// The setting that would permit an annotation; none if it is permitted.
fn refused(
    policy: &Policy,
    default: &[&str],
    (key, view): (&ServiceKey, &ServiceView),
    name: &str,
    value: &str,
) -> Option<&'static str> {
    let (permitted, setting) = match name {
        // `auto` is any interface of this host, by the subnet of the address.
        SERVICE_INTERFACE => {
            (default.contains(&value) || policy.interfaces.contains(value), "svc_interfaces")
        }
        SERVICE_VLAN => (policy.vlans.contains(value), "svc_vlans"),
        MACVLAN_NAME | RP_FILTER => (policy.macvlan, "svc_macvlan"),
        HARDWARE_ADDRESS => (is_generated(value, &view.uid) || policy.hardware_addresses, "svc_hwaddr"),
        _ => (may_name(policy, key, value), "svc_lease_names"),
    };
    (!permitted).then_some(setting)
}

/// Whether a Service may be elected on a Lease. What the API server rejects is reported where it is read.
fn may_name(policy: &Policy, key: &ServiceKey, text: &str) -> bool {
    let Some(lease) = LeaseName::parse(&key.namespace, text) else { return true };
    let own = lease.namespace == key.namespace && lease.name.starts_with(OWN_LEASES);
    own || policy.leases.contains(&lease.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Namespaces;
    use crate::dhcp::identity::Identity;

    fn key() -> ServiceKey {
        ServiceKey { namespace: "shop".into(), name: "web".into() }
    }

    fn check(policy: &Policy, name: &str, value: &str) -> (bool, bool) {
        let mut view = ServiceView { uid: "u".into(), ..ServiceView::default() };
        view.annotations.insert(name.into(), value.into());
        let permitted = permitted(policy, &["eth0"], &key(), &Arc::new(view));
        let present = permitted.view.annotation(name).is_some();
        assert_eq!(present, permitted.ignored.is_empty() && permitted.withheld.is_none());
        (present, permitted.withheld.is_some())
    }

    #[test]
    fn infrastructure_is_the_administrators() {
        let none = Policy::default();
        let policy = Policy {
            interfaces: ["eth1".into()].into(),
            vlans: ["eth0.7".into()].into(),
            macvlan: true,
            hardware_addresses: true,
            leases: ["infra/shared".into()].into(),
            ..Policy::default()
        };
        let own = crate::model::interface::hardware_text(&Identity::mac_of("u"));
        // By default, with the settings above, and whether the Service is withheld otherwise.
        for (name, value, by_default, by_setting, withheld) in [
            (SERVICE_INTERFACE, "eth0", true, true, false),
            (SERVICE_INTERFACE, "auto", false, false, true),
            (SERVICE_INTERFACE, "eth1", false, true, true),
            (SERVICE_INTERFACE, "lo", false, false, true),
            (SERVICE_VLAN, "eth0.7", false, true, true),
            (SERVICE_VLAN, "eth0.8", false, false, true),
            (MACVLAN_NAME, "web", false, true, true),
            (RP_FILTER, "0", false, true, false),
            (HARDWARE_ADDRESS, &own, true, true, false),
            (HARDWARE_ADDRESS, "02:00:00:00:00:01", false, true, false),
            (HARDWARE_ADDRESS, "00:00:6c:00:00:01", true, true, false),
            (HARDWARE_ADDRESS, "3c:ec:ef:00:00:01", false, true, false),
            (LEASE_NAME, "kubevip-common", true, true, false),
            (LEASE_NAME, "shop/kubevip-common", true, true, false),
            (LEASE_NAME, "common", false, false, false),
            (LEASE_NAME, "kube-system/kube-controller-manager", false, false, false),
            (LEASE_NAME, "kube-system/plndr-cp-lock", false, false, false),
            (LEASE_NAME, "kube-node-lease/node-1", false, false, false),
            (LEASE_NAME, "victim/kubevip-web", false, false, false),
            (LEASE_NAME, "infra/shared", false, true, false),
        ] {
            assert_eq!(check(&none, name, value), (by_default, withheld && !by_default), "{name} {value}");
            assert_eq!(check(&policy, name, value), (by_setting, withheld && !by_setting), "{name} {value}");
            let all = Policy { infrastructure: Namespaces::All, ..Policy::default() };
            assert_eq!(check(&all, name, value), (true, false));
            let named =
                Policy { infrastructure: Namespaces::Named(["shop".into()].into()), ..Policy::default() };
            assert_eq!(check(&named, name, value), (true, false));
        }
    }
}
