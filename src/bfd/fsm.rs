//! BFD session in asynchronous mode (RFC 5880 §6).
//!
//! ```text
//!                   receives Down                 receives Init, Up
//!   Down ─────────────────────► Init ──────────────────────► Up
//!    ▲  │   receives Init                                   ▲ │
//!    │  └───────────────────────────────────────────────────┘ │
//!    └────── detection time expired; receives Down, AdminDown ┘
//! ```

use std::collections::VecDeque;
use std::time::Duration;

pub use super::packet::{Diagnostic, Packet, State};
use crate::config::bgp::Bfd;
use crate::model::BootTime;
use crate::model::hash::spread;

/// Lower limit of the transmit interval while the session is not Up (RFC 5880 §6.8.3).
const SLOW: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input<'a> {
    /// A packet for this session.
    Received(&'a Packet),
    /// Administratively down, permanently.
    Stop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Send(Packet),
    /// From one state to another, with the diagnostic.
    StateChanged(State, State, Diagnostic),
}

#[derive(Debug)]
pub struct Session {
    settings: Bfd,
    /// My Discriminator: not 0, and unique on this host. Also the seed of the jitter.
    pub(super) discriminator: u32,
    state: State,
    diagnostic: Diagnostic,
    /// Last packet of the neighbour; None once the detection time expired.
    received: Option<Packet>,
    /// Transmit and receive interval of the last completed poll sequence. A change takes effect with the Final bit
    /// (§6.8.3).
    in_force: (Duration, Duration),
    /// A poll sequence is in progress.
    polling: bool,
    send_at: BootTime,
    detect_at: Option<BootTime>,
    sent: u64,
    outputs: VecDeque<Output>,
}

impl Session {
    pub fn new(settings: Bfd, discriminator: u32, now: BootTime) -> Self {
        Self {
            settings,
            discriminator,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            received: None,
            in_force: (SLOW.max(settings.transmit), settings.receive),
            polling: false,
            send_at: now,
            detect_at: None,
            sent: 0,
            outputs: VecDeque::new(),
        }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Transmit and receive interval to advertise in this state.
    fn desired(&self) -> (Duration, Duration) {
        let transmit = match self.state {
            State::Up => self.settings.transmit,
            _ => self.settings.transmit.max(SLOW),
        };
        (transmit, self.settings.receive)
    }

    /// §6.8.4: Detect Mult of the neighbour times the higher of its transmit and our receive interval.
    fn detection_time(&self) -> Option<Duration> {
        let received = self.received.as_ref()?;
        // Until a lower receive interval is acknowledged, the neighbour still uses the higher one.
        let receive = self.in_force.1.max(self.settings.receive);
        Some(receive.max(received.desired_min_tx) * u32::from(received.multiplier))
    }

    /// Processes an event. Poll outputs and the timeout afterwards.
    pub fn handle_input(&mut self, now: BootTime, input: Input<'_>) {
        match input {
            Input::Received(packet) => self.received(now, packet),
            Input::Stop => {
                self.enter(now, State::AdminDown, Diagnostic::ADMINISTRATIVELY_DOWN);
                self.send(false);
            }
        }
    }

    /// Reception of a packet (§6.8.6).
    fn received(&mut self, now: BootTime, packet: &Packet) {
        // Zero comes from a neighbour that does not know this session. RFC 5880 lets it end the session at once, but any host
        // that can send from the neighbour's address knows it: the detection time decides instead.
        let unknown = packet.your_discriminator == 0 && self.state != State::Up;
        if !(unknown || packet.your_discriminator == self.discriminator) || self.state == State::AdminDown {
            return;
        }
        let before = self.received.replace(packet.clone());
        if packet.is_final && self.polling {
            self.polling = false;
            self.in_force = self.desired();
        }
        self.detect_at = self.detection_time().map(|time| now + time);
        let (next, diagnostic) = match (self.state, packet.state) {
            (State::Down, State::Down) => (State::Init, Diagnostic::NONE),
            (State::Down | State::Init, State::Init) => (State::Up, Diagnostic::NONE),
            (State::Init, State::Up) => (State::Up, Diagnostic::NONE),
            (State::Init | State::Up, State::AdminDown) => (State::Down, Diagnostic::ADMINISTRATIVELY_DOWN),
            (State::Up, State::Down) => (State::Down, Diagnostic::NEIGHBOUR_SIGNALLED_DOWN),
            (state, _) => (state, self.diagnostic),
        };
        self.enter(now, next, diagnostic);
        // The Poll bit is answered at once, whatever the interval (§6.8.7).
        if packet.poll {
            self.send(true);
        }
        if before.map(|before| before.required_min_rx) != Some(packet.required_min_rx) {
            self.send_at = self.send_at.min(now + self.interval());
        }
    }

    /// Runs expired timers. Poll outputs and the timeout afterwards.
    pub fn handle_timeout(&mut self, now: BootTime) {
        if self.detect_at.is_some_and(|at| now >= at) {
            self.detect_at = None;
            self.received = None;
            if matches!(self.state, State::Init | State::Up) {
                self.enter(now, State::Down, Diagnostic::DETECTION_TIME_EXPIRED);
            }
        }
        if now >= self.send_at {
            // A Required Min RX Interval of zero forbids periodic packets (§6.8.7).
            let accepted = self.received.as_ref().is_none_or(|packet| !packet.required_min_rx.is_zero());
            if accepted && self.state != State::AdminDown {
                self.send(false);
            }
            self.schedule(now);
        }
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        match self.state {
            State::AdminDown => None,
            _ => Some(self.detect_at.map_or(self.send_at, |detect| detect.min(self.send_at))),
        }
    }

    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn enter(&mut self, now: BootTime, next: State, diagnostic: Diagnostic) {
        if next == self.state {
            return;
        }
        let before = std::mem::replace(&mut self.state, next);
        self.diagnostic = diagnostic;
        self.outputs.push_back(Output::StateChanged(before, next, diagnostic));
        // Changed intervals take effect after a poll sequence while Up, and at once in other states (§6.8.3).
        let desired = self.desired();
        if next == State::Up {
            self.polling = desired != self.in_force;
        } else {
            self.polling = false;
            self.in_force = desired;
        }
        // Signals the new state without waiting for the interval.
        self.send_at = now;
    }

    fn send(&mut self, is_final: bool) {
        let (desired_min_tx, required_min_rx) = self.desired();
        let packet = Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: self.polling && !is_final,
            is_final,
            multiplier: self.settings.multiplier,
            my_discriminator: self.discriminator,
            your_discriminator: self.received.as_ref().map_or(0, |packet| packet.my_discriminator),
            desired_min_tx,
            required_min_rx,
        };
        self.outputs.push_back(Output::Send(packet));
    }

