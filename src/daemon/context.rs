//! The configuration as each component takes it.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::config::{self, ClassRule, Config, ServiceElection, SubnetPrefix, VipTarget};
use crate::election::host_health::InterfacePolicy;
use crate::election::{Candidate, Scheme, Settings, elections};
use crate::model::address::left_over;
use crate::model::hash::fnv1a;
use crate::model::{ActualAddress, GroupId, Interface, InterfaceSelector, PrefixLength};
use crate::net::machine::host_id;
use crate::planner::control_plane::ControlPlane;
use crate::planner::plan::{Mode, PlanContext, RouteRules};
use crate::planner::select::Rules;
use crate::reconcile::desired::DRAIN_TAIL;
use crate::{host, planner, publish, reconcile};

/// Candidates for each Lease group of Services.
const CANDIDATES: usize = 3;
/// Routes are advertised as draining for this long before they are withdrawn, where there are BGP peers.
const DRAIN_TIME: Duration = Duration::from_millis(500);

/// The Leases that no Service is elected on.
pub(super) fn uncounted_leases(config: &Config) -> BTreeSet<GroupId> {
    let member = Scheme::of(config).and_then(|scheme| scheme.member);
    config.reported_lease().into_iter().chain(member).map(GroupId::from).collect()
}

pub(super) fn elections(config: &Config) -> elections::Config {
    let election = &config.election;
    let candidate = Candidate { identity: config.node_name.clone(), host: host_id() };
    let settings = Settings {
        seed: fnv1a(format!("{} {}", candidate.identity, candidate.host).as_bytes()),
        candidate,
        lease_duration: election.lease_duration,
        renew_deadline: election.renew_deadline,
        retry_period: election.retry_period,
        annotations: election.annotations.clone(),
        provisional: false,
        resuming: false,
    };
    let interface = InterfacePolicy {
        tolerate_down: config.layer2.tolerate_down,
        give_up_after: config.layer2.give_up_when_down_for,
    };
    let drain = if config.bgp.is_some() { DRAIN_TIME } else { Duration::ZERO };
    let scheme = Scheme::of(config);
    elections::Config { settings, interface, hand_over_time: drain + DRAIN_TAIL, scheme }
}

pub(super) fn plan(config: &Config, interface: &Interface, addresses: &[ActualAddress]) -> PlanContext {
    let services = config.services.as_ref();
    let named = services.and_then(|services| services.interface.as_deref());
    let prefix = |prefix: SubnetPrefix| match prefix {
        SubnetPrefix::Fixed(length) => PrefixLength::Fixed(length),
        SubnetPrefix::Auto => PrefixLength::OfSubnet,
    };
    let (v4, v6) = services.map_or((SubnetPrefix::Auto, SubnetPrefix::Auto), |services| services.prefixes);
    PlanContext {
        me: config.node_name.clone(),
        rules: Rules {
            namespace: services.and_then(|services| services.namespace.clone()),
            class: services.map_or(ClassRule::None, |services| services.class.clone()),
            on_demand: services.is_some_and(|services| services.on_demand),
            local_alone: services.is_some_and(|services| services.local_alone),
        },
        mode: services.map_or(Mode::EveryNode, mode),
        member: Scheme::of(config).and_then(|scheme| scheme.member),
        control_plane: control_plane(config, interface, addresses),
        services: services.is_some(),
        interface: match named {
            Some("auto") => InterfaceSelector::OfSubnet(interface.name.clone()),
            Some(name) => InterfaceSelector::Named(name.to_owned()),
            None => InterfaceSelector::Named(interface.name.clone()),
        },
        main_interface: interface.name.clone(),
        v4: prefix(v4),
        v6: prefix(v6),
        routes: config.is_routed().then(|| route_rules(config)),
        upnp: config.upnp.clone(),
        policy: services.map(|services| services.policy.clone()).unwrap_or_default(),
        host_uses: host::uses::uses(config),
    }
}

fn mode(services: &config::Services) -> Mode {
    match services.election {
        ServiceElection::Global => Mode::Global(services.lease.clone()),
        ServiceElection::PerService => Mode::PerService,
        ServiceElection::EveryNode => Mode::EveryNode,
        ServiceElection::Groups(count) => {
            Mode::Groups { base: services.lease.clone(), count, most: CANDIDATES }
        }
    }
}

fn route_rules(config: &Config) -> RouteRules {
    let extras = config.bgp.as_ref().map(|bgp| bgp.extras.clone()).unwrap_or_default();
    RouteRules {
        attach: config.bgp.as_ref().is_some_and(|bgp| bgp.attach),
        external_ips: extras.external_ips,
        networks: extras.networks,
        service_cidrs: extras.service_cidrs,
    }
}

fn control_plane(
    config: &Config,
    interface: &Interface,
    addresses: &[ActualAddress],
) -> Option<ControlPlane> {
    let lease = config.control_plane_lease()?;
    let groups = if config.elects_control_plane() {
        vec![GroupId::Lease(lease.clone())]
    } else {
        config.probed_families().into_iter().map(GroupId::ControlPlane).collect()
    };
    let fixed = config.fixed_vips();
    let resuming = left_over(addresses, interface.index, &fixed);
    let port = config.api.port;
    Some(ControlPlane {
        lease,
        groups,
        interface: interface.name.clone(),
        prefixes: config.prefixes,
        fixed,
        names: config.targets.iter().filter_map(VipTarget::name).map(str::to_owned).collect(),
        dhcp: config.dhcp.control_plane.clone(),
        mdns: config.mdns.control_plane.clone().map(|name| (name, port)),
        resuming,
    })
}

pub(super) fn planner_options(config: &Config) -> planner::driver::Options {
    let services = config.services.as_ref();
    planner::driver::Options {
        endpoints: services.is_some_and(|services| services.endpoints),
        dns_mode: config.dns_mode,
        namespace: services.and_then(|services| services.namespace.clone()),
        control_plane_lease: config.election.lease.clone(),
    }
}

pub(super) fn publish_options(config: &Config, context: &PlanContext) -> publish::Options {
    let services = config.services.as_ref();
    publish::Options {
        me: config.node_name.clone(),
        write_status: services.is_some_and(|services| services.publish),
        names: services.is_some() && config.mdns.services,
        reserved_name: config.mdns.control_plane.clone(),
        upnp: config.upnp.policy,
        upnp_status: config.upnp.status,
        services: services.is_some(),
        bgp: config.bgp.is_some(),
        control_plane: context.control_plane.iter().flat_map(|it| it.groups.iter().cloned()).collect(),
        common: config.global_lease().map(GroupId::from),
    }
}

pub(super) fn reconcile_options(config: &Config, context: &PlanContext) -> reconcile::driver::Options {
    reconcile::driver::Options {
        interface: context.main_interface.clone(),
        preserve: config.layer2.preserve,
        adopted_lifetime: elections(config).settings.adopted_lifetime(),
        skip_probes: config.layer2.skip_probes.clone(),
        lo_global: config.layer2.lo_global,
        refresh: config.layer2.announce_every.unwrap_or(crate::announce::schedule::REFRESH),
        quiet: config.is_routed(),
        tags: config.tags(),
        services: context.services,
        decisive: config.global_lease().map(GroupId::from).into_iter().collect(),
        aggregates: config.bgp.as_ref().map(|bgp| bgp.extras.aggregates.clone()).unwrap_or_default(),
        control_plane: context.control_plane.as_ref().map(|it| it.groups.clone()).unwrap_or_default(),
    }
}
