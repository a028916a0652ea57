//! Many elections in one task: a Lease for each, one watch for all of a namespace.
//!
//! Calls under way are limited. Claims that are about to end are renewed before all else, so that a host that wants a
//! thousand Leases at once still keeps those that it has; what is free is taken before the renewals that can wait.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use k8s_openapi::api::coordination::v1::Lease;
use kube::runtime::watcher;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::call::{self, stored_of};
use super::driver::Ask;
use super::elector::{DrainReason, Elector, Input, LeaseRequest, Output};
use super::record::LeaseObject;
use super::{Candidacy, Holder, Observer, Role, Settings};
use crate::cluster::Api;
use crate::cluster::watch::{Change, follow};
use crate::model::{BootTime, LeaseName};
use crate::net::clock::{self, Timer};
use crate::reconcile::desired::Board;
use crate::watch_ext;

/// How long the rest waits, when this host stops, for the Lease that tells others so.
const HERALDED: Duration = Duration::from_millis(250);
/// Calls under way at once.
const AT_ONCE: usize = 24;

/// A change among the Leases of a namespace.
pub type LeaseChange = (String, Change<(LeaseName, Box<LeaseObject>)>);

/// What the elections are told, and tell.
pub struct Channels {
    /// What this host takes part in.
    pub candidacies: watch::Receiver<BTreeMap<LeaseName, Candidacy>>,
    /// Where the roles go.
    pub board: Arc<watch::Sender<Board>>,
    /// What happened on the segment, or what an operator wants of one of them.
    pub commands: mpsc::Receiver<(LeaseName, Input)>,
    /// What they ask of the segment.
    pub asks: mpsc::Sender<(LeaseName, Ask)>,
    /// Whom each Lease names that is not expired, of those that are followed.
    pub holders: watch::Sender<BTreeMap<LeaseName, Holder>>,
    /// What an operator wants of all of them: hand over and stay away.
    pub drained: watch::Receiver<bool>,
    /// The end: hand over everything.
    pub stopping: watch::Receiver<bool>,
}

/// All elections of a kind.
pub struct Elections {
    api: Arc<Api>,
    /// What they have in common.
    settings: Settings,
    observer: Arc<dyn Observer>,
    call_timeout: Duration,
    channels: Channels,
    entries: BTreeMap<LeaseName, Entry>,
    /// Every Lease of the namespaces that are followed, and since when it looks as it does.
    known: BTreeMap<LeaseName, (LeaseObject, BootTime)>,
    /// When the next of them is overdue, or expires.
    next_change: Option<BootTime>,
    /// Namespaces that are followed, and whether all their Leases are known.
    namespaces: BTreeMap<String, bool>,
    watches: JoinSet<()>,
    leases_in: mpsc::Sender<LeaseChange>,
    waiting: BTreeMap<LeaseName, LeaseRequest>,
    flights: FuturesUnordered<Flight>,
    /// Since when this host stops.
    stopping: Option<BootTime>,
}

struct Entry {
    elector: Elector,
    wanted: bool,
    is_membership: bool,
    stopped: bool,
    role: Role,
}

type Flight = Pin<Box<dyn Future<Output = (LeaseName, Input)> + Send>>;

impl Elections {
    /// Elections that have not begun. `settings` are those of each; the seed is spread by the Lease's name.
    pub fn new(
        settings: Settings,
        api: Arc<Api>,
        observer: Arc<dyn Observer>,
        channels: Channels,
    ) -> (Self, mpsc::Receiver<LeaseChange>) {
        let (leases_in, leases) = mpsc::channel(256);
        let elections = Self {
            api,
            call_timeout: settings.retry_period.mul_f64(0.8),
            settings,
            observer,
            channels,
            entries: BTreeMap::new(),
            known: BTreeMap::new(),
            next_change: None,
            namespaces: BTreeMap::new(),
            watches: JoinSet::new(),
            leases_in,
            waiting: BTreeMap::new(),
            flights: FuturesUnordered::new(),
            stopping: None,
        };
        (elections, leases)
    }

