//! Whether an address that nobody in the cluster has announced so far may be taken: not while a station outside has
//! it (RFC 5227 §2.1).
//!
//! ```text
//!   Asking ── nobody answers for 8 ms ──► Trial ── nobody does for a second ──► Ours
//!     ▲  └───────── a station answers ───────┤
//!     └── 0.2, 0.4, 0.8 … 30 s later ── Taken ◄─┘
//! ```
//!
//! The pauses are shortened by chance, up to a half: of two clusters that ask for an address at one moment, and give way to
//! each other, one comes back first.
//!
//! The first answer on a wired segment comes within a millisecond, so a Service need not wait for longer. A station
//! that is slow to answer is heard while the address is on trial, and has it back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::announce::schedule::Target;
use crate::model::BootTime;
use crate::model::hash::spread;

/// When it is asked, counted from the beginning.
const PROBES: [Duration; 2] = [Duration::ZERO, Duration::from_millis(4)];
/// From the first question to the verdict.
const PATIENCE: Duration = Duration::from_millis(8);
/// How long an address is given back without a word when somebody else claims it.
const TRIAL: Duration = Duration::from_secs(1);
/// From a refusal to the next question.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Asking { started: BootTime, sent: usize },
    Trial { until: BootTime },
    Ours,
    Taken { station: Vec<u8>, again: BootTime },
}

#[derive(Debug, Clone)]
struct Entry {
    state: State,
    /// How often a station has answered.
    refusals: u32,
}

/// Addresses on their way in.
#[derive(Debug, Default)]
pub struct Admission {
    entries: BTreeMap<Target, Entry>,
}

/// What is due.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// Ask for these.
    pub ask: Vec<Target>,
    /// There are new verdicts.
    pub decided: bool,
}

impl Admission {
    /// Whether `target` may be held at `now`. One that is not known is asked for from now on, unless it is `there`: on
    /// the interface already.
    pub fn allows(&mut self, target: Target, there: bool, now: BootTime) -> bool {
        match self.entries.get(&target).map(|entry| &entry.state) {
            Some(State::Trial { .. } | State::Ours) => true,
            Some(State::Asking { .. } | State::Taken { .. }) => false,
            None => {
                if !there {
                    let state = State::Asking { started: now, sent: 0 };
                    self.entries.insert(target, Entry { state, refusals: 0 });
                }
                there
            }
        }
    }

    /// Forget all but these.
    pub fn retain(&mut self, wanted: &BTreeSet<Target>) {
        self.entries.retain(|target, _| wanted.contains(target));
    }

    /// Another station says that it has `target`. Says whether that decides anything; if not, the address is ours to
    /// defend, or none of our business. `seed` is another one on every host.
    pub fn claimed(&mut self, target: Target, station: &[u8], seed: u64, now: BootTime) -> bool {
        let Some(entry) = self.entries.get_mut(&target) else { return false };
        match entry.state {
            State::Asking { .. } | State::Trial { .. } => {}
            State::Ours | State::Taken { .. } => return false,
        }
        let pause = SHORTEST_PAUSE.saturating_mul(1 << entry.refusals.min(10)).min(LONGEST_PAUSE);
        entry.refusals += 1;
        let pause = pause.mul_f64(1.0 - spread(seed, entry.refusals.into()) / 2.0);
        entry.state = State::Taken { station: station.to_vec(), again: now + pause };
        true
    }

    /// Addresses that stations outside have, and those. One that answered once may just be leaving.
    pub fn taken(&self) -> impl Iterator<Item = (Target, &[u8])> {
        self.entries.iter().filter(|(_, entry)| entry.refusals > 1).filter_map(|(target, entry)| match &entry
            .state
        {
            State::Taken { station, .. } => Some((*target, station.as_slice())),
            _ => None,
        })
    }

    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<BootTime> {
        self.entries.values().filter_map(|entry| entry.state.next()).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: BootTime) -> Due {
        let mut due = Due::default();
        for (target, entry) in &mut self.entries {
            while entry.state.next().is_some_and(|at| at <= now) {
                entry.state = match &entry.state {
                    State::Asking { started, sent } if *sent < PROBES.len() => {
                        due.ask.push(*target);
                        State::Asking { started: *started, sent: sent + 1 }
                    }
                    State::Asking { .. } => {
                        due.decided = true;
                        State::Trial { until: now + TRIAL }
                    }
                    State::Taken { .. } => State::Asking { started: now, sent: 0 },
                    State::Trial { .. } | State::Ours => State::Ours,
                };
            }
        }
        due
    }
}

