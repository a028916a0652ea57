//! When to announce an address on a layer 2 segment.
//!
//! A burst on gain, since a single packet is lost now and then, and a refresh for ever after, since switches forget
//! a station sooner than routers forget its address.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::model::{BootTime, IfIndex};

/// Times of the first announcements, counted from the gain, in milliseconds.
pub const BURST: [u64; 5] = [0, 50, 200, 1000, 3000];
/// Time between announcements after the burst, unless configured.
pub const REFRESH: Duration = Duration::from_secs(60);
/// The least time between two defences of one address (RFC 5227 §1.1, DEFEND_INTERVAL).
pub const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
struct Entry {
    started: BootTime,
    /// Announcements since then.
    sent: usize,
    next: BootTime,
    defended: Option<BootTime>,
}

/// An address on an interface, by its index.
pub type Target = (IfIndex, IpAddr);

/// What is announced, and when next.
#[derive(Debug, Clone)]
pub struct Schedule {
    refresh: Duration,
    entries: BTreeMap<Target, Entry>,
}

impl Schedule {
    /// Nothing to announce yet; `refresh` is the time between announcements after the burst.
    pub fn new(refresh: Duration) -> Self {
        Self { refresh, entries: BTreeMap::new() }
    }

    /// Announce `target` from now on, from the beginning.
    pub fn start(&mut self, target: Target, now: BootTime) {
        let defended = self.entries.get(&target).and_then(|entry| entry.defended);
        self.entries.insert(target, Entry { started: now, sent: 0, next: now, defended });
    }

    /// Announce everything from the beginning: the interface is back.
    pub fn restart(&mut self, now: BootTime) {
        for target in self.targets() {
            self.start(target, now);
        }
    }

    /// Fall silent about `target`.
    pub fn stop(&mut self, target: Target) {
        self.entries.remove(&target);
    }

    /// What is announced.
    pub fn targets(&self) -> BTreeSet<Target> {
        self.entries.keys().copied().collect()
    }

    /// Nothing is announced.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether `target` is announced.
    pub fn contains(&self, target: Target) -> bool {
        self.entries.contains_key(&target)
    }

    /// Another station announces `target`. Says whether to announce it now in defence: at most once in
    /// [`DEFEND_INTERVAL`], so that two stations that both insist do not shout at each other.
    pub fn defend(&mut self, target: Target, now: BootTime) -> bool {
        let Some(entry) = self.entries.get_mut(&target) else { return false };
        let due = entry.defended.is_none_or(|last| now.since(last) >= DEFEND_INTERVAL);
        if due {
            entry.defended = Some(now);
        }
        due
    }

    /// The moment of the next announcement.
    pub fn poll_timeout(&self) -> Option<BootTime> {
        self.entries.values().map(|entry| entry.next).min()
    }

    /// What has to be announced now.
    pub fn handle_timeout(&mut self, now: BootTime) -> Vec<Target> {
        let mut due = Vec::new();
        for (address, entry) in &mut self.entries {
            if entry.next > now {
                continue;
            }
            due.push(*address);
            entry.sent += 1;
            // A late wake-up sends one packet, not all that were missed.
            entry.next = match BURST.get(entry.sent) {
                Some(millis) => {
                    (entry.started + Duration::from_millis(*millis)).max(now + Duration::from_millis(1))
                }
                None => now + self.refresh,
            };
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    fn a() -> Target {
        (IfIndex(2), "192.0.2.1".parse().unwrap())
    }

    fn times(schedule: &mut Schedule, until: u64) -> Vec<u64> {
        let mut sent = Vec::new();
        while let Some(next) = schedule.poll_timeout().filter(|next| *next <= at(until)) {
            assert_eq!(schedule.handle_timeout(next), [a()]);
            sent.push(next.since_boot().as_millis() as u64);
        }
        sent
    }

    #[test]
    fn a_burst_then_a_refresh() {
        let mut schedule = Schedule::new(REFRESH);
        schedule.start(a(), at(1000));
        assert_eq!(times(&mut schedule, 130_000), [1000, 1050, 1200, 2000, 4000, 64_000, 124_000]);
    }

    #[test]
    fn the_refresh_can_be_configured() {
        let mut schedule = Schedule::new(Duration::from_secs(3));
        schedule.start(a(), at(0));
        assert_eq!(times(&mut schedule, 9000), [0, 50, 200, 1000, 3000, 6000, 9000]);
    }

    #[test]
    fn a_late_wake_up_does_not_send_what_was_missed_all_at_once() {
        let mut schedule = Schedule::new(REFRESH);
        schedule.start(a(), at(0));
        assert_eq!(schedule.handle_timeout(at(30_000)), [a()]);
        assert!(schedule.handle_timeout(at(30_000)).is_empty());
    }

    #[test]
    fn a_silenced_address_is_not_announced() {
        let mut schedule = Schedule::new(REFRESH);
        schedule.start(a(), at(0));
        schedule.stop(a());
        assert_eq!((schedule.poll_timeout(), schedule.handle_timeout(at(9))), (None, vec![]));
        assert!(!schedule.defend(a(), at(9)));
    }

    #[test]
    fn defence_is_rationed() {
        let mut schedule = Schedule::new(REFRESH);
        schedule.start(a(), at(0));
        let answers: Vec<bool> =
            [0, 1, 9_999, 10_000, 10_001].map(|time| schedule.defend(a(), at(time))).into();
        assert_eq!(answers, [true, false, false, true, false]);
    }
}