    /// Take part until told to stop, and every Lease is given up.
    ///
    /// # Errors
    /// If the kernel gives us no timer.
    pub async fn run(mut self, mut leases: mpsc::Receiver<LeaseChange>) -> std::io::Result<()> {
        let mut timer = Timer::new()?;
        self.set_candidacies();
        loop {
            self.stop_in_turn();
            self.start_calls();
            let now = clock::now();
            if self.stopping.is_some() && self.entries.values().all(|entry| entry.elector.is_stopped(now)) {
                return Ok(());
            }
            let deadline = self.entries.values().filter_map(|entry| entry.elector.poll_timeout()).min();
            let turn = self.stopping.map(|since| since + HERALDED).filter(|at| *at > now);
            let deadline = deadline.into_iter().chain(self.next_change).chain(turn).min();
            tokio::select! {
                biased;
                Some((lease, input)) = self.flights.next() => self.input(&lease, input),
                Some((lease, input)) = self.channels.commands.recv() => self.input(&lease, input),
                Some((namespace, change)) = leases.recv() => self.leases_changed(namespace, change),
                Ok(()) = self.channels.candidacies.changed(), if self.stopping.is_none() => self.set_candidacies(),
                Ok(()) = self.channels.drained.changed() => self.set_drained(),
                Ok(()) = self.channels.stopping.changed(), if self.stopping.is_none() => self.stop(),
                () = timer.until(deadline) => self.on_time(),
            }
        }
    }

    fn set_candidacies(&mut self) {
        let wanted = self.channels.candidacies.borrow_and_update().clone();
        let namespaces: BTreeSet<String> = wanted.keys().map(|lease| lease.namespace.clone()).collect();
        for namespace in namespaces {
            self.follow(namespace);
        }
        let gone: Vec<LeaseName> = self
            .entries
            .keys()
            .filter(|lease| wanted.get(lease).is_none_or(|candidacy| !candidacy.eligible))
            .cloned()
            .collect();
        for lease in gone {
            if let Some(entry) = self.entries.get_mut(&lease) {
                entry.wanted = false;
            }
            self.input(&lease, Input::Drain(DrainReason::NotEligible));
        }
        for (lease, candidacy) in wanted.into_iter().filter(|(_, candidacy)| candidacy.eligible) {
            match self.entries.get_mut(&lease) {
                Some(entry) => {
                    entry.wanted = true;
                    entry.elector.set_delay(candidacy.delay);
                    self.input(&lease, Input::Undrain(DrainReason::NotEligible));
                }
                None => self.enter(lease, candidacy),
            }
        }
    }

    /// Take part in one more election.
    fn enter(&mut self, lease: LeaseName, candidacy: Candidacy) {
        let name = lease.to_string();
        let settings = Settings {
            seed: self.settings.seed ^ crate::model::hash::fnv1a(name.as_bytes()),
            resuming: candidacy.resuming,
            ..self.settings.clone()
        };
        let mut elector = Elector::new(settings);
        elector.set_delay(candidacy.delay);
        let role = elector.role(clock::now());
        let is_membership = candidacy.is_membership;
        self.entries
            .insert(lease.clone(), Entry { elector, wanted: true, is_membership, stopped: false, role });
        if *self.channels.drained.borrow() {
            self.input(&lease, Input::Drain(DrainReason::Operator));
        }
        if self.namespaces.get(&lease.namespace) == Some(&true) {
            self.input(&lease, Input::Watching(true));
            self.input(&lease, self.known_as_input(&lease));
        }
        self.publish(&lease);
    }

    fn set_drained(&mut self) {
        let drained = *self.channels.drained.borrow_and_update();
        let leases: Vec<LeaseName> = self.entries.keys().cloned().collect();
        for lease in leases {
            let reason = DrainReason::Operator;
            self.input(&lease, if drained { Input::Drain(reason) } else { Input::Undrain(reason) });
        }
    }

    fn stop(&mut self) {
        self.channels.stopping.borrow_and_update();
        self.stopping = Some(clock::now());
    }

    /// Others share out what this host leaves behind, once they know that it goes: it says so before all else.
    fn stop_in_turn(&mut self) {
        let Some(since) = self.stopping else { return };
        let mut heralds = self.entries.values().filter(|entry| entry.is_membership);
        let heralded = clock::now() >= since + HERALDED || heralds.all(|entry| entry.elector.is_idle());
        let due = |entry: &Entry| !entry.stopped && (entry.is_membership || heralded);
        let leases: Vec<LeaseName> =
            self.entries.iter().filter(|(_, entry)| due(entry)).map(|(lease, _)| lease.clone()).collect();
        for lease in leases {
            if let Some(entry) = self.entries.get_mut(&lease) {
                entry.stopped = true;
            }
            self.input(&lease, Input::Stop);
        }
    }

