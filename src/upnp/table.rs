//! The port mappings of one gateway as a state machine: missing ones are opened, orphaned ones of ours are closed, and those
//! of other hosts are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::mapping::{MARK, MappingKey, PortMapping};
use crate::model::BootTime;
use crate::model::service::Protocol;

/// A restarted gateway has lost its mappings: they are listed this often.
const RESYNC_INTERVAL: Duration = Duration::from_secs(20);
/// Maximum age of the list before a mapping is opened, renewed or closed: some gateways hand a mapped port to the latest
/// client and take it from the present one.
const MAX_AGE: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_secs(5);
const BACKOFF_MAX: Duration = Duration::from_secs(300);

/// The desired mappings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DesiredMappings {
    /// Of this host.
    pub active: BTreeMap<MappingKey, PortMapping>,
    /// Of any host: a mapping of ours that is not among them is closed.
    pub known: BTreeSet<MappingKey>,
    /// Addresses of this host that had mappings and shall have none: remaining ones of ours are closed.
    pub retired: BTreeSet<IpAddr>,
}

/// An IPv4 mapping in a gateway's list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedMapping {
    pub protocol: Protocol,
    /// Port of the gateway.
    pub external: u16,
    /// Internal client; none if it is not an address.
    pub client: Option<IpAddr>,
    /// Port of the client.
    pub port: u16,
    pub description: String,
}

/// The next request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    List,
    /// Open or renew.
    Open(PortMapping),
    Close(MappingKey),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Open { mapping: PortMapping, renew_at: Option<BootTime> },
    Failed { why: String, again: BootTime, failures: u32 },
}

/// Mappings of one gateway.
#[derive(Debug, Default)]
pub struct PortMappingTable {
    states: BTreeMap<MappingKey, State>,
    /// Ours by their description, and of no Service any more.
    orphaned: BTreeSet<MappingKey>,
    /// Retired addresses without a mapping of ours in the last list.
    cleared: BTreeSet<IpAddr>,
    look_at: BootTime,
    looked_at: BootTime,
    /// Mappings of other hosts, with their owner.
    foreign: BTreeMap<(Protocol, u16), String>,
}

impl PortMappingTable {
    /// The next request that is due.
    pub fn next(&mut self, now: BootTime, wanted: &DesiredMappings) -> Option<Step> {
        let gone: Vec<MappingKey> =
            self.states.keys().filter(|key| !wanted.active.contains_key(*key)).cloned().collect();
        for key in gone {
            let opened = matches!(self.states.remove(&key), Some(State::Open { .. }));
            // A mapping that another node of this cluster renews is not closed.
            if opened && !wanted.known.contains(&key) {
                self.orphaned.insert(key);
            }
        }
        let stale = now.since(self.looked_at) > MAX_AGE;
        if stale && self.orphaned.first().is_some_and(|key| key.address.is_ipv4()) {
            return Some(Step::List);
        }
        if let Some(key) = self.orphaned.pop_first() {
            // The next list shows whether it was closed.
            if wanted.retired.contains(&key.address) {
                self.look_at = self.look_at.min(now + BACKOFF_MIN);
            }
            return Some(Step::Close(key));
        }
        self.cleared.retain(|address| wanted.retired.contains(address));
        if self.has_to_look(wanted) && now >= self.look_at {
            return Some(Step::List);
        }
        let due = wanted.active.values().find(|mapping| match self.states.get(&mapping.key) {
            None => true,
            Some(State::Open { mapping: known, renew_at }) => {
                *known != **mapping || renew_at.is_some_and(|at| now >= at)
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
                "port {}/{} of the gateway is mapped to {owner}: remove that mapping on the gateway, or request another port with \
                 kube-vip.io/upnp-external-port",
                due.key.external, due.key.protocol
            );
            self.failed(now, &due.key, why);
            return self.next(now, wanted);
        }
        Some(Step::Open(due.clone()))
    }

    pub fn poll_timeout(&self, wanted: &DesiredMappings) -> Option<BootTime> {
        let states = self.states.values().filter_map(|state| match state {
            State::Open { renew_at, .. } => *renew_at,
            State::Failed { again, .. } => Some(*again),
        });
        states.chain(self.has_to_look(wanted).then_some(self.look_at)).min()
    }

    fn has_to_look(&self, wanted: &DesiredMappings) -> bool {
        let v4 = wanted.active.keys().any(|key| key.address.is_ipv4());
        v4 || !self.is_cleared(&wanted.retired)
    }

    /// The gateway listed these.
    pub fn listed(&mut self, now: BootTime, entries: &[ListedMapping], wanted: &DesiredMappings) {
        self.not_listed(now);
        self.foreign.clear();
        // A port that was ours and is mapped to another host by now is not closed.
        let elsewhere = |key: &MappingKey, entry: &ListedMapping| {
            key.address.is_ipv4()
                && (entry.protocol, entry.external) == (key.protocol, key.external)
                && entry.client != Some(key.address)
        };
        self.orphaned.retain(|key| !entries.iter().any(|entry| elsewhere(key, entry)));
        let mut here: BTreeSet<IpAddr> = wanted.active.keys().map(|key| key.address).collect();
        here.extend(&wanted.retired);
        let mut seen = BTreeSet::new();
        for entry in entries {
            let key = entry.client.map(|address| MappingKey {
                address,
                protocol: entry.protocol,
                external: entry.external,
            });
            let ours = entry.description.starts_with(MARK);
            match key {
                // Mapped as desired, by any client.
                Some(key) if wanted.active.get(&key).is_some_and(|mapping| mapping.port == entry.port) => {
                    seen.insert(key);
                }
                // Left over from an earlier Service.
                Some(key) if ours && here.contains(&key.address) && !wanted.known.contains(&key) => {
                    self.orphaned.insert(key);
                }
                Some(key) if wanted.known.contains(&key) => {}
                key => {
                    let who = key.map_or_else(|| "an unknown host".to_owned(), |key| key.address.to_string());
                    let owner = format!("{who} (`{}`)", entry.description);
                    self.foreign.insert((entry.protocol, entry.external), owner);
                }
            }
        }
        let left = |address: &&IpAddr| self.orphaned.iter().any(|key| key.address == **address);
        self.cleared = wanted.retired.iter().filter(|address| !left(address)).copied().collect();
        // A mapping that the gateway has lost is opened again.
        self.states.retain(|key, state| {
            key.address.is_ipv6() || matches!(state, State::Failed { .. }) || seen.contains(key)
        });
    }

    /// The gateway did not list its mappings.
    pub fn not_listed(&mut self, now: BootTime) {
        self.looked_at = now;
        self.look_at = now + RESYNC_INTERVAL;
    }

    /// A mapping was opened with this lease; none is permanent.
    pub fn opened(&mut self, now: BootTime, mapping: PortMapping, lease: Option<Duration>) {
        // Pinholes cannot be listed: they are renewed as often as mappings are listed.
        let half =
            lease.map(
                |lease| {
                    if mapping.key.address.is_ipv6() { RESYNC_INTERVAL.min(lease / 2) } else { lease / 2 }
                },
            );
        let renew_at = half.map(|half| now + half);
        self.states.insert(mapping.key.clone(), State::Open { mapping, renew_at });
    }

    pub fn failed(&mut self, now: BootTime, key: &MappingKey, why: String) {
        let failures = match self.states.get(key) {
            Some(State::Failed { failures, .. }) => failures + 1,
            _ => 0,
        };
        let pause = BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX);
        self.states.insert(key.clone(), State::Failed { why, again: now + pause, failures });
    }

