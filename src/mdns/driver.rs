//! Publishes host records on one interface with `mdns-sd`, and follows renames after a conflict.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use mdns_sd::{DaemonEvent, IfKind, IfPredicate, ServiceDaemon, ServiceInfo};
use tokio::sync::watch;

use super::records::HostRecord;
use crate::host::HostWatch;

/// Limit for the goodbye packets (RFC 6762 §10.1).
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(300);

/// Host records to publish, by owner.
pub type HostRecords = BTreeMap<String, HostRecord>;
/// The published name of each owner: differs from the requested one after a conflict.
pub type PublishedNames = BTreeMap<String, String>;

pub struct Driver {
    interface: String,
    wanted: watch::Receiver<HostRecords>,
    published: watch::Sender<PublishedNames>,
    host: HostWatch,
    daemon: Option<(ServiceDaemon, mdns_sd::Receiver<DaemonEvent>)>,
    /// Addresses of the interface that kube-vip did not add: packets are sent from these, since those of Services come and
    /// go.
    own: BTreeSet<IpAddr>,
    /// Registered records, with the full names that withdraw them.
    registered: BTreeMap<String, (HostRecord, Vec<String>)>,
}

impl Driver {
    /// A responder without records. No socket is opened before there is one.
    pub fn new(
        interface: &str,
        host: HostWatch,
    ) -> (Self, watch::Sender<HostRecords>, watch::Receiver<PublishedNames>) {
        let (wanted_in, wanted) = watch::channel(HostRecords::new());
        let (published, published_out) = watch::channel(PublishedNames::new());
        let driver = Self {
            interface: interface.to_owned(),
            wanted,
            published,
            host,
            daemon: None,
            own: BTreeSet::new(),
            registered: BTreeMap::new(),
        };
        (driver, wanted_in, published_out)
    }

    /// Runs until the sender of records is gone; then withdraws all of them.
    pub async fn run(mut self) {
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let own = if wanted.is_empty() { BTreeSet::new() } else { self.own_addresses() };
            if let Err(error) = self.apply(&wanted, own) {
                tracing::warn!(interface = self.interface, "cannot publish names by mDNS: {error}");
            }
            let event = async {
                match &self.daemon {
                    Some((_, events)) => events.recv_async().await.ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.wanted.changed() => if changed.is_err() { break },
                event = event => match event {
                    Some(event) => self.on_event(event),
                    // The daemon ended: the next record starts another.
                    None => {
                        self.daemon = None;
                        self.own.clear();
                        self.registered.clear();
                    }
                },
            }
        }
        drop(self.apply(&HostRecords::new(), BTreeSet::new()));
        if let Some((daemon, _)) = &self.daemon
            && let Ok(ended) = daemon.shutdown()
        {
            drop(tokio::time::timeout(SHUTDOWN_TIMEOUT, ended.recv_async()).await);
        }
    }

    fn own_addresses(&self) -> BTreeSet<IpAddr> {
        let host = self.host.borrow();
        let interface = host.interface(&self.interface);
        interface.map(|interface| host.own_addresses(interface.index).collect()).unwrap_or_default()
    }

    /// Publishes exactly the wanted records, from these addresses.
    fn apply(&mut self, wanted: &HostRecords, own: BTreeSet<IpAddr>) -> mdns_sd::Result<()> {
        if wanted.is_empty() && self.registered.is_empty() {
            return Ok(());
        }
        let daemon = match &self.daemon {
            Some((daemon, _)) => daemon.clone(),
            None => {
                let daemon = ServiceDaemon::new()?;
                daemon.disable_interface(IfKind::All)?;
                self.daemon = Some((daemon.clone(), daemon.monitor()?));
                daemon
            }
        };
        if !own.is_subset(&self.own) {
            self.own.extend(own);
            let (interface, own) = (self.interface.clone(), self.own.clone());
            // A single address would select all of the interface's, and the goodbye would be lost with an address that goes.
            let ours = IfPredicate::new(move |seen| seen.name == interface && own.contains(&seen.ip()));
            daemon.enable_interface(IfKind::Predicate(ours))?;
        }
        let gone = |owner: &String, (named, _): &mut (HostRecord, _)| {
            !wanted.get(owner).is_some_and(|now| same(now, named))
        };
        for (owner, (named, full)) in self.registered.extract_if(.., gone) {
            tracing::info!(name = format!("{}.local", named.host), "withdrawing a name");
            full.iter().try_for_each(|full| daemon.unregister(full).map(drop))?;
            self.published.send_modify(|published| drop(published.remove(&owner)));
        }
        for (owner, named) in wanted {
            if self.registered.contains_key(owner) {
                continue;
            }
            let mut full = Vec::new();
            let addresses: Vec<IpAddr> = named.addresses.iter().copied().collect();
            for (kind, port) in &named.services {
                let none: [(&str, &str); 0] = [];
                let (kind, host) = (format!("{kind}.local."), format!("{}.local.", named.host));
                let mut info = ServiceInfo::new(&kind, &named.host, &host, &addresses[..], *port, &none[..])?;
                info.set_requires_probe(!named.known);
                full.push(info.get_fullname().to_owned());
                daemon.register(info)?;
            }
            tracing::info!(name = format!("{}.local", named.host), "publishing a name");
            self.registered.insert(owner.clone(), (named.clone(), full));
            self.published.send_modify(|published| drop(published.insert(owner.clone(), named.host.clone())));
        }
        Ok(())
    }

    fn on_event(&mut self, event: DaemonEvent) {
        let DaemonEvent::NameChange(change) = event else { return };
        // Only names of hosts: those of their services follow.
        let label = |name: &str| name.trim_end_matches('.').trim_end_matches(".local").to_owned();
        let (before, after) = (label(&change.original), label(&change.new_name));
        let owner = self.registered.iter().find(|(_, (named, _))| named.host == before);
        if let Some((owner, _)) = owner {
            tracing::warn!(before, after, "another host has the name");
            self.published.send_modify(|published| drop(published.insert(owner.clone(), after)));
        }
    }
}

fn same(a: &HostRecord, b: &HostRecord) -> bool {
    (&a.host, &a.addresses, &a.services) == (&b.host, &b.addresses, &b.services)
}