    /// Follow the Leases of one more namespace.
    fn follow(&mut self, namespace: String) {
        if self.namespaces.contains_key(&namespace) {
            return;
        }
        self.namespaces.insert(namespace.clone(), false);
        let (place, wrap) = (namespace.clone(), namespace);
        let convert = |lease: Lease| {
            let meta = &lease.metadata;
            let name = LeaseName { namespace: meta.namespace.clone()?, name: meta.name.clone()? };
            Some((name, Box::new(stored_of(lease))))
        };
        self.watches.spawn(follow(
            self.api.clone(),
            move |client| kube::Api::<Lease>::namespaced(client, &place),
            watcher::Config::default(),
            convert,
            move |change| (wrap.clone(), change),
            self.leases_in.clone(),
        ));
    }

    fn leases_changed(&mut self, namespace: String, change: Change<(LeaseName, Box<LeaseObject>)>) {
        match change {
            Change::Reset(all) => {
                let listed: BTreeSet<LeaseName> = all.iter().map(|(lease, _)| lease.clone()).collect();
                self.known.retain(|lease, _| lease.namespace != namespace || listed.contains(lease));
                for (lease, stored) in all {
                    self.learn(lease, *stored);
                }
                self.namespaces.insert(namespace.clone(), true);
                let here: Vec<LeaseName> =
                    self.entries.keys().filter(|lease| lease.namespace == namespace).cloned().collect();
                for lease in here {
                    self.input(&lease, Input::Watching(false));
                    self.input(&lease, Input::Watching(true));
                    self.input(&lease, self.known_as_input(&lease));
                }
                self.tell_holders();
            }
            Change::Applied((lease, stored)) => {
                let other_holder = self.learn(lease.clone(), (*stored).clone());
                self.input(&lease, Input::Watched(stored));
                if other_holder {
                    self.tell_holders();
                }
            }
            Change::Deleted((lease, _)) => {
                self.known.remove(&lease);
                self.input(&lease, Input::WatchedDeletion);
                self.tell_holders();
            }
        }
    }

    /// Take note of a Lease. Says whether that changes what is told of it.
    fn learn(&mut self, lease: LeaseName, stored: LeaseObject) -> bool {
        let now = clock::now();
        match self.known.get_mut(&lease) {
            Some((before, since)) => {
                let other = before.record.holder != stored.record.holder;
                let renewed = before.record != stored.record;
                let overdue = now
                    >= *since + self.settings.overdue(before.record.duration(self.settings.lease_duration));
                if renewed {
                    *since = now;
                }
                *before = stored;
                other || (renewed && overdue)
            }
            None => {
                self.known.insert(lease, (stored, now));
                true
            }
        }
    }

    fn known_as_input(&self, lease: &LeaseName) -> Input {
        let known = self.known.get(lease);
        known.map_or(Input::WatchedDeletion, |(stored, _)| Input::Watched(Box::new(stored.clone())))
    }

    /// Tell whom each Lease names, unless it is expired. Expiry is judged by our own clock, from the moment we first
    /// saw the record in this form.
    fn tell_holders(&mut self) {
        let now = clock::now();
        let mut holders = BTreeMap::new();
        self.next_change = None;
        for (lease, (stored, since)) in &self.known {
            let duration = stored.record.duration(self.settings.lease_duration);
            let (overdue, expiry) = (*since + self.settings.overdue(duration), *since + duration);
            if stored.record.holder.is_empty() || expiry <= now {
                continue;
            }
            let is_current = now < overdue;
            let next = if is_current { overdue } else { expiry };
            self.next_change = Some(self.next_change.map_or(next, |before| before.min(next)));
            holders.insert(lease.clone(), Holder { identity: stored.record.holder.clone(), is_current });
        }
        watch_ext::set(&self.channels.holders, holders);
    }

    fn on_time(&mut self) {
        let now = clock::now();
        if self.next_change.is_some_and(|at| at <= now) {
            self.tell_holders();
        }
        let due = |entry: &Entry| entry.elector.poll_timeout().is_some_and(|at| at <= now);
        let leases: Vec<LeaseName> =
            self.entries.iter().filter(|(_, entry)| due(entry)).map(|(lease, _)| lease.clone()).collect();
        for lease in leases {
            if let Some(entry) = self.entries.get_mut(&lease) {
                entry.elector.handle_timeout(now);
            }
            self.step(&lease);
        }
    }

