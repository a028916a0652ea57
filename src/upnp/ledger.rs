//! What is to be done at one gateway: what is missing is opened, what is ours and not wanted is closed, and what belongs
//! to somebody else is respected.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::forward::{Forward, ForwardKey, MARK};
use crate::model::BootTime;
use crate::model::service::Protocol;

/// A gateway that was restarted has forgotten everything: it is asked so often what it has.
const LOOK: Duration = Duration::from_secs(20);
/// Before something is opened, renewed or closed the gateway has to have said within so long that nobody else has it: some
/// give it to whoever comes last, and take it from whoever has it.
const FRESH: Duration = Duration::from_secs(1);
/// Pauses after a failure.
const SHORTEST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What should be open.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// By this host.
    pub active: BTreeMap<ForwardKey, Forward>,
    /// By any host: what is not here, and was opened by us, is closed.
    pub known: BTreeSet<ForwardKey>,
    /// Addresses of this host that had ports, and shall have none: whatever is left there of ours is closed.
    pub retired: BTreeSet<IpAddr>,
}

/// A mapping that a gateway has, for IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The protocol.
    pub protocol: Protocol,
    /// The gateway's port.
    pub external: u16,
    /// Where to; none if that is no address.
    pub client: Option<IpAddr>,
    /// The port there.
    pub port: u16,
    /// Who made it, in words.
    pub description: String,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Find out what the gateway has.
    List,
    /// Open this, or renew it.
    Open(Forward),
    /// Close this.
    Close(ForwardKey),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Open { forward: Forward, renew_at: Option<BootTime> },
    Failed { why: String, again: BootTime, failures: u32 },
}

/// What is known of a gateway.
#[derive(Debug, Default)]
pub struct Ledger {
    states: BTreeMap<ForwardKey, State>,
    /// Ours, by their mark, and nobody's any more.
    stray: BTreeSet<ForwardKey>,
    /// For these addresses nothing of ours was left when it was last listed.
    swept: BTreeSet<IpAddr>,
    look_at: BootTime,
    looked_at: BootTime,
    /// Mappings of others.
    foreign: BTreeMap<(Protocol, u16), String>,
}

impl Ledger {
    /// What to do next; none if nothing is due.
    pub fn next(&mut self, now: BootTime, wanted: &Wanted) -> Option<Step> {
        let gone: Vec<ForwardKey> =
            self.states.keys().filter(|key| !wanted.active.contains_key(*key)).cloned().collect();
        for key in gone {
            let opened = matches!(self.states.remove(&key), Some(State::Open { .. }));
            // What another host looks after now is not closed.
            if opened && !wanted.known.contains(&key) {
                self.stray.insert(key);
            }
        }
        let stale = now.since(self.looked_at) > FRESH;
        if stale && self.stray.first().is_some_and(|key| key.address.is_ipv4()) {
            return Some(Step::List);
        }
        if let Some(key) = self.stray.pop_first() {
            // Whether it did, the gateway has to say.
            if wanted.retired.contains(&key.address) {
                self.look_at = self.look_at.min(now + SHORTEST_PAUSE);
            }
            return Some(Step::Close(key));
        }
        self.swept.retain(|address| wanted.retired.contains(address));
        if self.has_to_look(wanted) && now >= self.look_at {
            return Some(Step::List);
        }
        let due = wanted.active.values().find(|forward| match self.states.get(&forward.key) {
            None => true,
            Some(State::Open { forward: known, renew_at }) => {
                *known != **forward || renew_at.is_some_and(|at| now >= at)
            }
            Some(State::Failed { again, .. }) => now >= *again,
        })?;
        if due.key.address.is_ipv4() && stale {
            return Some(Step::List);
        }
        if let Some(owner) = self.foreign.get(&(due.key.protocol, due.key.external)).cloned()
            && due.key.address.is_ipv4()
        {
            let why = format!(
                "port {}/{} of the gateway belongs to {owner}: remove that mapping there, or ask for another port with \
                 kube-vip.io/upnp-external-port",
                due.key.external, due.key.protocol
            );
            self.failed(now, &due.key, why);
            return self.next(now, wanted);
        }
        Some(Step::Open(due.clone()))
    }

