//! The port mappings of one gateway as a state machine: missing ones are opened, orphaned ones of ours are closed, and those
//! of other hosts are left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::mapping::{MARK, MappingKey, PortMapping};
use crate::model::service::Protocol;
use crate::model::text::quoted;
use crate::model::{Backoff, BootTime};

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

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Desired(DesiredMappings),
    /// The response to [`Output::List`].
    Listed(Vec<ListedMapping>),
    /// The response to [`Output::Open`], with the lease; none is permanent.
    Opened(Option<Duration>),
    /// The response to [`Output::Close`].
    Closed,
    /// The gateway rejected the request, for this reason.
    Refused(String),
}

/// A request to the gateway. The next one follows the response to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    List,
    /// Open or renew.
    Open(PortMapping),
    Close(MappingKey),
}

#[derive(Debug, Default)]
enum Request {
    #[default]
    None,
    Due(Output),
    /// Without a response yet.
    Sent(Output),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Open {
        mapping: PortMapping,
        renew_at: Option<BootTime>,
    },
    Failed {
        why: String,
        retry_at: BootTime,
        backoff: Backoff,
        /// It was open, and has not been renewed.
        may_be_open: bool,
    },
}

/// Mappings of one gateway.
#[derive(Debug, Default)]
pub struct PortMappingTable {
    desired: DesiredMappings,
    /// Of active mappings that were tried.
    states: BTreeMap<MappingKey, State>,
    /// Mappings of ours that are to be closed.
    orphaned: BTreeSet<MappingKey>,
    /// Retired addresses without a mapping of ours in the last list.
    cleared: BTreeSet<IpAddr>,
    list_at: BootTime,
    listed_at: BootTime,
    /// Mappings of other hosts, with their owner.
    foreign: BTreeMap<(Protocol, u16), String>,
    request: Request,
}

impl PortMappingTable {
    pub fn handle_input(&mut self, now: BootTime, input: Input) {
        match (input, &self.request) {
            (Input::Desired(desired), _) => self.set_desired(desired),
            (response, Request::Sent(sent)) => self.handle_response(now, sent.clone(), response),
            _ => {}
        }
        self.handle_timeout(now);
    }

