//! One write to one Service.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube_vip::model::ServiceView;
use kube_vip::model::service::UPNP_DELEGATED;
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
    /// The condition that permits port mappings, if it changes. It is written alone, since the status is an object of its own
    /// to the API server: after a write of the rest it is decided on again.
    pub upnp_delegated: Option<bool>,
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

    /// Permits port mappings, or takes the permission back.
    pub fn delegate_upnp(&mut self, view: &ServiceView, wanted: bool) {
        self.upnp_delegated = (view.upnp_delegated != wanted).then_some(wanted);
    }

    pub fn is_empty(&self) -> bool {
        self.condition().is_none() && !self.changes_object()
    }

    fn changes_object(&self) -> bool {
        let Self {
            resource_version: _,
            annotations,
            labels,
            finalizers,
            load_balancer_ip,
            upnp_delegated: _,
        } = self;
        !(annotations.is_empty() && labels.is_empty() && finalizers.is_none() && load_balancer_ip.is_none())
    }

    /// The value of the condition, if that is what this patch writes.
    pub fn condition(&self) -> Option<bool> {
        self.upnp_delegated.filter(|_| !self.changes_object())
    }

    /// The condition as a strategic merge patch of the status, which keeps the conditions of other controllers.
    pub fn condition_to_json(&self, delegated: bool, now: &Time) -> Value {
        let (status, reason) = if delegated { ("True", "Enabled") } else { ("False", "Disabled") };
        json!({
            "metadata": { "resourceVersion": self.resource_version },
            "status": { "conditions": [{
                "type": UPNP_DELEGATED,
                "status": status,
                "reason": reason,
                "message": "the node that announces the Service may map the ports of the network's gateway that it requests",
                "lastTransitionTime": now,
            }] },
        })
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

#[cfg(test)]
mod tests {
    use kube_vip::model::service;

    use super::*;

    #[test]
    fn the_condition_is_written_alone_and_after_the_rest() {
        let view = ServiceView { resource_version: "7".into(), ..ServiceView::default() };
        let mut patch = Patch::of(&view);
        patch.delegate_upnp(&view, false);
        assert!(patch.is_empty());
        patch.delegate_upnp(&view, true);
        assert_eq!(patch.condition(), Some(true));
        let now = Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH);
        let mut written = patch.condition_to_json(true, &now);
        assert_eq!(written["metadata"]["resourceVersion"], "7");
        written["metadata"]["namespace"] = json!("default");
        written["metadata"]["name"] = json!("web");
        let (_, read) = service::view(serde_json::from_value(written).unwrap()).unwrap();
        assert!(read.upnp_delegated);
        patch.label(&view, "a", Some("b"));
        assert_eq!(patch.condition(), None);
        assert!(!patch.is_empty());
        assert!(patch.to_json().get("status").is_none());
    }
}