    fn input(&mut self, lease: &LeaseName, input: Input) {
        let Some(entry) = self.entries.get_mut(lease) else { return };
        entry.elector.handle_input(clock::now(), input);
        self.step(lease);
    }

    /// Do what an elector asks for, and tell where it stands.
    fn step(&mut self, lease: &LeaseName) {
        let Some(entry) = self.entries.get_mut(lease) else { return };
        while let Some(output) = entry.elector.poll_output() {
            match output {
                Output::Request(call) => drop(self.waiting.insert(lease.clone(), call)),
                // No health is judged here: nothing is ever abandoned. The watch is everybody's.
                Output::Abandon | Output::RenewWatch => {}
                Output::Probe => drop(self.channels.asks.try_send((lease.clone(), Ask::Probe))),
                Output::Assert => drop(self.channels.asks.try_send((lease.clone(), Ask::Assert))),
            }
        }
        self.publish(lease);
    }

    fn publish(&mut self, lease: &LeaseName) {
        let now = clock::now();
        let Some(entry) = self.entries.get_mut(lease) else { return };
        let role = entry.elector.role(now);
        let over = !entry.wanted
            && matches!(role, Role::Follower { .. } | Role::Starting)
            && entry.elector.is_idle();
        if entry.role != role {
            if std::mem::discriminant(&entry.role) != std::mem::discriminant(&role) {
                self.observer.role_changed(&entry.role, &role, entry.elector.seen(), now);
                tracing::debug!(%lease, before = ?entry.role, after = ?role, "election");
            }
            entry.role = role.clone();
        }
        self.channels.board.send_if_modified(|board| {
            let Some(group) = board.groups.get_mut(lease) else { return false };
            let changed = group.role != role;
            group.role = role;
            changed
        });
        if over {
            self.entries.remove(lease);
        }
    }

    /// Start calls as far as there is room, the most urgent ones first.
    fn start_calls(&mut self) {
        while self.flights.len() < AT_ONCE && !self.waiting.is_empty() {
            let soon = clock::now() + self.settings.renew_deadline / 2;
            let urgency = |lease: &LeaseName| urgency(self.entries.get(lease).map(|entry| &entry.role), soon);
            let Some(lease) = self.waiting.keys().min_by_key(|lease| urgency(lease)).cloned() else { return };
            let Some(call) = self.waiting.remove(&lease) else { return };
            let made =
                call::make(self.api.clone(), lease.clone(), self.call_timeout, self.observer.clone(), call);
            self.flights.push(Box::pin(async move { (lease, made.await) }));
        }
    }
}

/// What a call is made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    /// A claim that ends soon, or a Lease that others wait for.
    Keep,
    /// Something that nobody holds.
    Take,
    /// A claim that is good for a while.
    Prolong,
}

/// Which of the calls that wait goes first: the least. `soon` is until when claims must not end unasked.
fn urgency(role: Option<&Role>, soon: BootTime) -> (Purpose, BootTime) {
    match role {
        Some(Role::HandingOver { until }) => (Purpose::Keep, *until),
        Some(Role::Leader(claim)) if claim.valid_until <= soon => (Purpose::Keep, claim.valid_until),
        Some(Role::Leader(claim)) => (Purpose::Prolong, claim.valid_until),
        Some(Role::Follower { .. } | Role::Starting) | None => (Purpose::Take, BootTime::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::election::{Claim, ClaimSource};

    #[test]
    fn what_others_wait_for_goes_before_what_can_wait() {
        let at = |seconds| BootTime::from_boot(Duration::from_secs(seconds));
        let holding = |until| {
            let (valid_until, fence_until) = (at(until), at(until + 1));
            Role::Leader(Claim { since: at(0), valid_until, fence_until, source: ClaimSource::Lease })
        };
        let following = Role::Follower { holder: None, fence_until: None };
        let order =
            [holding(101), Role::HandingOver { until: at(102) }, following, holding(103), holding(104)];
        let mut sorted = order.clone();
        sorted.reverse();
        sorted.sort_by_key(|role| urgency(Some(role), at(102)));
        assert_eq!(sorted, order);
    }
}
