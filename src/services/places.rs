//! Which link the addresses of a Service go on.

use std::net::IpAddr;

use super::leases::Asking;
use super::plan::values::World;
use crate::desired::{LinkChoice, Place};
use crate::model::ServiceView;
use crate::model::annotation::{MACVLAN_NAME, RP_FILTER, SERVICE_INTERFACE, SERVICE_VLAN};
use crate::model::link::MadeLink;

/// The longest name of a link (IFNAMSIZ).
const LONGEST_LINK_NAME: usize = 15;

/// `parent.tag`, with a tag from 1 to 4094 (IEEE 802.1Q).
pub(super) fn vlan_of(text: &str) -> Option<(&str, u16)> {
    let (parent, tag) = text.rsplit_once('.')?;
    let tag = tag.parse().ok().filter(|tag| (1..=4094).contains(tag))?;
    (!parent.is_empty()).then_some((parent, tag))
}

/// The link of its own that a Service asks for, on this one: for addresses from a DHCP server alone.
pub(super) fn macvlan(view: &ServiceView, parent: &str) -> Option<Result<MadeLink, String>> {
    let name = view.annotation(MACVLAN_NAME)?;
    let asking = Asking::of(view)?;
    let legal = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    if name.len() > LONGEST_LINK_NAME || !name.chars().all(legal) || name == parent {
        let text = format!(
            "{MACVLAN_NAME}: `{name}` is no name for a link of its own, of at most 15 letters and digits"
        );
        return Some(Err(text));
    }
    let filter = view.annotation(RP_FILTER).unwrap_or("0");
    let Some(reverse_path) = filter.parse().ok().filter(|value| *value <= 2) else {
        return Some(Err(format!("{RP_FILTER}: `{filter}` is none of 0, 1 and 2")));
    };
    let (parent, name, hardware) = (parent.to_owned(), name.to_owned(), asking.identity.hardware);
    Some(Ok(MadeLink::Macvlan { parent, name, hardware, reverse_path }))
}

/// Where an address goes.
pub(super) fn place(world: &World, view: &ServiceView, address: IpAddr) -> Place {
    let link = match (view.annotation(SERVICE_VLAN), view.annotation(SERVICE_INTERFACE)) {
        (Some(vlan), _) => match vlan_of(vlan) {
            Some((parent, tag)) => LinkChoice::Made(MadeLink::Vlan { parent: parent.to_owned(), tag }),
            // There is no such link: the user is told so.
            None => LinkChoice::Named(vlan.to_owned()),
        },
        (None, Some("auto")) => LinkChoice::OfSubnet(world.main_link.clone()),
        (None, Some(name)) => LinkChoice::Named(name.to_owned()),
        (None, None) => world.link.clone(),
    };
    let link = match macvlan(view, &link.name()) {
        Some(Ok(made)) => LinkChoice::Made(made),
        Some(Err(_)) | None => link,
    };
    Place { address, prefix: if address.is_ipv4() { world.v4 } else { world.v6 }, link }
}
