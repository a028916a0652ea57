//! When to announce an address on a layer 2 segment.
//!
//! A burst on gain, since single packets get lost, then a periodic refresh, since switches age out a MAC address sooner than
//! routers age out a neighbour.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use crate::model::{BootTime, IfIndex};

/// Milliseconds from the gain to each of the first announcements.
pub const BURST: [u64; 5] = [0, 50, 200, 1000, 3000];
/// Time between announcements after the burst, unless configured.
pub const REFRESH: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
struct Entry {
    started: BootTime,
    /// Announcements since `started`.
    sent: usize,
    next: BootTime,
}

/// Interface index and address.
pub type Target = (IfIndex, IpAddr);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Start the burst of a target, also where it is announced already.
    Start(Target),
    Stop(Target),
    /// Start the burst of every target: the interface came up.
    Restart,
}

#[derive(Debug, Clone)]
pub struct Schedule {
    refresh: Duration,
    entries: BTreeMap<Target, Entry>,
    due: VecDeque<Target>,
}

impl Schedule {
    /// An empty schedule; `refresh` is the time between announcements after the burst.
    pub fn new(refresh: Duration) -> Self {
        Self { refresh, entries: BTreeMap::new(), due: VecDeque::new() }
    }

    pub fn targets(&self) -> BTreeSet<Target> {
        self.entries.keys().copied().collect()
    }

    pub fn contains(&self, target: Target) -> bool {
        self.entries.contains_key(&target)
    }

    pub fn handle_input(&mut self, now: BootTime, input: Input) {
        let new = Entry { started: now, sent: 0, next: now };
        match input {
            Input::Start(target) => drop(self.entries.insert(target, new)),
            Input::Stop(target) => {
                self.entries.remove(&target);
                self.due.retain(|due| *due != target);
            }
            Input::Restart => self.entries.values_mut().for_each(|entry| *entry = new.clone()),
        }
    }

    pub fn handle_timeout(&mut self, now: BootTime) {
        for (target, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.next <= now) {
            self.due.push_back(*target);
            entry.sent += 1;
            // A late wake-up sends one announcement, not all that were missed.
            entry.next = match BURST.get(entry.sent) {
                Some(millis) => {
                    (entry.started + Duration::from_millis(*millis)).max(now + Duration::from_millis(1))
                }
                None => now + self.refresh,
            };
        }
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        self.entries.values().map(|entry| entry.next).min()
    }

    /// The next target to announce once.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Target> {
        self.due.pop_front()
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

    fn started(refresh: Duration, now: u64) -> Schedule {
        let mut schedule = Schedule::new(refresh);
        schedule.handle_input(at(now), Input::Start(a()));
        schedule
    }

    /// What is announced at `now`.
    fn announced(schedule: &mut Schedule, now: BootTime) -> Vec<Target> {
        schedule.handle_timeout(now);
        std::iter::from_fn(|| schedule.poll_output()).collect()
    }

    fn times(schedule: &mut Schedule, until: u64) -> Vec<u64> {
        let mut sent = Vec::new();
        while let Some(next) = schedule.poll_timeout().filter(|next| *next <= at(until)) {
            assert_eq!(announced(schedule, next), [a()]);
            sent.push(next.since_boot().as_millis() as u64);
        }
        sent
    }

    #[test]
    fn a_burst_then_a_refresh() {
        let mut schedule = started(REFRESH, 1000);
        assert_eq!(times(&mut schedule, 130_000), [1000, 1050, 1200, 2000, 4000, 64_000, 124_000]);
    }

    #[test]
    fn the_refresh_can_be_configured() {
        let mut schedule = started(Duration::from_secs(3), 0);
        assert_eq!(times(&mut schedule, 9000), [0, 50, 200, 1000, 3000, 6000, 9000]);
    }

    #[test]
    fn a_late_wake_up_sends_one_announcement() {
        let mut schedule = started(REFRESH, 0);
        assert_eq!(announced(&mut schedule, at(30_000)), [a()]);
        assert!(announced(&mut schedule, at(30_000)).is_empty());
    }

    #[test]
    fn an_interface_that_comes_up_starts_the_burst_again() {
        let mut schedule = started(REFRESH, 0);
        assert_eq!(times(&mut schedule, 3000).len(), BURST.len());
        schedule.handle_input(at(5000), Input::Restart);
        assert_eq!(times(&mut schedule, 8000), [5000, 5050, 5200, 6000, 8000]);
    }

    #[test]
    fn a_stopped_address_is_not_announced() {
        let mut schedule = started(REFRESH, 0);
        schedule.handle_input(at(1), Input::Stop(a()));
        assert_eq!((schedule.poll_timeout(), announced(&mut schedule, at(9))), (None, vec![]));
        assert!(!schedule.contains(a()));
    }
}
