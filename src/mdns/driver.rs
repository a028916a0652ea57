//! Publishes host records on one interface with `mdns-sd`, and follows renames after a conflict.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use mdns_sd::{DaemonEvent, DaemonStatus, IfKind, IfPredicate, ServiceDaemon, TryRecvError};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::goodbye::GoodbyeInterface;
use super::records::{HostRecord, HostRecords, PublishedNames, fits};
use super::responder::{InterfaceResponder, Responder, cached, register, withdraw};
use crate::host::HostWatch;
use crate::model::LogOnChange;
use crate::watch_ext;

/// Limit for the goodbye packets (RFC 6762 §10.1).
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(300);
/// A Service's addresses come one by one, and its name is registered once for all of them: `mdns-sd` answers probes of a former
/// registration with the records of the next one, and does not withdraw all of these answers.
const SETTLE_TIME: Duration = Duration::from_millis(50);
/// Interval at which a record that could not be registered is registered again, and the least time between two daemons.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// Most records of other hosts, with two timers each: some 20 MB.
const MAX_CACHED: i64 = 100_000;
const CACHE_CHECK_INTERVAL: Duration = Duration::from_secs(2);

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
    /// Records that could not be registered. They wait for the next retry: attempts cause events of the daemon, too.
    failed: HostRecords,
    /// The last daemon ended, by a panic or a flood. The next retry starts another one: the cause may last.
    ended: bool,
    /// A daemon whose thread had no time to end.
    ending: Option<mdns_sd::Receiver<DaemonStatus>>,
    problems: LogOnChange,
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
            failed: HostRecords::new(),
            ended: false,
            ending: None,
            problems: LogOnChange::default(),
        };
        (driver, wanted_in, published_out)
    }

    /// Runs until the sender of records is gone; then withdraws all of them.
    pub async fn run(mut self) {
        let mut retry = tokio::time::interval(RETRY_INTERVAL);
        retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut cache_check = tokio::time::interval(CACHE_CHECK_INTERVAL);
        cache_check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            self.apply(&wanted).await;
            let event = async {
                match &self.daemon {
                    Some((_, events)) => events.recv_async().await.ok(),
                    None => std::future::pending().await,
                }
            };
            let missing = wanted.keys().any(|owner| !self.registered.contains_key(owner));
            tokio::select! {
                changed = self.wanted.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    tokio::time::sleep(SETTLE_TIME).await;
                }
                event = event => match event {
                    Some(event) => self.on_event(event),
                    None => {
                        self.on_daemon_end("the mDNS responder ended unexpectedly");
                        retry.reset();
                    }
                },
                _ = cache_check.tick(), if self.daemon.is_some() => {
                    if self.is_flooded().await {
                        self.shut_down().await;
                        self.on_daemon_end("other hosts have too many records in mDNS: names are withdrawn; find the host that sends them");
                        retry.reset();
                    }
                }
                _ = retry.tick(), if missing => self.retry(),
            }
        }
        self.apply(&HostRecords::new()).await;
        self.shut_down().await;
    }

    async fn is_flooded(&self) -> bool {
        match &self.daemon {
            Some((daemon, _)) => cached(daemon).await.is_none_or(|count| count > MAX_CACHED),
            None => false,
        }
    }

    /// Withdraws what is registered, and ends the daemon's thread.
    async fn shut_down(&mut self) {
        if let Some((daemon, _)) = &self.daemon
            && let Ok(ended) = daemon.shutdown()
            && tokio::time::timeout(SHUTDOWN_TIMEOUT, ended.recv_async()).await.is_err()
        {
            self.ending = Some(ended);
        }
    }

    /// The daemon's thread panicked, could not go on, or was ended.
    fn on_daemon_end(&mut self, why: &str) {
        tracing::warn!(
            interface = self.interface,
            "{why}; starting another responder in {} s",
            RETRY_INTERVAL.as_secs()
        );
        self.daemon = None;
        self.own.clear();
        self.registered.clear();
        self.ended = true;
    }

    fn retry(&mut self) {
        self.failed.clear();
        let is_ending =
            |ended: &mut mdns_sd::Receiver<_>| matches!(ended.try_recv(), Err(TryRecvError::Empty));
        self.ending.take_if(|ended| !is_ending(ended));
        self.ended = self.ending.is_some();
    }

    /// Publishes exactly the wanted records.
    async fn apply(&mut self, wanted: &HostRecords) {
        if wanted.is_empty() && self.registered.is_empty() {
            watch_ext::set(&self.published, PublishedNames::new());
            return;
        }
        if self.ended {
            return self.publish_failure(wanted, &mdns_sd::Error::DaemonShutdown);
        }
        match self.responder(wanted.is_empty()) {
            Ok(responder) => {
                self.problems.clear();
                self.update(&responder, wanted).await;
            }
            Err(error) => {
                if self.problems.set(error.to_string()) {
                    tracing::warn!(interface = self.interface, "cannot publish names by mDNS: {error}");
                }
                self.publish_failure(wanted, &error);
            }
        }
    }

    /// Reports the records that are not registered.
    fn publish_failure(&self, wanted: &HostRecords, error: &mdns_sd::Error) {
        for (owner, record) in wanted.iter().filter(|(owner, _)| !self.registered.contains_key(*owner)) {
            self.publish(owner, Err(failure(record, error)));
        }
    }

    /// The running daemon, or a new one. Unless it is for the last goodbyes, it sends from the interface's present addresses, too.
    fn responder(&mut self, last: bool) -> mdns_sd::Result<InterfaceResponder> {
        let interface = GoodbyeInterface::find(&self.host.borrow(), &self.interface);
        let daemon = match &self.daemon {
            Some((daemon, _)) => daemon.clone(),
            None => {
                let daemon = ServiceDaemon::new()?;
                daemon.disable_interface(IfKind::All)?;
                self.daemon = Some((daemon.clone(), daemon.monitor()?));
                daemon
            }
        };
        if let Some(GoodbyeInterface { own, .. }) = &interface
            && !last
            && !own.is_subset(&self.own)
        {
            let all: BTreeSet<IpAddr> = self.own.union(own).copied().collect();
            let (name, own) = (self.interface.clone(), all.clone());
            // A single address would select all of the interface's, and the goodbye would be lost with an address that goes.
            let ours = IfPredicate::new(move |seen| seen.name == name && own.contains(&seen.ip()));
            daemon.enable_interface(IfKind::Predicate(ours))?;
            self.own = all;
        }
        Ok(InterfaceResponder { daemon, interface })
    }

    /// Registers exactly the wanted records. One that cannot be registered does not prevent the others.
    async fn update(&mut self, responder: &impl Responder, wanted: &HostRecords) {
        for (owner, (record, full_names)) in self.outdated(wanted) {
            let published = self.published.borrow().get(&owner).cloned();
            let host = published.and_then(Result::ok).unwrap_or(record.host);
            tracing::info!(name = format!("{host}.local"), "withdrawing a name");
            withdraw(responder, &full_names).await;
            let next = wanted.get(&owner).filter(|next| next.host == host);
            let stays = |address: &IpAddr| next.is_some_and(|next| next.addresses.contains(address));
            let gone: Vec<IpAddr> = record.addresses.into_iter().filter(|address| !stays(address)).collect();
            if !gone.is_empty() {
                responder.say_goodbye(&host, &gone);
            }
        }
        for (owner, record) in wanted {
            if self.registered.contains_key(owner) || self.failed.get(owner) == Some(record) {
                continue;
            }
            // A name that this node has published so far stays without a probe: the rest of the record has changed.
            let kept =
                self.published.borrow().get(owner).is_some_and(|name| *name == Ok(record.host.clone()));
            match register(responder, record, !record.known && !kept).await {
                Ok(full_names) => {
                    tracing::info!(name = format!("{}.local", record.host), "publishing a name");
                    self.registered.insert(owner.clone(), (record.clone(), full_names));
                    self.publish(owner, Ok(record.host.clone()));
                }
                Err(error) => {
                    self.failed.insert(owner.clone(), record.clone());
                    let why = failure(record, &error);
                    if self.publish(owner, Err(why.clone())) {
                        tracing::warn!(owner, "{why}");
                    }
                }
            }
        }
        self.failed.retain(|owner, _| wanted.contains_key(owner));
        self.published.send_if_modified(|published| {
            let before = published.len();
            published.retain(|owner, _| wanted.contains_key(owner));
            published.len() != before
        });
    }

    /// Takes out the registered records that are not wanted as they are. One that was renamed after a conflict is wanted
    /// under either name.
    fn outdated(&mut self, wanted: &HostRecords) -> BTreeMap<String, (HostRecord, Vec<String>)> {
        let published = self.published.borrow();
        let gone = |owner: &String, (record, _): &mut (HostRecord, _)| {
            let Some(now) = wanted.get(owner) else { return true };
            let renamed = || published.get(owner).is_some_and(|name| *name == Ok(now.host.clone()));
            let same = (&now.addresses, &now.services) == (&record.addresses, &record.services);
            !same || !(now.host == record.host || renamed())
        };
        self.registered.extract_if(.., gone).collect()
    }

    /// Returns whether that is new.
    fn publish(&self, owner: &str, name: Result<String, String>) -> bool {
        self.published.send_if_modified(|published| {
            let before = published.insert(owner.to_owned(), name.clone());
            before != Some(name)
        })
    }

    fn on_event(&mut self, event: DaemonEvent) {
        let DaemonEvent::NameChange(change) = event else { return };
        // Only names of hosts: those of their services follow.
        let label = |name: &str| name.trim_end_matches('.').trim_end_matches(".local").to_owned();
        let (before, after) = (label(&change.original), label(&change.new_name));
        let owner = self.registered.iter().find(|(_, (record, _))| record.host == before);
        if let Some((owner, _)) = owner {
            tracing::warn!(before, after, "another host has the name");
            let name = if fits(&after) {
                Ok(after)
            } else {
                Err(format!(
                    "another host has the name {before}.local, and {after}.local is too long: choose a shorter one"
                ))
            };
            self.publish(owner, name);
        }
    }
}

