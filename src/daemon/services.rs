//! The elections for Services, and what plans them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::every_node::{group, keep};
use super::{Common, LINK_PATIENCE, Parts};
use crate::config::{Config, ServiceElection, SubnetPrefix};
use crate::election::elections::{self, Elections};
use crate::election::elector::Input;
use crate::election::{self, Candidacy, Role};
use crate::model::{BootTime, Interface, LeaseName};
use crate::net::clock;
use crate::planner::plan::{Mode, PlanContext, RouteRules};
use crate::planner::select::Rules;
use crate::reconcile::desired::{AddressSpec, InterfaceSelector, PrefixLength};
use crate::reconcile::host_status::HostStatus;
use crate::telemetry::Telemetry;
use crate::{cluster, dhcp, mdns, planner, upnp};

/// Candidates for each group of Services.
const CANDIDATES: usize = 3;
/// Events that wait to be written.
const EVENTS: usize = 4096;

impl Common {
    /// The elections for Services, and what plans them.
    pub(super) fn start_services(
        &self,
        control_plane: Option<&LeaseName>,
        shared: watch::Sender<BTreeSet<AddressSpec>>,
        outcome: watch::Receiver<HostStatus>,
        interface_down: watch::Receiver<Option<BootTime>>,
        parts: &mut Parts,
    ) -> std::io::Result<Option<mpsc::Sender<(LeaseName, Input)>>> {
        let Some(config) = self.config.services.as_ref() else { return Ok(None) };
        let (dhcp_channels, dhcp) = dhcp::driver::channels();
        let clients = dhcp::driver::Driver::start(
            dhcp_channels,
            self.telemetry.metrics.dhcp.clone(),
            self.config.dhcp.attempts,
        )?;
        tokio::spawn(clients);
        let (teller, names, told) = mdns::driver::Driver::new(&self.interface.name)?;
        parts.farewells.push(tokio::spawn(teller.run()));
        let counts = self.telemetry.metrics.upnp.clone();
        let (opener, forwards, opened) = upnp::driver::Driver::new(&self.interface.name, counts)?;
        tokio::spawn(opener.run());
        let (candidacies_in, candidacies) = watch::channel(BTreeMap::<LeaseName, Candidacy>::new());
        let (holders_in, holders) = watch::channel(BTreeMap::new());
        let (commands, commands_out) = mpsc::channel(1024);
        let (drained_in, drained) = watch::channel(false);
        let channels = elections::Channels {
            candidacies,
            board: self.board.clone(),
            commands: commands_out,
            asks: self.asks.clone(),
            holders: holders_in,
            drained,
            stopping: self.stopping.clone(),
        };
        let observer = Arc::new(Muted(self.telemetry.clone()));
        let (elections, leases) =
            Elections::new(self.settings(false, false), self.api.clone(), observer, channels);
        parts.election("the elections for Services", elections.run(leases));
        let (events, events_out) = mpsc::channel(EVENTS);
        let author =
            cluster::event::EventRecorder { component: "kube-vip", host: self.config.node_name.clone() };
        tokio::spawn(author.post_all(self.api.clone(), events_out));
        let ours = self.addresses.iter().filter(|address| address.tagged || address.deprecated);
        let driver = planner::driver::Driver::new(
            self.api.clone(),
            context(&self.config, config, &self.interface, control_plane),
            planner::driver::Options {
                publish: config.publish,
                endpoints: config.endpoints,
                dns_mode: self.config.dns_mode,
                namespace: config.namespace.clone(),
                label_node: self.config.telemetry.label_node,
                names: self.config.mdns.services,
                upnp: self.config.upnp.policy,
                upnp_status: self.config.upnp.status,
            },
            planner::driver::Channels {
                board: self.board.clone(),
                candidacies: candidacies_in,
                shared,
                outcome,
                holders,
                vips: self.vips.clone(),
                dhcp,
                gateways: (forwards, opened),
                mdns: (names, told),
                events,
            },
            self.telemetry.clone(),
            ours.map(|address| address.vip.address).collect(),
        );
        parts.other("the planning of Services", driver.run());
        if self.config.is_routed() {
            let (judge, role) = self.judge(None);
            parts.election("the judge of every node", judge.run());
            parts.election("the role of every node", keep(group(), role, self.board.clone()));
        }
        let tolerate_down = self.config.layer2.tolerate_down;
        tokio::spawn(stay_away(self.drained.clone(), interface_down, tolerate_down, drained_in));
        Ok(Some(commands))
    }
}

