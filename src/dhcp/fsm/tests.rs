//! Transitions of a client as tables, and its promises by property with invented time.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::conflict::{FrameKind, NeighborFrame};

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

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 5];

/// An announcement of another host.
fn frame(last: u8) -> Input {
    frame_from([2, 0, 0, 0, 0, 9], last)
}

fn frame_from(mac: [u8; 6], last: u8) -> Input {
    Input::Frame(NeighborFrame { address: ip(last), mac: mac.to_vec(), kind: FrameKind::Announcement })
}

fn config() -> ClientConfig {
    ClientConfig { mac: OWN, requested: None, max_rounds: 0, skip_probes: false, seed: 7 }
}

fn terms(last: u8, seconds: u64) -> LeaseTerms {
    let lifetime = Some(Duration::from_secs(seconds));
    LeaseTerms { address: ip(last), server: server(SERVER), lifetime, t1: None, t2: None }
}

/// Outputs as one line.
fn drain(client: &mut Client) -> String {
    let words = std::iter::from_fn(|| client.poll_output()).map(|output| match output {
        Output::Send(_, message) => match message {
            Message::Discover(None) => "discover".to_owned(),
            Message::Discover(Some(requested)) => format!("discover {requested}"),
            Message::Request(address, _) => format!("request {address}"),
            Message::Rebind(address) => format!("rebind {address}"),
            Message::Decline(address, _) => format!("decline {address}"),
            Message::Release(address, _) => format!("release {address}"),
        },
        Output::SendProbe(address) => format!("probe {address}"),
        Output::Bound(lease) => format!("bound {}", lease.address),
        Output::Lost(reason) => format!("lost {reason:?}"),
        Output::NotGranted(reason) => format!("report {reason:?}"),
        Output::NoReply(messages) => format!("report NoReply({messages})"),
    });
    words.collect::<Vec<_>>().join(", ")
}

fn reply(client: &mut Client, now: u64, reply: Reply) -> String {
    let xid = client.xid;
    client.handle_input(at(now), Input::Reply(xid, reply));
    drain(client)
}

fn input(client: &mut Client, now: u64, input: Input) -> String {
    client.handle_input(at(now), input);
    drain(client)
}

/// The next deadline, and the outputs at it.
fn next(client: &mut Client) -> (u64, String) {
    let due = client.poll_timeout().expect("a deadline");
    client.handle_timeout(due);
    (u64::try_from(due.since_boot().as_millis()).unwrap(), drain(client))
}

/// A client with a lease of so many seconds, requested at 0.
fn bound(seconds: u64) -> Client {
    let mut client = Client::new(config());
    assert_eq!(input(&mut client, 0, Input::Start(None)), "discover");
    assert_eq!(reply(&mut client, 0, Reply::Offer(terms(9, seconds))), "request 192.0.2.9");
    assert_eq!(reply(&mut client, 0, Reply::Ack(terms(9, seconds))), "probe 192.0.2.9");
    assert_eq!(next(&mut client), (10, "probe 192.0.2.9".into()));
    assert_eq!(next(&mut client), (20, "bound 192.0.2.9".into()));
    client
}

/// Otherwise every lease would be declined where a router answers for every address.
#[test]
fn an_address_is_bound_without_probes_where_they_are_switched_off() {
    let mut client = Client::new(ClientConfig { skip_probes: true, ..config() });
    input(&mut client, 0, Input::Start(None));
    reply(&mut client, 0, Reply::Offer(terms(9, 3600)));
    assert_eq!(reply(&mut client, 0, Reply::Ack(terms(9, 3600))), "bound 192.0.2.9");
}

#[test]
fn a_lease_is_renewed_then_rebound_then_expires() {
    let mut client = bound(3600);
    let rebind = |at| (at, "rebind 192.0.2.9".to_owned());
    assert_eq!(next(&mut client), rebind(1_800_000));
    // Half of what is left until T2, at 3150 s.
    assert_eq!(next(&mut client), rebind(2_475_000));
    assert_eq!(next(&mut client), rebind(2_812_500));
    let mut events = Vec::new();
    while client.poll_timeout().is_some_and(|due| due < at(3_600_000)) {
        events.push(next(&mut client));
    }
    assert!(events.iter().all(|(_, what)| what == "rebind 192.0.2.9"), "{events:?}");
    assert!(events.iter().any(|(at, _)| (3_150_000..3_215_000).contains(at)), "{events:?}");
    assert!(client.lease(at(3_599_999)).is_some());
    // Servers remember a client's last address.
    assert_eq!(next(&mut client), (3_600_000, "lost Expired, discover 192.0.2.9".into()));
    assert!(client.lease(at(3_600_000)).is_none());
}

