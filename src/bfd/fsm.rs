//! A BFD session in asynchronous mode (RFC 5880 §6).
//!
//! ```text
//!                     hears Down                    hears Init, Up
//!   Down ─────────────────────► Init ──────────────────────► Up
//!    ▲  │    hears Init                                     ▲ │
//!    │  └───────────────────────────────────────────────────┘ │
//!    └──────── nothing heard in time; hears Down, AdminDown ──┘
//! ```

use std::collections::VecDeque;
use std::time::Duration;

pub use super::packet::{Diagnostic, Packet, State};
use crate::model::BootTime;
use crate::model::hash::spread;

/// While a session is not up it speaks no more often than this (RFC 5880 §6.8.3).
const SLOW: Duration = Duration::from_secs(1);

/// What a session is to be like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// How often we want to speak, once it is up.
    pub transmit: Duration,
    /// How often we can hear.
    pub receive: Duration,
    /// So many of our packets may be lost.
    pub multiplier: u8,
    /// Our number for it; not 0, and no other session's.
    pub discriminator: u32,
    /// Spreads packets.
    pub seed: u64,
}

/// What has to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this.
    Send(Packet),
    /// The state changed, and why it went down, if it did.
    Changed(State, State, Diagnostic),
}

/// A session with one other end.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    state: State,
    diagnostic: Diagnostic,
    /// What was heard last of the other end.
    heard: Option<Packet>,
    /// What was agreed on with the last answered question; a new interval waits for its answer (§6.8.3).
    in_force: (Duration, Duration),
    /// A question is out.
    polling: bool,
    send_at: BootTime,
    /// Without a sign of life by then the other end is gone.
    detect_at: Option<BootTime>,
    sent: u64,
    outputs: VecDeque<Output>,
}

impl Session {
    /// A session that has not been heard of, `now`.
    pub fn new(settings: Settings, now: BootTime) -> Self {
        Self {
            settings,
            state: State::Down,
            diagnostic: Diagnostic::None,
            heard: None,
            in_force: (SLOW.max(settings.transmit), settings.receive),
            polling: false,
            send_at: now,
            detect_at: None,
            sent: 0,
            outputs: VecDeque::new(),
        }
    }

    /// Its state.
    pub fn state(&self) -> State {
        self.state
    }

    /// What we want now: slow while there is nobody to hear it.
    fn wanted(&self) -> (Duration, Duration) {
        let transmit = match self.state {
            State::Up => self.settings.transmit,
            _ => self.settings.transmit.max(SLOW),
        };
        (transmit, self.settings.receive)
    }

    /// How long the other end may be silent (§6.8.4): as often as it says it speaks, as slowly as we want to hear.
    fn detection_time(&self) -> Option<Duration> {
        let heard = self.heard.as_ref()?;
        // While a lower limit of ours has not been answered, the other end still goes by the higher one.
        let receive = self.in_force.1.max(self.settings.receive);
        Some(receive.max(heard.transmit) * u32::from(heard.multiplier))
    }

    /// A packet came for this session (§6.8.6).
    pub fn handle_input(&mut self, now: BootTime, packet: &Packet) {
        if packet.yours != 0 && packet.yours != self.settings.discriminator {
            return;
        }
        if self.state == State::AdminDown {
            return;
        }
        let before = self.heard.replace(packet.clone());
        if packet.last && self.polling {
            self.polling = false;
            self.in_force = self.wanted();
        }
        self.detect_at = self.detection_time().map(|time| now + time);
        let (next, why) = match (self.state, packet.state) {
            (State::Down, State::Down) => (State::Init, Diagnostic::None),
            (State::Down | State::Init, State::Init) => (State::Up, Diagnostic::None),
            (State::Init, State::Up) => (State::Up, Diagnostic::None),
            (State::Init | State::Up, State::AdminDown) => (State::Down, Diagnostic::AdministrativelyDown),
            (State::Up, State::Down) => (State::Down, Diagnostic::NeighbourSignalledDown),
            (state, _) => (state, self.diagnostic),
        };
        self.enter(now, next, why);
        // An answer is due at once, whatever the interval (§6.8.7).
        if packet.poll {
            self.send(true);
        }
        let faster = |packet: &Packet| packet.receive;
        if before.as_ref().map(faster) != Some(faster(packet)) {
            self.send_at = self.send_at.min(now + self.interval());
        }
    }

    /// Do what is due by now.
    pub fn handle_timeout(&mut self, now: BootTime) {
        if self.detect_at.is_some_and(|at| now >= at) {
            self.detect_at = None;
            self.heard = None;
            if matches!(self.state, State::Init | State::Up) {
                self.enter(now, State::Down, Diagnostic::DetectionTimeExpired);
            }
        }
        if now >= self.send_at {
            // Whoever does not want to hear anything is not talked to (§6.8.7).
            let wanted = self.heard.as_ref().is_none_or(|heard| !heard.receive.is_zero());
            if wanted && self.state != State::AdminDown {
                self.send(false);
            }
            self.plan(now);
        }
    }

