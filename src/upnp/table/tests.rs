//! Requests to a gateway by desired mappings and by what it lists.

use super::*;

fn at(seconds: u64) -> BootTime {
    BootTime::from_boot(Duration::from_secs(seconds))
}

fn mapping(address: &str, external: u16) -> PortMapping {
    let key = MappingKey { address: address.parse().unwrap(), protocol: Protocol::Tcp, external };
    let description = format!("{MARK}default/web");
    PortMapping { key, port: 80, lease: LEASE, description }
}

fn desired(active: &[&PortMapping], elsewhere: &[&PortMapping]) -> DesiredMappings {
    let active: BTreeMap<_, _> =
        active.iter().map(|mapping| (mapping.key.clone(), (*mapping).clone())).collect();
    let known = active.keys().cloned().chain(elsewhere.iter().map(|mapping| mapping.key.clone()));
    DesiredMappings { known: known.collect(), active, retired: BTreeSet::new() }
}

fn entry(client: &str, external: u16, description: &str) -> ListedMapping {
    ListedMapping {
        protocol: Protocol::Tcp,
        external,
        client: client.parse().ok(),
        port: 80,
        description: description.into(),
    }
}

const LEASE: Option<Duration> = Some(Duration::from_secs(3600));

/// The request that is due.
fn request(table: &mut PortMappingTable, now: u64) -> Option<Output> {
    table.handle_timeout(at(now));
    table.poll_output()
}

/// Expects this request, and responds to it.
fn respond(table: &mut PortMappingTable, now: u64, expected: Output, response: Input) {
    assert_eq!(request(table, now), Some(expected), "at {now}");
    assert_eq!(table.poll_timeout(), None);
    table.handle_input(at(now), response);
}

fn list(table: &mut PortMappingTable, now: u64, entries: &[ListedMapping]) {
    respond(table, now, Output::List, Input::Listed(entries.to_vec()));
}

fn open(table: &mut PortMappingTable, now: u64, mapping: &PortMapping) {
    respond(table, now, Output::Open(mapping.clone()), Input::Opened(LEASE));
}

fn close(table: &mut PortMappingTable, now: u64, mapping: &PortMapping) {
    respond(table, now, Output::Close(mapping.key.clone()), Input::Closed);
}

/// A table with these mappings, opened at 1.
fn opened(mappings: &[&PortMapping]) -> PortMappingTable {
    let mut table = PortMappingTable::default();
    table.handle_input(at(1), Input::Desired(desired(mappings, &[])));
    if mappings.iter().any(|mapping| mapping.key.address.is_ipv4()) {
        list(&mut table, 1, &[]);
    }
    for mapping in mappings {
        open(&mut table, 1, mapping);
    }
    table
}

fn unconfirmed(table: &PortMappingTable) -> Vec<u16> {
    table.unconfirmed().map(|key| key.external).collect()
}

#[test]
fn a_port_is_opened_renewed_and_closed() {
    let web = mapping("192.0.2.1", 80);
    let mut table = opened(&[&web]);
    assert_eq!(request(&mut table, 1), None);
    assert_eq!(table.poll_timeout(), Some(at(21)));
    let there = [entry("192.0.2.1", 80, &web.description)];
    for round in 1..90 {
        list(&mut table, 1 + 20 * round, &there);
        assert_eq!(request(&mut table, 1 + 20 * round), None, "{round}");
    }
    list(&mut table, 1801, &there);
    open(&mut table, 1801, &web);
    table.handle_input(at(1803), Input::Desired(desired(&[], &[])));
    list(&mut table, 1803, &there);
    assert_eq!(table.report().collect::<Vec<_>>(), [(&web.key, Ok(()))]);
    close(&mut table, 1803, &web);
    assert_eq!(request(&mut table, 1803), None);
    assert!(table.is_empty());
}

#[test]
fn a_port_that_another_host_got_meanwhile_is_not_closed() {
    let (web, six) = (mapping("192.0.2.1", 80), mapping("fd00::1", 80));
    // The gateway was restarted, and the other one was faster; or it cannot say what it has.
    let theirs = entry("192.0.2.77", 80, "a game");
    for (response, closed) in [
        (Input::Listed(vec![theirs]), vec![&six]),
        (Input::Listed(Vec::new()), vec![&web, &six]),
        (Input::Refused("no".into()), vec![&web, &six]),
    ] {
        let mut table = opened(&[&web, &six]);
        table.handle_input(at(9), Input::Desired(desired(&[], &[])));
        respond(&mut table, 9, Output::List, response);
        for mapping in closed {
            close(&mut table, 9, mapping);
        }
        assert_eq!(request(&mut table, 9), None);
    }
}

#[test]
fn a_mapping_of_another_node_is_not_closed() {
    let web = mapping("192.0.2.1", 80);
    let mut table = opened(&[&web]);
    table.handle_input(at(2), Input::Desired(desired(&[], &[&web])));
    assert_eq!(request(&mut table, 2), None);
}

#[test]
fn a_restarted_gateway_gets_all_mappings_again() {
    let (web, six) = (mapping("192.0.2.1", 80), mapping("fd00::1", 80));
    let mut table = opened(&[&web, &six]);
    list(&mut table, 21, &[]);
    open(&mut table, 21, &web);
    open(&mut table, 21, &six);
}

