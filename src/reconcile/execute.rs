//! Executes the actions of a plan, and announces.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::diff::{Action, lifetime};
use super::driver::{Driver, RETRY};
use super::placement::is_first_of_subnet;
use crate::announce::schedule::{self, Target};
use crate::model::{BootTime, IfIndex, Vip};
use crate::net::netlink::{BATCH, Hold, NetlinkError, Scope};
use crate::net::{clock, nft, sysctl};

/// An address to configure.
#[derive(Debug, Clone, Copy)]
struct Pending {
    /// Its lifetime is set when it is sent.
    hold: Hold,
    fence_until: BootTime,
    /// It is not configured yet.
    missing: bool,
}

impl Driver {
    /// Executes the actions kind by kind, in the order of the plan; all of one kind are one request to the kernel.
    pub(super) fn execute(&mut self, actions: Vec<Action>) {
        let now = clock::now();
        let (mut suppressed, mut removals, mut restored) = (Vec::new(), Vec::new(), Vec::new());
        let (mut holds, mut announcements) = (Vec::new(), Vec::new());
        for action in actions {
            match action {
                Action::Withdraw { interface, address } => {
                    self.schedule.handle_input(now, schedule::Input::Stop((interface, address)));
                }
                Action::Suppress { interface, vip } => suppressed.push((interface, vip)),
                Action::Remove { interface, vip } => removals.push((interface, vip)),
                Action::Unsuppress { address } => restored.push(address),
                Action::Hold { interface, vip, fence_until, missing } => {
                    let group = self.placement.owners.get(&vip.address);
                    let control_plane = group.is_some_and(|group| self.options.control_plane.contains(group));
                    let tag = self.options.tags.of(control_plane);
                    let hold = Hold { interface, vip, seconds: 0, scope: self.scope(interface), tag };
                    holds.push(Pending { hold, fence_until, missing });
                }
                Action::Announce { interface, address } => announcements.push((interface, address)),
            }
        }
        removals.extend(self.suppress(&suppressed));
        self.remove(&removals);
        if let Err(error) = nft::restore_replies(&restored) {
            tracing::debug!(%error, "cannot restore the kernel's replies");
        }
        self.actual.suppressed.retain(|address| !restored.contains(address));
        let absent = self.hold(&holds);
        let now = clock::now();
        for target in announcements.into_iter().filter(|target| !absent.contains(target)) {
            self.schedule.handle_input(now, schedule::Input::Start(target));
        }
    }

    /// Suppresses the kernel's replies. Returns the addresses for which that fails: while this host replies for them, no other
    /// host can take them over, so they are removed first (break before make).
    fn suppress(&mut self, draining: &[(IfIndex, Vip)]) -> Vec<(IfIndex, Vip)> {
        let addresses: Vec<IpAddr> = draining.iter().map(|(_, vip)| vip.address).collect();
        let failures = nft::suppress_replies(&addresses);
        let (removed, suppressed) = split(draining, &failures);
        self.actual.suppressed.extend(suppressed);
        if let Some((error, _)) = failures.first()
            && self.suppression.set(error.to_string())
        {
            tracing::warn!(
                %error,
                "cannot suppress replies to ARP and ND: addresses are removed before the next node has them, and packets are \
                 lost in between; does this kernel have nf_tables for the families arp and ip6?"
            );
        }
        removed
    }

    fn remove(&mut self, removals: &[(IfIndex, Vip)]) {
        for ((interface, vip), result) in removals.iter().zip(self.netlink.remove(removals)) {
            match result {
                Ok(()) => {
                    self.actual.fences.remove(&(*interface, *vip));
                    self.reporter.address_removed(*vip, &self.interfaces.name(*interface));
                }
                Err(error) => self.failed(&error),
            }
        }
    }

    /// Configures addresses. Returns those that were missing and still are.
    fn hold(&mut self, holds: &[Pending]) -> BTreeSet<Target> {
        let mut absent = BTreeSet::new();
        let results = send_in_chunks(holds, clock::now, |chunk| self.netlink.hold(chunk));
        for (Pending { hold, missing, .. }, result) in holds.iter().copied().zip(results) {
            if missing && !matches!(result, Some(Ok(_))) {
                absent.insert((hold.interface, hold.vip.address));
            }
            match result {
                Some(Ok(until)) => {
                    let before = self.actual.fences.insert((hold.interface, hold.vip), until);
                    if missing {
                        let repaired = before.is_some_and(|before| clock::now() < before);
                        self.reporter.address_added(
                            hold.vip,
                            &self.interfaces.name(hold.interface),
                            repaired,
                        );
                        self.check_order(hold.interface, hold.vip);
                    }
                }
                Some(Err(error)) => self.failed(&error),
                None => {}
            }
        }
        absent
    }

    /// Warns where the end of an address would take the host's own with it.
    fn check_order(&self, interface: IfIndex, vip: Vip) {
        let name = self.interfaces.name(interface);
        if is_first_of_subnet(interface, vip, &self.actual.addresses) && !sysctl::promotes_secondaries(&name)
        {
            tracing::warn!(
                address = %vip,
                interface = name,
                "the address is the first of its subnet: when it is removed, the kernel removes addresses of the same subnet that \
                 were added later, such as the host's own; set net.ipv4.conf.{name}.promote_secondaries to 1, or vip_subnet \
                 to 32"
            );
        }
    }

