//! Carries the elector's calls to the API server, and the server's answers, watch events and the time to the elector.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{WatchEvent, WatchParams};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::call::{self, stored_of};
use super::decide::ObservedLease;
use super::elector::{Elector, Input, LeaseRequest, Output};
use super::{Observer, Role, Settings};
use crate::cluster::Api;
use crate::election::health::driver::Report;
use crate::model::LeaseName;
use crate::net::clock::{self, Timer};
use crate::watch_ext;

/// The server ends a watch after this many seconds; it is opened again at once.
const WATCH_SECONDS: u32 = 290;
/// Pause before a broken watch is opened again.
const WATCH_PAUSE: Duration = Duration::from_millis(300);

/// What the election asks of the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Does a station answer for the VIPs?
    Probe,
    /// Announce them once.
    Assert,
}

/// The election, as others see it.
#[derive(Debug)]
pub struct Handles {
    /// Where this host stands.
    pub role: watch::Receiver<Role>,
    /// Tell it something.
    pub commands: mpsc::Sender<Input>,
    /// What it asks of the segment.
    pub asks: mpsc::Receiver<Ask>,
    /// Whether somebody should look at the local API server's health.
    pub probe_health: watch::Receiver<bool>,
    /// What the Lease says besides.
    pub notes: watch::Receiver<Notes>,
}

/// What a Lease says besides who holds it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// Its UID; none as long as it was not seen.
    pub uid: Option<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Runs one election.
pub struct Driver {
    elector: Elector,
    api: Arc<Api>,
    lease: LeaseName,
    call_timeout: Duration,
    observer: Arc<dyn Observer>,
    role: watch::Sender<Role>,
    commands: mpsc::Receiver<Input>,
    asks: mpsc::Sender<Ask>,
    probe_health: watch::Sender<bool>,
    notes: watch::Sender<Notes>,
    health: watch::Receiver<Report>,
    watching: bool,
}

type Flight = Pin<Box<dyn Future<Output = Input> + Send>>;

impl Driver {
    /// An election on `lease` that has not begun.
    pub fn new(
        settings: Settings,
        lease: LeaseName,
        api: Arc<Api>,
        health: watch::Receiver<Report>,
        observer: Arc<dyn Observer>,
    ) -> (Self, Handles) {
        let (role_in, role) = watch::channel(Role::Starting);
        let (commands, commands_out) = mpsc::channel(32);
        let (asks_in, asks) = mpsc::channel(8);
        let (probe_in, probe_health) = watch::channel(true);
        let (notes_in, notes) = watch::channel(Notes::default());
        let driver = Self {
            call_timeout: settings.retry_period.mul_f64(0.8),
            elector: Elector::new(settings),
            api,
            lease,
            observer,
            role: role_in,
            commands: commands_out,
            asks: asks_in,
            probe_health: probe_in,
            notes: notes_in,
            health,
            watching: false,
        };
        (driver, Handles { role, commands, asks, probe_health, notes })
    }

    /// Take part until told to stop, and the Lease is given up.
    ///
    /// # Errors
    /// If the kernel gives us no timer.
    pub async fn run(mut self) -> std::io::Result<()> {
        let mut timer = Timer::new()?;
        let (events_in, mut events) = mpsc::channel(32);
        let (renew_watch, renew_watch_out) = mpsc::channel(1);
        let watcher = tokio::spawn(follow(
            self.api.clone(),
            self.lease.clone(),
            events_in,
            renew_watch_out,
            self.call_timeout,
        ));
        let mut flight: Option<Flight> = None;
        self.elector.handle_timeout(clock::now());
        loop {
            while let Some(output) = self.elector.poll_output() {
                match output {
                    Output::Request(call) => flight = Some(Box::pin(self.make(call))),
                    Output::Abandon => flight = None,
                    Output::Probe => self.ask(Ask::Probe),
                    Output::Assert => self.ask(Ask::Assert),
                    // A full queue means that it is asked to already.
                    Output::RenewWatch => drop(renew_watch.try_send(()).ok()),
                }
            }
            self.publish();
            let now = clock::now();
            if self.elector.is_stopped(now) {
                watcher.abort();
                return Ok(());
            }
            let answered = async {
                match &mut flight {
                    Some(flight) => flight.await,
                    None => std::future::pending().await,
                }
            };
            let deadline = self.elector.poll_timeout();
            let input = tokio::select! {
                biased;
                Some(told) = self.commands.recv() => Some(told),
                input = answered => {
                    flight = None;
                    Some(input)
                }
                Some(event) = events.recv() => Some(event),
                Ok(()) = self.health.changed() => {
                    let report = *self.health.borrow_and_update();
                    Some(Input::Health { local: report.local, peer_serving: report.peer_serving })
                }
                () = timer.until(deadline) => None,
            };
            if let Some(Input::Watching(up)) = &input {
                self.watching = *up;
            }
            match input {
                Some(input) => self.elector.handle_input(clock::now(), input),
                None => self.elector.handle_timeout(clock::now()),
            }
        }
    }

