//! A fake API server: Services with resource versions, and writes that are carried out at once.

use std::collections::BTreeMap;

use kube_vip::model::annotation::LOAD_BALANCER_IPS;
use kube_vip::model::service::{FamilyPolicy, Protocol};
use kube_vip::model::{Family, ServiceKey, ServiceView};
use kube_vip_cloud_provider::plan::{Action, Class, Patch, Planner, ServiceEvent, ServiceState, WriteStatus};
use kube_vip_cloud_provider::pools::{Pools, Problem};

/// The Services of the API server, and a planner that watches them.
pub(crate) struct Store {
    pub(crate) services: BTreeMap<ServiceKey, ServiceView>,
    pub(crate) planner: Planner,
    /// Processes run with `--upnp`.
    pub(crate) upnp: bool,
    /// Events, each with the name of its Service.
    pub(crate) events: Vec<(String, ServiceEvent)>,
    pub(crate) writes: usize,
    config: BTreeMap<String, String>,
    version: u64,
}

pub(crate) fn key(name: &str) -> ServiceKey {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    ServiceKey { namespace: namespace.into(), name: name.into() }
}

/// A Service of type LoadBalancer with TCP port 80 and one family.
pub(crate) fn service(families: &[Family]) -> ServiceView {
    ServiceView {
        load_balancer: true,
        families: families.into(),
        ports: vec![(Protocol::Tcp, 80)],
        ..ServiceView::default()
    }
}

pub(crate) fn dual(policy: FamilyPolicy, families: &[Family]) -> ServiceView {
    ServiceView { family_policy: policy, ..service(families) }
}

impl Store {
    pub(crate) fn new(config: &[(&str, &str)]) -> Self {
        let mut store = Self {
            services: BTreeMap::new(),
            planner: Planner::new(Class::Unnamed),
            upnp: false,
            events: Vec::new(),
            writes: 0,
            config: BTreeMap::new(),
            version: 0,
        };
        store.configure(config);
        store
    }

    /// Replaces the ConfigMap.
    pub(crate) fn configure(&mut self, config: &[(&str, &str)]) -> Vec<Problem> {
        self.config = config.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
        let (pools, problems) = Pools::parse(&self.config, self.planner.pools());
        self.planner.set_pools(pools);
        self.settle();
        problems
    }

    /// Creates or replaces a Service as its user.
    pub(crate) fn put(&mut self, name: &str, mut view: ServiceView) {
        let key = key(name);
        self.version += 1;
        view.resource_version = self.version.to_string();
        let before = self.services.get(&key);
        view.created = before.map_or(i64::try_from(self.version).unwrap(), |before| before.created);
        view.uid = before.map_or_else(|| format!("uid-{}", self.version), |before| before.uid.clone());
        self.services.insert(key.clone(), view.clone());
        self.planner.apply(key, view);
        self.settle();
    }

    /// Changes a Service as its user.
    pub(crate) fn edit(&mut self, name: &str, change: impl FnOnce(&mut ServiceView)) {
        let mut view = self.services[&key(name)].clone();
        change(&mut view);
        self.put(name, view);
    }

    pub(crate) fn delete(&mut self, name: &str) {
        self.services.remove(&key(name));
        self.planner.remove(&key(name));
        self.settle();
    }

    /// Replaces the planner with that of a new process.
    pub(crate) fn restart(&mut self) {
        let mut planner = Planner::new(Class::Unnamed);
        if self.upnp {
            planner.enable_upnp();
        }
        planner.set_pools(Pools::parse(&self.config, &Pools::default()).0);
        planner.reset(self.services.clone());
        self.planner = planner;
        self.settle();
    }

    /// Executes actions until none is left.
    pub(crate) fn settle(&mut self) {
        loop {
            let actions = self.planner.next_actions();
            if actions.is_empty() {
                return;
            }
            actions.into_iter().for_each(|action| self.execute(action));
        }
    }

    fn execute(&mut self, action: Action) {
        match action {
            Action::Event { key, event, .. } => self.events.push((key.name, event)),
            Action::Write { key, patch } => {
                self.writes += 1;
                let status = self.write(&key, &patch);
                if let Some(action) = self.planner.handle_written(&key, status) {
                    self.execute(action);
                }
            }
        }
    }

    fn write(&mut self, key: &ServiceKey, patch: &Patch) -> WriteStatus {
        let Some(view) = self.services.get_mut(key) else { return WriteStatus::Gone };
        if view.resource_version != patch.resource_version {
            return WriteStatus::Failed;
        }
        self.version += 1;
        view.resource_version = self.version.to_string();
        if let Some(delegated) = patch.condition() {
            view.upnp_delegated = delegated;
        }
        let set = |map: &mut BTreeMap<String, String>, name: &str, value: &Option<String>| match value {
            Some(value) => drop(map.insert(name.to_owned(), value.clone())),
            None => drop(map.remove(name)),
        };
        for (name, value) in &patch.annotations {
            set(&mut view.annotations, name, value);
        }
        for (name, value) in &patch.labels {
            set(&mut view.labels, name, value);
        }
        if let Some(finalizers) = &patch.finalizers {
            view.finalizers.clone_from(finalizers);
        }
        if let Some(ip) = &patch.load_balancer_ip {
            view.load_balancer_ip.clone_from(ip);
        }
        WriteStatus::Done(Box::new(view.clone()))
    }

    /// The value of the annotation with the addresses.
    pub(crate) fn addresses(&self, name: &str) -> String {
        let view = self.services.get(&key(name));
        view.and_then(|view| view.annotations.get(LOAD_BALANCER_IPS)).cloned().unwrap_or_default()
    }

    /// The reason why a Service waits.
    pub(crate) fn waits(&self, name: &str) -> String {
        match self.planner.state(&key(name)) {
            Some(ServiceState::Waiting(reason)) => reason.to_string(),
            other => format!("it does not wait: {other:?}"),
        }
    }
}