    /// Whether these addresses have no mapping of ours. Pinholes cannot be listed: those of an ended process expire.
    pub fn is_cleared(&self, retired: &BTreeSet<IpAddr>) -> bool {
        retired.iter().all(|address| address.is_ipv6() || self.cleared.contains(address))
    }

    /// Whether no mapping of ours is known.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty() && self.orphaned.is_empty()
    }

    /// Every mapping that was tried: open, or the reason of its failure.
    pub fn report(&self) -> impl Iterator<Item = (&MappingKey, Result<(), &str>)> {
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

    fn mapping(address: &str, external: u16) -> PortMapping {
        let key = MappingKey { address: address.parse().unwrap(), protocol: Protocol::Tcp, external };
        let description = format!("{MARK}default/web");
        PortMapping { key, port: 80, lease: Some(Duration::from_secs(3600)), description }
    }

    fn wanted(active: &[&PortMapping], elsewhere: &[&PortMapping]) -> DesiredMappings {
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

    #[test]
    fn a_port_is_opened_renewed_and_closed() {
        let web = mapping("192.0.2.1", 80);
        let all = wanted(&[&web], &[]);
        let mut table = PortMappingTable::default();
        assert_eq!(table.next(at(1), &all), Some(Step::List));
        table.listed(at(1), &[], &all);
        assert_eq!(table.next(at(1), &all), Some(Step::Open(web.clone())));
        table.opened(at(1), web.clone(), LEASE);
        assert_eq!(table.next(at(1), &all), None);
        assert_eq!(table.poll_timeout(&all), Some(at(21)));
        let there = [entry("192.0.2.1", 80, &web.description)];
        for round in 1..90 {
            assert_eq!(table.next(at(1 + 20 * round), &all), Some(Step::List), "{round}");
            table.listed(at(1 + 20 * round), &there, &all);
        }
        assert_eq!(table.next(at(1801), &all), Some(Step::List));
        table.listed(at(1801), &there, &all);
        assert_eq!(table.next(at(1801), &all), Some(Step::Open(web.clone())));
        table.opened(at(1801), web.clone(), LEASE);
        let none = wanted(&[], &[]);
        assert_eq!(table.next(at(1803), &none), Some(Step::List));
        table.listed(at(1803), &there, &none);
        assert_eq!(table.next(at(1803), &none), Some(Step::Close(web.key.clone())));
        assert_eq!(table.next(at(1803), &none), None);
        assert!(table.is_empty());
    }

    #[test]
    fn a_port_that_another_host_got_meanwhile_is_not_closed() {
        let (web, six) = (mapping("192.0.2.1", 80), mapping("fd00::1", 80));
        let both = wanted(&[&web, &six], &[]);
        let none = wanted(&[], &[]);
        // The gateway was restarted, and the other one was faster; or it cannot say what it has.
        let theirs = [entry("192.0.2.77", 80, "a game")];
        for (listed, closed) in [(Some(&theirs[..]), 1), (Some(&[]), 2), (None, 2)] {
            let mut table = PortMappingTable::default();
            table.listed(at(1), &[], &both);
            for mapping in [&web, &six] {
                table.opened(at(1), mapping.clone(), LEASE);
            }
            assert_eq!(table.next(at(9), &none), Some(Step::List));
            match listed {
                Some(entries) => table.listed(at(9), entries, &none),
                None => table.not_listed(at(9)),
            }
            let steps: Vec<Step> = std::iter::from_fn(|| table.next(at(9), &none)).collect();
            assert_eq!(steps.len(), closed, "{steps:?}");
            assert_eq!(steps.last(), Some(&Step::Close(six.key.clone())));
        }
    }

    #[test]
    fn a_mapping_of_another_node_is_not_closed() {
        let web = mapping("192.0.2.1", 80);
        let mut table = PortMappingTable::default();
        table.listed(at(1), &[], &wanted(&[&web], &[]));
        table.opened(at(1), web.clone(), LEASE);
        assert_eq!(table.next(at(2), &wanted(&[], &[&web])), None);
    }

    #[test]
    fn a_restarted_gateway_gets_all_mappings_again() {
        let (web, six) = (mapping("192.0.2.1", 80), mapping("fd00::1", 80));
        let all = wanted(&[&web, &six], &[]);
        let mut table = PortMappingTable::default();
        table.listed(at(1), &[], &all);
        table.opened(at(1), web.clone(), LEASE);
        table.opened(at(1), six.clone(), LEASE);
        table.listed(at(21), &[], &all);
        assert_eq!(table.next(at(21), &all), Some(Step::Open(web.clone())));
        table.opened(at(21), web, LEASE);
        assert_eq!(table.next(at(21), &all), Some(Step::Open(six)));
    }

    #[test]
    fn mappings_of_other_hosts_stay_and_orphaned_ones_of_ours_are_closed() {
        let web = mapping("192.0.2.1", 80);
        let all = wanted(&[&web], &[]);
        let mut table = PortMappingTable::default();
        let entries = [
            entry("192.0.2.77", 80, "a game"),
            entry("192.0.2.1", 81, &web.description),
            entry("192.0.2.1", 82, "typed by hand"),
            entry("192.0.2.78", 83, "kube-vip 00000000 of another cluster"),
        ];
        table.listed(at(1), &entries, &all);
        let orphaned = MappingKey { external: 81, ..web.key.clone() };
        assert_eq!(table.next(at(1), &all), Some(Step::Close(orphaned)));
        assert_eq!(table.next(at(1), &all), None);
        let (_, result) = table.report().next().unwrap();
        assert!(result.unwrap_err().contains("mapped to 192.0.2.77 (`a game`)"), "{result:?}");
        // It is tried again when the other one is gone.
        table.listed(at(21), &[], &all);
        assert_eq!(table.next(at(21), &all), Some(Step::Open(web)));
    }

    #[test]
    fn retired_addresses_are_cleared_once() {
        let web = mapping("192.0.2.1", 80);
        let retired = DesiredMappings { retired: [web.key.address].into(), ..DesiredMappings::default() };
        let mut table = PortMappingTable::default();
        assert_eq!(table.next(at(9), &retired), Some(Step::List));
        let entries = [entry("192.0.2.1", 80, &web.description), entry("192.0.2.2", 81, &web.description)];
        table.listed(at(9), &entries, &retired);
        assert_eq!(table.next(at(9), &retired), Some(Step::Close(web.key.clone())));
        // Only the gateway knows whether it did.
        assert!(!table.is_cleared(&retired.retired));
        assert_eq!(table.next(at(9), &retired), None);
        assert_eq!(table.poll_timeout(&retired), Some(at(14)));
        assert_eq!(table.next(at(14), &retired), Some(Step::List));
        table.listed(at(14), &entries[1..], &retired);
        assert!(table.is_cleared(&retired.retired));
        assert_eq!(table.next(at(60), &retired), None);
    }

    #[test]
    fn failures_are_retried_with_back_off() {
        let web = mapping("192.0.2.1", 80);
        let all = wanted(&[&web], &[]);
        let mut table = PortMappingTable::default();
        table.listed(at(0), &[], &all);
        let mut now = 0;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            table.failed(at(now), &web.key, "full".into());
            let again = match &table.states[&web.key] {
                State::Failed { again, .. } => again.since_boot().as_secs(),
                State::Open { .. } => panic!(),
            };
            pauses.push(again - now);
            now = again;
        }
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    }
}