    /// One call, within its time-out.
    fn make(&self, call: LeaseRequest) -> impl Future<Output = Input> + Send + 'static {
        call::make(self.api.clone(), self.lease.clone(), self.call_timeout, self.observer.clone(), call)
    }

    /// The segment is asked at most a few things at a time; more than that means that nobody listens any more.
    fn ask(&self, ask: Ask) {
        self.asks.try_send(ask).ok();
    }

    fn publish(&mut self) {
        let now = clock::now();
        let role = self.elector.role(now);
        self.observer.election(self.elector.seen(), &role, now);
        if let ObservedLease::Present { lease, .. } = self.elector.seen() {
            self.notes.send_if_modified(|before| {
                let none = BTreeMap::new();
                let annotations = lease.meta.annotations.as_ref().unwrap_or(&none);
                let same = before.uid == lease.meta.uid && before.annotations == *annotations;
                if !same {
                    *before = Notes { uid: lease.meta.uid.clone(), annotations: annotations.clone() };
                }
                !same
            });
        }
        // A standby with a watch learns from it that its API server died; everybody else has to look.
        let wanted = !matches!(role, Role::Follower { .. }) || !self.watching;
        watch_ext::set(&self.probe_health, wanted);
        self.role.send_if_modified(|before| {
            let changed = *before != role;
            if changed && std::mem::discriminant(before) != std::mem::discriminant(&role) {
                self.observer.role_changed(before, &role, self.elector.seen(), now);
            }
            *before = role;
            changed
        });
    }
}

/// Follow the Lease by watch, for ever.
async fn follow(
    api: Arc<Api>,
    lease: LeaseName,
    events: mpsc::Sender<Input>,
    mut renew: mpsc::Receiver<()>,
    patience: Duration,
) {
    loop {
        let watched = async {
            let chosen = api.client().await.ok()?;
            let leases = kube::Api::<Lease>::namespaced(chosen.client.clone(), &lease.namespace);
            let field = format!("metadata.name={}", lease.name);
            let params = WatchParams::default().fields(&field).timeout(WATCH_SECONDS).disable_bookmarks();
            // Without a version the watch begins with the present state.
            let stream = timeout(patience, leases.watch(&params, "")).await;
            let Ok(Ok(stream)) = stream else {
                if stream.is_err() {
                    api.failed(&chosen.server);
                }
                return None;
            };
            events.send(Input::Watching(true)).await.ok()?;
            let mut stream = stream.boxed();
            let pass_on = async {
                while let Ok(Some(event)) = stream.try_next().await {
                    let input = match event {
                        WatchEvent::Added(lease) | WatchEvent::Modified(lease) => {
                            Input::Watched(Box::new(stored_of(lease)))
                        }
                        WatchEvent::Deleted(_) => Input::WatchedDeletion,
                        WatchEvent::Bookmark(_) => continue,
                        WatchEvent::Error(_) => return,
                    };
                    if events.send(input).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = pass_on => {}
                // A server that does not answer others will not tell us anything either.
                () = api.until_failed(&chosen.server) => {}
            }
            Some(())
        };
        let renewed = tokio::select! {
            _ = watched => false,
            asked = renew.recv() => asked.is_some(),
        };
        if events.send(Input::Watching(false)).await.is_err() {
            return;
        }
        if !renewed {
            tokio::time::sleep(WATCH_PAUSE).await;
        }
    }
}
