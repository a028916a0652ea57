//! The story of a client as tables, and by property with invented time.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;

fn at(millis: u64) -> BootTime {
    BootTime::from_boot(Duration::from_millis(millis))
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(192, 0, 2, last).into()
}

fn server(last: u8) -> Server {
    Server::Address(Ipv4Addr::new(192, 0, 2, last))
}

const SERVER: u8 = 1;

fn settings() -> Settings {
    Settings { wanted: None, rounds: 0, seed: 7 }
}

fn grant(last: u8, seconds: u64) -> Grant {
    let time = Some(Duration::from_secs(seconds));
    Grant { address: ip(last), server: server(SERVER), time, renew: None, rebind: None }
}

/// Outputs as a line: what is sent, in a word.
fn drain(client: &mut Client) -> String {
    let words = std::iter::from_fn(|| client.poll_output()).map(|output| match output {
        Output::Send(_, _, message) => match message {
            Message::Discover(None) => "discover".to_owned(),
            Message::Discover(Some(wanted)) => format!("discover {wanted}"),
            Message::Select(address, _) => format!("request {address}"),
            Message::Confirm(address) => format!("confirm {address}"),
            Message::Decline(address, _) => format!("decline {address}"),
            Message::Release(address, _) => format!("release {address}"),
        },
        Output::Probe(address) => format!("probe {address}"),
        Output::Bound(lease) => format!("bound {}", lease.address),
        Output::Lost(loss) => format!("lost {loss:?}"),
        Output::Told(trouble) => format!("told {trouble:?}"),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn answer(client: &mut Client, now: u64, answer: Answer) -> String {
    let transaction = client.transaction;
    client.handle_input(at(now), Input::Answer(transaction, answer));
    drain(client)
}

fn input(client: &mut Client, now: u64, input: Input) -> String {
    client.handle_input(at(now), input);
    drain(client)
}

/// The next deadline and what happens at it.
fn next(client: &mut Client) -> (u64, String) {
    let due = client.poll_timeout().expect("a deadline");
    client.handle_timeout(due);
    (u64::try_from(due.since_boot().as_millis()).unwrap(), drain(client))
}

/// A client with a lease of so many seconds, asked for at 0.
fn bound(seconds: u64) -> Client {
    let mut client = Client::new(settings());
    assert_eq!(input(&mut client, 0, Input::Start(None)), "discover");
    assert_eq!(answer(&mut client, 0, Answer::Offer(grant(9, seconds))), "request 192.0.2.9");
    assert_eq!(answer(&mut client, 0, Answer::Ack(grant(9, seconds))), "probe 192.0.2.9");
    assert_eq!(input(&mut client, 0, Input::Probed(false)), "bound 192.0.2.9");
    client
}

#[test]
fn a_lease_is_renewed_then_rebound_then_over() {
    let mut client = bound(3600);
    let confirm = |at| (at, "confirm 192.0.2.9".to_owned());
    assert_eq!(next(&mut client), confirm(1_800_000));
    // Half of what is left until T2, at 3150 s.
    assert_eq!(next(&mut client), confirm(2_475_000));
    assert_eq!(next(&mut client), confirm(2_812_500));
    let mut story = Vec::new();
    while client.poll_timeout().is_some_and(|due| due < at(3_600_000)) {
        story.push(next(&mut client));
    }
    assert!(story.iter().all(|(_, what)| what == "confirm 192.0.2.9"), "{story:?}");
    assert!(story.iter().any(|(at, _)| (3_150_000..3_215_000).contains(at)), "{story:?}");
    assert!(client.lease(at(3_599_999)).is_some());
    // Servers remember who had what.
    assert_eq!(next(&mut client), (3_600_000, "lost Expired, discover 192.0.2.9".into()));
    assert!(client.lease(at(3_600_000)).is_none());
}

#[test]
fn whoever_slept_longer_than_the_lease_wakes_without_it() {
    let mut client = bound(3600);
    assert!(client.lease(at(9_000_000)).is_none());
    client.handle_timeout(at(9_000_000));
    assert_eq!(drain(&mut client), "lost Expired, discover 192.0.2.9");
    // Between T2 and the end every server is asked, with what is left.
    let mut client = bound(3600);
    client.handle_timeout(at(3_400_000));
    assert_eq!(
        (drain(&mut client).as_str(), client.stage(at(3_400_000))),
        ("confirm 192.0.2.9", Stage::Rebinding)
    );
    assert_eq!(answer(&mut client, 3_400_000, Answer::Ack(grant(9, 3600))), "bound 192.0.2.9");
}

#[test]
fn more_time_counts_from_the_request() {
    let mut client = bound(3600);
    next(&mut client);
    assert_eq!(answer(&mut client, 1_800_500, Answer::Ack(grant(9, 3600))), "bound 192.0.2.9");
    assert_eq!(next(&mut client).0, 3_600_000);
}

#[test]
fn the_servers_own_times_count_if_they_are_in_order() {
    let seconds = Duration::from_secs;
    let times = |renew, rebind| {
        let grant = Grant { renew, rebind, ..grant(9, 800) };
        let times = Lease::new(&grant, at(0)).times.unwrap();
        (times.renew.since_boot().as_secs(), times.rebind.since_boot().as_secs())
    };
    assert_eq!(times(None, None), (400, 700));
    assert_eq!(times(Some(seconds(100)), Some(seconds(200))), (100, 200));
    assert_eq!(times(Some(seconds(300)), Some(seconds(200))), (200, 200));
    assert_eq!(times(Some(seconds(900)), Some(seconds(900))), (400, 700));
}

#[test]
fn a_lease_for_ever_needs_nothing_more() {
    let mut client = Client::new(settings());
    input(&mut client, 0, Input::Start(None));
    let forever = Grant { time: None, ..grant(9, 0) };
    answer(&mut client, 0, Answer::Offer(forever.clone()));
    answer(&mut client, 0, Answer::Ack(forever));
    input(&mut client, 0, Input::Probed(false));
    assert_eq!(client.poll_timeout(), None);
    assert!(client.lease(at(u64::from(u32::MAX))).is_some());
}

#[test]
fn a_refusal_is_told_and_tried_again_wherever_it_comes() {
    let nak = || Answer::Nak(server(SERVER), "no".into());
    let mut client = Client::new(settings());
    input(&mut client, 0, Input::Start(None));
    answer(&mut client, 0, Answer::Offer(grant(9, 60)));
    assert_eq!(answer(&mut client, 0, nak()), r#"told Refused(Address(192.0.2.1), "no")"#);
    let (due, what) = next(&mut client);
    assert!((187..=250).contains(&due) && what == "discover", "{due} {what}");

    let lease = bound(60).lease(at(0)).cloned();
    let mut client = Client::new(settings());
    assert_eq!(input(&mut client, 0, Input::Start(lease)), "confirm 192.0.2.9");
    let lost = r#"lost Refused(Address(192.0.2.1), "no"), discover"#;
    assert_eq!(answer(&mut client, 0, nak()), lost);

    let mut client = bound(60);
    next(&mut client);
    assert_eq!(answer(&mut client, 30_000, nak()), lost);
}

#[test]
fn until_t2_no_other_server_may_refuse() {
    let nak = || Answer::Nak(server(2), "no".into());
    let mut client = bound(3600);
    next(&mut client);
    assert_eq!(answer(&mut client, 1_800_000, nak()), "");
    assert!(client.lease(at(1_800_000)).is_some());
    assert_eq!(answer(&mut client, 3_150_000, nak()), r#"lost Refused(Address(192.0.2.2), "no"), discover"#);
}

#[test]
fn a_lease_from_before_is_kept_though_nobody_answers_while_it_lasts() {
    let lease = bound(60).lease(at(0)).cloned();
    let mut client = Client::new(settings());
    assert_eq!(input(&mut client, 1000, Input::Start(lease.clone())), "confirm 192.0.2.9");
    assert!(client.lease(at(1000)).is_some());
    assert_eq!(next(&mut client).1, "confirm 192.0.2.9");
    assert_eq!(next(&mut client).1, "confirm 192.0.2.9");
    assert_eq!(next(&mut client).1, "bound 192.0.2.9");
    assert_eq!(next(&mut client), (30_000, "confirm 192.0.2.9".into()));
    // Whoever has it was the last to announce it: it is not probed for.
    let mut client = Client::new(settings());
    input(&mut client, 1000, Input::Start(lease.clone()));
    assert_eq!(answer(&mut client, 1000, Answer::Ack(grant(9, 60))), "bound 192.0.2.9");
    assert_eq!(next(&mut client).0, 31_000);
    // One that is over is asked for as any other.
    let mut client = Client::new(settings());
    assert_eq!(input(&mut client, 60_000, Input::Start(lease)), "discover 192.0.2.9");
}

#[test]
fn an_address_that_a_station_has_is_declined() {
    let mut client = Client::new(settings());
    input(&mut client, 0, Input::Start(None));
    answer(&mut client, 0, Answer::Offer(grant(9, 60)));
    answer(&mut client, 0, Answer::Ack(grant(9, 60)));
    assert_eq!(input(&mut client, 0, Input::Probed(true)), "told Taken(192.0.2.9), decline 192.0.2.9");
    assert_eq!(next(&mut client), (10_000, "discover".into()));
    let mut client = bound(60);
    assert_eq!(input(&mut client, 5, Input::Conflict), "lost Taken(192.0.2.9), decline 192.0.2.9");
    assert!(client.lease(at(5)).is_none());
}

#[test]
fn what_was_not_asked_for_is_not_heard() {
    let mut client = Client::new(settings());
    input(&mut client, 0, Input::Start(None));
    let other = client.transaction.wrapping_add(1);
    assert_eq!(input(&mut client, 0, Input::Answer(other, Answer::Offer(grant(9, 60)))), "");
    assert_eq!(answer(&mut client, 0, Answer::Ack(grant(9, 60))), "");
    answer(&mut client, 0, Answer::Offer(grant(9, 60)));
    let of_another = Grant { server: server(2), ..grant(8, 60) };
    assert_eq!(answer(&mut client, 0, Answer::Ack(of_another)), "");
    assert_eq!(answer(&mut client, 0, Answer::Nak(server(2), String::new())), "");
}

#[test]
fn the_address_that_is_wanted_is_waited_for_a_moment() {
    let mut client = Client::new(Settings { wanted: Some(ip(9)), ..settings() });
    assert_eq!(input(&mut client, 0, Input::Start(None)), "discover 192.0.2.9");
    assert_eq!(answer(&mut client, 0, Answer::Offer(grant(8, 60))), "");
    assert_eq!(answer(&mut client, 100, Answer::Offer(grant(9, 60))), "request 192.0.2.9");
    let mut client = Client::new(Settings { wanted: Some(ip(9)), ..settings() });
    input(&mut client, 0, Input::Start(None));
    answer(&mut client, 0, Answer::Offer(grant(8, 60)));
    // A server that has another one is asked for that.
    assert_eq!(next(&mut client), (500, "request 192.0.2.8".into()));
}

#[test]
fn silence_is_told_and_asking_goes_on() {
    let mut client = Client::new(settings());
    input(&mut client, 0, Input::Start(None));
    let mut told = Vec::new();
    let mut due = 0;
    for _ in 0..40 {
        let (at, what) = next(&mut client);
        due = at;
        told.extend(Some(what).filter(|what| what.starts_with("told")));
    }
    assert_eq!(told, ["told Silence(3)", "told Silence(6)", "told Silence(12)", "told Silence(24)"]);
    // Ten rounds of three messages: about seven seconds and a minute's pause each.
    assert!((400_000..900_000).contains(&due), "{due}");
    // After so many rounds it is asked less often.
    let mut client = Client::new(Settings { rounds: 3, ..settings() });
    input(&mut client, 0, Input::Start(None));
    let dues: Vec<u64> = (0..40).map(|_| next(&mut client).0).collect();
    assert!((1_500_000..3_500_000).contains(&dues[39]), "{dues:?}");
}

#[test]
fn a_refusal_instead_of_an_offer_is_told() {
    let mut client = Client::new(settings());
    input(&mut client, 0, Input::Start(None));
    let full = Answer::Nak(server(1), "no addresses".into());
    assert_eq!(answer(&mut client, 0, full), r#"told Refused(Address(192.0.2.1), "no addresses")"#);
    assert_eq!(answer(&mut client, 0, Answer::Offer(grant(9, 60))), "request 192.0.2.9");
}

#[test]
fn what_is_not_needed_is_given_back() {
    let mut client = bound(60);
    assert_eq!(input(&mut client, 5, Input::Stop), "release 192.0.2.9, lost Released");
    assert_eq!(client.poll_timeout(), None);
    let mut client = Client::new(settings());
    input(&mut client, 0, Input::Start(None));
    assert_eq!(input(&mut client, 5, Input::Stop), "");
}

#[derive(Debug, Clone)]
enum Event {
    Answer(Answer),
    Probed(bool),
    Conflict,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let grant = (8_u8..10, 0_u64..200).prop_map(|(last, seconds)| grant(last, seconds));
    prop_oneof![
        grant.clone().prop_map(|grant| Event::Answer(Answer::Offer(grant))),
        grant.prop_map(|grant| Event::Answer(Answer::Ack(grant))),
        Just(Event::Answer(Answer::Nak(server(SERVER), String::new()))),
        any::<bool>().prop_map(Event::Probed),
        Just(Event::Conflict),
        (1_u64..100_000).prop_map(Event::Wait),
    ]
}

proptest! {
    /// Whatever servers say: a lease is told of before it is used, and its loss before another one; nothing is used
    /// after its end; and servers are not flooded.
    #[test]
    fn nothing_is_used_that_was_not_given(events in proptest::collection::vec(event(), 1..200)) {
        let mut client = Client::new(settings());
        let (mut now, mut sent) = (0, 0_u64);
        let mut held: Option<IpAddr> = None;
        client.handle_input(at(0), Input::Start(None));
        for event in &events {
            match event.clone() {
                Event::Answer(answer) => {
                    let transaction = client.transaction;
                    client.handle_input(at(now), Input::Answer(transaction, answer));
                }
                Event::Probed(taken) => client.handle_input(at(now), Input::Probed(taken)),
                Event::Conflict => client.handle_input(at(now), Input::Conflict),
                Event::Wait(millis) => {
                    let until = now + millis;
                    let mut steps = 0;
                    while let Some(due) = client.poll_timeout().filter(|due| *due <= at(until)) {
                        client.handle_timeout(due.max(at(now)));
                        steps += 1;
                        prop_assert!(steps < 1000, "it turns around at {due}");
                    }
                    now = until;
                }
            }
            while let Some(output) = client.poll_output() {
                match output {
                    Output::Bound(lease) => {
                        prop_assert!(held.is_none_or(|held| held == lease.address));
                        held = Some(lease.address);
                    }
                    Output::Lost(_) => prop_assert!(held.take().is_some()),
                    Output::Send(..) => sent += 1,
                    Output::Probe(_) | Output::Told(_) => {}
                }
            }
            if let Some(lease) = client.lease(at(now)) {
                prop_assert_eq!(held, Some(lease.address));
                prop_assert!(lease.times.is_none_or(|times| at(now) < times.end));
            }
        }
        // Every event may be answered at once; besides there is at most one message a second.
        prop_assert!(sent <= 3 * events.len() as u64 + 2 * now / 1000 + 3, "{sent} messages in {now} ms");
    }
}
