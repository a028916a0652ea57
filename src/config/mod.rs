//! Settings as given, and the configuration they make.
//!
//! `settings` is the table of every name, type and default. `raw` merges file, flags and environment, with the origin
//! of each value. Each topic (`vip`, `election`, `services`, …) makes its part of the one typed [`Config`], `validate`
//! checks what concerns several of them, and `show` prints the result. Nothing here reads the process's environment
//! or the host: callers pass both in.

pub mod api;
pub mod bgp;
pub mod dhcp;
pub mod election;
pub mod file;
pub mod layer2;
pub mod mdns;
mod policy;
pub mod problem;
pub mod raw;
pub mod routing_table;
pub mod services;
pub mod settings;
pub mod show;
pub mod telemetry;
pub mod upnp;
pub mod validate;
pub mod value;
pub mod vip;

use std::collections::BTreeSet;

pub use api::{Api, Health};
pub use bgp::Bgp;
pub use dhcp::Dhcp;
pub use election::Election;
pub use layer2::Layer2;
pub use mdns::Mdns;
pub use policy::{Namespaces, Policy};
pub use problem::Problem;
pub use raw::{Origin, Raw, Sources};
pub use routing_table::RoutingTable;
pub use services::{ClassRule, ServiceElection, Services, SubnetPrefix};
pub use settings::{Key, Kind, SETTINGS, Setting, Values};
pub use telemetry::Telemetry;
pub use upnp::{Upnp, UpnpPolicy};
pub(crate) use validate::check_for_roles;
pub use validate::{HostFacts, check};
pub use value::{DnsMode, LogFormat};
pub use vip::{Prefixes, VipTarget};

use crate::model::{Family, LeaseName, Tags, Vip};

/// A validated configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// How addresses are announced, by the name that the Go program logs at start.
    pub mode: &'static str,
    /// In lower case.
    pub node_name: String,
    /// Distinguishes instances on one host.
    pub instance: Option<String>,
    /// The control plane's VIPs as given.
    pub targets: Vec<VipTarget>,
    pub prefixes: Prefixes,
    pub dns_mode: DnsMode,
    pub dhcp: Dhcp,
    pub upnp: Upnp,
    pub mdns: Mdns,
    /// The interface for the control plane's VIPs; none: the default route's.
    pub interface: Option<String>,
    /// The control plane's election; its timings are those of all elections.
    pub election: Election,
    pub services: Option<Services>,
    pub layer2: Layer2,
    pub bgp: Option<Bgp>,
    pub table: Option<RoutingTable>,
    pub health: Health,
    pub api: Api,
    pub telemetry: Telemetry,
    /// Warnings that do not prevent the start.
    pub notes: Vec<String>,
    pub raw: Raw,
}

impl Config {
    /// Whether one elected node has the control plane's address, instead of every node with a healthy API server.
    pub fn elects_control_plane(&self) -> bool {
        let without = match &self.bgp {
            Some(bgp) => !bgp.elected,
            None => self.is_routed(),
        };
        !self.targets.is_empty() && !without
    }

    /// The control plane's Lease, where there are VIPs for it.
    pub fn control_plane_lease(&self) -> Option<LeaseName> {
        (!self.targets.is_empty()).then(|| self.election.lease.clone())
    }

    /// The Lease of all Services, where they have one election.
    pub fn global_lease(&self) -> Option<LeaseName> {
        let services = self.services.as_ref();
        let global = services.filter(|services| services.election == ServiceElection::Global);
        global.map(|services| services.lease.clone())
    }

    /// The Lease that metrics and status report: the control plane's, else the one for all Services.
    pub fn reported_lease(&self) -> Option<LeaseName> {
        self.control_plane_lease().or_else(|| self.global_lease())
    }

    /// The control plane's addresses in the configuration.
    pub fn fixed_vips(&self) -> BTreeSet<Vip> {
        let addresses = self.targets.iter().filter_map(|target| match target {
            VipTarget::Ip(address) if !address.is_unspecified() => Some(*address),
            // From a DHCP server, or by DNS.
            VipTarget::Ip(_) | VipTarget::Name(_) => None,
        });
        addresses.map(|address| self.prefixes.vip(address)).collect()
    }

    /// The families of the control plane's addresses; of a name, those that it can resolve to.
    pub fn control_plane_families(&self) -> BTreeSet<Family> {
        let of_names: &[Family] = match self.dns_mode {
            DnsMode::Ipv4 => &[Family::V4],
            DnsMode::Ipv6 => &[Family::V6],
            DnsMode::First | DnsMode::Dual => &Family::BOTH,
        };
        let of_target = |target: &VipTarget| match target {
            VipTarget::Ip(address) => vec![Family::of(*address)],
            VipTarget::Name(_) => match &self.dhcp.control_plane {
                Some(dhcp) => dhcp.families.clone(),
                None => of_names.to_vec(),
            },
        };
        self.targets.iter().flat_map(of_target).collect()
    }

    /// The families by which the local API server's health is probed: without election each family by itself, unless a URL is
    /// configured.
    pub fn probed_families(&self) -> Vec<Option<Family>> {
        match self.health {
            Health::Local if !self.elects_control_plane() => {
                self.control_plane_families().into_iter().map(Some).collect()
            }
            Health::Local | Health::Url { .. } => vec![None],
        }
    }

    /// Whether there is any election, so that another node takes over from this one.
    pub fn elects(&self) -> bool {
        let of_services =
            |services: &Services| services.on_demand || services.election != ServiceElection::EveryNode;
        self.elects_control_plane() || self.services.as_ref().is_some_and(of_services)
    }

    /// The tags of this process's addresses.
    pub fn tags(&self) -> Tags {
        Tags::new(self.instance.as_deref(), !self.targets.is_empty(), self.services.is_some())
    }

    /// Whether addresses are advertised to routers instead of to the neighbours on an interface.
    pub fn is_routed(&self) -> bool {
        self.bgp.is_some() || self.table.is_some()
    }
}