#[test]
fn a_lease_that_expired_during_sleep_is_not_used() {
    let mut client = bound(3600);
    assert!(client.lease(at(9_000_000)).is_none());
    client.handle_timeout(at(9_000_000));
    assert_eq!(drain(&mut client), "lost Expired, discover 192.0.2.9");
    // Between T2 and the expiry every server may extend it.
    let mut client = bound(3600);
    client.handle_timeout(at(3_400_000));
    assert_eq!(
        (drain(&mut client).as_str(), client.state(at(3_400_000))),
        ("rebind 192.0.2.9", ClientState::Rebinding)
    );
    assert_eq!(reply(&mut client, 3_400_000, Reply::Ack(terms(9, 3600))), "bound 192.0.2.9");
}

#[test]
fn an_extension_counts_from_the_request() {
    let mut client = bound(3600);
    next(&mut client);
    assert_eq!(reply(&mut client, 1_800_500, Reply::Ack(terms(9, 3600))), "bound 192.0.2.9");
    assert_eq!(next(&mut client).0, 3_600_000);
}

#[test]
fn the_servers_timers_count_if_they_are_in_order() {
    let seconds = Duration::from_secs;
    let timers = |t1, t2| {
        let terms = LeaseTerms { t1, t2, ..terms(9, 800) };
        let timers = Lease::new(&terms, at(0)).timers.unwrap();
        (timers.t1.since_boot().as_secs(), timers.t2.since_boot().as_secs())
    };
    assert_eq!(timers(None, None), (400, 700));
    assert_eq!(timers(Some(seconds(100)), Some(seconds(200))), (100, 200));
    assert_eq!(timers(Some(seconds(300)), Some(seconds(200))), (200, 200));
    assert_eq!(timers(Some(seconds(900)), Some(seconds(900))), (400, 700));
}

#[test]
fn an_infinite_lease_has_no_timers() {
    let mut client = Client::new(config());
    input(&mut client, 0, Input::Start(None));
    let forever = LeaseTerms { lifetime: None, ..terms(9, 0) };
    reply(&mut client, 0, Reply::Offer(forever.clone()));
    reply(&mut client, 0, Reply::Ack(forever));
    assert_eq!([next(&mut client).0, next(&mut client).0], [10, 20]);
    assert_eq!(client.poll_timeout(), None);
    assert!(client.lease(at(u64::from(u32::MAX))).is_some());
}