impl State {
    fn next(&self) -> Option<BootTime> {
        match self {
            Self::Asking { started, sent } => Some(*started + PROBES.get(*sent).copied().unwrap_or(PATIENCE)),
            Self::Trial { until } => Some(*until),
            Self::Taken { again, .. } => Some(*again),
            Self::Ours => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::IfIndex;

    const STATION: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    fn a() -> Target {
        (IfIndex(2), "192.0.2.1".parse().unwrap())
    }

    /// An address that was asked for at 0, and what was due until then.
    fn asked(until: u64) -> (Admission, Vec<(u64, Due)>) {
        let mut admission = Admission::default();
        assert!(!admission.allows(a(), false, at(0)));
        let story = run(&mut admission, until);
        (admission, story)
    }

    fn run(admission: &mut Admission, until: u64) -> Vec<(u64, Due)> {
        let mut story = Vec::new();
        while let Some(next) = admission.poll_timeout().filter(|next| *next <= at(until)) {
            story.push((next.since_boot().as_millis() as u64, admission.handle_timeout(next)));
        }
        story
    }

    #[test]
    fn two_questions_and_a_verdict() {
        let ask = || Due { ask: vec![a()], decided: false };
        let decided = Due { ask: vec![], decided: true };
        let (mut admission, story) = asked(8);
        assert_eq!(story, [(0, ask()), (4, ask()), (8, decided)]);
        assert!(admission.allows(a(), false, at(8)));
    }

    #[test]
    fn what_is_on_the_interface_already_is_not_asked_for() {
        let mut admission = Admission::default();
        assert!(admission.allows(a(), true, at(0)));
        assert_eq!(admission.poll_timeout(), None);
    }

    #[test]
    fn an_answer_refuses_the_address_and_it_is_asked_for_again_later_and_later() {
        let (mut admission, _) = asked(4);
        assert!(admission.claimed(a(), &STATION, 1, at(6)));
        assert!(!admission.allows(a(), false, at(6)));
        assert_eq!(admission.taken().count(), 0, "whoever answers once may be leaving");
        let mut now = at(6);
        for longest in [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000] {
            let again = admission.poll_timeout().unwrap();
            let longest = Duration::from_millis(longest);
            assert!((longest / 2..=longest).contains(&again.since(now)), "{:?}", again.since(now));
            assert_eq!(admission.handle_timeout(again), Due { ask: vec![a()], decided: false });
            assert!(admission.claimed(a(), &STATION, 1, again));
            now = again;
        }
        assert_eq!(admission.taken().collect::<Vec<_>>(), [(a(), STATION.as_slice())]);
        // The station goes.
        let again = admission.poll_timeout().unwrap();
        admission.handle_timeout(again);
        admission.handle_timeout(again + PATIENCE);
        assert!(admission.allows(a(), false, again + PATIENCE));
    }

    #[test]
    fn a_late_answer_has_the_address_back_and_a_later_one_is_a_conflict() {
        let (mut admission, _) = asked(1000);
        assert!(admission.claimed(a(), &STATION, 1, at(1000)));
        assert!(!admission.allows(a(), true, at(1000)));
        let (mut admission, _) = asked(1008);
        assert!(!admission.claimed(a(), &STATION, 1, at(1009)));
        assert!(admission.allows(a(), true, at(1009)));
    }

    #[test]
    fn what_is_not_wanted_any_more_is_forgotten() {
        let (mut admission, _) = asked(4);
        admission.retain(&BTreeSet::new());
        assert_eq!((admission.poll_timeout(), admission.claimed(a(), &STATION, 1, at(6))), (None, false));
    }

    #[test]
    fn two_that_give_way_to_each_other_come_back_apart() {
        let pause = |seed| {
            let (mut admission, _) = asked(4);
            admission.claimed(a(), &STATION, seed, at(6));
            admission.poll_timeout().unwrap()
        };
        assert_ne!(pause(1), pause(2));
    }
}