    /// When to ask again.
    pub fn poll_timeout(&self, wanted: &Wanted) -> Option<BootTime> {
        let states = self.states.values().filter_map(|state| match state {
            State::Open { renew_at, .. } => *renew_at,
            State::Failed { again, .. } => Some(*again),
        });
        states.chain(self.has_to_look(wanted).then_some(self.look_at)).min()
    }

    /// Whether it matters what the gateway has.
    fn has_to_look(&self, wanted: &Wanted) -> bool {
        let v4 = wanted.active.keys().any(|key| key.address.is_ipv4());
        v4 || !self.has_swept(&wanted.retired)
    }

    /// The gateway has these.
    pub fn listed(&mut self, now: BootTime, entries: &[Entry], wanted: &Wanted) {
        self.not_listed(now);
        self.foreign.clear();
        // What was ours, and is somebody else's by now, is not closed.
        let elsewhere = |key: &ForwardKey, entry: &Entry| {
            key.address.is_ipv4()
                && (entry.protocol, entry.external) == (key.protocol, key.external)
                && entry.client != Some(key.address)
        };
        self.stray.retain(|key| !entries.iter().any(|entry| elsewhere(key, entry)));
        let mut here: BTreeSet<IpAddr> = wanted.active.keys().map(|key| key.address).collect();
        here.extend(&wanted.retired);
        let mut seen = BTreeSet::new();
        for entry in entries {
            let key = entry.client.map(|address| ForwardKey {
                address,
                protocol: entry.protocol,
                external: entry.external,
            });
            let ours = entry.description.starts_with(MARK);
            match key {
                // It leads where it should, whoever made it.
                Some(key) if wanted.active.get(&key).is_some_and(|forward| forward.port == entry.port) => {
                    seen.insert(key);
                }
                // Left over from a Service of before.
                Some(key) if ours && here.contains(&key.address) && !wanted.known.contains(&key) => {
                    self.stray.insert(key);
                }
                Some(key) if wanted.known.contains(&key) => {}
                key => {
                    let who = key.map_or_else(|| "somebody".to_owned(), |key| key.address.to_string());
                    let owner = format!("{who} (`{}`)", entry.description);
                    self.foreign.insert((entry.protocol, entry.external), owner);
                }
            }
        }
        let left = |address: &&IpAddr| self.stray.iter().any(|key| key.address == **address);
        self.swept = wanted.retired.iter().filter(|address| !left(address)).copied().collect();
        // What the gateway has lost is opened again.
        self.states.retain(|key, state| {
            key.address.is_ipv6() || matches!(state, State::Failed { .. }) || seen.contains(key)
        });
    }

    /// The gateway cannot say what it has: it is asked again later.
    pub fn not_listed(&mut self, now: BootTime) {
        self.looked_at = now;
        self.look_at = now + LOOK;
    }

    /// It was opened; the gateway keeps it for so long, for ever if none.
    pub fn opened(&mut self, now: BootTime, forward: Forward, lease: Option<Duration>) {
        // A gateway that was restarted shows in no list of pinholes: they are renewed as often as the others are looked at.
        let half =
            lease.map(|lease| if forward.key.address.is_ipv6() { LOOK.min(lease / 2) } else { lease / 2 });
        let renew_at = half.map(|half| now + half);
        self.states.insert(forward.key.clone(), State::Open { forward, renew_at });
    }