    pub fn handle_timeout(&mut self, now: BootTime) {
        if !matches!(self.request, Request::Sent(_)) {
            self.request = self.next_request(now).map_or(Request::None, Request::Due);
        }
    }

    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        let Request::Due(output) = &self.request else { return None };
        let output = output.clone();
        self.request = Request::Sent(output.clone());
        Some(output)
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        if matches!(self.request, Request::Sent(_)) {
            return None;
        }
        let states = self.states.values().filter_map(|state| match state {
            State::Open { renew_at, .. } => *renew_at,
            State::Failed { retry_at, .. } => Some(*retry_at),
        });
        states.chain(self.has_to_list().then_some(self.list_at)).min()
    }

    fn set_desired(&mut self, desired: DesiredMappings) {
        self.orphaned.retain(|key| !desired.known.contains(key));
        self.cleared.retain(|address| desired.retired.contains(address));
        for (key, state) in self.states.extract_if(.., |key, _| !desired.active.contains_key(key)) {
            let may_be_open = matches!(state, State::Open { .. } | State::Failed { may_be_open: true, .. });
            // A mapping that another node of this cluster renews is not closed.
            if may_be_open && !desired.known.contains(&key) {
                self.orphaned.insert(key);
            }
        }
        self.desired = desired;
    }

    /// A response to another request than the last one is ignored.
    fn handle_response(&mut self, now: BootTime, sent: Output, response: Input) {
        match (sent, response) {
            (Output::List, Input::Listed(entries)) => {
                self.set_list_times(now);
                self.update(&entries);
            }
            (Output::List, Input::Refused(_)) => self.set_list_times(now),
            (Output::Open(mapping), Input::Opened(lease)) => self.opened(now, mapping, lease),
            (Output::Open(mapping), Input::Refused(why)) => self.failed(now, &mapping.key, why),
            (Output::Close(key), Input::Closed | Input::Refused(_)) => {
                self.orphaned.remove(&key);
                // The next list shows whether it was closed.
                if self.desired.retired.contains(&key.address) {
                    self.list_at = self.list_at.min(now + BACKOFF_MIN);
                }
            }
            _ => return,
        }
        self.request = Request::None;
    }

    fn next_request(&mut self, now: BootTime) -> Option<Output> {
        let stale = now.since(self.listed_at) > MAX_AGE;
        let has_to_list_for = |key: &MappingKey| stale && key.address.is_ipv4();
        if let Some(key) = self.orphaned.first() {
            return Some(if has_to_list_for(key) { Output::List } else { Output::Close(key.clone()) });
        }
        if self.has_to_list() && now >= self.list_at {
            return Some(Output::List);
        }
        while let Some(mapping) = self.due(now).cloned() {
            if has_to_list_for(&mapping.key) {
                return Some(Output::List);
            }
            let MappingKey { address, protocol, external } = mapping.key;
            let owner = self.foreign.get(&(protocol, external)).filter(|_| address.is_ipv4());
            let Some(owner) = owner else { return Some(Output::Open(mapping)) };
            let why = format!(
                "port {external}/{protocol} of the gateway is mapped to {owner}: remove that mapping on the gateway, or \
                 request another port with kube-vip.io/upnp-external-port"
            );
            self.failed(now, &mapping.key, why);
        }
        None
    }

    /// A mapping that is to be opened or renewed.
    fn due(&self, now: BootTime) -> Option<&PortMapping> {
        self.desired.active.values().find(|mapping| match self.states.get(&mapping.key) {
            None => true,
            Some(State::Open { mapping: known, renew_at }) => {
                known != *mapping || renew_at.is_some_and(|at| now >= at)
            }
            Some(State::Failed { retry_at, .. }) => now >= *retry_at,
        })
    }

    fn has_to_list(&self) -> bool {
        let v4 = self.desired.active.keys().any(|key| key.address.is_ipv4());
        v4 || !self.is_cleared(&self.desired.retired)
    }

    fn set_list_times(&mut self, now: BootTime) {
        self.listed_at = now;
        self.list_at = now + RESYNC_INTERVAL;
    }

    /// Compares the table with the gateway's list.
    fn update(&mut self, entries: &[ListedMapping]) {
        self.foreign.clear();
        // A port that was ours and is mapped to another host by now is not closed.
        let elsewhere = |key: &MappingKey, entry: &ListedMapping| {
            key.address.is_ipv4()
                && (entry.protocol, entry.external) == (key.protocol, key.external)
                && entry.client != Some(key.address)
        };
        self.orphaned.retain(|key| !entries.iter().any(|entry| elsewhere(key, entry)));
        let DesiredMappings { active, known, retired } = &self.desired;
        let here: BTreeSet<&IpAddr> = active.keys().map(|key| &key.address).chain(retired).collect();
        let mut seen = BTreeSet::new();
        for entry in entries {
            let &ListedMapping { protocol, external, .. } = entry;
            let key = entry.client.map(|address| MappingKey { address, protocol, external });
            let ours = entry.description.starts_with(MARK);
            match key {
                // Mapped as desired, by any client.
                Some(key) if active.get(&key).is_some_and(|mapping| mapping.port == entry.port) => {
                    seen.insert(key);
                }
                // Left over from an earlier Service.
                Some(key) if ours && here.contains(&key.address) && !known.contains(&key) => {
                    self.orphaned.insert(key);
                }
                Some(key) if known.contains(&key) => {}
                key => {
                    let who = key.map_or_else(|| "an unknown host".to_owned(), |key| key.address.to_string());
                    self.foreign
                        .insert((protocol, external), format!("{who} ({})", quoted(&entry.description)));
                }
            }
        }
        let left = |address: &&IpAddr| self.orphaned.iter().any(|key| key.address == **address);
        self.cleared = retired.iter().filter(|address| !left(address)).copied().collect();
        // A mapping that the gateway has lost is opened again.
        self.states.retain(|key, state| {
            let there = key.address.is_ipv6() || seen.contains(key);
            match state {
                State::Open { .. } => there,
                State::Failed { may_be_open, .. } => {
                    *may_be_open &= there;
                    true
                }
            }
        });
    }

    fn opened(&mut self, now: BootTime, mapping: PortMapping, lease: Option<Duration>) {
        let key = mapping.key.clone();
        if self.desired.active.contains_key(&key) {
            // Pinholes cannot be listed: they are renewed as often as mappings are listed.
            let longest = if key.address.is_ipv6() { RESYNC_INTERVAL } else { Duration::MAX };
            let renew_at = lease.map(|lease| now + longest.min(lease / 2));
            self.states.insert(key, State::Open { mapping, renew_at });
        } else if !self.desired.known.contains(&key) {
            self.orphaned.insert(key);
        }
    }

    fn failed(&mut self, now: BootTime, key: &MappingKey, why: String) {
        if !self.desired.active.contains_key(key) {
            return;
        }
        let first = Backoff::new(BACKOFF_MIN, BACKOFF_MAX);
        let (mut backoff, may_be_open) = match self.states.remove(key) {
            None => (first, false),
            Some(State::Open { .. }) => (first, true),
            Some(State::Failed { backoff, may_be_open, .. }) => (backoff, may_be_open),
        };
        let retry_at = now + backoff.next_pause();
        self.states.insert(key.clone(), State::Failed { why, retry_at, backoff, may_be_open });
    }

    /// Whether these addresses have no mapping of ours. Pinholes cannot be listed: those of an ended process expire.
    pub fn is_cleared(&self, retired: &BTreeSet<IpAddr>) -> bool {
        retired.iter().all(|address| address.is_ipv6() || self.cleared.contains(address))
    }

    /// Whether no mapping of ours is known.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty() && self.orphaned.is_empty()
    }

    /// Every mapping that was tried: open, or the reason of its failure. It is open until the response to its closing.
    pub fn report(&self) -> impl Iterator<Item = (&MappingKey, Result<(), &str>)> {
        let states = self.states.iter().map(|(key, state)| match state {
            State::Open { .. } => (key, Ok(())),
            State::Failed { why, .. } => (key, Err(why.as_str())),
        });
        states.chain(self.orphaned.iter().map(|key| (key, Ok(()))))
    }

    /// Mappings that the gateway may have, too: requested without a response yet, or not renewed.
    pub fn unconfirmed(&self) -> impl Iterator<Item = &MappingKey> {
        let requested = match &self.request {
            Request::Due(Output::Open(mapping)) | Request::Sent(Output::Open(mapping)) => Some(&mapping.key),
            _ => None,
        };
        let states = self.states.iter();
        let not_renewed =
            states.filter(|(_, state)| matches!(state, State::Failed { may_be_open: true, .. }));
        requested.into_iter().chain(not_renewed.map(|(key, _)| key))
    }
}

#[cfg(test)]
mod tests;
