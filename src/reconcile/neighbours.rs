//! Conflict detection in the main loop: probes, frames of other hosts, and what elections learn of both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures::FutureExt;

use super::driver::Driver;
use super::interfaces::Interfaces;
use crate::announce::schedule::Target;
use crate::conflict::{ConflictDetector, FrameKind, NeighborFrame, Output, Preset};
use crate::election::elections;
use crate::election::elector::{Input, SegmentRequest};
use crate::model::interface::hardware_text;
use crate::model::{BootTime, CandidacyKind, ClaimSource, GroupId, IfIndex, Role};
use crate::net::clock;
use crate::reconcile::desired::{Desired, Presence};

/// Frames that are received before a verdict: a flood does not postpone it.
const MAX_FRAMES: usize = 256;
/// For how long a conflict is reported after the last frame of the other host.
const CONFLICT_HOLD: Duration = Duration::from_secs(60);

/// Detectors by address.
pub(super) type Detectors = BTreeMap<Target, ConflictDetector>;

/// What a frame of another host about a planned address means for this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announcement {
    /// The next holder has the address.
    OfSuccessor,
    /// The other host announces what this host may hold now.
    AgainstClaim(ClaimSource),
    /// No announcement, or none that concerns this host.
    Other,
}

impl Announcement {
    /// The claim is checked here, where it is used: an address is not defended after its end.
    fn of(kind: FrameKind, role: &Role, now: BootTime) -> Self {
        match role {
            _ if kind != FrameKind::Announcement => Self::Other,
            Role::HandingOver { .. } => Self::OfSuccessor,
            role => role.claim(now).map_or(Self::Other, |claim| Self::AgainstClaim(claim.source)),
        }
    }
}

impl Driver {
    fn targets(&self, group: &GroupId) -> Vec<Target> {
        let placed = self.placement.targets.get(group).into_iter().flatten();
        placed.map(|(interface, vip)| (*interface, vip.address)).collect()
    }

    pub(super) fn handle_segment_request(&mut self, group: GroupId, request: SegmentRequest) {
        match request {
            // With routes instead of neighbours there is no other host to probe for.
            SegmentRequest::Probe if self.options.quiet => self.end_probe(&group, false),
            SegmentRequest::Probe if self.is_of_services(&group) => {
                self.moves.suspect(&group);
                self.end_probe(&group, false);
            }
            SegmentRequest::Announce if self.options.quiet => {}
            SegmentRequest::Probe => {
                let now = clock::now();
                // Unverified addresses are probed one by one when they are added.
                let plan = self.channels.plan.borrow();
                let exempt = |address: &IpAddr| self.options.skip_dad && address.is_ipv6();
                let concerned =
                    |(_, address): &Target| !plan.unverified.contains(address) && !exempt(address);
                let targets = self.targets(&group).into_iter().filter(concerned);
                let detector = |(interface, address)| {
                    let mac = self.interfaces.hardware(interface);
                    ((interface, address), ConflictDetector::new(Preset::ELECTION, mac, now))
                };
                let detectors: Detectors = targets.map(detector).collect();
                drop(plan);
                self.probes.insert(group, detectors);
            }
            SegmentRequest::Announce => {
                for (interface, address) in self.targets(&group) {
                    self.announce(interface, address);
                }
            }
        }
    }

    /// Whether the addresses of a group are those of Services, which are probed one by one.
    fn is_of_services(&self, group: &GroupId) -> bool {
        let plan = self.channels.plan.borrow();
        plan.groups.get(group).is_some_and(|group| group.candidacy.kind == CandidacyKind::Services)
    }

