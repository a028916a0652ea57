//! The main loop's dealings with other stations: probes, sightings, and what the elections hear of both.

use std::net::IpAddr;

use super::driver::Driver;
use crate::announce::layer2::{Act, Sighting};
use crate::announce::probe::{Probe, Step, yields_to};
use crate::leader::driver::Ask;
use crate::leader::elector::Input;
use crate::leader::{Basis, Standing};
use crate::model::LeaseName;
use crate::net::clock;

impl Driver {
    fn targets(&self, group: &LeaseName) -> Vec<(u32, IpAddr)> {
        let placed = self.placed.get(group).into_iter().flatten();
        placed.map(|(link, vip)| (*link, vip.address)).collect()
    }

    pub(super) fn handle_ask(&mut self, group: LeaseName, ask: Ask) {
        match ask {
            Ask::Probe => {
                let skip = |address: &IpAddr| !(self.options.skip_dad && address.is_ipv6());
                let addresses = self.targets(&group).into_iter().map(|(_, address)| address).filter(skip);
                let probe = Probe::new(addresses.collect(), clock::now());
                self.probes.insert(group, probe);
            }
            Ask::Assert => {
                for (link, address) in self.targets(&group) {
                    self.announce(link, address);
                }
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
                    for (link, address) in self.targets(&group) {
                        if addresses.contains(&address)
                            && let Err(error) = self.links.probe(link, address)
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
    pub(super) fn handle_sighting(&mut self, link: u32, sighting: Sighting) -> bool {
        let Sighting { address, station, act } = sighting;
        let Some(group) = self.owners.get(&address).cloned() else { return false };
        let probing = self.probes.get(&group).is_some_and(|probe| probe.concerns(address));
        match (act, self.standing(&group)) {
            (Act::Claims, Standing::Leaving { .. }) => {
                self.succeeded.insert(address);
                if self.targets(&group).iter().all(|(_, address)| self.succeeded.contains(address)) {
                    self.command(&group, Input::Succeeded);
                }
                return true;
            }
            (Act::Claims, Standing::Holding(claim)) if self.schedule.contains((link, address)) => {
                if claim.basis == Basis::Provisional {
                    self.command(&group, Input::StationSeen);
                    self.telemetry.conflict(address, &station, false);
                } else {
                    let defend = self.schedule.defend((link, address), clock::now());
                    self.telemetry.conflict(address, &station, defend);
                    if defend {
                        self.announce(link, address);
                    }
                }
            }
            (Act::Claims, _) if probing => {
                self.telemetry.taken(address, &station);
                self.end_probe(&group, true);
            }
            (Act::Probes, _)
                if probing && (station.is_empty() || yields_to(self.links.hardware(link), &station)) =>
            {
                self.end_probe(&group, true);
            }
            _ => {}
        }
        false
    }
}
