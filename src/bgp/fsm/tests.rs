//! Transition table of RFC 4271 §8.2.2, collisions, and invariants under random events.

use proptest::prelude::*;

use super::super::packet::{Capability, Message, Open, decode};
use super::*;
use crate::bgp::packet::{GracefulRestart, Negotiated, RestartFamily};

fn at(millis: u64) -> BootTime {
    BootTime::from_boot(Duration::from_millis(millis))
}

fn settings() -> Settings {
    Settings {
        local_as: 65_000,
        peer_as: Some(65_001),
        identifier: "192.0.2.1".parse().unwrap(),
        hold_time: 9,
        keepalive: Duration::from_secs(10),
        passive: false,
        families: Family::BOTH.to_vec(),
        extended_next_hop: false,
        restart: Some(Restart { seconds: 120, forwarding: true }),
        seed: 7,
    }
}

fn open_of(identifier: &str) -> Open {
    Open {
        asn: 65_001,
        hold_time: 30,
        identifier: identifier.parse().unwrap(),
        capabilities: vec![
            Capability::Family(Family::V4),
            Capability::Family(Family::V6),
            Capability::FourOctets(65_001),
            Capability::Refresh,
        ],
    }
}

fn open() -> Vec<u8> {
    open_of("192.0.2.254").encode()
}

fn summary(output: &Output) -> String {
    let direction = |direction: &Direction| if *direction == Direction::Outgoing { "" } else { "in:" };
    match output {
        Output::Dial => "dial".into(),
        Output::Send(from, bytes) => {
            let negotiated = Negotiated { four_octets: true, internal: false };
            let text = match decode(bytes, negotiated).unwrap().unwrap().0 {
                Message::Open(_) => "open".into(),
                Message::Keepalive => "keepalive".into(),
                Message::Notification(one) => format!("notify {}/{}", one.code, one.subcode),
                other => format!("{other:?}"),
            };
            format!("{}{text}", direction(from))
        }
        Output::Close(from) => format!("{}close", direction(from)),
        Output::Up(from, _) => format!("{}up", direction(from)),
        Output::Down { established: true, .. } => "down".into(),
        Output::Down { established: false, .. } => "failed".into(),
        Output::Routes(_) => "routes".into(),
        Output::Refresh(family) => format!("refresh {family}"),
        Output::StateChanged(..) => String::new(),
    }
}

fn drain(peer: &mut Peer) -> String {
    let mut texts = Vec::new();
    while let Some(output) = peer.poll_output() {
        texts.push(summary(&output));
    }
    texts.retain(|text| !text.is_empty());
    texts.join(", ")
}

fn feed(peer: &mut Peer, now: u64, inputs: &[Input]) -> String {
    for input in inputs {
        peer.handle_input(at(now), input.clone());
    }
    drain(peer)
}

use Direction::{Incoming, Outgoing};