    /// Removes addresses from `desired` that are being probed or in use by another host, and reports the latter.
    pub(super) fn admit(&mut self, desired: &mut Desired, unverified: &BTreeSet<IpAddr>) {
        let now = clock::now();
        let own = self.actual.addresses.iter().filter(|address| self.actual.is_ours(address));
        let present: BTreeSet<Target> = own.map(|address| (address.interface, address.vip.address)).collect();
        let mut wanted = BTreeSet::new();
        desired.addresses.retain(|(interface, vip), presence| {
            if !matches!(presence, Presence::Active { .. }) {
                return true;
            }
            let target = (*interface, vip.address);
            let exempt = self.options.skip_dad && vip.address.is_ipv6();
            let usable = self.detectors.get(&target).map(ConflictDetector::is_usable);
            let moved = self.moves.contains(&vip.address);
            let unverified = unverified.contains(&vip.address);
            if usable != Some(true) && (exempt || !(unverified || moved)) {
                return true;
            }
            if usable.is_none() && present.contains(&target) {
                return true;
            }
            wanted.insert(target);
            let mac = self.interfaces.hardware(*interface);
            let preset = if moved && !unverified { Preset::MOVED } else { Preset::SERVICE };
            let detector = || ConflictDetector::new(preset, mac, now);
            self.detectors.entry(target).or_insert_with(detector).is_usable()
        });
        self.detectors.retain(|target, _| wanted.contains(target));
        for (target, mac) in lasting_conflicts(&self.detectors) {
            let (mac, interface) = (hardware_text(mac), self.interfaces.name(target.0));
            let remedy = match self.moves.contains(&target.1) {
                true => "it may be the node that announced the Service before, which gives it up",
                false => "assign another address to the Service, or remove this one from that host",
            };
            let text = format!("another host, {mac}, has {} on interface {interface}: {remedy}", target.1);
            self.placement.blocked.insert(target.1, text);
        }
    }

    /// Takes in frames that have arrived before a deadline is handled: an answer in the socket's buffer counts.
    pub(super) async fn receive_before_verdicts(&mut self) {
        let now = clock::now();
        let all = self.probes.values().flatten().chain(&self.detectors);
        let mut deadlines = all.filter_map(|(_, detector)| detector.poll_timeout());
        if !deadlines.any(|at| at <= now) {
            return;
        }
        // The runtime polls its sockets only between tasks.
        tokio::task::yield_now().await;
        for _ in 0..MAX_FRAMES {
            let Some((interface, Ok(frame))) = self.interfaces.next_frame().now_or_never() else {
                return;
            };
            self.dirty |= self.handle_frame(interface, &frame);
        }
    }

    /// Runs all detectors whose deadline has passed.
    pub(super) fn step_detectors(&mut self) {
        self.dirty |= step(&mut self.detectors, &self.interfaces);
        let mut finished = Vec::new();
        for (group, detectors) in &mut self.probes {
            step(detectors, &self.interfaces);
            if detectors.values().all(ConflictDetector::is_usable) {
                finished.push(group.clone());
            }
        }
        for group in finished {
            self.end_probe(&group, false);
        }
    }

    fn end_probe(&mut self, group: &GroupId, taken: bool) {
        self.probes.remove(group);
        self.command(group, Input::Probed { taken });
    }

    /// The queue has room for every outstanding input; one that does not fit is sent again.
    fn command(&self, group: &GroupId, command: Input) {
        if let GroupId::Lease(lease) = group {
            self.channels.elections.try_send(elections::Input::Elector(lease.clone(), command)).ok();
        }
    }

    /// Takes in a frame of another host. Returns whether the host has to be reconciled.
    pub(super) fn handle_frame(&mut self, interface: IfIndex, frame: &NeighborFrame) -> bool {
        let NeighborFrame { address, mac, kind } = frame;
        let target = (interface, *address);
        let Some(group) = self.placement.owners.get(address).cloned() else { return false };
        if self.channels.plan.borrow().is_of_own_lease(*address, mac) {
            return false;
        }
        match Announcement::of(*kind, &self.role(&group), clock::now()) {
            Announcement::OfSuccessor => {
                self.succeeded.insert(*address);
                if self.targets(&group).iter().all(|(_, address)| self.succeeded.contains(address)) {
                    self.command(&group, Input::Succeeded);
                }
                return true;
            }
            Announcement::AgainstClaim(source)
                if self.detectors.contains_key(&target) || self.schedule.contains(target) =>
            {
                return self.handle_conflict(&group, source, target, frame);
            }
            Announcement::AgainstClaim(_) | Announcement::Other => {}
        }
        let Some(detectors) = self.probes.get_mut(&group) else { return false };
        let Some(detector) = detectors.iter_mut().find(|((_, probed), _)| probed == address) else {
            return false;
        };
        detector.1.handle_input(clock::now(), frame);
        if detector.1.poll_output() == Some(Output::Conflict) {
            if *kind == FrameKind::Announcement {
                self.reporter.taken(*address, mac);
            }
            self.end_probe(&group, true);
        }
        false
    }

