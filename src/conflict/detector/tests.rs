//! Transitions of the detector as tables, and its promises by property with invented time.

use proptest::prelude::*;

use super::*;

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 5];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 9];
const LOWER: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn at(millis: u64) -> BootTime {
    BootTime::from_boot(Duration::from_millis(millis))
}

fn frame(kind: FrameKind, mac: &[u8]) -> NeighborFrame {
    NeighborFrame { address: "192.0.2.1".parse().unwrap(), mac: mac.to_vec(), kind }
}

fn announcement() -> NeighborFrame {
    frame(FrameKind::Announcement, &OTHER)
}

/// Takes in a frame, and returns what comes of it.
fn input(detector: &mut ConflictDetector, now: BootTime, frame: &NeighborFrame) -> Option<Output> {
    detector.handle_input(now, frame);
    detector.poll_output()
}

/// Outputs up to a moment in milliseconds, each with its time.
fn run(detector: &mut ConflictDetector, until: u64) -> Vec<(u64, Output)> {
    let mut outputs = Vec::new();
    while let Some(next) = detector.poll_timeout().filter(|next| *next <= at(until)) {
        detector.handle_timeout(next);
        outputs.extend(detector.poll_output().map(|output| (next.since_boot().as_millis() as u64, output)));
    }
    outputs
}

/// A detector that started at 0, and ran up to a moment in milliseconds.
fn started(preset: Preset, until: u64) -> ConflictDetector {
    let mut detector = ConflictDetector::new(preset, &OWN, at(0));
    run(&mut detector, until);
    detector
}

#[test]
fn each_preset_sends_its_probes_before_the_verdict() {
    use Output::{SendProbe, Usable};
    let table = [
        (Preset::ELECTION, vec![(0, SendProbe), (30, SendProbe), (60, SendProbe), (100, Usable)]),
        (Preset::SERVICE, vec![(0, SendProbe), (4, SendProbe), (8, Usable)]),
        (Preset::MOVED, vec![(0, SendProbe), (30, SendProbe), (60, SendProbe), (100, Usable)]),
        (Preset::DHCP, vec![(0, SendProbe), (10, SendProbe), (20, Usable)]),
    ];
    for (preset, expected) in table {
        let mut detector = ConflictDetector::new(preset, &OWN, at(0));
        assert!(!detector.is_usable());
        assert_eq!(run(&mut detector, 5000), expected);
        assert!(detector.is_usable());
        assert_eq!(detector.poll_timeout(), None);
    }
}

