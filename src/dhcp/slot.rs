//! The client of one lease with everything that is known of the lease.

use std::time::Duration;

use jiff::Timestamp;

use super::fsm::{Client, ClientConfig, ClientState, Input, Lease};
use super::identity::Identity;
use super::saved_lease::SavedLease;
use super::spec::{ClientSpec, ClientStatus};
use crate::model::BootTime;

/// For how long a probe without conflict makes further probes superfluous.
const PROBE_VALIDITY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Slot {
    pub(super) spec: ClientSpec,
    pub(super) client: Option<Client>,
    /// The lease as last known, in both forms.
    pub(super) known: Option<(SavedLease, Lease)>,
    pub(super) last_error: Option<String>,
    /// Since when its interface is missing.
    pub(super) missing_since: Option<BootTime>,
    probed_until: Option<BootTime>,
}

impl Slot {
    pub(super) fn new(spec: ClientSpec) -> Self {
        Self { spec, client: None, known: None, last_error: None, missing_since: None, probed_until: None }
    }

    /// Takes in a new spec. A client that is not wanted any more, or under another identity, ends silently: its lease
    /// continues elsewhere.
    pub(super) fn set_spec(&mut self, spec: ClientSpec, now: BootTime, wall: Timestamp) {
        // A running client knows its lease better than the saved form does.
        let known = self.known.as_ref().map(|(saved, _)| saved);
        if self.client.is_none() && known != spec.saved.as_ref() {
            self.known = spec.saved.clone().map(|saved| {
                let lease = saved.to_lease(now, wall);
                (saved, lease)
            });
        }
        let other_client = self.spec.identity != spec.identity || self.spec.interface != spec.interface;
        // A lease belongs to the client that it was granted to: another one must neither extend nor release it.
        if self.spec.identity != spec.identity {
            self.known = None;
        }
        if !spec.active || other_client {
            self.client = None;
            self.probed_until = None;
            self.last_error = None;
        }
        self.spec = spec;
    }

    pub(super) fn start(&mut self, max_rounds: u32, skip_probes: bool, seed: u64, now: BootTime) {
        let ClientSpec { requested, identity: Identity { mac, .. }, .. } = self.spec;
        let mut client = Client::new(ClientConfig { mac, requested, max_rounds, skip_probes, seed });
        client.handle_input(now, Input::Start(self.known.as_ref().map(|(_, lease)| lease.clone())));
        self.last_error = None;
        self.client = Some(client);
    }

    pub(super) fn handle_input(&mut self, now: BootTime, input: Input) {
        if let Some(client) = &mut self.client {
            client.handle_input(now, input);
        }
    }

    pub(super) fn is_probing(&self) -> bool {
        self.client.as_ref().is_some_and(Client::is_probing)
    }

    pub(super) fn handle_timeout(&mut self, now: BootTime) {
        match &mut self.client {
            Some(client) => {
                let probing = client.is_probing();
                client.handle_timeout(now);
                if probing && client.lease(now).is_some() {
                    self.probed_until = Some(now + PROBE_VALIDITY);
                }
            }
            // Another host did not extend its lease.
            None => self.known = self.known.take().filter(|(_, lease)| !lease.is_expired(now)),
        }
        self.probed_until = self.probed_until.filter(|until| *until > now);
    }

    /// The client is bound. Returns whether that extends the lease, and its saved form.
    pub(super) fn bind(&mut self, lease: Lease, now: BootTime, wall: Timestamp) -> (bool, &SavedLease) {
        let renewed = self.known.as_ref().is_some_and(|(_, known)| known.address == lease.address);
        let saved = SavedLease::new(&lease, &self.spec.identity, now, wall);
        self.last_error = None;
        (renewed, &self.known.insert((saved, lease)).0)
    }

    #[must_use]
    pub(super) fn poll_timeout(&self) -> Option<BootTime> {
        let client = match &self.client {
            Some(client) => client.poll_timeout(),
            None => self.known.as_ref().and_then(|(_, lease)| Some(lease.timers?.expiry)),
        };
        client.into_iter().chain(self.probed_until).min()
    }