    /// Another host announces an address that this host holds or probes. Returns whether the host has to be reconciled.
    fn handle_conflict(
        &mut self,
        group: &GroupId,
        source: ClaimSource,
        target: Target,
        frame: &NeighborFrame,
    ) -> bool {
        let now = clock::now();
        let (interface, address) = target;
        if source == ClaimSource::Provisional && !self.detectors.contains_key(&target) {
            self.command(group, Input::AddressClaimed);
            self.reporter.conflict(address, &frame.mac, false);
            return false;
        }
        let mac = self.interfaces.hardware(interface);
        let detector = self.detectors.entry(target);
        let detector = detector.or_insert_with(|| ConflictDetector::owned(Preset::SERVICE, mac));
        let usable = detector.is_usable();
        detector.handle_input(now, frame);
        let output = detector.poll_output();
        if output == Some(Output::Conflict) {
            self.reporter.occupied(address, &frame.mac);
            return true;
        }
        if !usable || !self.schedule.contains(target) {
            return false;
        }
        let defend = output == Some(Output::Defend);
        self.reporter.conflict(address, &frame.mac, defend);
        if defend {
            self.announce(interface, address);
        }
        let host = format!("another host, {}", hardware_text(&frame.mac));
        let before = self.conflicts.insert(address, (host.clone(), now + CONFLICT_HOLD));
        before.is_none_or(|(before, _)| before != host)
    }
}

/// Runs detectors whose deadline has passed. Returns whether an address became usable.
fn step(detectors: &mut Detectors, interfaces: &Interfaces) -> bool {
    let now = clock::now();
    let mut usable = false;
    for ((interface, address), detector) in detectors {
        detector.handle_timeout(now);
        match detector.poll_output() {
            Some(Output::SendProbe) => {
                if let Err(error) = interfaces.probe(*interface, *address) {
                    tracing::debug!(%address, %error, "cannot send a probe");
                }
            }
            output => usable |= output == Some(Output::Usable),
        }
    }
    usable
}

/// Addresses that other hosts have, each with the host's hardware address.
pub(super) fn lasting_conflicts(detectors: &Detectors) -> impl Iterator<Item = (Target, &[u8])> {
    detectors.iter().filter_map(|(target, detector)| Some((*target, detector.lasting_conflict()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Claim;

    #[test]
    fn an_address_is_defended_while_the_claim_is_valid() {
        let at = |seconds| BootTime::from_boot(Duration::from_secs(seconds));
        let source = ClaimSource::Lease;
        let leader = Role::Leader(Claim { since: at(0), valid_until: at(3), fence_until: at(4), source });
        let leaving = Role::HandingOver { until: at(1) };
        for (role, now, expected) in [
            (&leader, 2, Announcement::AgainstClaim(source)),
            (&leader, 3, Announcement::Other),
            (&leaving, 2, Announcement::OfSuccessor),
            (&Role::Starting, 2, Announcement::Other),
            (&Role::FOLLOWER, 2, Announcement::Other),
        ] {
            assert_eq!(
                Announcement::of(FrameKind::Announcement, role, at(now)),
                expected,
                "{role:?} at {now}"
            );
            assert_eq!(Announcement::of(FrameKind::Probe, role, at(now)), Announcement::Other);
        }
    }
}
