//! What was typed, and what it means.
//!
//! `settings` is the table of every name, `raw` merges flags, environment and `file` with the origin of each
//! value, `validate` turns that into the one typed [`Config`], and `show` prints it. Nothing here touches the
//! process's environment or the host: callers pass both in.

pub mod bgp;
pub mod duration;
pub mod file;
pub mod home;
pub mod origin;
pub mod problem;
pub mod raw;
pub mod settings;
pub mod show;
pub mod validate;
pub mod vip_target;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

pub use bgp::Bgp;
pub use home::{Dhcp, Home};
pub use origin::Origin;
pub use problem::Problem;
pub use raw::{Raw, Sources};
pub use settings::{Key, Kind, SETTINGS, Setting};
pub use validate::{Facts, check, check_common};
pub use vip_target::VipTarget;

use crate::model::Family;
use crate::model::route::Table;
use crate::model::vip::host_prefix;

/// A validated configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// How addresses are announced.
    pub mode: Mode,
    /// This node's name, in lower case.
    pub node_name: String,
    /// The control-plane VIPs as typed.
    pub targets: Vec<VipTarget>,
    /// Prefix lengths for them.
    pub prefixes: Prefixes,
    /// Which addresses of a name are used.
    pub dns_mode: DnsMode,
    /// What is made of what a home network offers.
    pub home: Home,
    /// The interface that carries them; none means the default route's.
    pub interface: Option<String>,
    /// The election for them; its timings are those of all elections.
    pub election: Election,
    /// How Services are announced, if they are.
    pub services: Option<Services>,
    /// How they are held on the interface.
    pub layer2: Layer2,
    /// Who is told of routes by BGP, in that mode.
    pub bgp: Option<Bgp>,
    /// Where routes go, in routing-table mode.
    pub table: Option<RoutingTable>,
    /// How the local API server is judged.
    pub health: Health,
    /// How API servers are reached.
    pub api: Api,
    /// Logs, metrics, health port, labels.
    pub telemetry: Telemetry,
    /// Worth a warning, but no reason not to start.
    pub notes: Vec<String>,
    /// Every value with its origin.
    pub raw: Raw,
}

impl Config {
    /// Whether one node has the control plane's address, and not every one whose API server is well.
    pub fn elects_control_plane(&self) -> bool {
        let without = match &self.bgp {
            Some(bgp) => !bgp.elected,
            None => self.is_routed(),
        };
        !self.targets.is_empty() && !without
    }

    /// The families that the control plane's addresses are of, or may be of.
    pub fn control_plane_families(&self) -> BTreeSet<Family> {
        let named: &[Family] = match self.dns_mode {
            DnsMode::Ipv4 => &[Family::V4],
            DnsMode::Ipv6 => &[Family::V6],
            DnsMode::First | DnsMode::Dual => &Family::BOTH,
        };
        let of_target = |target: &VipTarget| match target {
            VipTarget::Ip(address) => vec![Family::of(*address)],
            VipTarget::Name(_) => match &self.home.dhcp {
                Some(dhcp) => dhcp.families.clone(),
                None => named.to_vec(),
            },
        };
        self.targets.iter().flat_map(of_target).collect()
    }

    /// Whether anything goes to another node when this one is gone.
    pub fn elects(&self) -> bool {
        let of_services =
            |services: &Services| services.on_demand || services.election != ServiceElection::EveryNode;
        self.elects_control_plane() || self.services.as_ref().is_some_and(of_services)
    }

    /// Whether routers are told of addresses, instead of the neighbours on an interface.
    pub fn is_routed(&self) -> bool {
        self.bgp.is_some() || self.table.is_some()
    }
}

/// What is done with a table of the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingTable {
    /// Which, and how our routes in it are marked.
    pub table: Table,
    /// Remove whatever else has our mark.
    pub clean: bool,
    /// Put the control plane's routes there again so often, each time with another realm.
    pub reassert: Option<Duration>,
}

/// How addresses are announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// ARP and NDP.
    Arp,
    /// BGP.
    Bgp,
    /// The routing table.
    RoutingTable,
    /// WireGuard tunnels.
    Wireguard,
}

impl Mode {
    /// The Go program's word for it in its start-up log line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arp => "ARP",
            Self::Bgp => "BGP",
            Self::RoutingTable => "Routing Table",
            Self::Wireguard => "Wireguard",
        }
    }
}