    /// Transmit interval before jitter.
    fn interval(&self) -> Duration {
        // A lower transmit interval may be used at once: it only shortens detection (§6.8.3).
        let transmit = self.in_force.0.min(self.desired().0);
        transmit.max(self.received.as_ref().map_or(SLOW, |packet| packet.required_min_rx))
    }

    /// Jitter of §6.8.7: 75 to 100 percent of the interval, at most 90 percent with a Detect Mult of 1.
    fn schedule(&mut self, now: BootTime) {
        self.sent += 1;
        let fraction = spread(self.discriminator.into(), self.sent);
        let range = if self.settings.multiplier == 1 { 0.15 } else { 0.25 };
        self.send_at = now + self.interval().mul_f64(0.75 + fraction * range);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(micros: u64) -> BootTime {
        BootTime::from_boot(Duration::from_micros(micros))
    }

    fn session(discriminator: u32, millis: u64) -> Session {
        let interval = Duration::from_millis(millis);
        let settings = Bfd { transmit: interval, receive: interval, multiplier: 3 };
        Session::new(settings, discriminator, at(0))
    }

    fn packet(state: State) -> Packet {
        Packet {
            diagnostic: Diagnostic::NONE,
            state,
            poll: false,
            is_final: false,
            multiplier: 3,
            my_discriminator: 9,
            your_discriminator: 1,
            desired_min_tx: Duration::from_millis(300),
            required_min_rx: Duration::from_millis(300),
        }
    }

    fn session_in(state: State) -> Session {
        let mut session = session(1, 300);
        match state {
            State::Down => {}
            State::Init => session.handle_input(at(0), Input::Received(&packet(State::Down))),
            State::Up => session.handle_input(at(0), Input::Received(&packet(State::Init))),
            State::AdminDown => session.handle_input(at(0), Input::Stop),
        }
        assert_eq!(session.state(), state);
        session
    }

    /// RFC 5880 §6.2 and §6.8.6.
    #[test]
    fn transition_table() {
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
        for (before, received, after) in table {
            let mut session = session_in(before);
            session.handle_input(at(1), Input::Received(&packet(received)));
            assert_eq!(session.state(), after, "{before:?} receives {received:?}");
        }
    }

    #[test]
    fn a_session_goes_down_after_the_detection_time() {
        let mut session = session_in(State::Up);
        session.handle_timeout(at(899_999));
        assert_eq!(session.state(), State::Up);
        session.handle_timeout(at(900_000));
        assert_eq!(session.state(), State::Down);
        assert_eq!(session.diagnostic, Diagnostic::DETECTION_TIME_EXPIRED);
    }

    #[test]
    fn a_packet_with_another_discriminator_is_ignored() {
        let mut session = session_in(State::Up);
        session.handle_input(
            at(800_000),
            Input::Received(&Packet { your_discriminator: 7, ..packet(State::Up) }),
        );
        session.handle_timeout(at(900_000));
        assert_eq!(session.state(), State::Down);
    }

    #[test]
    fn discriminator_zero_does_not_end_a_session() {
        for state in [State::Down, State::AdminDown] {
            let forged = Packet { your_discriminator: 0, ..packet(state) };
            let mut session = session_in(State::Up);
            session.handle_input(at(800_000), Input::Received(&forged));
            assert_eq!(session.state(), State::Up);
            // Nor does it keep the session up: a neighbour that has restarted sends no other.
            session.handle_timeout(at(900_000));
            assert_eq!(
                (session.state(), session.diagnostic),
                (State::Down, Diagnostic::DETECTION_TIME_EXPIRED)
            );
        }
        // By it a session begins.
        let mut session = session_in(State::Down);
        session
            .handle_input(at(0), Input::Received(&Packet { your_discriminator: 0, ..packet(State::Down) }));
        assert_eq!(session.state(), State::Init);
    }

    #[test]
    fn the_poll_bit_is_answered_with_the_final_bit() {
        let mut session = session_in(State::Up);
        while session.poll_output().is_some() {}
        session.handle_input(at(5), Input::Received(&Packet { poll: true, ..packet(State::Up) }));
        let sent: Vec<Output> = std::iter::from_fn(|| session.poll_output()).collect();
        assert!(
            matches!(sent.as_slice(), [Output::Send(Packet { is_final: true, poll: false, .. })]),
            "{sent:?}"
        );
    }

    #[test]
    fn stop_sends_admin_down_and_ends_transmission() {
        let mut session = session_in(State::Up);
        while session.poll_output().is_some() {}
        session.handle_input(at(5), Input::Stop);
        let sent: Vec<Output> = std::iter::from_fn(|| session.poll_output()).collect();
        assert!(
            matches!(
                sent.as_slice(),
                [Output::StateChanged(..), Output::Send(Packet { state: State::AdminDown, .. })]
            ),
            "{sent:?}"
        );
        assert_eq!(session.poll_timeout(), None);
    }

    /// Two sessions, and a network that delays packets by 1 ms and drops them while it is cut.
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
            let ends = [session(1, millis[0]), session(2, millis[1])];
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
                    self.ends[to].handle_input(at(self.now), Input::Received(&packet));
                }
                for end in 0..2 {
                    if self.ends[end].poll_timeout().is_some_and(|due| at(self.now) >= due) {
                        self.ends[end].handle_timeout(at(self.now));
                    }
                    while let Some(output) = self.ends[end].poll_output() {
                        match output {
                            Output::StateChanged(_, state, _) => self.changes.push((self.now, end, state)),
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
    fn a_cut_takes_both_ends_down_within_the_detection_time() {
        let mut pair = Pair::new([300, 300]);
        pair.run(3_000);
        assert!(pair.up(), "{:?}", pair.changes);
        pair.counts = [0, 0];
        pair.run(30_000);
        // 75 to 100 percent of 300 ms.
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
    fn the_higher_interval_of_both_ends_applies() {
        let mut pair = Pair::new([50, 400]);
        pair.run(4_000);
        assert!(pair.up());
        pair.counts = [0, 0];
        pair.run(20_000);
        assert!(pair.counts.iter().all(|count| *count <= 68), "{:?}", pair.counts);
        assert!(pair.up());
    }

    #[test]
    fn admin_down_takes_the_neighbour_down_at_once() {
        let mut pair = Pair::new([300, 300]);
        pair.run(3_000);
        let now = at(pair.now);
        pair.ends[0].handle_input(now, Input::Stop);
        pair.run(10);
        assert_eq!(pair.ends[1].state(), State::Down);
        assert_eq!(pair.ends[1].diagnostic, Diagnostic::ADMINISTRATIVELY_DOWN);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]

        /// For any intervals: a session without losses never goes down, and recovers after every cut.
        #[test]
        fn sessions_stay_up_without_losses(a in 20..600_u64, b in 20..600_u64, cuts in prop::collection::vec(1..3_000_u64, 0..3)) {
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