#[test]
fn mappings_of_other_hosts_stay_and_orphaned_ones_of_ours_are_closed() {
    let web = mapping("192.0.2.1", 80);
    let mut table = PortMappingTable::default();
    table.handle_input(at(1), Input::Desired(desired(&[&web], &[])));
    let entries = [
        entry("192.0.2.77", 80, "a game"),
        entry("192.0.2.1", 81, &web.description),
        entry("192.0.2.1", 82, "typed by hand"),
        entry("192.0.2.78", 83, "kube-vip 00000000 of another cluster"),
    ];
    list(&mut table, 1, &entries);
    close(&mut table, 1, &mapping("192.0.2.1", 81));
    assert_eq!(request(&mut table, 1), None);
    let (_, result) = table.report().next().unwrap();
    assert!(result.unwrap_err().contains("mapped to 192.0.2.77 (`a game`)"), "{result:?}");
    // It is tried again when the other one is gone.
    list(&mut table, 21, &[]);
    open(&mut table, 21, &web);
}

#[test]
fn retired_addresses_are_cleared_once() {
    let web = mapping("192.0.2.1", 80);
    let retired: BTreeSet<IpAddr> = [web.key.address].into();
    let mut table = PortMappingTable::default();
    let desired = DesiredMappings { retired: retired.clone(), ..DesiredMappings::default() };
    table.handle_input(at(9), Input::Desired(desired));
    let entries = [entry("192.0.2.1", 80, &web.description), entry("192.0.2.2", 81, &web.description)];
    list(&mut table, 9, &entries);
    close(&mut table, 9, &web);
    // Only the gateway knows whether it did.
    assert!(!table.is_cleared(&retired));
    assert_eq!(request(&mut table, 9), None);
    assert_eq!(table.poll_timeout(), Some(at(14)));
    list(&mut table, 14, &entries[1..]);
    assert!(table.is_cleared(&retired));
    assert_eq!(request(&mut table, 60), None);
}

#[test]
fn failures_are_retried_with_back_off() {
    let six = mapping("fd00::1", 80);
    let mut table = PortMappingTable::default();
    table.handle_input(at(0), Input::Desired(desired(&[&six], &[])));
    let mut now = 0;
    let mut pauses = Vec::new();
    for _ in 0..9 {
        respond(&mut table, now, Output::Open(six.clone()), Input::Refused("full".into()));
        let again = table.poll_timeout().unwrap().since_boot().as_secs();
        pauses.push(again - now);
        now = again;
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    assert!(unconfirmed(&table).is_empty(), "it was never open");
}

#[test]
fn a_mapping_that_is_deleted_during_its_request_is_closed_after_the_response() {
    for web in [mapping("192.0.2.1", 80), mapping("fd00::1", 80)] {
        for (response, closed) in [(Input::Opened(LEASE), true), (Input::Refused("full".into()), false)] {
            let mut table = PortMappingTable::default();
            table.handle_input(at(1), Input::Desired(desired(&[&web], &[])));
            if web.key.address.is_ipv4() {
                list(&mut table, 1, &[]);
            }
            assert_eq!(unconfirmed(&table), [80], "before it is sent, too");
            assert_eq!(request(&mut table, 1), Some(Output::Open(web.clone())));
            assert_eq!(table.report().count(), 0);
            table.handle_input(at(2), Input::Desired(desired(&[], &[])));
            assert_eq!((request(&mut table, 2), unconfirmed(&table)), (None, vec![80]));
            table.handle_input(at(2), response);
            if closed {
                assert_eq!(table.report().collect::<Vec<_>>(), [(&web.key, Ok(()))]);
                close(&mut table, 2, &web);
            }
            assert!(table.is_empty());
            assert!(unconfirmed(&table).is_empty());
        }
    }
}

#[test]
fn a_request_that_was_not_sent_yet_is_cancelled() {
    let six = mapping("fd00::1", 80);
    let mut table = PortMappingTable::default();
    table.handle_input(at(1), Input::Desired(desired(&[&six], &[])));
    table.handle_input(at(1), Input::Desired(desired(&[], &[])));
    assert_eq!(table.poll_output(), None);
}

#[test]
fn a_mapping_that_could_not_be_renewed_is_closed() {
    let six = mapping("fd00::1", 80);
    let mut table = opened(&[&six]);
    respond(&mut table, 21, Output::Open(six.clone()), Input::Refused("busy".into()));
    assert_eq!(unconfirmed(&table), [80]);
    table.handle_input(at(22), Input::Desired(desired(&[], &[])));
    close(&mut table, 22, &six);
    assert!(table.is_empty());
}

#[test]
fn responses_without_a_request_are_ignored() {
    let web = mapping("192.0.2.1", 80);
    let mut table = opened(&[&web]);
    table.handle_input(at(2), Input::Closed);
    table.handle_input(at(2), Input::Listed(Vec::new()));
    assert_eq!((table.report().count(), table.poll_timeout()), (1, Some(at(21))));
    assert_eq!(request(&mut table, 21), Some(Output::List));
    table.handle_input(at(21), Input::Closed);
    assert_eq!((request(&mut table, 21), table.poll_timeout()), (None, None), "still without a response");
}
