//! Metrics, readiness, and log lines about the API server.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube_vip::cluster::write::WriteResult;
use kube_vip::dhcp;
use kube_vip::election::decide::ObservedLease;
use kube_vip::election::{FailedCall, Observer};
use kube_vip::metrics::add;
use kube_vip::model::{BootTime, LeaseName, LogOnChange, Role};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::plan::{Planner, ServiceState};
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

#[derive(Debug)]
struct Metrics {
    is_leader: Gauge,
    pool_addresses: Family<PoolFamily, Number>,
    pool_addresses_in_use: Family<PoolFamily, Number>,
    services_waiting: Family<PoolFamily, Gauge>,
    config_problems: Family<Key, Gauge>,
    writes: Family<ResultLabel, Counter>,
    allocation_seconds: Histogram,
}

impl Metrics {
    fn register(r: &mut Registry) -> Self {
        let build =
            add::<Family<Build, Gauge>>(r, "build_info", "Version and build of this process; always 1");
        build.get_or_create(&Build { version: kube_vip::VERSION, build: kube_vip::BUILD }).set(1);
        let metrics = Self {
            is_leader: add(r, "is_leader", "1 while this process allocates addresses"),
            pool_addresses: add(
                r,
                "pool_addresses",
                "Addresses of a pool that are allocated without a request for a particular one",
            ),
            pool_addresses_in_use: add(r, "pool_addresses_in_use", "Addresses of a pool in use"),
            services_waiting: add(
                r,
                "services_waiting",
                "Services without an address, by pool and missing address family",
            ),
            config_problems: add(r, "config_problems", "1 for each key of the ConfigMap with a problem"),
            writes: add(r, "writes", "Writes to Services, by result"),
            allocation_seconds: Histogram::new(exponential_buckets(0.005, 2.0, 14)),
        };
        r.register(
            "allocation_seconds",
            "Time from the first observation of a Service without an address to the write of its address",
            metrics.allocation_seconds.clone(),
        );
        for result in ["done", "conflict", "gone", "refused", "failed"] {
            metrics.writes.get_or_create(&ResultLabel { result }).inc_by(0);
        }
        metrics
    }

    fn clear_pools(&self) {
        self.pool_addresses.clear();
        self.pool_addresses_in_use.clear();
        self.services_waiting.clear();
    }
}

#[derive(Debug)]
pub struct Telemetry {
    registry: Registry,
    metrics: Metrics,
    /// The counters of the DHCP clients.
    pub dhcp: dhcp::metrics::Metrics,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    is_follower: bool,
    holder: String,
    /// Objects that this leader has not listed yet; none while this process does not lead.
    missing: Option<Vec<&'static str>>,
    lease: LogOnChange,
    writes: LogOnChange,
}

/// Components with a problem of their own each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    Lease,
    Writes,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self::new()
    }
}