    /// Switch it off, and say so.
    pub fn stop(&mut self, now: BootTime) {
        self.enter(now, State::AdminDown, Diagnostic::AdministrativelyDown);
        self.send(false);
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let detect = self.detect_at.filter(|_| self.state != State::AdminDown);
        let send = (self.state != State::AdminDown).then_some(self.send_at);
        detect.into_iter().chain(send).min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn enter(&mut self, now: BootTime, next: State, why: Diagnostic) {
        if next == self.state {
            return;
        }
        let before = std::mem::replace(&mut self.state, next);
        self.diagnostic = why;
        self.outputs.push_back(Output::Changed(before, next, why));
        // Another interval is asked for with a question, and holds once it is answered; a slower one at once where
        // nobody counts on the faster one any more (§6.8.3).
        let wanted = self.wanted();
        if next == State::Up {
            self.polling = wanted != self.in_force;
        } else {
            self.polling = false;
            self.in_force = wanted;
        }
        // The other end learns of it without waiting for the next turn.
        self.send_at = now;
    }

    fn send(&mut self, last: bool) {
        let (transmit, receive) = self.wanted();
        let packet = Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: self.polling && !last,
            last,
            multiplier: self.settings.multiplier,
            mine: self.settings.discriminator,
            yours: self.heard.as_ref().map_or(0, |heard| heard.mine),
            transmit,
            receive,
        };
        self.outputs.push_back(Output::Send(packet));
    }

    /// From one packet to the next, before it is spread.
    fn interval(&self) -> Duration {
        // A faster interval of ours may be used at once: the other end only counts on us to be no slower (§6.8.3).
        let ours = self.in_force.0.min(self.wanted().0);
        ours.max(self.heard.as_ref().map_or(SLOW, |heard| heard.receive))
    }

