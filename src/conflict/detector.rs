//! The conflict detector of one address on one interface.
//!
//! ```text
//!              no answer                no answer
//!   Probing ──────────────► Tentative ────────────► Owned ──┐ announcement: defend (§2.4)
//!    ▲   │                      │                    ▲      │
//!    │   └───── announcement ───┤                    └──────┘
//!    └──── back-off ─────── Conflict
//! ```
//!
//! A conflict while the address is probed or tentative makes this host give the address up. An owned address is defended.
//! Back-off has jitter: of two clusters that give the same address up at the same moment, one probes first. After a lasting
//! conflict the verdict waits as long as an address is tentative: a host that answered late answers late again.

use std::time::Duration;

use super::{FrameKind, NeighborFrame};
use crate::model::hash::fnv1a;
use crate::model::{Backoff, BootTime};

/// The least time between two defences of one address (RFC 5227 §1.1).
const DEFEND_INTERVAL: Duration = Duration::from_secs(10);

/// The timings of one source of addresses.
///
/// All are shorter than those of RFC 5227 §1.1 (three probes 1 to 2 s apart, then 2 s of waiting): a host on a wired segment
/// answers within a millisecond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preset {
    /// PROBE_NUM.
    probes: u32,
    /// From one probe to the next.
    probe_interval: Duration,
    /// From the last probe to the verdict.
    announce_wait: Duration,
    /// For how long after the verdict a conflict makes this host give the address up: a host that sleeps answers late. After a
    /// lasting conflict it has this time before the verdict.
    tentative: Duration,
    /// Pauses between a conflict and the next probe; without them there is none.
    backoff: Option<Backoff>,
    /// The other host is likely a node of this cluster, which gives the address up soon. Its probe is a conflict, too
    /// (§2.1.1): the lower hardware address wins, so that of two hosts that probe at the same moment one succeeds.
    among_nodes: bool,
}

impl Preset {
    /// The control plane's addresses, if its Lease was just created: nothing tells whether another host announced them before.
    pub const ELECTION: Self = Self {
        probes: 3,
        probe_interval: Duration::from_millis(30),
        announce_wait: Duration::from_millis(40),
        tentative: Duration::ZERO,
        backoff: None,
        among_nodes: true,
    };

    /// Addresses of Services that are new to the cluster.
    pub const SERVICE: Self = Self {
        probes: 2,
        probe_interval: Duration::from_millis(4),
        announce_wait: Duration::from_millis(4),
        tentative: Duration::from_secs(1),
        backoff: Some(Backoff::new(Duration::from_millis(200), Duration::from_secs(30))),
        among_nodes: false,
    };

    /// Addresses of Services that another node may still hold, also where their Lease was just created: it is a Linux host,
    /// which answers, and gives the address up soon.
    pub const MOVED: Self = Self {
        probes: 3,
        probe_interval: Duration::from_millis(30),
        announce_wait: Duration::from_millis(40),
        tentative: Duration::ZERO,
        backoff: Some(Backoff::new(Duration::from_millis(100), Duration::from_secs(1))),
        among_nodes: true,
    };

    /// Addresses that a DHCP server assigned (RFC 2131 §2.2, RFC 8415 §18.2.10.1). A conflict ends in a DECLINE.
    pub const DHCP: Self = Self {
        probes: 2,
        probe_interval: Duration::from_millis(10),
        announce_wait: Duration::from_millis(10),
        tentative: Duration::ZERO,
        backoff: None,
        among_nodes: false,
    };
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Probing {
        sent: u32,
        next: BootTime,
        /// The last conflict, whose host may still have the address.
        after: Option<Conflict>,
    },
    Tentative {
        until: BootTime,
    },
    Owned {
        defended: Option<BootTime>,
    },
    Conflict {
        conflict: Conflict,
        retry_at: Option<BootTime>,
    },
}

/// Another host has the address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Conflict {
    /// Its hardware address.
    mac: Vec<u8>,
    /// See [`ConflictDetector::lasting_conflict`].
    lasting: bool,
}

/// What the caller has to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Send one probe.
    SendProbe,
    /// No host answered: the address may be used.
    Usable,
    /// Another host has the address: stop using it.
    Conflict,
    /// Send one announcement.
    Defend,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct ConflictDetector {
    state: State,
    preset: Preset,
    /// Hardware address of this host's interface: decides between two hosts that probe, and seeds the jitter.
    mac: Vec<u8>,
    output: Option<Output>,
}

