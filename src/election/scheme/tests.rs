//! Which Leases show another scheme, and when a node may take over.

use proptest::prelude::*;

use super::*;
use crate::election::record::LeaderElectionRecord;

const RETRY: Duration = Duration::from_secs(2);

fn at(milliseconds: u64) -> BootTime {
    BootTime::from_boot(Duration::from_millis(milliseconds))
}

#[test]
fn leases_that_show_another_scheme() {
    const SCOPE: &str = "svcs for no class";
    let (ours, go) = (FOLLOWERS, Duration::from_secs(5));
    let none = Duration::ZERO;
    let of = |kind: &str| Some(format!("{kind} of {SCOPE}"));
    let elsewhere = Some("groups-4 of svcs for class other".to_owned());
    // This node's scheme; a Lease and its annotation; the scheme of its holder if it is another, and how long its followers may
    // take.
    type Row<'a> = (&'a str, &'a str, Option<String>, Option<(&'a str, Duration)>);
    let table: [Row<'_>; 16] = [
        ("groups-8", "default/svcs-member-b", of("groups-16"), Some(("groups-16", none))),
        ("groups-8", "default/svcs-member-b", of("groups-8"), None),
        ("groups-8", "default/svcs-11", of("groups-16"), Some(("groups-16", none))),
        ("groups-8", "default/svcs-1a2b-member-b", of("per-service"), Some(("per-service", none))),
        ("groups-8", "default/svcs", of("global"), Some(("global", ours))),
        ("groups-8", "default/svcs-member-b", of("groups-8+on-demand"), Some(("groups-8+on-demand", none))),
        ("global", "default/svcs", of("global+on-demand"), Some(("global+on-demand", ours))),
        ("global", "default/svcs-member-b", of("groups-16"), Some(("groups-16", none))),
        // Other Services, or another namespace.
        ("groups-8", "default/svcs-member-b", elsewhere.clone(), None),
        ("per-service", "default/svcs", elsewhere, None),
        ("groups-8", "other/svcs-member-b", of("groups-16"), None),
        // The Go program's election for all, and members of version 0.1.0, whose number of groups is unknown.
        ("groups-8", "default/svcs", None, Some(("global", go))),
        ("global+on-demand", "default/svcs", None, None),
        ("groups-8", "default/svcs-member-b", None, None),
        ("per-service", "default/svcs-member-b", None, Some(("groups", none))),
        ("global", "default/unrelated", None, None),
    ];
    for (mine, name, text, expected) in table {
        let record = LeaderElectionRecord { holder: "b".into(), ..LeaderElectionRecord::default() };
        let mut lease = LeaseObject { record, ..LeaseObject::default() };
        lease.meta.annotations = text.clone().map(|text| [(ELECTION_SCHEME.to_owned(), text)].into());
        let mut others = OtherSchemes::default();
        let name = LeaseName::parse("", name).unwrap();
        Scheme::example(mine).compare(&name, &lease, RETRY, &mut others);
        let found = others.nodes.get("b").map(|kind| (kind.as_str(), others.followers));
        assert_eq!(found, expected, "{mine}: {name} {text:?}");
    }
    // That the control plane's Lease is held shows nothing.
    let shared = Scheme { shared: true, ..Scheme::example("groups-8") };
    let mut others = OtherSchemes::default();
    shared.compare(&shared.base, &LeaseObject::default(), RETRY, &mut others);
    assert_eq!(others, OtherSchemes::default());
}

const NONE: Option<Duration> = None;
const GROUPS_ELSEWHERE: Option<Duration> = Some(Duration::ZERO);
const GLOBAL_ELSEWHERE: Option<Duration> = Some(FOLLOWERS);

/// A gate after each of these steps: time, whether the Leases are listed, the heartbeat, other schemes; and what it permits.
fn run(steps: &[(u64, bool, Heartbeat, Option<Duration>, Permission)]) {
    let mut gate = Gate::new(Duration::from_secs(15));
    for (number, (now, listed, heartbeat, others, expected)) in steps.iter().enumerate() {
        let facts = Facts { wanted: true, listed: *listed, heartbeat: *heartbeat, others: *others };
        gate.step(at(*now), facts);
        assert_eq!(gate.permission(), *expected, "step {number} of {steps:?}");
        assert!(gate.poll_timeout().is_none_or(|due| due > at(*now)), "step {number}");
    }
}

