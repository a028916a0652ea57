//! Links that are made for addresses, and removed when nothing of ours is on them any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::driver::Driver;
use crate::desired::Board;
use crate::model::Link;
use crate::model::link::MadeLink;
use crate::net::{clock, sysctl};

impl Driver {
    /// Make links that are missing, each on the one with this index; for an address, where there is one already.
    pub(super) async fn make_links(&mut self, missing: BTreeMap<MadeLink, (u32, Option<IpAddr>)>) {
        for (link, (parent, address)) in missing {
            let name = link.name();
            match self.netlink.add_link(parent, &link).await {
                // The kernel's report of the new link brings us back here.
                Ok(()) => {
                    tracing::info!(link = name, "made a link");
                    if let MadeLink::Macvlan { reverse_path, .. } = link {
                        sysctl::set_reverse_path(&name, reverse_path);
                    }
                }
                Err(error) => {
                    let hint = match link {
                        MadeLink::Vlan { .. } => "; does this kernel have 802.1Q (module 8021q)?",
                        MadeLink::Macvlan { .. } => "; does this kernel have macvlan?",
                    };
                    tracing::debug!(%error, link = name, "cannot make a link");
                    if let Some(address) = address {
                        self.obstacles.insert(address, format!("{error}{hint}"));
                    }
                }
            }
        }
    }

    /// Remove links that we made, where nothing of ours is on them or is to be.
    pub(super) async fn remove_links(&mut self, board: &Board) {
        let now = clock::now();
        let wanted = board.groups.values().flat_map(|group| {
            let made = group.places.iter().filter_map(|place| place.link.made()).chain(&group.links);
            made.filter(|link| !link.is_exclusive() || group.standing.claim(now).is_some())
        });
        let wanted: BTreeSet<String> = wanted.map(MadeLink::name).collect();
        let used: BTreeSet<u32> = self
            .memory
            .addresses
            .iter()
            .filter(|address| address.tagged)
            .map(|address| address.link)
            .collect();
        let idle = self.links.all().iter().filter(|link| link.made_by_us && !used.contains(&link.index));
        let idle = idle.filter(|link| board.complete && !wanted.contains(&link.name));
        let idle: Vec<Link> = idle.cloned().collect();
        for link in idle {
            match self.netlink.remove_link(link.index).await {
                Ok(()) => tracing::info!(link = link.name, "removed a link"),
                Err(error) => self.failed(&error),
            }
        }
    }
}
