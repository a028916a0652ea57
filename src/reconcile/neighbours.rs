//! Conflict detection in the main loop: probes, frames of other hosts, and what elections learn of both.

use std::collections::btree_map::Entry;
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
use crate::model::{BootTime, CandidacyKind, ClaimSource, Family, GroupId, IfIndex, Role};
use crate::net::clock;
use crate::reconcile::desired::{Desired, Presence};

/// Frames that are received before a verdict: a flood does not postpone it.
const MAX_FRAMES: usize = 256;
/// For how long a conflict is reported after the last frame of the other host.
const CONFLICT_HOLD: Duration = Duration::from_secs(60);
/// A host that has this many addresses of one family is likely a router that answers for every address.
const PROXY_ADDRESSES: usize = 3;

/// Hosts that are asked to yield an address.
const MAX_ANSWERS: usize = 16;

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
                let concerned = |(_, address): &Target| {
                    !plan.unverified.contains(address) && !self.options.skip_probes[Family::of(*address)]
                };
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
                for ((interface, address), to) in self.answers.get(&group).into_iter().flatten() {
                    if let Err(error) = self.interfaces.announce_to(*interface, *address, to) {
                        tracing::debug!(%address, %error, "cannot send an announcement");
                    }
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
            let exempt = self.options.skip_probes[Family::of(vip.address)] || present.contains(&target);
            let (unverified, moved) = (unverified.contains(&vip.address), self.moves.contains(&vip.address));
            let begin = || {
                let preset = preset(exempt, unverified, moved)?;
                Some(ConflictDetector::new(preset, self.interfaces.hardware(*interface), now))
            };
            let Some(detector) = deciding(&mut self.detectors, target, begin) else { return true };
            wanted.insert(target);
            detector.is_usable()
        });
        self.detectors.retain(|target, _| wanted.contains(target));
        self.placement.blocked.extend(blocked(&self.detectors, |interface| self.interfaces.name(interface)));
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

    fn note_answer(&mut self, group: &GroupId, target: Target, mac: &[u8]) {
        let answers = self.answers.entry(group.clone()).or_default();
        if !mac.is_empty() && answers.len() < MAX_ANSWERS {
            answers.insert((target, mac.to_vec()));
        }
    }

    fn end_probe(&mut self, group: &GroupId, taken: bool) {
        self.probes.remove(group);
        if !taken {
            self.answers.remove(group);
        }
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
        if self.interfaces.has_hardware(mac) || self.channels.plan.borrow().is_of_own_lease(*address, mac) {
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
        let Some(detectors) = self.probes.get_mut(&group) else {
            // The next answer to a probe that has ended: of another interface of that host, or of a proxy.
            if self.answers.contains_key(&group) && *kind == FrameKind::Announcement {
                self.note_answer(&group, target, mac);
            }
            return false;
        };
        let Some((_, detector)) = detectors.iter_mut().find(|((_, probed), _)| probed == address) else {
            return false;
        };
        detector.handle_input(clock::now(), frame);
        if detector.poll_output() == Some(Output::Conflict) {
            if *kind == FrameKind::Announcement {
                self.reporter.taken(*address, mac);
            }
            self.note_answer(&group, target, mac);
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

/// How an address is probed before it is used, if at all.
fn preset(exempt: bool, unverified: bool, moved: bool) -> Option<Preset> {
    match (unverified, moved) {
        _ if exempt => None,
        (true, _) => Some(Preset::SERVICE),
        (false, true) => Some(Preset::MOVED),
        (false, false) => None,
    }
}

/// The detector that decides whether an address may be used; without one it may. One that has begun runs to its end: the status
/// that this host writes while an address is tentative verifies nothing.
fn deciding(
    detectors: &mut Detectors,
    target: Target,
    begin: impl FnOnce() -> Option<ConflictDetector>,
) -> Option<&ConflictDetector> {
    match detectors.entry(target) {
        Entry::Occupied(entry) => Some(entry.into_mut()),
        Entry::Vacant(entry) => begin().map(|detector| &*entry.insert(detector)),
    }
}

/// Addresses that hosts outside the cluster have. The node that announced a moved address gives it up soon: it is not taken.
pub(super) fn taken(detectors: &Detectors) -> BTreeSet<IpAddr> {
    let outside = detectors.iter().filter(|(_, detector)| !detector.is_among_nodes());
    let taken = outside.filter(|(_, detector)| detector.lasting_conflict().is_some());
    taken.map(|((_, address), _)| *address).collect()
}

/// Why addresses cannot be used that other hosts have.
fn blocked(detectors: &Detectors, name: impl Fn(IfIndex) -> String) -> BTreeMap<IpAddr, String> {
    let conflicts = detectors.iter().filter_map(|(target, it)| Some((*target, it, it.lasting_conflict()?)));
    let mut by_host: BTreeMap<(&[u8], Family), BTreeSet<IpAddr>> = BTreeMap::new();
    for ((_, address), _, mac) in conflicts.clone().filter(|(.., mac)| !mac.is_empty()) {
        by_host.entry((mac, Family::of(address))).or_default().insert(address);
    }
    let text = |((interface, address), detector, mac): (Target, &ConflictDetector, &[u8])| {
        let of_host = by_host.get(&(mac, Family::of(address))).map_or(0, BTreeSet::len);
        let remedy = if detector.is_among_nodes() {
            "it may be the node that announced the Service before, which gives it up"
        } else if of_host >= PROXY_ADDRESSES {
            proxy_remedy(address)
        } else {
            "assign another address to the Service, or remove this one from that host"
        };
        let (mac, interface) = (hardware_text(mac), name(interface));
        (address, format!("another host, {mac}, has {address} on interface {interface}: {remedy}"))
    };
    conflicts.map(text).collect()
}

/// What to do about a router that answers for every address.
pub(super) fn proxy_remedy(address: IpAddr) -> &'static str {
    match Family::of(address) {
        Family::V4 => {
            "it answers for many addresses, as a router with proxy ARP does: switch that off there, or set \
             vip_skip_arp_probe here"
        }
        Family::V6 => {
            "it answers for many addresses, as a router with an ND proxy does: switch that off there, or set vip_skipdad here"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Claim;

    const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn millis(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    fn target(address: &str) -> Target {
        (IfIndex(2), address.parse().unwrap())
    }

    /// Runs a detector up to a moment in milliseconds.
    fn run(detectors: &mut Detectors, target: Target, until: u64) {
        let detector = detectors.get_mut(&target).unwrap();
        while let Some(at) = detector.poll_timeout().filter(|at| *at <= millis(until)) {
            detector.handle_timeout(at);
            while detector.poll_output().is_some() {}
        }
    }

    /// The other host answers what this host sent last.
    fn answer(detectors: &mut Detectors, target: Target, mac: &[u8], now: u64) {
        let frame = NeighborFrame { address: target.1, mac: mac.to_vec(), kind: FrameKind::Announcement };
        detectors.get_mut(&target).unwrap().handle_input(millis(now), &frame);
    }

    #[test]
    fn new_and_moved_addresses_are_probed() {
        for (exempt, unverified, moved, expected) in [
            (false, true, false, Some(Preset::SERVICE)),
            (false, true, true, Some(Preset::SERVICE)),
            (false, false, true, Some(Preset::MOVED)),
            (false, false, false, None),
            (true, true, true, None),
        ] {
            assert_eq!(preset(exempt, unverified, moved), expected, "{exempt} {unverified} {moved}");
        }
    }

    /// The address is on the interface, and in the status that this host wrote, when the other host answers.
    #[test]
    fn a_late_answer_takes_an_address_back_whatever_the_status_says_meanwhile() {
        for (delay, address) in [(50, "192.0.2.1"), (600, "192.0.2.1"), (600, "2001:db8::1")] {
            let (mut detectors, target) = (Detectors::new(), target(address));
            let begin = || Some(ConflictDetector::new(Preset::SERVICE, &[], millis(0)));
            assert!(!deciding(&mut detectors, target, begin).unwrap().is_usable());
            run(&mut detectors, target, 8);
            let usable = |detectors: &mut Detectors| {
                deciding(detectors, target, || None).is_none_or(ConflictDetector::is_usable)
            };
            assert!(usable(&mut detectors));
            assert_eq!(taken(&detectors), BTreeSet::new());
            run(&mut detectors, target, delay);
            answer(&mut detectors, target, &OTHER, delay);
            assert!(!usable(&mut detectors), "{address} after {delay} ms");
            assert_eq!(taken(&detectors), [target.1].into());
            // It answers no more.
            run(&mut detectors, target, 3000);
            assert!(usable(&mut detectors));
            assert_eq!(taken(&detectors), BTreeSet::new());
        }
    }

    #[test]
    fn a_host_that_has_three_addresses_is_likely_a_proxy() {
        let begin = |preset: &Preset| ConflictDetector::new(preset.clone(), &[], millis(0));
        let conflicts = |hosts: &[(&str, &[u8], &Preset)]| {
            let mut detectors = Detectors::new();
            for (address, mac, preset) in hosts {
                let target = target(address);
                deciding(&mut detectors, target, || Some(begin(preset)));
                // Two answers to probes.
                for _ in 0..2 {
                    let now = detectors[&target].poll_timeout().unwrap();
                    detectors.get_mut(&target).unwrap().handle_timeout(now);
                    answer(&mut detectors, target, mac, now.since_boot().as_millis() as u64);
                }
            }
            let texts = blocked(&detectors, |_| "eth0".to_owned()).into_values();
            (texts.collect::<Vec<_>>(), taken(&detectors).len())
        };
        let counts = |texts: &[String], part: &str| texts.iter().filter(|text| text.contains(part)).count();
        let (v4, moved): (&Preset, &Preset) = (&Preset::SERVICE, &Preset::MOVED);
        let mut hosts: Vec<(&str, &[u8], &Preset)> = vec![
            ("192.0.2.1", &OTHER, v4),
            ("192.0.2.2", &OTHER, v4),
            ("192.0.2.9", &[2, 0, 0, 0, 0, 7], v4),
            ("2001:db8::1", &OTHER, v4),
        ];
        let (texts, count) = conflicts(&hosts);
        assert_eq!((counts(&texts, "assign another address"), counts(&texts, "proxy"), count), (4, 0, 4));
        hosts.push(("192.0.2.3", &OTHER, v4));
        let (texts, _) = conflicts(&hosts);
        assert_eq!((counts(&texts, "assign another address"), counts(&texts, "vip_skip_arp_probe")), (2, 3));
        let six = ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(|it| (it, &OTHER[..], v4));
        assert_eq!(counts(&conflicts(&six).0, "vip_skipdad"), 3);
        // No option was in the advertisements.
        let unknown = ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(|it| (it, &[][..], v4));
        assert_eq!(counts(&conflicts(&unknown).0, "vip_skipdad"), 0);
        // A node of the cluster gives its addresses up.
        let node = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|it| (it, &OTHER[..], moved));
        let (texts, count) = conflicts(&node);
        assert_eq!((counts(&texts, "gives it up"), count), (3, 0));
    }

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