/// A peer that reached this state at 0 ms.
fn peer_in(state: FsmState) -> Peer {
    let mut peer = Peer::new(settings());
    let open = open();
    let keepalive = packet::keepalive();
    let steps = [
        (FsmState::Connect, Input::Start),
        (FsmState::OpenSent, Input::Connected(Outgoing)),
        (FsmState::OpenConfirm, Input::Received(Outgoing, open.clone())),
        (FsmState::Established, Input::Received(Outgoing, keepalive.clone())),
    ];
    for (reached, input) in steps {
        if state == FsmState::Idle || (peer.state() == state) {
            break;
        }
        if state == FsmState::Active && reached == FsmState::OpenSent {
            peer.handle_input(at(0), Input::Failed("refused".into()));
            break;
        }
        peer.handle_input(at(0), input);
    }
    assert_eq!(peer.state(), state);
    drain(&mut peer);
    peer
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Event {
    Start,
    Stop,
    Connected,
    Failed,
    Closed,
    Open,
    BadHeader,
    BadOpen,
    WrongAs,
    Keepalive,
    Update,
    BadUpdate,
    Notification,
    RetryTimer,
    HoldTimer,
    KeepaliveTimer,
    PathDown,
}

fn apply(peer: &mut Peer, event: Event) -> String {
    let wrong =
        Open { asn: 65_009, capabilities: vec![Capability::FourOctets(65_009)], ..open_of("192.0.2.254") };
    let mut bad_open = open();
    bad_open[19] = 3;
    let bytes: Vec<u8> = match event {
        Event::Open => open(),
        Event::BadHeader => vec![0; 19],
        Event::BadOpen => bad_open,
        Event::WrongAs => wrong.encode(),
        Event::Keepalive => packet::keepalive(),
        Event::Update => packet::Update::EndOfRib(Family::V4).encode(Negotiated::default()).concat(),
        // Withdrawn routes that are longer than the message.
        Event::BadUpdate => packet::frame(2, &[0, 9, 0, 0]),
        Event::Notification => Notification::shutdown("maintenance").encode(),
        _ => Vec::new(),
    };
    let input = match event {
        Event::Start => Input::Start,
        Event::Stop => Input::Stop(Notification::shutdown("stopping")),
        Event::Connected => Input::Connected(Outgoing),
        Event::Failed => Input::Failed("refused".into()),
        Event::Closed => Input::Closed(Outgoing, "reset".into()),
        Event::PathDown => Input::PathDown,
        Event::RetryTimer => {
            peer.handle_timeout(at(1_001));
            return drain(peer);
        }
        Event::KeepaliveTimer => {
            peer.handle_timeout(at(3_001));
            return drain(peer);
        }
        Event::HoldTimer => {
            peer.handle_timeout(at(30_001));
            return drain(peer);
        }
        _ => Input::Received(Outgoing, bytes),
    };
    feed(peer, 0, &[input])
}

#[test]
fn the_table_of_rfc_4271() {
    use Event::*;
    use FsmState::*;
    let table = [
        (Idle, Start, Connect, "dial"),
        (Idle, Stop, Idle, ""),
        (Idle, Connected, Idle, "close"),
        (Idle, Open, Idle, ""),
        (Connect, Start, Connect, ""),
        (Connect, Stop, Idle, ""),
        (Connect, Connected, OpenSent, "open"),
        (Connect, Failed, Active, "failed"),
        (Connect, RetryTimer, Connect, "dial"),
        (Active, RetryTimer, Connect, "dial"),
        (Active, Stop, Idle, ""),
        (Active, Connected, Active, "close"),
        (OpenSent, Start, OpenSent, ""),
        (OpenSent, Stop, Idle, "notify 6/2, close, failed"),
        (OpenSent, Closed, Active, "failed"),
        (OpenSent, Open, OpenConfirm, "keepalive"),
        (OpenSent, BadHeader, Idle, "notify 1/1, close, failed"),
        (OpenSent, BadOpen, Idle, "notify 2/1, close, failed"),
        (OpenSent, WrongAs, Idle, "notify 2/2, close, failed"),
        (OpenSent, Keepalive, Idle, "notify 5/1, close, failed"),
        (OpenSent, Update, Idle, "notify 5/1, close, failed"),
        (OpenSent, Notification, Idle, "close, failed"),
        (OpenSent, HoldTimer, Idle, "notify 4/0, close, failed"),
        (OpenSent, PathDown, Idle, "notify 6/10, close, failed"),
        (OpenConfirm, Stop, Idle, "notify 6/2, close, failed"),
        (OpenConfirm, Closed, Idle, "failed"),
        (OpenConfirm, Keepalive, Established, "up"),
        (OpenConfirm, KeepaliveTimer, OpenConfirm, "keepalive"),
        (OpenConfirm, Open, Idle, "notify 5/2, close, failed"),
        (OpenConfirm, Update, Idle, "notify 5/2, close, failed"),
        (OpenConfirm, Notification, Idle, "close, failed"),
        (OpenConfirm, HoldTimer, Idle, "notify 4/0, close, failed"),
        (OpenConfirm, BadHeader, Idle, "notify 1/1, close, failed"),
        (Established, Start, Established, ""),
        (Established, Stop, Idle, "notify 6/2, close, down"),
        (Established, Closed, Idle, "down"),
        (Established, Keepalive, Established, ""),
        (Established, Update, Established, "routes"),
        (Established, BadUpdate, Idle, "notify 3/1, close, down"),
        (Established, BadHeader, Idle, "notify 1/1, close, down"),
        (Established, Open, Idle, "notify 5/3, close, down"),
        (Established, Notification, Idle, "close, down"),
        (Established, KeepaliveTimer, Established, "keepalive"),
        (Established, HoldTimer, Idle, "notify 4/0, close, down"),
        (Established, PathDown, Idle, "notify 6/10, close, down"),
    ];
    for (before, event, after, expected) in table {
        let mut peer = peer_in(before);
        let outputs = apply(&mut peer, event);
        assert_eq!((peer.state(), outputs.as_str()), (after, expected), "{before} {event:?}");
    }
}

#[test]
fn consecutive_failures_back_off_up_to_thirty_seconds() {
    let mut peer = Peer::new(settings());
    feed(&mut peer, 0, &[Input::Start]);
    let (mut now, mut pauses) = (0, Vec::new());
    for _ in 0..9 {
        let refusal = Notification::BAD_PEER_AS.encode();
        peer.handle_input(at(now), Input::Connected(Outgoing));
        peer.handle_input(at(now), Input::Received(Outgoing, refusal.clone()));
        drain(&mut peer);
        let next = peer.poll_timeout().unwrap();
        pauses.push(next.since(at(now)).as_millis());
        now = u64::try_from(next.since_boot().as_millis()).unwrap() + 1;
        peer.handle_timeout(at(now));
        assert_eq!(drain(&mut peer), "dial");
    }
    assert!(pauses[0] <= 500 && pauses[8] >= 22_000 && pauses[8] <= 30_000, "{pauses:?}");
    assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1] + 8_000), "{pauses:?}");
}