    /// §6.8.7: earlier by up to a quarter; with a multiplier of one, by a tenth at least.
    fn plan(&mut self, now: BootTime) {
        self.sent += 1;
        let fraction = spread(self.settings.seed, self.sent);
        let factor =
            if self.settings.multiplier == 1 { 0.75 + fraction * 0.15 } else { 0.75 + fraction * 0.25 };
        self.send_at = now + self.interval().mul_f64(factor);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(micros: u64) -> BootTime {
        BootTime::from_boot(Duration::from_micros(micros))
    }

    fn settings(discriminator: u32, millis: u64) -> Settings {
        let interval = Duration::from_millis(millis);
        Settings {
            transmit: interval,
            receive: interval,
            multiplier: 3,
            discriminator,
            seed: discriminator.into(),
        }
    }

    fn packet(state: State) -> Packet {
        Packet {
            diagnostic: Diagnostic::None,
            state,
            poll: false,
            last: false,
            multiplier: 3,
            mine: 9,
            yours: 1,
            transmit: Duration::from_millis(300),
            receive: Duration::from_millis(300),
        }
    }

    fn session_in(state: State) -> Session {
        let mut session = Session::new(settings(1, 300), at(0));
        match state {
            State::Down => {}
            State::Init => session.handle_input(at(0), &packet(State::Down)),
            State::Up => session.handle_input(at(0), &packet(State::Init)),
            State::AdminDown => session.stop(at(0)),
        }
        assert_eq!(session.state(), state);
        session
    }

    /// RFC 5880 §6.2 and §6.8.6.
    #[test]
    fn the_table_of_rfc_5880() {
        use State::{AdminDown, Down, Init, Up};
        let table = [
            (Down, Down, Init),
            (Down, Init, Up),
            (Down, Up, Down),
            (Down, AdminDown, Down),
            (Init, Down, Init),
            (Init, Init, Up),
            (Init, Up, Up),
            (Init, AdminDown, Down),
            (Up, Down, Down),
            (Up, Init, Up),
            (Up, Up, Up),
            (Up, AdminDown, Down),
            (AdminDown, Down, AdminDown),
            (AdminDown, Up, AdminDown),
        ];
        for (before, heard, after) in table {
            let mut session = session_in(before);
            session.handle_input(at(1), &packet(heard));
            assert_eq!(session.state(), after, "{before} hears {heard}");
        }
    }

    #[test]
    fn silence_ends_a_session_after_the_detection_time_and_not_before() {
        let mut session = session_in(State::Up);
        session.handle_timeout(at(899_999));
        assert_eq!(session.state(), State::Up);
        session.handle_timeout(at(900_000));
        assert_eq!(session.state(), State::Down);
        assert_eq!(session.diagnostic, Diagnostic::DetectionTimeExpired);
    }

    #[test]
    fn a_packet_for_another_session_is_no_sign_of_life() {
        let mut session = session_in(State::Up);
        session.handle_input(at(800_000), &Packet { yours: 7, ..packet(State::Up) });
        session.handle_timeout(at(900_000));
        assert_eq!(session.state(), State::Down);
    }

    #[test]
    fn a_question_is_answered_at_once() {
        let mut session = session_in(State::Up);
        while session.poll_output().is_some() {}
        session.handle_input(at(5), &Packet { poll: true, ..packet(State::Up) });
        let sent: Vec<Output> = std::iter::from_fn(|| session.poll_output()).collect();
        assert!(
            matches!(sent.as_slice(), [Output::Send(Packet { last: true, poll: false, .. })]),
            "{sent:?}"
        );
    }

    #[test]
    fn whoever_stops_says_so_and_falls_silent() {
        let mut session = session_in(State::Up);
        while session.poll_output().is_some() {}
        session.stop(at(5));
        let sent: Vec<Output> = std::iter::from_fn(|| session.poll_output()).collect();
        assert!(
            matches!(
                sent.as_slice(),
                [Output::Changed(..), Output::Send(Packet { state: State::AdminDown, .. })]
            ),
            "{sent:?}"
        );
        assert_eq!(session.poll_timeout(), None);
    }

    /// Two ends, a network that takes a while and loses packets while it is cut.
    struct Pair {
        ends: [Session; 2],
        under_way: VecDeque<(BootTime, usize, Packet)>,
        now: u64,
        cut: bool,
        counts: [u64; 2],
        changes: Vec<(u64, usize, State)>,
    }

    impl Pair {
        fn new(millis: [u64; 2]) -> Self {
            let ends =
                [Session::new(settings(1, millis[0]), at(0)), Session::new(settings(2, millis[1]), at(0))];
            Self { ends, under_way: VecDeque::new(), now: 0, cut: false, counts: [0; 2], changes: Vec::new() }
        }

        fn run(&mut self, millis: u64) {
            let end = self.now + millis * 1000;
            while self.now < end {
                self.now += 500;
                while let Some((due, to, packet)) = self.under_way.front().cloned() {
                    if due > at(self.now) {
                        break;
                    }
                    self.under_way.pop_front();
                    self.ends[to].handle_input(at(self.now), &packet);
                }
                for end in 0..2 {
                    if self.ends[end].poll_timeout().is_some_and(|due| at(self.now) >= due) {
                        self.ends[end].handle_timeout(at(self.now));
                    }
                    while let Some(output) = self.ends[end].poll_output() {
                        match output {
                            Output::Changed(_, state, _) => self.changes.push((self.now, end, state)),
                            Output::Send(packet) => {
                                self.counts[end] += 1;
                                if !self.cut {
                                    let packet = Packet::from_bytes(&packet.to_bytes()).unwrap();
                                    self.under_way.push_back((at(self.now + 1_000), 1 - end, packet));
                                }
                            }
                        }
                    }
                }
            }
        }

        fn up(&self) -> bool {
            self.ends.iter().all(|end| end.state() == State::Up)
        }
    }

    #[test]
    fn two_ends_come_up_go_down_together_and_come_back() {
        let mut pair = Pair::new([300, 300]);
        pair.run(3_000);
        assert!(pair.up(), "{:?}", pair.changes);
        pair.counts = [0, 0];
        pair.run(30_000);
        // From 300 ms down to three quarters of it.
        assert!(pair.counts.iter().all(|count| (100..=134).contains(count)), "{:?}", pair.counts);
        pair.cut = true;
        let cut = pair.now;
        pair.changes.clear();
        pair.run(2_000);
        let downs: Vec<u64> = pair
            .changes
            .iter()
            .filter(|(_, _, state)| *state == State::Down)
            .map(|(when, ..)| when - cut)
            .collect();
        assert_eq!(downs.len(), 2, "{:?}", pair.changes);
        assert!(downs.iter().all(|down| *down <= 905_000 && *down >= 590_000), "{downs:?}");
        pair.cut = false;
        pair.run(3_000);
        assert!(pair.up());
    }

    #[test]
    fn the_slower_end_sets_the_pace() {
        let mut pair = Pair::new([50, 400]);
        pair.run(4_000);
        assert!(pair.up());
        pair.counts = [0, 0];
        pair.run(20_000);
        assert!(pair.counts.iter().all(|count| *count <= 68), "{:?}", pair.counts);
        assert!(pair.up());
    }

    #[test]
    fn one_end_that_stops_takes_the_other_down_at_once() {
        let mut pair = Pair::new([300, 300]);
        pair.run(3_000);
        let now = at(pair.now);
        pair.ends[0].stop(now);
        pair.run(10);
        assert_eq!(pair.ends[1].state(), State::Down);
        assert_eq!(pair.ends[1].diagnostic, Diagnostic::AdministrativelyDown);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

        /// Whatever the intervals: a session without losses never goes down, and comes back after every cut.
        #[test]
        fn sessions_hold_while_packets_get_through(a in 20..600_u64, b in 20..600_u64, cuts in prop::collection::vec(1..3_000_u64, 0..3)) {
            let mut pair = Pair::new([a, b]);
            pair.run(5_000);
            prop_assert!(pair.up());
            for cut in cuts {
                pair.cut = true;
                pair.run(cut);
                pair.cut = false;
                pair.run(6_000);
                prop_assert!(pair.up());
            }
            pair.changes.clear();
            pair.run(20_000);
            prop_assert!(pair.changes.is_empty(), "{:?}", pair.changes);
        }
    }
}
