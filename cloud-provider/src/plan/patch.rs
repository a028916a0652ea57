//! One write to one Service.

use std::collections::BTreeMap;

use kube_vip::model::ServiceView;
use serde_json::{Map, Value, json};

/// Changes to one Service. A value of None removes the entry.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Patch {
    /// The version that was decided on: the API server rejects the write if the Service has changed since.
    pub resource_version: String,
    pub annotations: BTreeMap<&'static str, Option<String>>,
    pub labels: BTreeMap<&'static str, Option<String>>,
    /// The complete list, if it changes.
    pub finalizers: Option<Vec<String>>,
    /// `spec.loadBalancerIP`, if it changes.
    pub load_balancer_ip: Option<Option<String>>,
}

impl Patch {
    /// An empty patch for this version of a Service.
    pub fn of(view: &ServiceView) -> Self {
        Self { resource_version: view.resource_version.clone(), ..Self::default() }
    }

    /// Sets or removes an annotation, unless the Service has that value already.
    pub fn annotate(&mut self, view: &ServiceView, name: &'static str, value: Option<&str>) {
        if view.annotations.get(name).map(String::as_str) != value {
            self.annotations.insert(name, value.map(str::to_owned));
        }
    }

    pub fn label(&mut self, view: &ServiceView, name: &'static str, value: Option<&str>) {
        if view.labels.get(name).map(String::as_str) != value {
            self.labels.insert(name, value.map(str::to_owned));
        }
    }

    pub fn finalizer(&mut self, view: &ServiceView, name: &str, wanted: bool) {
        let present = view.finalizers.iter().any(|finalizer| finalizer == name);
        if present != wanted {
            let mut all: Vec<String> =
                view.finalizers.iter().filter(|finalizer| *finalizer != name).cloned().collect();
            all.extend(wanted.then(|| name.to_owned()));
            self.finalizers = Some(all);
        }
    }

    pub fn load_balancer_ip(&mut self, view: &ServiceView, value: Option<&str>) {
        if view.load_balancer_ip.as_deref() != value {
            self.load_balancer_ip = Some(value.map(str::to_owned));
        }
    }

    pub fn is_empty(&self) -> bool {
        let Self { resource_version: _, annotations, labels, finalizers, load_balancer_ip } = self;
        annotations.is_empty() && labels.is_empty() && finalizers.is_none() && load_balancer_ip.is_none()
    }

    /// As a JSON merge patch (RFC 7386) that fails when the Service has changed.
    pub fn to_json(&self) -> Value {
        let mut meta = Map::new();
        meta.insert("resourceVersion".into(), json!(self.resource_version));
        if !self.annotations.is_empty() {
            meta.insert("annotations".into(), json!(self.annotations));
        }
        if !self.labels.is_empty() {
            meta.insert("labels".into(), json!(self.labels));
        }
        if let Some(finalizers) = &self.finalizers {
            meta.insert("finalizers".into(), json!(finalizers));
        }
        match &self.load_balancer_ip {
            Some(ip) => json!({ "metadata": meta, "spec": { "loadBalancerIP": ip } }),
            None => json!({ "metadata": meta }),
        }
    }
}