#[test]
fn a_stable_session_reconnects_without_back_off() {
    let refusal = Notification::shutdown("").encode();
    let lost = || Input::Closed(Outgoing, "reset".into());
    for (lasted, ending, at_once) in [
        (60_000, lost(), true),
        (2_000, lost(), true),
        (2_000, Input::PathDown, true),
        (500, lost(), false),
        (60_000, Input::Received(Outgoing, refusal.clone()), true),
        (2_000, Input::Received(Outgoing, refusal.clone()), false),
    ] {
        let mut peer = peer_in(FsmState::Established);
        let what = format!("{ending:?} after {lasted} ms");
        feed(&mut peer, lasted, &[ending]);
        let pause = peer.poll_timeout().unwrap().since(at(lasted));
        assert_eq!(pause <= Duration::from_millis(250), at_once, "{what}: {pause:?}");
    }
}

#[test]
fn a_passive_peer_only_accepts_connections() {
    let mut peer = Peer::new(Settings { passive: true, ..settings() });
    assert_eq!(feed(&mut peer, 0, &[Input::Start]), "");
    assert_eq!((peer.state(), peer.poll_timeout()), (FsmState::Active, None));
    assert_eq!(feed(&mut peer, 0, &[Input::Connected(Incoming)]), "in:open");
    let open = open();
    assert_eq!(feed(&mut peer, 0, &[Input::Received(Incoming, open.clone())]), "in:keepalive");
    let keepalive = packet::keepalive();
    assert_eq!(feed(&mut peer, 0, &[Input::Received(Incoming, keepalive.clone())]), "in:up");
}

/// RFC 4271 §6.8.
#[test]
fn a_collision_keeps_the_connection_of_the_higher_identifier() {
    for (theirs, expected) in
        [("192.0.2.254", "notify 6/7, close, in:keepalive"), ("192.0.2.0", "in:notify 6/7, in:close")]
    {
        let mut peer = peer_in(FsmState::OpenSent);
        let open = open_of(theirs).encode();
        assert_eq!(feed(&mut peer, 0, &[Input::Connected(Incoming)]), "in:open");
        assert_eq!(feed(&mut peer, 0, &[Input::Received(Outgoing, open.clone())]), "keepalive");
        assert_eq!(feed(&mut peer, 0, &[Input::Received(Incoming, open.clone())]), expected, "{theirs}");
        assert_eq!(peer.state(), FsmState::OpenConfirm);
    }
}