/// What the planning of Services is based on.
fn context(
    config: &Config,
    services: &crate::config::Services,
    interface: &Interface,
    control_plane: Option<&LeaseName>,
) -> PlanContext {
    let (namespace, name) = services.lease.clone();
    let lease = LeaseName { namespace, name };
    let prefix = |prefix: SubnetPrefix| match prefix {
        SubnetPrefix::Fixed(length) => PrefixLength::Fixed(length),
        SubnetPrefix::Auto => PrefixLength::OfSubnet,
    };
    PlanContext {
        me: config.node_name.clone(),
        rules: Rules {
            namespace: services.namespace.clone(),
            class: services.class.clone(),
            on_demand: services.on_demand,
        },
        mode: match services.election {
            ServiceElection::Global => Mode::Global(lease),
            ServiceElection::PerService => Mode::PerService,
            ServiceElection::EveryNode => Mode::EveryNode(group()),
            ServiceElection::Groups(count) => Mode::Groups { base: lease, count, most: CANDIDATES },
        },
        control_plane: control_plane.cloned(),
        interface: match services.interface.as_deref() {
            Some("auto") => InterfaceSelector::OfSubnet(interface.name.clone()),
            Some(name) => InterfaceSelector::Named(name.to_owned()),
            None => InterfaceSelector::Named(interface.name.clone()),
        },
        main_interface: interface.name.clone(),
        v4: prefix(services.prefixes.0),
        v6: prefix(services.prefixes.1),
        routes: config.is_routed().then(|| {
            let extras = config.bgp.as_ref().map(|bgp| bgp.extras.clone()).unwrap_or_default();
            RouteRules {
                every_node: group(),
                attach: config.bgp.as_ref().is_some_and(|bgp| bgp.attach),
                external_ips: extras.external_ips,
                networks: extras.networks,
                service_cidrs: extras.service_cidrs,
            }
        }),
    }
}

/// Whether Services are to be left to others: an operator says so, or the main interface is down.
async fn stay_away(
    mut drained: watch::Receiver<bool>,
    mut interface_down: watch::Receiver<Option<BootTime>>,
    tolerate_down: bool,
    away: watch::Sender<bool>,
) {
    loop {
        let wanted = *drained.borrow_and_update();
        let down_for = (*interface_down.borrow_and_update()).map(|since| clock::now().since(since));
        let cut_off = !tolerate_down && down_for.is_some_and(|down| down >= LINK_PATIENCE);
        away.send_if_modified(|before| std::mem::replace(before, wanted || cut_off) != (wanted || cut_off));
        let due = async {
            match down_for {
                Some(down) if down < LINK_PATIENCE => tokio::time::sleep(LINK_PATIENCE - down).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = drained.changed() => if changed.is_err() { return },
            changed = interface_down.changed() => if changed.is_err() { return },
            () = due => {}
        }
    }
}

/// An observer that tells of calls, not of each of many elections.
struct Muted(Arc<Telemetry>);

impl election::Observer for Muted {
    fn election(&self, _: &election::decide::ObservedLease, _: &Role, _: BootTime) {}

    fn role_changed(&self, _: &Role, _: &Role, _: &election::decide::ObservedLease, _: BootTime) {}

    fn no_access(&self, why: &str) {
        self.0.no_access(why);
    }

    fn call_failed(
        &self,
        verb: &'static str,
        server: &str,
        answer: &election::elector::LeaseResponse,
        why: &str,
    ) {
        self.0.call_failed(verb, server, answer, why);
    }

    fn call_succeeded(&self, verb: &'static str) {
        self.0.call_succeeded(verb);
    }
}
