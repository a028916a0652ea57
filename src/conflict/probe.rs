//! Asking whether a station has an address before it is used for the first time (RFC 5227 §2.1, RFC 4862 §5.4).
//!
//! Shorter than the RFCs': they protect addresses that people type into laptops and wait seconds; here a Lease
//! stands behind the claim already, and the probe has to find out one thing, whether a running host answers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::model::BootTime;

/// Probes that are sent.
const COUNT: u32 = 3;
/// Time between them.
const INTERVAL: Duration = Duration::from_millis(30);
/// From the first probe to the verdict.
const PATIENCE: Duration = Duration::from_millis(100);

/// A probe under way.
#[derive(Debug, Clone)]
pub struct Probe {
    addresses: BTreeSet<IpAddr>,
    started: BootTime,
    sent: u32,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing until `poll_timeout`.
    Wait,
    /// Send a probe for each of these.
    Send(BTreeSet<IpAddr>),
    /// Nobody answered.
    Free,
}

impl Probe {
    /// Probe for `addresses`, starting now.
    pub fn new(addresses: BTreeSet<IpAddr>, now: BootTime) -> Self {
        Self { addresses, started: now, sent: 0 }
    }

    /// Whether an answer for this address decides the probe.
    pub fn concerns(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> BootTime {
        if self.sent < COUNT { self.started + INTERVAL * self.sent } else { self.started + PATIENCE }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: BootTime) -> Step {
        if self.addresses.is_empty() {
            return Step::Free;
        }
        if now < self.poll_timeout() {
            return Step::Wait;
        }
        if self.sent < COUNT {
            self.sent += 1;
            return Step::Send(self.addresses.clone());
        }
        Step::Free
    }
}

/// Whether another station's probe, seen during ours, has precedence: the lower hardware address goes first, so
/// that of two that start at the same moment exactly one goes on.
pub fn yields_to(ours: &[u8], theirs: &[u8]) -> bool {
    theirs < ours
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    #[test]
    fn three_probes_and_a_verdict() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let mut probe = Probe::new([address].into(), at(500));
        let mut story = Vec::new();
        loop {
            let next = probe.poll_timeout();
            let step = probe.handle_timeout(next);
            story.push((next, step.clone()));
            if step == Step::Free {
                break;
            }
        }
        let send = Step::Send([address].into());
        let expected =
            [(at(500), send.clone()), (at(530), send.clone()), (at(560), send), (at(600), Step::Free)];
        assert_eq!(story, expected);
    }

    #[test]
    fn nothing_to_ask_for_is_free_at_once() {
        assert_eq!(Probe::new(BTreeSet::new(), at(0)).handle_timeout(at(0)), Step::Free);
    }

    #[test]
    fn of_two_probers_exactly_one_yields() {
        let (a, b) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        assert!(yields_to(&b, &a) && !yields_to(&a, &b));
    }
}