#[test]
fn an_established_session_survives_a_collision_unless_the_peer_restarted() {
    let restart = Capability::GracefulRestart(GracefulRestart {
        seconds: 120,
        families: vec![RestartFamily { family: Family::V4, forwarding: true }],
        ..GracefulRestart::default()
    });
    let mut peer = peer_in(FsmState::Established);
    let without_restart = open();
    assert_eq!(feed(&mut peer, 0, &[Input::Connected(Incoming)]), "in:open");
    assert_eq!(
        feed(&mut peer, 0, &[Input::Received(Incoming, without_restart.clone())]),
        "in:notify 6/7, in:close"
    );
    let mut back = open_of("192.0.2.254");
    back.capabilities.push(restart);
    let back = back.encode();
    assert_eq!(feed(&mut peer, 0, &[Input::Connected(Incoming)]), "in:open");
    assert_eq!(feed(&mut peer, 0, &[Input::Received(Incoming, back.clone())]), "close, down, in:keepalive");
    let keepalive = packet::keepalive();
    assert_eq!(feed(&mut peer, 0, &[Input::Received(Incoming, keepalive.clone())]), "in:up");
}

#[test]
fn a_peer_that_rejects_capabilities_gets_an_open_without_them() {
    let mut peer = peer_in(FsmState::OpenSent);
    let refusal = Notification::BAD_PARAMETER.encode();
    feed(&mut peer, 0, &[Input::Received(Outgoing, refusal.clone())]);
    peer.handle_timeout(at(2_000));
    drain(&mut peer);
    peer.handle_input(at(2_000), Input::Connected(Outgoing));
    let opens: Vec<Output> = std::iter::from_fn(|| peer.poll_output()).collect();
    let no_capabilities =
        opens.iter().any(|output| matches!(output, Output::Send(_, bytes) if bytes.len() == 29));
    assert!(no_capabilities, "{opens:?}");
}

#[test]
fn only_the_first_open_sets_the_restart_state_bit() {
    let restarting = |output: &Output| match output {
        Output::Send(_, bytes) => match decode(bytes, Negotiated::default()).unwrap().unwrap().0 {
            Message::Open(open) => open.capabilities.iter().find_map(|one| match one {
                Capability::GracefulRestart(restart) => Some(restart.restarting),
                _ => None,
            }),
            _ => None,
        },
        _ => None,
    };
    let mut peer = peer_in(FsmState::Connect);
    peer.handle_input(at(0), Input::Connected(Outgoing));
    let first: Vec<bool> =
        std::iter::from_fn(|| peer.poll_output()).filter_map(|output| restarting(&output)).collect();
    let mut peer = peer_in(FsmState::Established);
    feed(&mut peer, 0, &[Input::Closed(Outgoing, "reset".into())]);
    peer.handle_timeout(at(5_000));
    peer.handle_input(at(5_000), Input::Connected(Outgoing));
    let later: Vec<bool> =
        std::iter::from_fn(|| peer.poll_output()).filter_map(|output| restarting(&output)).collect();
    assert_eq!((first, later), (vec![true], vec![false]));
}

#[test]
fn negotiation_takes_the_lower_hold_time_and_the_common_families() {
    let session = settings().negotiate(&Open { hold_time: 3, ..open_of("192.0.2.254") }, false).unwrap();
    assert_eq!(
        (session.hold, session.keepalive),
        (Some(Duration::from_secs(3)), Some(Duration::from_secs(1)))
    );
    let never = settings().negotiate(&Open { hold_time: 0, ..open_of("192.0.2.254") }, false).unwrap();
    assert_eq!((never.hold, never.keepalive), (None, None));
    let v4_only = Open { capabilities: Vec::new(), ..open_of("192.0.2.254") };
    let session = settings().negotiate(&v4_only, false).unwrap();
    assert_eq!((session.families, session.negotiated.four_octets), (vec![Family::V4], false));
    let none = Settings { families: vec![Family::V6], ..settings() };
    assert_eq!(none.negotiate(&v4_only, false).unwrap_err().subcode, 7);
    let ourselves = Open { asn: 65_000, ..open_of("192.0.2.1") };
    let internal = Settings { peer_as: None, ..settings() };
    assert_eq!(internal.negotiate(&ourselves, false).unwrap_err().subcode, 3);
}