impl ConflictDetector {
    /// A detector that starts to probe at `now`. `mac` is the hardware address of this host's interface.
    pub fn new(preset: Preset, mac: &[u8], now: BootTime) -> Self {
        let state = State::Probing { sent: 0, next: now, after: None };
        Self { state, preset, mac: mac.to_vec(), output: None }
    }

    /// The detector of an address that is in use already: nothing is probed, conflicts are defended.
    pub fn owned(preset: Preset, mac: &[u8]) -> Self {
        Self { state: State::Owned { defended: None }, preset, mac: mac.to_vec(), output: None }
    }

    /// Whether the address may be on the interface.
    pub fn is_usable(&self) -> bool {
        matches!(self.state, State::Tentative { .. } | State::Owned { .. })
    }

    /// Hardware address of the host that has the address. A host that answers the first probes at once may be about to leave:
    /// it counts from the second conflict in a row on.
    pub fn lasting_conflict(&self) -> Option<&[u8]> {
        match &self.state {
            State::Conflict { conflict, .. } | State::Probing { after: Some(conflict), .. } => {
                conflict.lasting.then_some(&conflict.mac)
            }
            _ => None,
        }
    }

    /// Whether the other host is likely a node of this cluster, which gives the address up soon.
    pub fn is_among_nodes(&self) -> bool {
        self.preset.among_nodes
    }

    /// Takes in a frame about this address.
    pub fn handle_input(&mut self, now: BootTime, frame: &NeighborFrame) {
        match (&mut self.state, frame.kind) {
            (State::Probing { .. }, FrameKind::Probe) if !self.preset.among_nodes => {}
            (State::Probing { .. }, FrameKind::Probe) if !frame.mac.is_empty() && self.mac <= frame.mac => {}
            (State::Probing { .. }, _) | (State::Tentative { .. }, FrameKind::Announcement) => {
                self.give_up(now, frame.mac.clone());
            }
            (State::Owned { defended }, FrameKind::Announcement) => {
                if defended.is_none_or(|last| now.since(last) >= DEFEND_INTERVAL) {
                    *defended = Some(now);
                    self.output = Some(Output::Defend);
                }
            }
            (State::Tentative { .. } | State::Owned { .. }, FrameKind::Probe)
            | (State::Conflict { .. }, _) => {}
        }
    }

    /// Performs what is due at `now`.
    pub fn handle_timeout(&mut self, now: BootTime) {
        if self.poll_timeout().is_none_or(|at| now < at) {
            return;
        }
        self.state = match self.state.clone() {
            State::Probing { sent, .. } if sent == self.preset.probes => {
                self.output = Some(Output::Usable);
                match self.preset.tentative {
                    Duration::ZERO => State::Owned { defended: None },
                    tentative => State::Tentative { until: now + tentative },
                }
            }
            State::Probing { sent, after, .. } => self.probe(sent, after, now),
            State::Conflict { conflict, .. } => self.probe(0, Some(conflict), now),
            State::Tentative { .. } | State::Owned { .. } => State::Owned { defended: None },
        };
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        match &self.state {
            State::Probing { next, .. } => Some(*next),
            State::Tentative { until } => Some(*until),
            State::Owned { .. } => None,
            State::Conflict { retry_at, .. } => *retry_at,
        }
    }

    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.output.take()
    }

    /// The pause counts from the moment of sending: after a late wake-up hosts still have the whole time to answer.
    fn probe(&mut self, sent: u32, after: Option<Conflict>, now: BootTime) -> State {
        self.output = Some(Output::SendProbe);
        let (sent, preset) = (sent + 1, &self.preset);
        let pause = match sent == preset.probes {
            true if after.as_ref().is_some_and(|conflict| conflict.lasting) => {
                preset.announce_wait.max(preset.tentative)
            }
            true => preset.announce_wait,
            false => preset.probe_interval,
        };
        State::Probing { sent, next: now + pause, after }
    }

    fn give_up(&mut self, now: BootTime, mac: Vec<u8>) {
        let seed = fnv1a(&self.mac);
        let backoff = self.preset.backoff.as_mut();
        let retry_at = backoff.map(|backoff| now + backoff.next_pause_with_jitter(seed));
        let lasting = !matches!(self.state, State::Probing { after: None, .. });
        self.state = State::Conflict { conflict: Conflict { mac, lasting }, retry_at };
        self.output = Some(Output::Conflict);
    }
}

#[cfg(test)]
mod tests;