/// Prefix lengths for VIPs; none means a host route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Prefixes {
    /// For IPv4.
    pub v4: Option<u8>,
    /// For IPv6.
    pub v6: Option<u8>,
}

impl Prefixes {
    /// The prefix length for this address.
    pub fn of(&self, address: IpAddr) -> u8 {
        let configured = if address.is_ipv4() { self.v4 } else { self.v6 };
        configured.unwrap_or(host_prefix(address))
    }
}

/// Which addresses of a name are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DnsMode {
    /// The resolver's first.
    First,
    /// The first IPv4 one.
    Ipv4,
    /// The first IPv6 one.
    Ipv6,
    /// The first of each; both are required.
    Dual,
}

/// An election: for the control-plane VIPs, or of the one process that gives addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Election {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How long others stay away after the last renewal.
    pub lease_duration: Duration,
    /// How long the holder acts on it.
    pub renew_deadline: Duration,
    /// From one renewal to the next.
    pub retry_period: Duration,
    /// Annotations for the Lease.
    pub annotations: BTreeMap<String, String>,
}

/// How Services of type LoadBalancer are announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Services {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only these classes.
    pub class: ClassRule,
    /// How they are elected.
    pub election: ServiceElection,
    /// Namespace and name of the Lease, or the beginning of the name where there are several.
    pub lease: (String, String),
    /// Services may ask for an election of their own.
    pub on_demand: bool,
    /// The interface for their addresses; `auto` is the one whose subnet contains the address.
    pub interface: Option<String>,
    /// Prefix lengths for IPv4 and IPv6.
    pub prefixes: (SubnetPrefix, SubnetPrefix),
    /// Write status and annotations.
    pub publish: bool,
    /// Follow Endpoints instead of EndpointSlices.
    pub endpoints: bool,
}

/// Which load balancer classes are looked after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClassRule {
    /// This class, and Services without one (the Go program's default).
    NamedOrNone(String),
    /// This class alone.
    Named(String),
    /// Services without a class alone.
    None,
}

/// How Services are elected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceElection {
    /// None: every node announces what it can serve.
    EveryNode,
    /// One election for all.
    Global,
    /// One for each Service.
    PerService,
    /// So many, Services spread over them.
    Groups(usize),
}

/// A prefix length for the addresses of Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubnetPrefix {
    /// This one.
    Fixed(u8),
    /// That of the interface's subnet.
    Auto,
}

/// How VIPs are held on an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer2 {
    /// Time between announcements once the first burst is over; none means 60 s.
    pub announce_every: Option<Duration>,
    /// Do not probe for an IPv6 address before its first use.
    pub skip_dad: bool,
    /// Leave the IPv4 address to the kernel's lifetime when the claim runs out.
    pub preserve: bool,
    /// Global scope on `lo`.
    pub lo_global: bool,
    /// Hold the VIP though the interface is down.
    pub tolerate_down: bool,
    /// Give the VIP up when the interface has been down for this long, whoever else may be better.
    pub give_up_when_down_for: Option<Duration>,
}

/// How the local API server is judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// By its own /livez, every 250 ms; one second of failure counts as down.
    Local,
    /// By a URL.
    Url {
        /// The URL; 200 means healthy.
        url: String,
        /// Time between checks.
        period: Duration,
        /// Time a check may take.
        timeout: Duration,
        /// Failures in a row that count as down.
        threshold: u32,
        /// File with a further CA.
        ca: Option<String>,
    },
}

/// How API servers are reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// Path of the kubeconfig.
    pub kubeconfig: String,
    /// Address or URL to use instead of the kubeconfig's.
    pub address: Option<String>,
    /// Take the address from the local API server's certificate.
    pub detect: bool,
    /// The API server's port.
    pub port: u16,
}

/// Logs, metrics, health port, labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// As in Go's slog: -4 debug, 0 info, 4 warnings, 8 errors.
    pub level: i64,
    /// How log lines are written.
    pub format: LogFormat,
    /// Where metrics are served.
    pub metrics: Option<String>,
    /// Port of /healthz and /readyz.
    pub health_port: Option<u16>,
    /// Label the node that holds the VIP.
    pub label_node: bool,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// As Go's slog writes text.
    Text,
    /// One JSON object a line.
    Json,
}