impl Telemetry {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("kube_vip_cloud_provider");
        let metrics = Metrics::register(&mut registry);
        let dhcp = dhcp::metrics::Metrics::register(&mut registry);
        Self { registry, metrics, dhcp, state: Mutex::default() }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // State of a thread that panicked is better than none.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All metrics in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# cannot encode the metrics: {error}\n"),
        }
    }

    /// Readiness: this process allocates addresses, or follows another one that does.
    ///
    /// # Errors
    /// The reason why it is not ready.
    pub fn ready(&self) -> Result<(), String> {
        let state = self.lock();
        let not_ready = |what: &str| {
            let problems: Vec<&str> = state.lease.current().chain(state.writes.current()).collect();
            Err(format!("{what}; {}\n", problems.join("; ")))
        };
        match &state.missing {
            Some(missing) if missing.is_empty() => Ok(()),
            Some(missing) => not_ready(&format!("waiting for {}", missing.join(", "))),
            None if state.is_follower => Ok(()),
            None => not_ready("the Lease has not been read yet"),
        }
    }

    /// This process leads, and has not listed the `missing` objects yet.
    pub fn set_leading(&self, missing: Vec<&'static str>) {
        self.metrics.is_leader.set(1);
        self.lock().missing = Some(missing);
    }

    pub fn clear_leading(&self) {
        self.lock().missing = None;
        self.metrics.is_leader.set(0);
        self.metrics.clear_pools();
        self.metrics.config_problems.clear();
    }

    pub fn set_config_problems(&self, problems: &BTreeSet<Problem>) {
        self.metrics.config_problems.clear();
        for problem in problems {
            self.metrics.config_problems.get_or_create(&Key { key: problem.key.clone() }).set(1);
        }
    }

    pub fn count_write(&self, result: &WriteResult) {
        let result = match result {
            WriteResult::Done(_) => "done",
            WriteResult::Conflict => "conflict",
            WriteResult::Gone => "gone",
            WriteResult::Refused(_) => "refused",
            WriteResult::Failed(_) => "failed",
        };
        self.metrics.writes.get_or_create(&ResultLabel { result }).inc();
    }

    pub fn observe_allocation(&self, after: Duration) {
        self.metrics.allocation_seconds.observe(after.as_secs_f64());
    }

    /// Sets the metrics of pool usage and of Services without an address.
    pub fn report_pools(&self, planner: &Planner) {
        self.metrics.clear_pools();
        for (id, pool) in planner.pools().pools.iter().enumerate() {
            for family in kube_vip::model::Family::BOTH {
                let (size, used) = planner.ipam().usage(id, family);
                if size > 0 || used > 0 {
                    let labels = PoolFamily { pool: pool.name.clone(), family: family.to_string() };
                    self.metrics.pool_addresses.get_or_create(&labels).set(size as f64);
                    self.metrics.pool_addresses_in_use.get_or_create(&labels).set(used as f64);
                }
            }
        }
        let mut waiting: BTreeMap<(String, String), i64> = BTreeMap::new();
        for (key, state) in planner.states() {
            if let ServiceState::Waiting(reason) = state {
                let pool = planner.pools().of(&key.namespace).map(|(_, pool)| pool.name.clone());
                let family = reason.family().map(|family| family.to_string());
                *waiting.entry((pool.unwrap_or_default(), family.unwrap_or_default())).or_default() += 1;
            }
        }
        for ((pool, family), count) in waiting {
            self.metrics.services_waiting.get_or_create(&PoolFamily { pool, family }).set(count);
        }
    }

    /// Sets the problem of a component, and logs it if it has changed.
    pub fn set_problem(&self, component: Component, text: String) {
        if self.lock().problem(component).set(text.as_str()) {
            tracing::warn!("{text}");
        }
    }

    pub fn clear_problem(&self, component: Component) {
        if self.lock().problem(component).clear() {
            tracing::info!("the API server responds again");
        }
    }
}

impl State {
    fn problem(&mut self, component: Component) -> &mut LogOnChange {
        match component {
            Component::Lease => &mut self.lease,
            Component::Writes => &mut self.writes,
        }
    }
}

impl Observer for Telemetry {
    fn election(&self, lease: &ObservedLease, role: &Role, _now: BootTime) {
        let mut state = self.lock();
        state.is_follower = matches!(role, Role::Follower { .. });
        let holder = lease.holder().unwrap_or_default();
        if state.holder != holder {
            state.holder = holder.to_owned();
            if state.is_follower && !holder.is_empty() {
                tracing::info!(holder, "another process is the leader and allocates addresses");
            }
        }
    }

    fn role_changed(&self, _before: &Role, _after: &Role, _lease: &ObservedLease, _now: BootTime) {}

    fn no_access(&self, why: &str) {
        self.set_problem(Component::Lease, format!("no access to an API server: {why}"));
    }

    fn call_failed(&self, failed: FailedCall<'_>) {
        if !failed.reason.is_expected() {
            let FailedCall { verb, lease, server, why, .. } = failed;
            self.set_problem(Component::Lease, format!("cannot {verb} Lease {lease} at {server}: {why}"));
        }
    }

    fn call_succeeded(&self, _verb: &'static str, _lease: &LeaseName) {
        self.clear_problem(Component::Lease);
    }
}