#[test]
fn a_nak_is_reported_and_followed_by_discover_in_every_state() {
    let nak = || Reply::Nak(server(SERVER), "no".into());
    let mut client = Client::new(config());
    input(&mut client, 0, Input::Start(None));
    reply(&mut client, 0, Reply::Offer(terms(9, 60)));
    assert_eq!(reply(&mut client, 0, nak()), r#"report Nak(Address(192.0.2.1), "no")"#);
    let (due, what) = next(&mut client);
    assert!((187..=250).contains(&due) && what == "discover", "{due} {what}");

    let lease = bound(60).lease(at(0)).cloned();
    let mut client = Client::new(config());
    assert_eq!(input(&mut client, 0, Input::Start(lease)), "rebind 192.0.2.9");
    let lost = r#"lost Nak(Address(192.0.2.1), "no"), discover"#;
    assert_eq!(reply(&mut client, 0, nak()), lost);

    let mut client = bound(60);
    next(&mut client);
    assert_eq!(reply(&mut client, 30_000, nak()), lost);
}

#[test]
fn until_t2_a_nak_of_another_server_is_ignored() {
    let nak = || Reply::Nak(server(2), "no".into());
    let mut client = bound(3600);
    next(&mut client);
    assert_eq!(reply(&mut client, 1_800_000, nak()), "");
    assert!(client.lease(at(1_800_000)).is_some());
    assert_eq!(reply(&mut client, 3_150_000, nak()), r#"lost Nak(Address(192.0.2.2), "no"), discover"#);
}

#[test]
fn a_saved_lease_is_used_without_replies_until_it_expires() {
    let lease = bound(60).lease(at(0)).cloned();
    let mut client = Client::new(config());
    assert_eq!(input(&mut client, 1000, Input::Start(lease.clone())), "rebind 192.0.2.9");
    assert!(client.lease(at(1000)).is_some());
    assert_eq!(next(&mut client).1, "rebind 192.0.2.9");
    assert_eq!(next(&mut client).1, "rebind 192.0.2.9");
    assert_eq!(next(&mut client).1, "bound 192.0.2.9");
    assert_eq!(next(&mut client), (30_000, "rebind 192.0.2.9".into()));
    // This client announced it last: it is not probed.
    let mut client = Client::new(config());
    input(&mut client, 1000, Input::Start(lease.clone()));
    assert_eq!(reply(&mut client, 1000, Reply::Ack(terms(9, 60))), "bound 192.0.2.9");
    assert_eq!(next(&mut client).0, 31_000);
    // One that has expired is requested as a preference.
    let mut client = Client::new(config());
    assert_eq!(input(&mut client, 60_000, Input::Start(lease)), "discover 192.0.2.9");
}

#[test]
fn an_address_in_conflict_is_declined() {
    let mut client = Client::new(config());
    input(&mut client, 0, Input::Start(None));
    reply(&mut client, 0, Reply::Offer(terms(9, 60)));
    reply(&mut client, 0, Reply::Ack(terms(9, 60)));
    assert_eq!(input(&mut client, 0, frame(8)), "", "of another address");
    assert_eq!(input(&mut client, 0, frame(9)), "report Conflict(192.0.2.9), decline 192.0.2.9");
    assert_eq!(next(&mut client), (10_000, "discover".into()));
    let mut client = bound(60);
    assert_eq!(input(&mut client, 20, frame(9)), "", "conflicts are detected elsewhere from now on");
    assert_eq!(input(&mut client, 20, Input::Conflict), "lost Conflict(192.0.2.9), decline 192.0.2.9");
    assert!(client.lease(at(20)).is_none());
}

/// Routers that answer ARP requests by their leases answer for an address that no host uses yet.
#[test]
fn an_answer_with_the_clients_own_hardware_address_is_no_conflict() {
    let mut client = Client::new(config());
    input(&mut client, 0, Input::Start(None));
    reply(&mut client, 0, Reply::Offer(terms(9, 60)));
    reply(&mut client, 0, Reply::Ack(terms(9, 60)));
    assert_eq!(input(&mut client, 1, frame_from(OWN, 9)), "");
    assert_eq!(next(&mut client), (10, "probe 192.0.2.9".into()));
    assert_eq!(next(&mut client), (20, "bound 192.0.2.9".into()));
}

#[test]
fn unsolicited_replies_are_ignored() {
    let mut client = Client::new(config());
    input(&mut client, 0, Input::Start(None));
    let other = client.xid.wrapping_add(1);
    assert_eq!(input(&mut client, 0, Input::Reply(other, Reply::Offer(terms(9, 60)))), "");
    assert_eq!(reply(&mut client, 0, Reply::Ack(terms(9, 60))), "");
    reply(&mut client, 0, Reply::Offer(terms(9, 60)));
    let of_another = LeaseTerms { server: server(2), ..terms(8, 60) };
    assert_eq!(reply(&mut client, 0, Reply::Ack(of_another)), "");
    assert_eq!(reply(&mut client, 0, Reply::Nak(server(2), String::new())), "");
}

#[test]
fn an_offer_of_another_address_than_the_requested_one_waits() {
    let mut client = Client::new(ClientConfig { requested: Some(ip(9)), ..config() });
    assert_eq!(input(&mut client, 0, Input::Start(None)), "discover 192.0.2.9");
    assert_eq!(reply(&mut client, 0, Reply::Offer(terms(8, 60))), "");
    assert_eq!(reply(&mut client, 100, Reply::Offer(terms(9, 60))), "request 192.0.2.9");
    let mut client = Client::new(ClientConfig { requested: Some(ip(9)), ..config() });
    input(&mut client, 0, Input::Start(None));
    reply(&mut client, 0, Reply::Offer(terms(8, 60)));
    // The other offer is accepted.
    assert_eq!(next(&mut client), (500, "request 192.0.2.8".into()));
}

#[test]
fn missing_replies_are_reported_and_retried() {
    let mut client = Client::new(config());
    input(&mut client, 0, Input::Start(None));
    let mut reports = Vec::new();
    let mut due = 0;
    for _ in 0..40 {
        let (at, what) = next(&mut client);
        due = at;
        reports.extend(Some(what).filter(|what| what.starts_with("report")));
    }
    assert_eq!(
        reports,
        ["report NoReply(3)", "report NoReply(6)", "report NoReply(12)", "report NoReply(24)"]
    );
    // Ten rounds of three messages: about seven seconds and a minute's pause each.
    assert!((400_000..900_000).contains(&due), "{due}");
    // After `max_rounds`, and after growing pauses, a server is found within a minute of its return.
    for (max_rounds, grown) in [(1, 0), (3, 40_000), (0, 80_000)] {
        let mut client = Client::new(ClientConfig { max_rounds, ..config() });
        input(&mut client, 0, Input::Start(None));
        let dues: Vec<u64> = (0..100).map(|_| next(&mut client).0).filter(|due| *due > grown).collect();
        let pauses: Vec<u64> =
            dues.windows(2).map(|pair| pair[1] - pair[0]).filter(|pause| *pause > 10_000).collect();
        assert!(pauses.len() > 20, "{dues:?}");
        assert!(pauses.iter().all(|pause| (45_000..=60_000).contains(pause)), "{pauses:?}");
    }
}

/// What was sent since the last call.
fn sent(client: &mut Client) -> Vec<Envelope> {
    let outputs = std::iter::from_fn(|| client.poll_output());
    outputs
        .filter_map(|output| match output {
            Output::Send(envelope, _) => Some(envelope),
            _ => None,
        })
        .collect()
}

/// RFC 2131 §4.1.
#[test]
fn an_exchange_keeps_its_xid_and_a_late_offer_counts() {
    for steps in [3, 4, 9] {
        let mut client = Client::new(config());
        client.handle_input(at(0), Input::Start(None));
        let mut messages = sent(&mut client);
        let mut now = BootTime::default();
        for _ in 0..steps {
            now = client.poll_timeout().unwrap();
            client.handle_timeout(now);
            messages.extend(sent(&mut client));
        }
        assert!(messages.len() >= 3 && messages.iter().all(|message| message.xid == messages[0].xid));
        assert!(messages.windows(2).all(|pair| pair[0].elapsed < pair[1].elapsed));
        let now = u64::try_from(now.since_boot().as_millis()).unwrap();
        assert_eq!(reply(&mut client, now, Reply::Offer(terms(9, 60))), "request 192.0.2.9", "{steps}");
        assert_eq!(reply(&mut client, now, Reply::Ack(terms(9, 60))), "probe 192.0.2.9");
    }
}

#[test]
fn a_late_acknowledgement_counts_from_the_first_request() {
    let mut client = Client::new(config());
    input(&mut client, 0, Input::Start(None));
    reply(&mut client, 0, Reply::Offer(terms(9, 3600)));
    let mut now = 0;
    for expected in ["request 192.0.2.9", "request 192.0.2.9", "report NoReply(3)"] {
        let (at, what) = next(&mut client);
        now = at;
        assert_eq!(what, expected);
    }
    assert_eq!(reply(&mut client, now, Reply::Ack(terms(9, 3600))), "probe 192.0.2.9");
    while client.is_probing() {
        next(&mut client);
    }
    assert_eq!(client.lease(at(now)).unwrap().requested_at, at(0));
    // A request without any acknowledgement is followed by another exchange.
    let mut client = Client::new(config());
    input(&mut client, 0, Input::Start(None));
    reply(&mut client, 0, Reply::Offer(terms(9, 3600)));
    let xid = client.xid;
    let events: Vec<String> = (0..4).map(|_| next(&mut client).1).collect();
    assert_eq!((events[3].as_str(), client.xid == xid), ("discover", false));
}

#[test]
fn frames_alternate_between_the_sources_and_stay_with_the_one_that_got_a_reply() {
    use FrameSource::{Client as Chaddr, Interface};
    let mut client = Client::new(config());
    client.handle_input(at(0), Input::Start(None));
    let mut sources: Vec<FrameSource> = sent(&mut client).iter().map(|message| message.source).collect();
    for _ in 0..3 {
        client.handle_timeout(client.poll_timeout().unwrap());
        sources.extend(sent(&mut client).iter().map(|message| message.source));
    }
    assert_eq!(sources, [Chaddr, Interface, Chaddr]);
    let mut client = Client::new(config());
    client.handle_input(at(0), Input::Start(None));
    client.handle_timeout(client.poll_timeout().unwrap());
    assert_eq!(sent(&mut client)[1].source, Interface);
    let xid = client.xid;
    client.handle_input(at(2000), Input::Reply(xid, Reply::Offer(terms(9, 3600))));
    assert_eq!(sent(&mut client)[0].source, Interface);
}

#[test]
fn a_nak_instead_of_an_offer_is_reported() {
    let mut client = Client::new(config());
    input(&mut client, 0, Input::Start(None));
    let full = Reply::Nak(server(1), "no addresses".into());
    assert_eq!(reply(&mut client, 0, full), r#"report Nak(Address(192.0.2.1), "no addresses")"#);
    assert_eq!(reply(&mut client, 0, Reply::Offer(terms(9, 60))), "request 192.0.2.9");
}

#[test]
fn a_stopped_client_releases_its_lease() {
    let mut client = bound(60);
    assert_eq!(input(&mut client, 20, Input::Stop), "release 192.0.2.9, lost Released");
    assert_eq!(client.poll_timeout(), None);
    let mut client = Client::new(config());
    input(&mut client, 0, Input::Start(None));
    assert_eq!(input(&mut client, 5, Input::Stop), "");
}

#[derive(Debug, Clone)]
enum Event {
    Reply(Reply),
    Frame,
    Conflict,
    Wait(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let terms = (8_u8..10, 0_u64..200).prop_map(|(last, seconds)| terms(last, seconds));
    prop_oneof![
        terms.clone().prop_map(|terms| Event::Reply(Reply::Offer(terms))),
        terms.prop_map(|terms| Event::Reply(Reply::Ack(terms))),
        Just(Event::Reply(Reply::Nak(server(SERVER), String::new()))),
        Just(Event::Frame),
        Just(Event::Conflict),
        (1_u64..100_000).prop_map(Event::Wait),
    ]
}

proptest! {
    /// For any sequence of replies: a lease is reported before it is used, and its loss before another lease; none is used
    /// after its expiry; the rate of messages is limited.
    #[test]
    fn only_granted_leases_are_used(events in proptest::collection::vec(event(), 1..200)) {
        let mut client = Client::new(config());
        let (mut now, mut sent) = (0, 0_u64);
        let mut held: Option<IpAddr> = None;
        client.handle_input(at(0), Input::Start(None));
        for event in &events {
            match event.clone() {
                Event::Reply(reply) => {
                    let xid = client.xid;
                    client.handle_input(at(now), Input::Reply(xid, reply));
                }
                Event::Frame => client.handle_input(at(now), frame(9)),
                Event::Conflict => client.handle_input(at(now), Input::Conflict),
                Event::Wait(millis) => {
                    let until = now + millis;
                    let mut steps = 0;
                    while let Some(due) = client.poll_timeout().filter(|due| *due <= at(until)) {
                        client.handle_timeout(due.max(at(now)));
                        steps += 1;
                        prop_assert!(steps < 1000, "no progress at {due}");
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
                    Output::SendProbe(_) | Output::NotGranted(_) | Output::NoReply(_) => {}
                }
            }
            if let Some(lease) = client.lease(at(now)) {
                prop_assert_eq!(held, Some(lease.address));
                prop_assert!(lease.timers.is_none_or(|timers| at(now) < timers.expiry));
            }
        }
        // Each event may cause messages at once; besides there is at most one a second.
        prop_assert!(sent <= 3 * events.len() as u64 + 2 * now / 1000 + 3, "{sent} messages in {now} ms");
    }
}