    fn scope(&self, interface: IfIndex) -> Scope {
        let host = !self.options.lo_global && self.interfaces.name(interface) == "lo";
        if host { Scope::Host } else { Scope::Global }
    }

    pub(super) fn failed(&mut self, error: &NetlinkError) {
        self.retry_at = Some(clock::now() + RETRY);
        self.report(&error.to_string());
    }

    pub(super) fn report(&mut self, error: &str) {
        if self.problem.set(error) {
            tracing::error!("{error}; trying again");
        }
    }

    pub(super) fn send_due_announcements(&mut self) {
        let now = clock::now();
        self.schedule.handle_timeout(now);
        while let Some((interface, address)) = self.schedule.poll_output() {
            // The claim is checked where it is used: a process that was stopped for a while wakes up right here.
            let owner = self.placement.owners.get(&address);
            if owner.is_some_and(|group| self.role(group).claim(now).is_some()) {
                self.announce(interface, address);
            }
        }
    }

    pub(super) fn announce(&mut self, interface: IfIndex, address: IpAddr) {
        match self.interfaces.announce(interface, address) {
            Ok(()) => {
                self.reporter.announced(address);
                self.problem.clear();
            }
            Err(error) => {
                let text =
                    format!("cannot announce {address} on {}: {error}", self.interfaces.name(interface));
                self.report(&text);
            }
        }
    }
}

/// Splits addresses into those for which suppression failed, to be removed, and the others.
fn split<E>(
    draining: &[(IfIndex, Vip)],
    failures: &[(E, Vec<IpAddr>)],
) -> (Vec<(IfIndex, Vip)>, BTreeSet<IpAddr>) {
    let failed: BTreeSet<IpAddr> = failures.iter().flat_map(|(_, addresses)| addresses).copied().collect();
    let (removed, suppressed): (Vec<_>, Vec<_>) =
        draining.iter().copied().partition(|(_, vip)| failed.contains(&vip.address));
    (removed, suppressed.into_iter().map(|(_, vip)| vip.address).collect())
}

/// Sends addresses to the kernel, each with the lifetime that is left when its chunk is sent: what comes before takes time. Returns
/// when the kernel drops an address, or why it could not be configured; none where no whole second was left.
fn send_in_chunks<E>(
    pending: &[Pending],
    clock: impl Fn() -> BootTime,
    send: impl Fn(&[Hold]) -> Vec<Result<(), E>>,
) -> Vec<Option<Result<BootTime, E>>> {
    let mut results = Vec::with_capacity(pending.len());
    for chunk in pending.chunks(BATCH) {
        let now = clock();
        let lifetimes: Vec<_> = chunk.iter().map(|it| lifetime(it.fence_until, now)).collect();
        let holds = chunk.iter().zip(&lifetimes);
        let holds =
            holds.filter_map(|(it, lifetime)| Some(Hold { seconds: lifetime.as_ref()?.0, ..it.hold }));
        let mut sent = send(&holds.collect::<Vec<_>>()).into_iter();
        let result = lifetimes.into_iter().map(|lifetime| {
            let (_, until) = lifetime?;
            Some(sent.next()?.map(|()| until))
        });
        results.extend(result);
    }
    results
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::time::Duration;

    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    fn pending(number: u8) -> Pending {
        let vip = Vip::host([192, 0, 2, number].into());
        let hold = Hold { interface: IfIndex(2), vip, seconds: 0, scope: Scope::Global, tag: 248 };
        Pending { hold, fence_until: at(3700), missing: true }
    }

    #[test]
    fn an_address_that_cannot_be_suppressed_is_removed() {
        let on = |address: &str| (IfIndex(2), Vip::host(address.parse().unwrap()));
        let [v4, v6] = ["192.0.2.1", "2001:db8::1"].map(on);
        // The kernel has no nf_tables for ARP.
        let (removed, suppressed) = split(&[v4, v6], &[("no arp", vec![v4.1.address])]);
        assert_eq!((removed, suppressed), (vec![v4], [v6.1.address].into()));
        let none: [((), Vec<IpAddr>); 0] = [];
        assert_eq!(split(&[v4], &none), (vec![], [v4.1.address].into()));
    }

    /// Each chunk takes 1.5 s.
    #[test]
    fn a_lifetime_is_what_is_left_when_its_chunk_is_sent() {
        let all: Vec<Pending> = (0..=250).map(pending).collect();
        let (millis, sent) = (Cell::new(0), RefCell::new(Vec::new()));
        let send = |chunk: &[Hold]| -> Vec<Result<(), &'static str>> {
            millis.set(millis.get() + 1500);
            sent.borrow_mut().push(chunk.iter().map(|hold| hold.seconds).collect::<Vec<_>>());
            // The kernel rejects one of the second chunk.
            let rejected = Vip::host([192, 0, 2, 150].into());
            chunk.iter().map(|hold| if hold.vip == rejected { Err("rejected") } else { Ok(()) }).collect()
        };
        let results = send_in_chunks(&all, || at(millis.get()), send);
        assert_eq!(sent.into_inner(), [vec![3; 100], vec![2; 100], vec![]]);
        for (number, result) in results.into_iter().enumerate() {
            let expected = match number {
                0..100 => Some(Ok(at(3000))),
                150 => Some(Err("rejected")),
                100..200 => Some(Ok(at(3500))),
                _ => None,
            };
            assert_eq!(result, expected, "{number}");
        }
    }
}
