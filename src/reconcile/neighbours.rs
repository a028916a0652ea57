//! The main loop's dealings with other stations: probes, sightings, and what the elections hear of both.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use futures::FutureExt;

use super::driver::Driver;
use crate::announce::layer2::{Act, Sighting};
use crate::announce::schedule::Target;
use crate::conflict::probe::{Probe, Step, yields_to};
use crate::election::driver::Ask;
use crate::election::elector::Input;
use crate::election::{ClaimSource, Role};
use crate::model::hash::fnv1a;
use crate::model::interface::hardware_text;
use crate::model::{IfIndex, LeaseName};
use crate::net::clock;
use crate::reconcile::desired::{Desired, Presence};

/// Answers that are heard before a verdict: a flood of them does not put it off.
const ANSWERS: usize = 256;
/// How long a conflict is told of after the last sign of it.
const CONFLICT: Duration = Duration::from_secs(60);

impl Driver {
    fn targets(&self, group: &LeaseName) -> Vec<(IfIndex, IpAddr)> {
        let placed = self.placed.get(group).into_iter().flatten();
        placed.map(|(interface, vip)| (*interface, vip.address)).collect()
    }

    pub(super) fn handle_ask(&mut self, group: LeaseName, ask: Ask) {
        match ask {
            // Where routers decide who gets packets, nobody is asked.
            Ask::Probe if self.options.quiet => self.end_probe(&group, false),
            Ask::Assert if self.options.quiet => {}
            Ask::Probe => {
                // What nobody has announced yet is asked for one by one, on its way in.
                let board = self.channels.board.borrow();
                let exempt = |address: &IpAddr| self.options.skip_dad && address.is_ipv6();
                let concerned = |address: &IpAddr| !board.fresh.contains(address) && !exempt(address);
                let addresses = self.targets(&group).into_iter().map(|(_, address)| address);
                let probe = Probe::new(addresses.filter(concerned).collect(), clock::now());
                drop(board);
                self.probes.insert(group, probe);
            }
            Ask::Assert => {
                for (interface, address) in self.targets(&group) {
                    self.announce(interface, address);
                }
            }
        }
    }

    /// Take out of `desired` what has not been admitted, and say which stations are in the way.
    pub(super) fn admit(&mut self, desired: &mut Desired, fresh: &BTreeSet<IpAddr>) {
        let now = clock::now();
        let ours = self.memory.addresses.iter().filter(|address| address.tagged || address.deprecated);
        let there: BTreeSet<Target> = ours.map(|address| (address.interface, address.vip.address)).collect();
        let mut wanted = BTreeSet::new();
        desired.addresses.retain(|(interface, vip), presence| {
            let exempt = self.options.skip_dad && vip.address.is_ipv6();
            if exempt || !fresh.contains(&vip.address) || !matches!(presence, Presence::Active { .. }) {
                return true;
            }
            let target = (*interface, vip.address);
            wanted.insert(target);
            self.admission.allows(target, there.contains(&target), now)
        });
        self.admission.retain(&wanted);
        for ((interface, address), station) in self.admission.taken() {
            let (station, interface) = (hardware_text(station), self.interfaces.name(interface));
            let text = format!(
                "another station, {station}, has {address} on interface {interface}: give the Service another address, or take \
                 it away there"
            );
            self.obstacles.insert(address, text);
        }
    }

    /// An answer that has arrived counts, though we come to it when time is up.
    pub(super) async fn hear_before_verdicts(&mut self) {
        let now = clock::now();
        let mut deadlines =
            self.probes.values().map(Probe::poll_timeout).chain(self.admission.poll_timeout());
        if !deadlines.any(|at| at <= now) {
            return;
        }
        // The runtime looks at its sockets when everybody has had a turn.
        tokio::task::yield_now().await;
        for _ in 0..ANSWERS {
            let Some((interface, Ok(sighting))) = self.interfaces.next_sighting().now_or_never() else {
                return;
            };
            self.dirty |= self.handle_sighting(interface, sighting);
        }
    }

    pub(super) fn step_admission(&mut self) {
        let due = self.admission.handle_timeout(clock::now());
        self.dirty |= due.decided;
        for (interface, address) in due.ask {
            if let Err(error) = self.interfaces.probe(interface, address) {
                tracing::debug!(%address, %error, "cannot probe");
            }
        }
    }

    pub(super) fn step_probes(&mut self) {
        let now = clock::now();
        let steps: Vec<(LeaseName, Step)> =
            self.probes.iter_mut().map(|(group, probe)| (group.clone(), probe.handle_timeout(now))).collect();
        for (group, step) in steps {
            match step {
                Step::Wait => {}
                Step::Send(addresses) => {
                    for (interface, address) in self.targets(&group) {
                        if addresses.contains(&address)
                            && let Err(error) = self.interfaces.probe(interface, address)
                        {
                            tracing::debug!(%address, %error, "cannot probe");
                        }
                    }
                }
                Step::Free => self.end_probe(&group, false),
            }
        }
    }

    fn end_probe(&mut self, group: &LeaseName, taken: bool) {
        self.probes.remove(group);
        self.command(group, Input::Probed { taken });
    }

    /// The elections' queue is longer than everything they are ever told at once; what does not fit is told again.
    fn command(&self, group: &LeaseName, command: Input) {
        self.channels.commands.try_send((group.clone(), command)).ok();
    }

    /// Another station was seen. Says whether the host has to be looked at.
    pub(super) fn handle_sighting(&mut self, interface: IfIndex, sighting: Sighting) -> bool {
        let Sighting { address, station, act } = sighting;
        let Some(group) = self.owners.get(&address).cloned() else { return false };
        let probing = self.probes.get(&group).is_some_and(|probe| probe.concerns(address));
        let seed = fnv1a(self.interfaces.hardware(interface));
        if act == Act::Claims && self.admission.claimed((interface, address), &station, seed, clock::now()) {
            self.telemetry.occupied(address, &station);
            return true;
        }
        match (act, self.role(&group)) {
            (Act::Claims, Role::HandingOver { .. }) => {
                self.succeeded.insert(address);
                if self.targets(&group).iter().all(|(_, address)| self.succeeded.contains(address)) {
                    self.command(&group, Input::Succeeded);
                }
                return true;
            }
            (Act::Claims, Role::Leader(claim)) if self.schedule.contains((interface, address)) => {
                if claim.source == ClaimSource::Provisional {
                    self.command(&group, Input::StationSeen);
                    self.telemetry.conflict(address, &station, false);
                } else {
                    let defend = self.schedule.defend((interface, address), clock::now());
                    self.telemetry.conflict(address, &station, defend);
                    if defend {
                        self.announce(interface, address);
                    }
                    let until = clock::now() + CONFLICT;
                    let station = format!("another station, {}", hardware_text(&station));
                    return self
                        .conflicts
                        .insert(address, (station.clone(), until))
                        .is_none_or(|(before, _)| before != station);
                }
            }
            (Act::Claims, _) if probing => {
                self.telemetry.taken(address, &station);
                self.end_probe(&group, true);
            }
            (Act::Probes, _)
                if probing
                    && (station.is_empty() || yields_to(self.interfaces.hardware(interface), &station)) =>
            {
                self.end_probe(&group, true);
            }
            _ => {}
        }
        false
    }
}
