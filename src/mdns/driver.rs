//! Tells names on one interface, by way of `mdns-sd`, and hears whether somebody else has them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use mdns_sd::{DaemonEvent, IfKind, IfPredicate, ServiceDaemon, ServiceInfo};
use tokio::sync::watch;

use super::names::Named;
use crate::net::netlink::Netlink;

/// How long the farewell may take.
const FAREWELL: Duration = Duration::from_millis(300);

/// Names, each with whose it is.
pub type Names = BTreeMap<String, Named>;
/// Under which name each is found: another one than it asked for, if somebody has that.
pub type Told = BTreeMap<String, String>;

/// The task and its memory.
pub struct Driver {
    interface: String,
    wanted: watch::Receiver<Names>,
    told: watch::Sender<Told>,
    netlink: Netlink,
    daemon: Option<(ServiceDaemon, mdns_sd::Receiver<DaemonEvent>)>,
    /// The interface's own addresses, from which names are told: those of Services come and go.
    own: BTreeSet<IpAddr>,
    /// What was handed over to be told, and the full names that it is withdrawn by.
    role: BTreeMap<String, (Named, Vec<String>)>,
}

impl Driver {
    /// Nothing is told yet. Nothing is opened before there is a name.
    ///
    /// # Errors
    /// If the kernel does not talk to us.
    pub fn new(interface: &str) -> std::io::Result<(Self, watch::Sender<Names>, watch::Receiver<Told>)> {
        let (wanted_in, wanted) = watch::channel(Names::new());
        let (told, told_out) = watch::channel(Told::new());
        let driver = Self {
            interface: interface.to_owned(),
            wanted,
            told,
            netlink: Netlink::connect()?,
            daemon: None,
            own: BTreeSet::new(),
            role: BTreeMap::new(),
        };
        Ok((driver, wanted_in, told_out))
    }

    /// Until nobody wants anything any more; then all names are taken back.
    pub async fn run(mut self) {
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let own = if wanted.is_empty() { BTreeSet::new() } else { self.own_addresses().await };
            if let Err(error) = self.settle(&wanted, own) {
                tracing::warn!(interface = self.interface, "names cannot be told by mDNS: {error}");
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
                    Some(event) => self.hear(event),
                    // It ended: another one is started for the next name.
                    None => {
                        self.daemon = None;
                        self.own.clear();
                        self.role.clear();
                    }
                },
            }
        }
        drop(self.settle(&Names::new(), BTreeSet::new()));
        if let Some((daemon, _)) = &self.daemon
            && let Ok(ended) = daemon.shutdown()
        {
            drop(tokio::time::timeout(FAREWELL, ended.recv_async()).await);
        }
    }

    /// The addresses of the interface that are not ours to give.
    async fn own_addresses(&self) -> BTreeSet<IpAddr> {
        let (interfaces, addresses) = (self.netlink.interfaces().await, self.netlink.addresses().await);
        let (interfaces, addresses) = (interfaces.unwrap_or_default(), addresses.unwrap_or_default());
        let index = interfaces
            .iter()
            .find(|interface| interface.name == self.interface)
            .map(|interface| interface.index);
        let own = addresses.iter().filter(|address| Some(address.interface) == index && !address.tagged);
        own.map(|address| address.vip.address).collect()
    }

    /// Have told what is wanted, and nothing else, from these addresses.
    fn settle(&mut self, wanted: &Names, own: BTreeSet<IpAddr>) -> mdns_sd::Result<()> {
        if wanted.is_empty() && self.role.is_empty() {
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
            // An address alone would stand for all of the interface's, and one that goes takes the farewell with it.
            let ours = IfPredicate::new(move |seen| seen.name == interface && own.contains(&seen.ip()));
            daemon.enable_interface(IfKind::Predicate(ours))?;
        }
        let gone: Vec<String> = self
            .role
            .iter()
            .filter(|(owner, (named, _))| !wanted.get(*owner).is_some_and(|now| same(now, named)))
            .map(|(owner, _)| owner.clone())
            .collect();
        for owner in gone {
            if let Some((named, full)) = self.role.remove(&owner) {
                tracing::info!(name = format!("{}.local", named.host), "taking a name back");
                full.iter().try_for_each(|full| daemon.unregister(full).map(drop))?;
                self.told.send_modify(|told| drop(told.remove(&owner)));
            }
        }
        for (owner, named) in wanted {
            if self.role.contains_key(owner) {
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
            tracing::info!(name = format!("{}.local", named.host), "telling a name");
            self.role.insert(owner.clone(), (named.clone(), full));
            self.told.send_modify(|told| drop(told.insert(owner.clone(), named.host.clone())));
        }
        Ok(())
    }

    fn hear(&mut self, event: DaemonEvent) {
        let DaemonEvent::NameChange(change) = event else { return };
        // Of a host's name, and not of the services under it, which are told with it.
        let label = |name: &str| name.trim_end_matches('.').trim_end_matches(".local").to_owned();
        let (before, after) = (label(&change.original), label(&change.new_name));
        let owner = self.role.iter().find(|(_, (named, _))| named.host == before);
        if let Some((owner, _)) = owner {
            tracing::warn!(before, after, "another host has the name");
            self.told.send_modify(|told| drop(told.insert(owner.clone(), after)));
        }
    }
}

/// Whether the same is told of both.
fn same(a: &Named, b: &Named) -> bool {
    (&a.host, &a.addresses, &a.services) == (&b.host, &b.addresses, &b.services)
}
