//! What this host may have to hold: addresses by the election that they belong to, and where each would go.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::leader::Standing;
use crate::model::link::MadeLink;
use crate::model::vip::host_prefix;
use crate::model::{ActualAddress, LeaseName, Link, Routes, Vip};

/// Every group of addresses that moves as one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Board {
    /// By the Lease that is elected on.
    pub groups: BTreeMap<LeaseName, Group>,
    /// Those that nobody in the cluster has announced yet, as far as is known: a station outside may have them.
    pub fresh: BTreeSet<IpAddr>,
    /// The addresses of all Services, whether they can be served here or not.
    pub known: Arc<BTreeSet<IpAddr>>,
    /// All Services are known: what is in no group is not wanted.
    pub complete: bool,
}

/// Addresses that move as one, and whether this host has them.
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// Where this host stands in the election.
    pub standing: Standing,
    /// The addresses.
    pub places: BTreeSet<Place>,
    /// What routers are told.
    pub routes: Arc<Routes>,
    /// Links that are needed before there is an address for them, by the host that has the election.
    pub links: BTreeSet<MadeLink>,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            standing: Standing::Starting,
            places: BTreeSet::new(),
            routes: Arc::default(),
            links: BTreeSet::new(),
        }
    }
}

/// An address, and where on a host it would go.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The address.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix: PrefixLength,
    /// Its link.
    pub link: LinkChoice,
}

/// A prefix length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PrefixLength {
    /// This one.
    Fixed(u8),
    /// That of the link's subnet which contains the address.
    OfSubnet,
}

/// A link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum LinkChoice {
    /// The one of this name.
    Named(String),
    /// The first one whose subnet contains the address, else the one of this name.
    OfSubnet(String),
    /// One that is made where it is missing.
    Made(MadeLink),
}

/// Why an address cannot go anywhere on this host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unplaced {
    /// There is no such link.
    #[error("there is no link {0} on this host")]
    NoLink(String),
    /// The link has to be made first, and the one that it is on is there.
    #[error("there is no link {} on this host yet", .link.name())]
    NotMade {
        /// The link.
        link: MadeLink,
        /// The index of the one that it is on.
        parent: u32,
    },
    /// The subnet was asked for, and there is none.
    #[error(
        "no subnet of link {link} contains {address}: set vip_subnet to a number, or choose another link"
    )]
    NoSubnet {
        /// The address.
        address: IpAddr,
        /// The link.
        link: String,
    },
}

impl LinkChoice {
    /// The name of the link, or of the one that stands in for it as long as the address is not known.
    pub fn name(&self) -> String {
        match self {
            Self::Named(name) | Self::OfSubnet(name) => name.clone(),
            Self::Made(link) => link.name(),
        }
    }

    /// The link that is made, if it is one.
    pub fn made(&self) -> Option<&MadeLink> {
        match self {
            Self::Made(link) => Some(link),
            Self::Named(_) | Self::OfSubnet(_) => None,
        }
    }
}

impl Place {
    /// An address as a host route on a link.
    pub fn on(address: IpAddr, link: &str) -> Self {
        let prefix = PrefixLength::Fixed(host_prefix(address));
        Self { address, prefix, link: LinkChoice::Named(link.to_owned()) }
    }

    /// Where it goes: a link's index, and the address with its prefix length.
    ///
    /// # Errors
    /// If there is no such place.
    pub fn find(&self, links: &[Link], addresses: &[ActualAddress]) -> Result<(u32, Vip), Unplaced> {
        // What we put there ourselves says nothing of the network.
        let subnet = |address: &&ActualAddress| !address.tagged && address.vip.covers(self.address);
        let named = |name: &String| {
            let found = links.iter().find(|link| link.name == *name);
            found.map(|link| link.index).ok_or_else(|| Unplaced::NoLink(name.clone()))
        };
        let made_name = self.link.made().map(MadeLink::name).unwrap_or_default();
        let (link, name) = match &self.link {
            LinkChoice::Made(made) => {
                let parent = named(&made.parent().to_owned())?;
                let missing = |_| Unplaced::NotMade { link: made.clone(), parent };
                (named(&made_name).map_err(missing)?, &made_name)
            }
            LinkChoice::Named(name) => (named(name)?, name),
            LinkChoice::OfSubnet(name) => match addresses.iter().find(subnet) {
                Some(found) => (found.link, name),
                None => (named(name)?, name),
            },
        };
        let prefix = match self.prefix {
            PrefixLength::Fixed(prefix) => prefix,
            PrefixLength::OfSubnet => {
                let found = addresses.iter().filter(|address| address.link == link).find(subnet);
                let none = || Unplaced::NoSubnet { address: self.address, link: name.clone() };
                found.ok_or_else(none)?.vip.prefix
            }
        };
        Ok((link, Vip { address: self.address, prefix }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> Link {
        Link {
            index,
            name: name.into(),
            up: true,
            hardware_type: 1,
            hardware_address: vec![0; 6],
            broadcast: vec![255; 6],
            made_by_us: false,
            reverse_path: 0,
        }
    }

    fn own(link: u32, address: &str, prefix: u8) -> ActualAddress {
        let vip = Vip { address: address.parse().unwrap(), prefix };
        ActualAddress { link, vip, tagged: false, deprecated: false, valid_for: None, dad_failed: false }
    }

    #[test]
    fn where_an_address_goes() {
        let links = [link(2, "eth0"), link(3, "eth1")];
        let addresses = [own(2, "192.0.2.1", 24), own(3, "198.51.100.1", 25), own(3, "fd00::1", 64)];
        let named = |name: &str| LinkChoice::Named(name.into());
        let subnet = |name: &str| LinkChoice::OfSubnet(name.into());
        let table = [
            ("192.0.2.9", PrefixLength::Fixed(32), named("eth1"), Ok((3, 32))),
            ("198.51.100.9", PrefixLength::Fixed(32), subnet("eth0"), Ok((3, 32))),
            ("198.51.100.200", PrefixLength::Fixed(32), subnet("eth0"), Ok((2, 32))),
            ("fd00::9", PrefixLength::OfSubnet, subnet("eth0"), Ok((3, 64))),
            ("192.0.2.9", PrefixLength::OfSubnet, named("eth0"), Ok((2, 24))),
            (
                "192.0.2.9",
                PrefixLength::OfSubnet,
                named("eth1"),
                Err("no subnet of link eth1 contains 192.0.2.9"),
            ),
            ("192.0.2.9", PrefixLength::Fixed(32), named("eth7"), Err("there is no link eth7")),
        ];
        for (address, prefix, link, expected) in table {
            let place = Place { address: address.parse().unwrap(), prefix, link };
            match (place.find(&links, &addresses), expected) {
                (Ok((link, vip)), Ok((index, bits))) => {
                    assert_eq!((link, vip.prefix), (index, bits), "{place:?}")
                }
                (Err(error), Err(text)) => assert!(error.to_string().starts_with(text), "{error}"),
                (found, expected) => panic!("{place:?}: {found:?} instead of {expected:?}"),
            }
        }
    }
}