    pub(super) fn awaits_reply(&self) -> bool {
        self.client.as_ref().is_some_and(Client::awaits_reply)
    }

    pub(super) fn status(&self, now: BootTime) -> ClientStatus {
        let lease = match &self.client {
            Some(client) => client.lease(now),
            None => self.known.as_ref().map(|(_, lease)| lease).filter(|lease| !lease.is_expired(now)),
        };
        ClientStatus {
            address: lease.map(|lease| lease.address),
            saved: lease.and(self.known.as_ref().map(|(saved, _)| saved.clone())),
            state: self.client.as_ref().map_or(ClientState::Standby, |client| client.state(now)),
            probed: lease.is_some() && self.probed_until.is_some_and(|until| now < until),
            last_error: self.last_error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::fsm::{LeaseTerms, Output, Reply, Server};

    const ADDRESS: &str = "192.0.2.9";

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    fn spec() -> ClientSpec {
        let identity = Identity { mac: [2, 0, 0, 0, 0, 1], hostname: None, by_mac: false, broadcast: true };
        ClientSpec {
            interface: "eth0".into(),
            managed: false,
            identity,
            requested: None,
            active: true,
            saved: None,
        }
    }

    fn outputs(slot: &mut Slot) -> Vec<Output> {
        let client = slot.client.as_mut().unwrap();
        std::iter::from_fn(|| client.poll_output()).collect()
    }

    /// A client that has to probe the address that it was assigned at 0.
    fn probing() -> Slot {
        let mut slot = Slot::new(spec());
        slot.start(0, false, 7, at(0));
        let terms = LeaseTerms {
            address: ADDRESS.parse().unwrap(),
            server: Server::Address("192.0.2.1".parse().unwrap()),
            lifetime: Some(Duration::from_secs(3600)),
            t1: None,
            t2: None,
        };
        for reply in [Reply::Offer(terms.clone()), Reply::Ack(terms)] {
            let sent = outputs(&mut slot);
            let [Output::Send(envelope, _)] = sent.as_slice() else { panic!("{sent:?}") };
            slot.handle_input(at(0), Input::Reply(envelope.xid, reply));
        }
        slot
    }

    #[test]
    fn an_address_without_conflict_is_bound_and_counts_as_probed_for_ten_seconds() {
        let mut slot = probing();
        while slot.is_probing() {
            let now = slot.poll_timeout().unwrap();
            slot.handle_timeout(now);
        }
        let bound = outputs(&mut slot);
        let Some(Output::Bound(lease)) = bound.last() else { panic!("{bound:?}") };
        assert!(!slot.bind(lease.clone(), at(20), Timestamp::UNIX_EPOCH).0);
        assert!(slot.status(at(20)).probed);
        assert_eq!(slot.poll_timeout(), Some(at(10_020)));
        slot.handle_timeout(at(10_020));
        let status = slot.status(at(10_020));
        assert_eq!((status.probed, status.address), (false, ADDRESS.parse().ok()));
        assert!(slot.bind(lease.clone(), at(11_000), Timestamp::UNIX_EPOCH).0, "the lease is extended");
    }

    #[test]
    fn the_lease_of_another_host_is_forgotten_when_it_expires() {
        let saved: SavedLease =
            "192.0.2.9 from 192.0.2.1 at 1970-01-01T00:00:00Z for 60 renew 30 rebind 52".parse().unwrap();
        let mut slot = Slot::new(spec());
        let standby = ClientSpec { active: false, saved: Some(saved), ..spec() };
        slot.set_spec(standby, at(0), Timestamp::UNIX_EPOCH);
        assert_eq!(slot.status(at(59_999)).address, ADDRESS.parse().ok());
        assert_eq!(slot.poll_timeout(), Some(at(60_000)));
        slot.handle_timeout(at(60_000));
        assert_eq!((slot.poll_timeout(), slot.status(at(60_000)).address), (None, None));
    }
}