    /// It could not be opened.
    pub fn failed(&mut self, now: BootTime, key: &ForwardKey, why: String) {
        let failures = match self.states.get(key) {
            Some(State::Failed { failures, .. }) => failures + 1,
            _ => 0,
        };
        let pause = SHORTEST_PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE);
        self.states.insert(key.clone(), State::Failed { why, again: now + pause, failures });
    }

    /// Whether nothing of ours is left for these addresses. There is no list of pinholes: those of a process that is gone
    /// end by themselves.
    pub fn has_swept(&self, retired: &BTreeSet<IpAddr>) -> bool {
        retired.iter().all(|address| address.is_ipv6() || self.swept.contains(address))
    }

    /// Whether nothing of ours is there, as far as is known.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty() && self.stray.is_empty()
    }

    /// How everything that was tried stands: open, or why not.
    pub fn report(&self) -> impl Iterator<Item = (&ForwardKey, Result<(), &str>)> {
        self.states.iter().map(|(key, state)| match state {
            State::Open { .. } => (key, Ok(())),
            State::Failed { why, .. } => (key, Err(why.as_str())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_boot(Duration::from_secs(seconds))
    }

    fn forward(address: &str, external: u16) -> Forward {
        let key = ForwardKey { address: address.parse().unwrap(), protocol: Protocol::Tcp, external };
        let description = format!("{MARK}default/web");
        Forward { key, port: 80, lease: Some(Duration::from_secs(3600)), description }
    }

    fn wanted(active: &[&Forward], elsewhere: &[&Forward]) -> Wanted {
        let active: BTreeMap<_, _> =
            active.iter().map(|forward| (forward.key.clone(), (*forward).clone())).collect();
        let known = active.keys().cloned().chain(elsewhere.iter().map(|forward| forward.key.clone()));
        Wanted { known: known.collect(), active, retired: BTreeSet::new() }
    }

    fn entry(client: &str, external: u16, description: &str) -> Entry {
        Entry {
            protocol: Protocol::Tcp,
            external,
            client: client.parse().ok(),
            port: 80,
            description: description.into(),
        }
    }

    const LEASE: Option<Duration> = Some(Duration::from_secs(3600));

    #[test]
    fn a_port_is_opened_renewed_and_closed() {
        let web = forward("192.0.2.1", 80);
        let all = wanted(&[&web], &[]);
        let mut ledger = Ledger::default();
        assert_eq!(ledger.next(at(1), &all), Some(Step::List));
        ledger.listed(at(1), &[], &all);
        assert_eq!(ledger.next(at(1), &all), Some(Step::Open(web.clone())));
        ledger.opened(at(1), web.clone(), LEASE);
        assert_eq!(ledger.next(at(1), &all), None);
        assert_eq!(ledger.poll_timeout(&all), Some(at(21)));
        let there = [entry("192.0.2.1", 80, &web.description)];
        for round in 1..90 {
            assert_eq!(ledger.next(at(1 + 20 * round), &all), Some(Step::List), "{round}");
            ledger.listed(at(1 + 20 * round), &there, &all);
        }
        assert_eq!(ledger.next(at(1801), &all), Some(Step::List));
        ledger.listed(at(1801), &there, &all);
        assert_eq!(ledger.next(at(1801), &all), Some(Step::Open(web.clone())));
        ledger.opened(at(1801), web.clone(), LEASE);
        let none = wanted(&[], &[]);
        assert_eq!(ledger.next(at(1803), &none), Some(Step::List));
        ledger.listed(at(1803), &there, &none);
        assert_eq!(ledger.next(at(1803), &none), Some(Step::Close(web.key.clone())));
        assert_eq!(ledger.next(at(1803), &none), None);
        assert!(ledger.is_empty());
    }

    #[test]
    fn what_somebody_else_got_meanwhile_is_not_closed() {
        let (web, six) = (forward("192.0.2.1", 80), forward("fd00::1", 80));
        let both = wanted(&[&web, &six], &[]);
        let none = wanted(&[], &[]);
        // The gateway was restarted, and the other one was faster; or it cannot say what it has.
        let theirs = [entry("192.0.2.77", 80, "a game")];
        for (listed, closed) in [(Some(&theirs[..]), 1), (Some(&[]), 2), (None, 2)] {
            let mut ledger = Ledger::default();
            ledger.listed(at(1), &[], &both);
            for forward in [&web, &six] {
                ledger.opened(at(1), forward.clone(), LEASE);
            }
            assert_eq!(ledger.next(at(9), &none), Some(Step::List));
            match listed {
                Some(entries) => ledger.listed(at(9), entries, &none),
                None => ledger.not_listed(at(9)),
            }
            let steps: Vec<Step> = std::iter::from_fn(|| ledger.next(at(9), &none)).collect();
            assert_eq!(steps.len(), closed, "{steps:?}");
            assert_eq!(steps.last(), Some(&Step::Close(six.key.clone())));
        }
    }

    #[test]
    fn what_another_host_looks_after_is_not_closed() {
        let web = forward("192.0.2.1", 80);
        let mut ledger = Ledger::default();
        ledger.listed(at(1), &[], &wanted(&[&web], &[]));
        ledger.opened(at(1), web.clone(), LEASE);
        assert_eq!(ledger.next(at(2), &wanted(&[], &[&web])), None);
    }

    #[test]
    fn a_restarted_gateway_has_everything_again() {
        let (web, six) = (forward("192.0.2.1", 80), forward("fd00::1", 80));
        let all = wanted(&[&web, &six], &[]);
        let mut ledger = Ledger::default();
        ledger.listed(at(1), &[], &all);
        ledger.opened(at(1), web.clone(), LEASE);
        ledger.opened(at(1), six.clone(), LEASE);
        ledger.listed(at(21), &[], &all);
        assert_eq!(ledger.next(at(21), &all), Some(Step::Open(web.clone())));
        ledger.opened(at(21), web, LEASE);
        assert_eq!(ledger.next(at(21), &all), Some(Step::Open(six)));
    }

    #[test]
    fn what_belongs_to_others_stays_and_what_is_left_of_ours_goes() {
        let web = forward("192.0.2.1", 80);
        let all = wanted(&[&web], &[]);
        let mut ledger = Ledger::default();
        let entries = [
            entry("192.0.2.77", 80, "a game"),
            entry("192.0.2.1", 81, &web.description),
            entry("192.0.2.1", 82, "typed by hand"),
            entry("192.0.2.78", 83, "kube-vip 00000000 of another cluster"),
        ];
        ledger.listed(at(1), &entries, &all);
        let stray = ForwardKey { external: 81, ..web.key.clone() };
        assert_eq!(ledger.next(at(1), &all), Some(Step::Close(stray)));
        assert_eq!(ledger.next(at(1), &all), None);
        let (_, result) = ledger.report().next().unwrap();
        assert!(result.unwrap_err().contains("belongs to 192.0.2.77 (`a game`)"), "{result:?}");
        // It is tried again when the other one is gone.
        ledger.listed(at(21), &[], &all);
        assert_eq!(ledger.next(at(21), &all), Some(Step::Open(web)));
    }

    #[test]
    fn what_is_retired_is_swept_once() {
        let web = forward("192.0.2.1", 80);
        let retired = Wanted { retired: [web.key.address].into(), ..Wanted::default() };
        let mut ledger = Ledger::default();
        assert_eq!(ledger.next(at(9), &retired), Some(Step::List));
        let entries = [entry("192.0.2.1", 80, &web.description), entry("192.0.2.2", 81, &web.description)];
        ledger.listed(at(9), &entries, &retired);
        assert_eq!(ledger.next(at(9), &retired), Some(Step::Close(web.key.clone())));
        // Only the gateway knows whether it did.
        assert!(!ledger.has_swept(&retired.retired));
        assert_eq!(ledger.next(at(9), &retired), None);
        assert_eq!(ledger.poll_timeout(&retired), Some(at(14)));
        assert_eq!(ledger.next(at(14), &retired), Some(Step::List));
        ledger.listed(at(14), &entries[1..], &retired);
        assert!(ledger.has_swept(&retired.retired));
        assert_eq!(ledger.next(at(60), &retired), None);
    }

    #[test]
    fn failures_are_repeated_ever_more_seldom() {
        let web = forward("192.0.2.1", 80);
        let all = wanted(&[&web], &[]);
        let mut ledger = Ledger::default();
        ledger.listed(at(0), &[], &all);
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            ledger.failed(at(now), &web.key, "full".into());
            let again = match &ledger.states[&web.key] {
                State::Failed { again, .. } => again.since_boot().as_secs(),
                State::Open { .. } => panic!(),
            };
            pauses.push(again - now);
            now = again;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    }
}
