//! How Services of type LoadBalancer are announced.

use super::election::lease;
use super::{HostFacts, Policy, Values, vip};
use crate::model::LeaseName;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Services {
    /// Only this namespace.
    pub namespace: Option<String>,
    pub class: ClassRule,
    pub election: ServiceElection,
    /// Its name is a prefix where there are several.
    pub lease: LeaseName,
    /// An annotation gives a Service an election of its own.
    pub on_demand: bool,
    /// With one election for all, each Service with `externalTrafficPolicy: Local` has an election of its own.
    pub local_alone: bool,
    /// The interface for their addresses; `auto` is the one whose subnet contains the address.
    pub interface: Option<String>,
    /// Prefix lengths for IPv4 and IPv6.
    pub prefixes: (SubnetPrefix, SubnetPrefix),
    /// Write status and annotations.
    pub publish: bool,
    /// Watch Endpoints instead of EndpointSlices.
    pub endpoints: bool,
    pub policy: Policy,
}

/// Which load balancer classes are served.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ClassRule {
    /// This class, and Services without one (the Go program's default).
    NamedOrNone(String),
    /// This class only.
    Named(String),
    /// Only Services without a class.
    #[default]
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceElection {
    /// None: every node announces each Service that it can serve.
    EveryNode,
    /// One election for all.
    Global,
    PerService,
    /// This many elections, with Services spread over them.
    Groups(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SubnetPrefix {
    Fixed(u8),
    /// The prefix length of the interface's subnet.
    Auto,
}

pub(super) fn read(values: &Values, facts: &HostFacts, policy: Policy) -> Services {
    // `check_values` reports invalid ones.
    let subnets = vip::subnets(values).unwrap_or_default();
    let prefix = |item: Option<&SubnetPrefix>, host: u8| match item {
        Some(SubnetPrefix::Auto) => SubnetPrefix::Auto,
        Some(SubnetPrefix::Fixed(length)) => SubnetPrefix::Fixed(*length.min(&host)),
        None => SubnetPrefix::Fixed(host),
    };
    Services {
        namespace: values.service_namespace.clone(),
        class: class_rule(values),
        election: election(values),
        lease: lease(values, &values.services_lease_name, facts),
        on_demand: values.on_demand_election,
        local_alone: values.services_local_election,
        interface: values.services_interface.clone(),
        prefixes: (prefix(subnets.first(), 32), prefix(subnets.get(1), 128)),
        publish: !values.disable_service_updates,
        endpoints: values.enable_endpoints,
        policy,
    }
}

pub(super) fn election(values: &Values) -> ServiceElection {
    let every_node = values.bgp || (values.routing_table && !values.leader_election);
    match (values.services_election, values.services_election_groups) {
        (true, _) => ServiceElection::PerService,
        (false, 0) if every_node => ServiceElection::EveryNode,
        (false, 0) => ServiceElection::Global,
        (false, groups) => ServiceElection::Groups(groups.into()),
    }
}

/// Whether a Service may have an election of its own: by the mode, by annotation, by its traffic policy, or since a lease
/// belongs to one host.
pub(crate) fn elects_alone(values: &Values) -> bool {
    let by_service = values.on_demand_election || values.services_local_election;
    values.services && (by_service || election(values) != ServiceElection::Global)
}

fn class_rule(values: &Values) -> ClassRule {
    let class = values.class_name.clone();
    match values.class_legacy {
        true if values.class_only => ClassRule::Named(class),
        true => ClassRule::NamedOrNone(class),
        false if class.is_empty() => ClassRule::None,
        false => ClassRule::Named(class),
    }
}