#[derive(Debug, Clone)]
enum Any {
    Event(u8),
    Bytes(bool, Vec<u8>),
    Connected(bool),
    Closed(bool),
    Message(bool, u8),
    Wait(u16),
}

fn anything() -> impl Strategy<Value = Any> {
    prop_oneof![
        (0..4_u8).prop_map(Any::Event),
        (any::<bool>(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(direction, bytes)| Any::Bytes(direction, bytes)),
        any::<bool>().prop_map(Any::Connected),
        any::<bool>().prop_map(Any::Closed),
        (any::<bool>(), 0..6_u8).prop_map(|(direction, kind)| Any::Message(direction, kind)),
        (0..20_000_u16).prop_map(Any::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 512, ..ProptestConfig::default() })]

    /// For any sequence of inputs: Up and Down alternate, nothing is sent on a closed connection, a started peer has a
    /// timer or a session, and no timer is due after handle_timeout.
    #[test]
    fn invariants_hold_for_any_sequence_of_inputs(steps in prop::collection::vec(anything(), 1..80)) {
        let direction = |incoming: bool| if incoming { Incoming } else { Outgoing };
        let mut peer = Peer::new(settings());
        let mut now = 0;
        let mut up = None;
        let mut open_directions = std::collections::BTreeSet::new();
        let mut started = false;
        for step in steps {
            match step {
                Any::Event(0) => { started = true; peer.handle_input(at(now), Input::Start) }
                Any::Event(1) => { started = false; peer.handle_input(at(now), Input::Stop(Notification::shutdown("x"))) }
                Any::Event(2) => peer.handle_input(at(now), Input::Failed("refused".into())),
                Any::Event(_) => peer.handle_input(at(now), Input::PathDown),
                Any::Bytes(from, bytes) => {
                    if open_directions.contains(&direction(from)) {
                        peer.handle_input(at(now), Input::Received(direction(from), bytes.clone()));
                    }
                }
                Any::Connected(from) => {
                    if open_directions.insert(direction(from)) {
                        peer.handle_input(at(now), Input::Connected(direction(from)));
                    }
                }
                Any::Closed(from) => {
                    if open_directions.remove(&direction(from)) {
                        peer.handle_input(at(now), Input::Closed(direction(from), "gone".into()));
                    }
                }
                Any::Message(from, kind) => {
                    let bytes = match kind {
                        0 => open(),
                        1 => open_of("192.0.2.0").encode(),
                        2 => packet::keepalive(),
                        3 => packet::Update::EndOfRib(Family::V6).encode(Negotiated::default()).concat(),
                        4 => Notification::BAD_HOLD_TIME.encode(),
                        _ => packet::refresh_message(Family::V4, 0),
                    };
                    if open_directions.contains(&direction(from)) {
                        peer.handle_input(at(now), Input::Received(direction(from), bytes.clone()));
                    }
                }
                Any::Wait(millis) => { now += u64::from(millis); peer.handle_timeout(at(now)) }
            }
            while let Some(output) = peer.poll_output() {
                match output {
                    Output::Send(on, _) => prop_assert!(open_directions.contains(&on), "sent on a closed connection"),
                    Output::Close(on) => { open_directions.remove(&on); }
                    Output::Up(on, _) => { prop_assert!(up.is_none(), "Up twice"); up = Some(on); }
                    Output::Down { established: true, .. } => prop_assert!(up.take().is_some(), "Down without Up"),
                    _ => {}
                }
            }
            prop_assert_eq!(up.is_some(), peer.session().is_some());
            prop_assert_eq!(up.is_some(), peer.state() == FsmState::Established);
            if started && !peer.settings.passive {
                prop_assert!(peer.poll_timeout().is_some() || peer.session().is_some(), "a started peer has neither a timer nor a session");
            }
            // A second call at the same time does nothing.
            peer.handle_timeout(at(now));
            while peer.poll_output().is_some_and(|output| match output {
                Output::Close(on) => open_directions.remove(&on),
                Output::Down { established: true, .. } => up.take().is_some(),
                _ => true,
            }) {}
            prop_assert!(peer.poll_timeout().is_none_or(|due| due > at(now)), "a timer is due after handle_timeout");
        }
    }
}