#[test]
fn when_a_node_takes_over() {
    use Heartbeat::{Lost, None as Absent, Shown, Written};
    use Permission::{Closed, Joining, Open, Waiting};
    // A start; a renewal that the watch does not show yet; another node that joins by mistake; an expired heartbeat.
    run(&[
        (0, false, Lost, NONE, Closed),
        (10, true, Lost, NONE, Joining),
        (20, true, Written, NONE, Joining),
        (30, true, Shown, NONE, Open),
        (2000, true, Written, NONE, Open),
        (2010, true, Shown, GROUPS_ELSEWHERE, Open),
        (9000, true, Lost, GROUPS_ELSEWHERE, Waiting),
        (9100, true, Lost, NONE, Joining),
    ]);
    // Without other schemes an expired heartbeat is written and shown again first.
    run(&[
        (0, true, Shown, NONE, Open),
        (9, true, Lost, NONE, Joining),
        (90_000, true, Lost, NONE, Joining),
        (90_010, true, Written, NONE, Joining),
        (90_020, true, Shown, NONE, Open),
    ]);
    // Among nodes with another number of groups; at the end at once.
    run(&[
        (0, false, Lost, NONE, Closed),
        (10, true, Lost, GROUPS_ELSEWHERE, Waiting),
        (90_000, true, Lost, GROUPS_ELSEWHERE, Waiting),
        (90_001, true, Lost, NONE, Joining),
        (90_020, true, Shown, NONE, Open),
    ]);
    // The later of two that join at once.
    run(&[(0, true, Lost, NONE, Joining), (10, true, Shown, GROUPS_ELSEWHERE, Waiting)]);
    // After one election for all its followers may take over first.
    run(&[
        (0, true, Lost, GLOBAL_ELSEWHERE, Waiting),
        (100, true, Lost, NONE, Waiting),
        (300, true, Lost, GLOBAL_ELSEWHERE, Waiting),
        (400, true, Lost, NONE, Waiting),
        (899, true, Lost, NONE, Waiting),
        (900, true, Lost, NONE, Joining),
    ]);
    // One election for all: no heartbeat.
    run(&[
        (0, false, Absent, NONE, Closed),
        (10, true, Absent, NONE, Open),
        (20, true, Absent, GROUPS_ELSEWHERE, Waiting),
        (30, true, Absent, NONE, Open),
    ]);
    // What is unknown does not keep Services away for ever: Leases that cannot be listed, a heartbeat that is refused.
    run(&[
        (0, false, Lost, NONE, Closed),
        (14_999, false, Lost, NONE, Closed),
        (15_000, false, Lost, NONE, Open),
        (16_000, true, Lost, NONE, Open),
        (17_000, true, Lost, GROUPS_ELSEWHERE, Waiting),
    ]);
}

/// A node of the property test: how far its watch is, and the position of its last write while it holds its heartbeat.
struct Node {
    kind: u8,
    gate: Gate,
    seen: usize,
    written: Option<usize>,
}

impl Node {
    fn new(kind: u8, seen: usize) -> Self {
        Self { kind, gate: Gate::new(Duration::from_secs(15)), seen, written: None }
    }

    /// The next write of its heartbeat, if there is one: held or released. `log` has the writes of all nodes.
    fn act(&mut self, me: usize, log: &[(usize, Option<u8>)]) -> Option<Option<u8>> {
        let mut held: BTreeMap<usize, u8> = BTreeMap::new();
        for (node, kind) in log.iter().take(self.seen) {
            match kind {
                Some(kind) => drop(held.insert(*node, *kind)),
                None => drop(held.remove(node)),
            }
        }
        let others = held.iter().any(|(node, kind)| *node != me && *kind != self.kind);
        let heartbeat = match self.written {
            None => Heartbeat::Lost,
            Some(position) if position < self.seen => Heartbeat::Shown,
            Some(_) => Heartbeat::Written,
        };
        let others = others.then_some(Duration::ZERO);
        self.gate.step(at(0), Facts { wanted: true, listed: true, heartbeat, others });
        match self.written {
            Some(_) if self.gate.permission() == Permission::Waiting => Some(None),
            None if self.gate.permission().may_join() => Some(Some(self.kind)),
            _ => None,
        }
    }
}

proptest! {
    /// Nodes whose watches are behind by any number of events, and that restart with any scheme at any time.
    #[test]
    fn two_schemes_are_never_in_use_at_once(
        steps in prop::collection::vec((0_usize..4, 0_u8..10), 1..200),
    ) {
        let mut log: Vec<(usize, Option<u8>)> = Vec::new();
        let mut nodes: Vec<Node> = (0..4).map(|number| Node::new(number % 2, 0)).collect();
        for (number, action) in steps {
            let node = &mut nodes[number];
            match action {
                // The watch shows one more event.
                0..=5 => node.seen = log.len().min(node.seen + 1),
                6..=8 => {
                    if let Some(write) = node.act(number, &log) {
                        node.written = write.map(|_| log.len());
                        log.push((number, write));
                    }
                }
                // A stop, and a start with the other scheme, which lists the Leases.
                _ => {
                    if node.written.is_some() {
                        log.push((number, None));
                    }
                    *node = Node::new(1 - node.kind, log.len());
                }
            }
            let open: Vec<u8> = nodes.iter().filter(|node| node.gate.permission() == Permission::Open).map(|node| node.kind).collect();
            prop_assert!(open.windows(2).all(|pair| pair[0] == pair[1]), "{open:?} after {log:?}");
        }
    }
}
