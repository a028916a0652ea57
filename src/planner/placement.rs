//! The interface of a Service's addresses.

use std::net::IpAddr;

use super::leases::DhcpSpec;
use super::plan::values::PlanContext;
use crate::model::annotation::{MACVLAN_NAME, RP_FILTER, SERVICE_INTERFACE, SERVICE_VLAN};
use crate::model::interface::{ManagedInterface, vlan_of};
use crate::model::text::quoted;
use crate::model::validation::is_interface;
use crate::model::{AddressSpec, InterfaceSelector, ServiceView};

/// The macvlan that a Service requests on `parent`, for leased addresses only.
pub(super) fn macvlan(view: &ServiceView, parent: &str) -> Option<Result<ManagedInterface, String>> {
    let name = view.annotation(MACVLAN_NAME)?;
    let spec = DhcpSpec::of(view)?;
    if !is_interface(name) || name == parent {
        let name = quoted(name);
        let text =
            format!("{MACVLAN_NAME}: {name} is not an interface name of at most 15 letters and digits");
        return Some(Err(text));
    }
    let filter = view.annotation(RP_FILTER).unwrap_or("0");
    let Some(reverse_path) = filter.parse().ok().filter(|value| *value <= 2) else {
        return Some(Err(format!("{RP_FILTER}: {} is not 0, 1 or 2", quoted(filter))));
    };
    let (parent, name, hardware) = (parent.to_owned(), name.to_owned(), spec.identity.mac);
    Some(Ok(ManagedInterface::Macvlan { parent, name, hardware, reverse_path }))
}

pub(super) fn place(context: &PlanContext, view: &ServiceView, address: IpAddr) -> AddressSpec {
    let interface = match (view.annotation(SERVICE_VLAN), view.annotation(SERVICE_INTERFACE)) {
        (Some(vlan), _) => match vlan_of(vlan) {
            Some((parent, tag)) => {
                InterfaceSelector::Managed(ManagedInterface::Vlan { parent: parent.to_owned(), tag })
            }
            // There is no such interface, which is reported.
            None => InterfaceSelector::Named(vlan.to_owned()),
        },
        (None, Some("auto")) => InterfaceSelector::OfSubnet(context.main_interface.clone()),
        (None, Some(name)) => InterfaceSelector::Named(name.to_owned()),
        (None, None) => context.interface.clone(),
    };
    let interface = match macvlan(view, &interface.name()) {
        Some(Ok(made)) => InterfaceSelector::Managed(made),
        Some(Err(_)) | None => interface,
    };
    AddressSpec { address, prefix: if address.is_ipv4() { context.v4 } else { context.v6 }, interface }
}
