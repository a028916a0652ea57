//! What people and monitoring see: log lines, metrics, probes.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube_vip::election::Observer;
use kube_vip::election::decide::ObservedLease;
use kube_vip::election::elector::LeaseResponse;
use kube_vip::model::BootTime;
use kube_vip::model::Role;
use kube_vip::telemetry::dhcp::Counts;
use kube_vip::telemetry::register::add;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::plan::{Planner, State};
use crate::pools::Problem;

type Number = Gauge<f64, std::sync::atomic::AtomicU64>;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolFamily {
    pool: String,
    family: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Key {
    key: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Build {
    version: &'static str,
    build: &'static str,
}

/// The one place that everything worth telling is told to.
#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    is_leader: Gauge,
    size: Family<PoolFamily, Number>,
    used: Family<PoolFamily, Number>,
    waiting: Family<PoolFamily, Gauge>,
    problems: Family<Key, Gauge>,
    writes: Family<ResultLabel, Counter>,
    seconds: Histogram,
    /// Of DHCP.
    pub dhcp: Counts,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    following: bool,
    holder: String,
    /// What a new leader still waits for; none while this process does not lead.
    missing: Option<Vec<&'static str>>,
    /// What is wrong at the moment, by what it concerns.
    trouble: BTreeMap<Concern, String>,
}

/// What trouble concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Concern {
    /// The election.
    Lease,
    /// Writes to Services.
    Writes,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl Telemetry {
    /// Nothing has happened yet.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("kube_vip_cloud_provider");
        let build = Family::<Build, Gauge>::default();
        build.get_or_create(&Build { version: kube_vip::VERSION, build: kube_vip::BUILD }).set(1);
        registry.register("build_info", "Version and build of this process; always 1", build);
        let r = &mut registry;
        let telemetry = Self {
            registry: Registry::default(),
            is_leader: add(r, "is_leader", "1 where this process gives addresses"),
            size: add(r, "pool_addresses", "Addresses of a pool that can be given without being asked for"),
            used: add(r, "pool_addresses_in_use", "Addresses of a pool in use"),
            waiting: add(
                r,
                "services_waiting",
                "Services that wait for an address, by their pool and what they miss",
            ),
            problems: add(
                r,
                "config_problems",
                "1 for each key of the ConfigMap that something is wrong with",
            ),
            writes: add(r, "writes", "Writes to Services, by what became of them"),
            seconds: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
            dhcp: Counts::register(r),
            inner: Mutex::default(),
        };
        registry.register(
            "allocation_seconds",
            "From the first sight of a Service without an address to the write of its address",
            telemetry.seconds.clone(),
        );
        for result in ["done", "conflict", "gone", "refused", "failed"] {
            telemetry.writes.get_or_create(&ResultLabel { result }).inc_by(0);
        }
        Self { registry, ..telemetry }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        // Half-written telemetry is better than none.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// In Prometheus' text format.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# metrics cannot be written: {error}\n"),
        }
    }

    /// Whether this process does what it should: it gives addresses, or knows who does.
    ///
    /// # Errors
    /// What is missing.
    pub fn ready(&self) -> Result<(), String> {
        let inner = self.lock();
        match &inner.missing {
            Some(missing) if missing.is_empty() => Ok(()),
            Some(missing) => Err(format!("waiting for {}; {}\n", missing.join(", "), inner.troubles())),
            None if inner.following => Ok(()),
            None => Err(format!("the Lease could not be read yet; {}\n", inner.troubles())),
        }
    }

    /// A term of leadership began, or got on: this is what it still waits for.
    pub fn leading(&self, missing: Vec<&'static str>) {
        self.is_leader.set(1);
        self.lock().missing = Some(missing);
    }

    /// A term of leadership ended.
    pub fn following(&self) {
        self.is_leader.set(0);
        self.lock().missing = None;
        self.size.clear();
        self.used.clear();
        self.waiting.clear();
        self.problems.clear();
    }

    /// What is wrong with the ConfigMap now.
    pub fn problems<'a>(&self, problems: impl Iterator<Item = &'a Problem>) {
        self.problems.clear();
        for problem in problems {
            self.problems.get_or_create(&Key { key: problem.key.clone() }).set(1);
        }
    }

    /// What became of a write.
    pub fn written(&self, result: &'static str) {
        if result == "done" {
            self.no_trouble(Concern::Writes);
        }
        self.writes.get_or_create(&ResultLabel { result }).inc();
    }

    /// A Service got its address, so long after it was first seen.
    pub fn allocated(&self, after: Duration) {
        self.seconds.observe(after.as_secs_f64());
    }

    /// How full the pools are, and who waits.
    pub fn pools(&self, planner: &Planner) {
        self.size.clear();
        self.used.clear();
        self.waiting.clear();
        for (id, pool) in planner.pools().pools.iter().enumerate() {
            for family in kube_vip::model::Family::BOTH {
                let (size, used) = planner.ipam().fill(id, family);
                if size > 0 || used > 0 {
                    let labels = PoolFamily { pool: pool.name.clone(), family: family.to_string() };
                    self.size.get_or_create(&labels).set(size as f64);
                    self.used.get_or_create(&labels).set(used as f64);
                }
            }
        }
        let mut waiting: BTreeMap<(String, String), i64> = BTreeMap::new();
        for (key, state) in planner.states() {
            if let State::Waiting(reason) = state {
                let pool = planner.pools().of(&key.namespace).map(|(_, pool)| pool.name.clone());
                let family = reason.family().map(|family| family.to_string());
                *waiting.entry((pool.unwrap_or_default(), family.unwrap_or_default())).or_default() += 1;
            }
        }
        for ((pool, family), count) in waiting {
            self.waiting.get_or_create(&PoolFamily { pool, family }).set(count);
        }
    }

    /// Log trouble once, and again when it changes.
    pub fn trouble(&self, concern: Concern, text: String) {
        let mut inner = self.lock();
        if inner.trouble.get(&concern) != Some(&text) {
            tracing::warn!("{text}");
            inner.trouble.insert(concern, text);
        }
    }

    fn no_trouble(&self, concern: Concern) {
        if self.lock().trouble.remove(&concern).is_some() {
            tracing::info!("the API server answers as it should again");
        }
    }
}

impl Inner {
    fn troubles(&self) -> String {
        self.trouble.values().map(String::as_str).collect::<Vec<_>>().join("; ")
    }
}

impl Observer for Telemetry {
    fn election(&self, seen: &ObservedLease, role: &Role, _now: BootTime) {
        let mut inner = self.lock();
        inner.following = matches!(role, Role::Follower { .. });
        let holder = seen.holder().unwrap_or_default();
        if inner.holder != holder {
            inner.holder = holder.to_owned();
            if inner.following && !holder.is_empty() {
                tracing::info!(holder, "another process gives addresses; role by");
            }
        }
    }

    fn role_changed(&self, _before: &Role, _after: &Role, _seen: &ObservedLease, _now: BootTime) {}

    fn no_access(&self, why: &str) {
        self.trouble(Concern::Lease, format!("no access to an API server: {why}"));
    }

    fn call_failed(&self, verb: &'static str, server: &str, answer: &LeaseResponse, why: &str) {
        match answer {
            // Both are the election at work.
            LeaseResponse::Conflict | LeaseResponse::NotFound => {}
            _ => self.trouble(Concern::Lease, format!("cannot {verb} the Lease at {server}: {why}")),
        }
    }

    fn call_succeeded(&self, _verb: &'static str) {
        self.no_trouble(Concern::Lease);
    }
}