#[test]
fn transitions_on_frames() {
    use FrameKind::{Announcement, Probe};
    use Output::{Conflict, Defend};
    // Preset, time of the frame, its kind and sender; output, and whether the address is usable afterwards.
    type Row = (Preset, u64, FrameKind, &'static [u8], Option<Output>, bool);
    let table: [Row; 13] = [
        // Probing.
        (Preset::ELECTION, 70, Announcement, &OTHER, Some(Conflict), false),
        (Preset::SERVICE, 6, Announcement, &OTHER, Some(Conflict), false),
        (Preset::DHCP, 15, Announcement, &OTHER, Some(Conflict), false),
        (Preset::SERVICE, 6, Probe, &LOWER, None, false),
        (Preset::DHCP, 15, Probe, &LOWER, None, false),
        // Of two that probe, the lower hardware address wins; a probe without one counts as lower.
        (Preset::ELECTION, 70, Probe, &LOWER, Some(Conflict), false),
        (Preset::ELECTION, 70, Probe, &OTHER, None, false),
        (Preset::ELECTION, 70, Probe, &[], Some(Conflict), false),
        // Tentative.
        (Preset::SERVICE, 1000, Announcement, &OTHER, Some(Conflict), false),
        (Preset::SERVICE, 1000, Probe, &LOWER, None, true),
        // Owned.
        (Preset::SERVICE, 1009, Announcement, &OTHER, Some(Defend), true),
        (Preset::ELECTION, 100, Announcement, &OTHER, Some(Defend), true),
        (Preset::ELECTION, 100, Probe, &LOWER, None, true),
    ];
    for (preset, time, kind, mac, output, usable) in table {
        let mut detector = started(preset, time);
        let what = format!("{detector:?} {kind:?} {mac:?}");
        assert_eq!(input(&mut detector, at(time), &frame(kind, mac)), output, "{what}");
        assert_eq!(detector.is_usable(), usable, "{what}");
    }
}

#[test]
fn conflicts_back_off_exponentially_until_the_other_host_leaves() {
    let mut detector = started(Preset::SERVICE, 4);
    assert_eq!(input(&mut detector, at(6), &announcement()), Some(Output::Conflict));
    assert!(!detector.is_usable());
    assert_eq!(detector.lasting_conflict(), None, "a host that answers once may be about to leave");
    let mut now = at(6);
    for longest in [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000] {
        let retry_at = detector.poll_timeout().unwrap();
        let longest = Duration::from_millis(longest);
        assert!((longest / 2..=longest).contains(&retry_at.since(now)), "{:?}", retry_at.since(now));
        detector.handle_timeout(retry_at);
        assert_eq!(detector.poll_output(), Some(Output::SendProbe));
        assert_eq!(input(&mut detector, retry_at, &announcement()), Some(Output::Conflict));
        now = retry_at;
    }
    assert_eq!(detector.lasting_conflict(), Some(OTHER.as_slice()));
    // A host that answered late has a second to do it again.
    let retry_at = detector.poll_timeout().unwrap();
    detector.handle_timeout(retry_at);
    let retry_at = retry_at.since_boot().as_millis() as u64;
    assert_eq!(detector.lasting_conflict(), Some(OTHER.as_slice()));
    run(&mut detector, retry_at + 1003);
    assert!(!detector.is_usable());
    run(&mut detector, retry_at + 1005);
    assert!(detector.is_usable());
    assert_eq!(detector.lasting_conflict(), None);
}

/// As where a Service is created again while the node of the deleted one still has the address.
#[test]
fn after_a_first_answer_at_once_an_address_is_probed_again_as_fast() {
    let mut detector = started(Preset::SERVICE, 4);
    assert_eq!(input(&mut detector, at(6), &announcement()), Some(Output::Conflict));
    let retry_at = detector.poll_timeout().unwrap().since_boot().as_millis() as u64;
    run(&mut detector, retry_at + 9);
    assert!(detector.is_usable());
}

/// The other host answers each round of probes after a fixed time: 50 ms, 600 ms, or not at all any more.
#[test]
fn an_address_whose_host_answers_late_is_given_up_once_and_used_when_that_host_has_left() {
    for delay in [50, 600, 1003] {
        let mut detector = started(Preset::SERVICE, delay);
        assert!(detector.is_usable(), "{delay}");
        assert_eq!(input(&mut detector, at(delay), &announcement()), Some(Output::Conflict), "{delay}");
        assert_eq!(detector.lasting_conflict(), Some(OTHER.as_slice()), "reported at once");
        for _ in 0..5 {
            let retry_at = detector.poll_timeout().unwrap();
            detector.handle_timeout(retry_at);
            let answered = retry_at.since_boot().as_millis() as u64 + delay;
            run(&mut detector, answered);
            assert!(!detector.is_usable(), "{delay}");
            assert_eq!(detector.lasting_conflict(), Some(OTHER.as_slice()));
            assert_eq!(input(&mut detector, at(answered), &announcement()), Some(Output::Conflict));
        }
        let retry_at = detector.poll_timeout().unwrap().since_boot().as_millis() as u64;
        run(&mut detector, retry_at + 1005);
        assert!(detector.is_usable(), "{delay}");
    }
}

#[test]
fn without_back_off_a_conflict_is_final() {
    for preset in [Preset::ELECTION, Preset::DHCP] {
        let mut detector = started(preset, 0);
        assert_eq!(input(&mut detector, at(1), &announcement()), Some(Output::Conflict));
        assert_eq!((detector.poll_timeout(), detector.is_usable()), (None, false));
    }
}

#[test]
fn back_off_differs_between_hosts() {
    let retry_at = |mac: [u8; 6]| {
        let mut detector = ConflictDetector::new(Preset::SERVICE, &mac, at(0));
        detector.handle_input(at(6), &announcement());
        detector.poll_timeout().unwrap()
    };
    assert_ne!(retry_at(OWN), retry_at(LOWER));
}

#[test]
fn of_two_hosts_that_probe_exactly_one_yields() {
    let yields = |own: &[u8], other: &[u8]| {
        let mut detector = ConflictDetector::new(Preset::ELECTION, own, at(0));
        input(&mut detector, at(0), &frame(FrameKind::Probe, other)).is_some()
    };
    assert!(yields(&OTHER, &OWN) && !yields(&OWN, &OTHER));
}

#[test]
fn an_address_in_use_is_not_probed() {
    let detector = ConflictDetector::owned(Preset::SERVICE, &OWN);
    assert_eq!((detector.is_usable(), detector.poll_timeout()), (true, None));
}

#[test]
fn defence_is_rate_limited() {
    let mut detector = ConflictDetector::owned(Preset::SERVICE, &OWN);
    let defences = [0, 1, 9_999, 10_000, 10_001].map(|time| input(&mut detector, at(time), &announcement()));
    assert_eq!(defences.map(|output| output.is_some()), [true, false, false, true, false]);
}

#[test]
fn a_late_wake_up_does_not_shorten_the_time_to_answer() {
    let mut detector = ConflictDetector::new(Preset::DHCP, &OWN, at(0));
    let mut times = Vec::new();
    for now in [500, 505, 510, 515, 520, 700] {
        detector.handle_timeout(at(now));
        times.extend(detector.poll_output().map(|output| (now, output)));
    }
    let expected = [(500, Output::SendProbe), (510, Output::SendProbe), (520, Output::Usable)];
    assert_eq!(times, expected);
}

#[derive(Debug, Clone)]
enum Event {
    Frame(FrameKind, Vec<u8>),
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let mac = prop_oneof![Just(LOWER.to_vec()), Just(OTHER.to_vec()), Just(Vec::new())];
    let kind = prop_oneof![Just(FrameKind::Announcement), Just(FrameKind::Probe)];
    prop_oneof![
        (kind, mac).prop_map(|(kind, mac)| Event::Frame(kind, mac)),
        (0_u64..40).prop_map(Event::Wait),
        (0_u64..40_000).prop_map(Event::Wait),
    ]
}

proptest! {
    /// For any sequence of frames and pauses, and for every preset: an address becomes usable only after all its probes went
    /// unanswered; it stops being usable only with a conflict; probes and defences are rate-limited; spurious calls are
    /// harmless.
    #[test]
    fn an_address_is_used_only_after_unanswered_probes(
        preset in prop_oneof![Just(Preset::ELECTION), Just(Preset::SERVICE), Just(Preset::DHCP)],
        events in proptest::collection::vec(event(), 1..100),
    ) {
        let mut detector = ConflictDetector::new(preset.clone(), &OWN, at(0));
        let (mut now, mut probes, mut usable) = (0, 0_u32, false);
        let mut defended: Option<u64> = None;
        for event in events {
            let until = match event {
                Event::Frame(kind, mac) => {
                    let announced = kind == FrameKind::Announcement;
                    match input(&mut detector, at(now), &frame(kind, &mac)) {
                        Some(Output::Conflict) => (probes, usable) = (0, false),
                        Some(Output::Defend) => {
                            prop_assert!(usable && announced);
                            prop_assert!(defended.is_none_or(|last| now - last >= 10_000));
                            defended = Some(now);
                        }
                        Some(other) => prop_assert!(false, "{other:?} after a frame"),
                        None => prop_assert!(usable || !announced || !detector.is_usable()),
                    }
                    now
                }
                Event::Wait(millis) => now + millis,
            };
            let mut steps = 0;
            while let Some(next) = detector.poll_timeout().filter(|next| *next <= at(until)) {
                detector.handle_timeout(next);
                match detector.poll_output() {
                    Some(Output::SendProbe) => probes += 1,
                    Some(Output::Usable) => {
                        prop_assert_eq!(probes, preset.probes);
                        usable = true;
                    }
                    Some(other) => prop_assert!(false, "{other:?} at a deadline"),
                    None => {}
                }
                steps += 1;
                prop_assert!(steps < 10, "no progress at {next}");
            }
            now = until;
            prop_assert_eq!(detector.is_usable(), usable);
            let before = format!("{detector:?}");
            if detector.poll_timeout().is_none_or(|next| next > at(now)) {
                detector.handle_timeout(at(now));
            }
            prop_assert_eq!(detector.poll_output(), None);
            prop_assert_eq!(format!("{detector:?}"), before);
        }
    }
}