fn failure(record: &HostRecord, error: &mdns_sd::Error) -> String {
    format!("cannot publish {}.local by mDNS: {error}", record.host)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use mdns_sd::{DnsNameChange, Error, RRType, ServiceInfo};

    use super::*;

    /// Notes what is registered, with whether it is probed for, and rejects what `mdns-sd` rejects.
    #[derive(Default)]
    struct Fake(Mutex<Vec<String>>);

    impl Responder for Fake {
        async fn register(&self, info: ServiceInfo) -> mdns_sd::Result<()> {
            if info.get_type().contains("--") {
                return Err(Error::Msg("Service name must not contain '--'".into()));
            }
            let probe = if info.requires_probe() { "probe" } else { "known" };
            self.0.lock().unwrap().push(format!("{probe} {}", info.get_fullname()));
            Ok(())
        }

        async fn unregister(&self, full_name: &str) -> mdns_sd::Result<()> {
            self.0.lock().unwrap().push(format!("withdraw {full_name}"));
            Ok(())
        }

        fn say_goodbye(&self, host: &str, addresses: &[IpAddr]) {
            self.0.lock().unwrap().push(format!("goodbye {host} {addresses:?}"));
        }
    }

    impl Fake {
        fn calls(&self) -> Vec<String> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    fn record(host: &str, kinds: &[&str]) -> HostRecord {
        HostRecord {
            host: host.into(),
            addresses: [IpAddr::from([192, 0, 2, 1])].into(),
            services: kinds.iter().map(|kind| (format!("_{kind}._tcp"), 80)).collect(),
            known: false,
        }
    }

    fn driver() -> (Driver, watch::Receiver<PublishedNames>) {
        let host = watch::Sender::default().subscribe();
        let (driver, _, published) = Driver::new("eth0", host);
        (driver, published)
    }

    fn wanted(records: &[(&str, HostRecord)]) -> HostRecords {
        records.iter().map(|(owner, record)| ((*owner).to_owned(), record.clone())).collect()
    }

    #[tokio::test]
    async fn a_record_that_cannot_be_registered_is_withdrawn_and_the_rest_is_published() {
        let (mut driver, published) = driver();
        let fake = Fake::default();
        let records = wanted(&[("a", record("bad", &["a", "b--c"])), ("b", record("web", &["http"]))]);
        driver.update(&fake, &records).await;
        let (begun, withdrawn) = ("probe bad._a._tcp.local.", "withdraw bad._a._tcp.local.");
        assert_eq!(fake.calls(), [begun, withdrawn, "probe web._http._tcp.local."]);
        assert!(
            published.borrow()["a"].as_ref().unwrap_err().starts_with("cannot publish bad.local by mDNS: ")
        );
        assert_eq!(published.borrow()["b"], Ok("web".into()));
        // It is tried again after a while, and the others are left alone.
        driver.update(&fake, &records).await;
        assert_eq!(fake.calls(), [""; 0]);
        driver.failed.clear();
        driver.update(&fake, &records).await;
        assert_eq!(fake.calls(), [begun, withdrawn]);
        driver.update(&fake, &wanted(&[("a", record("bad", &["a"]))])).await;
        assert_eq!(fake.calls(), ["withdraw web._http._tcp.local.", "goodbye web [192.0.2.1]", begun]);
        assert_eq!(*published.borrow(), [("a".to_owned(), Ok("bad".to_owned()))].into());
    }

    #[tokio::test]
    async fn only_a_name_that_is_new_here_is_probed_for() {
        let (mut driver, _published) = driver();
        let fake = Fake::default();
        driver.update(&fake, &wanted(&[("a", record("web", &["http"]))])).await;
        assert_eq!(fake.calls(), ["probe web._http._tcp.local."]);
        driver.update(&fake, &wanted(&[("a", record("web", &["ssh"]))])).await;
        assert_eq!(fake.calls(), ["withdraw web._http._tcp.local.", "known web._ssh._tcp.local."]);
        driver.update(&fake, &wanted(&[("a", record("printer", &["ssh"]))])).await;
        let goodbye = "goodbye web [192.0.2.1]";
        assert_eq!(
            fake.calls(),
            ["withdraw web._ssh._tcp.local.", goodbye, "probe printer._ssh._tcp.local."]
        );
        let known = HostRecord { known: true, ..record("moved", &["ssh"]) };
        driver.update(&fake, &wanted(&[("b", known)])).await;
        let goodbye = "goodbye printer [192.0.2.1]";
        assert_eq!(
            fake.calls(),
            ["withdraw printer._ssh._tcp.local.", goodbye, "known moved._ssh._tcp.local."]
        );
    }

    #[tokio::test]
    async fn after_the_end_of_a_daemon_the_next_one_waits_for_the_retry() {
        let (mut driver, published) = driver();
        let records = wanted(&[("a", record("web", &["http"]))]);
        driver.update(&Fake::default(), &records).await;
        driver.on_daemon_end("it ended");
        driver.apply(&records).await;
        assert!(driver.daemon.is_none() && driver.registered.is_empty());
        assert!(published.borrow()["a"].is_err());
        driver.retry();
        let fake = Fake::default();
        driver.update(&fake, &records).await;
        assert_eq!((fake.calls().len(), published.borrow()["a"].clone()), (1, Ok("web".into())));
        assert!(!driver.ended);
    }

    /// A panic in this thread does not end the process.
    #[test]
    fn the_thread_of_a_daemon_has_its_name() {
        let daemon = ServiceDaemon::new().unwrap();
        daemon.status().unwrap().recv().unwrap();
        let threads = std::fs::read_dir("/proc/self/task").unwrap();
        let names =
            threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        assert!(names.collect::<Vec<_>>().iter().any(|name| name.trim() == super::super::THREAD));
    }

    fn renamed(before: &str, after: &str) -> DaemonEvent {
        DaemonEvent::NameChange(DnsNameChange {
            original: format!("{before}.local."),
            new_name: format!("{after}.local."),
            rr_type: RRType::A,
            intf_name: "eth0".into(),
        })
    }

    #[tokio::test]
    async fn a_renamed_record_stays_and_a_name_that_became_too_long_is_reported() {
        let (mut driver, published) = driver();
        let fake = Fake::default();
        let long = "a".repeat(62);
        let records = wanted(&[("a", record("web", &["http"])), ("b", record(&long, &["http"]))]);
        driver.update(&fake, &records).await;
        driver.on_event(renamed("web", "web-2"));
        driver.on_event(renamed(&long, &format!("{long}-2")));
        fake.calls();
        assert_eq!(published.borrow()["a"], Ok("web-2".into()));
        assert!(published.borrow()["b"].as_ref().unwrap_err().ends_with("is too long: choose a shorter one"));
        let records = wanted(&[("a", record("web-2", &["http"])), ("b", record(&long, &["http"]))]);
        driver.update(&fake, &records).await;
        assert_eq!(fake.calls(), [""; 0]);
        // Its addresses are withdrawn under the name that peers know, and only those that go.
        let mut more = records;
        more.get_mut("a").unwrap().addresses = [IpAddr::from([192, 0, 2, 2])].into();
        driver.update(&fake, &more).await;
        let (gone, again) = ("withdraw web._http._tcp.local.", "known web-2._http._tcp.local.");
        assert_eq!(fake.calls(), [gone, "goodbye web-2 [192.0.2.1]", again]);
    }
}
