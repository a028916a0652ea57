//! Writes to Services: as a patch, or as whole objects where an older role lacks the verb `patch`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::Value;
use tokio::time::timeout;

use super::{Api, ApiClient};
use crate::model::{ServiceKey, ServiceView, service};

/// Shorter than the time between the end of a claim and the start of the next one: two holders' writes cannot overlap.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(4);

/// The conditions of an object with a status.
const CONDITIONS: &str = "/status/conditions";

#[derive(Debug)]
pub enum WriteResult {
    /// The Service as written.
    Done(Box<ServiceView>),
    /// The Service has changed since the version that the write was decided on.
    Conflict,
    Gone,
    Refused(String),
    /// Unknown: the write may have been applied.
    Failed(String),
}

/// The part of a Service that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    Object,
    /// The status, with annotations. Conditions are merged by type: those of other controllers stay.
    Status,
}

#[derive(Debug)]
pub struct Writer {
    manager: &'static str,
    subresource: Subresource,
    patch_forbidden: AtomicBool,
}

impl Writer {
    /// `manager` is the name in `managedFields`.
    pub fn new(manager: &'static str, subresource: Subresource) -> Self {
        Self { manager, subresource, patch_forbidden: AtomicBool::new(false) }
    }

    /// Merges a change into a Service. The change contains the `resourceVersion` that it was decided on.
    pub async fn write(&self, api: &Api, key: &ServiceKey, change: &Value) -> WriteResult {
        let ApiClient { client, server } = match api.client().await {
            Ok(client) => client,
            Err(error) => return WriteResult::Failed(error.to_string()),
        };
        let services = kube::Api::<Service>::namespaced(client, &key.namespace);
        let Ok(written) = timeout(REQUEST_TIMEOUT, self.attempt(&services, &key.name, change)).await else {
            api.failed(&server);
            return WriteResult::Failed("no response in time".to_owned());
        };
        match written {
            Ok(service) => match service::view(service) {
                Some((_, view)) => WriteResult::Done(Box::new(view)),
                None => WriteResult::Failed("the response is not a Service".to_owned()),
            },
            Err(error) => {
                api.request_failed(&server, &error);
                result_of(error)
            }
        }
    }

    async fn attempt(
        &self,
        services: &kube::Api<Service>,
        name: &str,
        change: &Value,
    ) -> Result<Service, kube::Error> {
        if self.patch_forbidden.load(Ordering::Relaxed) {
            let replaced = self.replace(services, name, change).await;
            // Forbidden as well: the cause is not the missing verb, so patch again next time.
            self.patch_forbidden.store(!is_forbidden(&replaced), Ordering::Relaxed);
            return replaced;
        }
        let params = PatchParams { field_manager: Some(self.manager.to_owned()), ..PatchParams::default() };
        let patched = match self.subresource {
            Subresource::Object => services.patch(name, &params, &Patch::Merge(change)).await,
            Subresource::Status => services.patch_status(name, &params, &Patch::Strategic(change)).await,
        };
        if !is_forbidden(&patched) {
            return patched;
        }
        let replaced = self.replace(services, name, change).await;
        // An API server that has just started forbids everything for a moment.
        if replaced.is_ok() && !self.patch_forbidden.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the role lacks the verb `patch` for services, so each write needs an extra read; apply the role printed by \
                 `{} manifest`",
                self.manager
            );
        }
        replaced
    }

    /// Reads and writes the whole object. The change contains the version that it was decided on: a newer Service is
    /// rejected as a conflict.
    async fn replace(
        &self,
        services: &kube::Api<Service>,
        name: &str,
        change: &Value,
    ) -> Result<Service, kube::Error> {
        let serde = kube::Error::SerdeError;
        let mut object = serde_json::to_value(services.get(name).await?).map_err(serde)?;
        merge(&mut object, change);
        let object: Service = serde_json::from_value(object).map_err(serde)?;
        let params = PostParams { field_manager: Some(self.manager.to_owned()), ..PostParams::default() };
        match self.subresource {
            Subresource::Object => services.replace(name, &params, &object).await,
            Subresource::Status => services.replace_status(name, &params, &object).await,
        }
    }
}

/// Applies a patch as the API server does: conditions of the status by their type, anything else as a JSON merge patch.
fn merge(object: &mut Value, change: &Value) {
    let conditions =
        |object: &Value| object.pointer(CONDITIONS).and_then(Value::as_array).cloned().unwrap_or_default();
    let (mut merged, changed) = (conditions(object), conditions(change));
    json_patch::merge(object, change);
    for condition in changed {
        merged.retain(|known| known.get("type") != condition.get("type"));
        merged.extend(Some(condition).filter(|condition| condition.get("$patch").is_none()));
    }
    if let Some(conditions) = object.pointer_mut(CONDITIONS) {
        *conditions = Value::Array(merged);
    }
}

fn result_of(error: kube::Error) -> WriteResult {
    let kube::Error::Api(status) = error else { return WriteResult::Failed(error.to_string()) };
    match status.code {
        404 => WriteResult::Gone,
        409 => WriteResult::Conflict,
        401 | 429 | 500.. => WriteResult::Failed(status.message),
        _ => WriteResult::Refused(status.message),
    }
}

fn is_forbidden(result: &Result<Service, kube::Error>) -> bool {
    matches!(result, Err(kube::Error::Api(status)) if status.code == 403)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn conditions_of_other_controllers_stay() {
        let object = |conditions: Value| json!({ "metadata": { "labels": { "a": "b" } }, "status": { "conditions": conditions } });
        let change = |conditions: Value| json!({ "status": { "conditions": conditions } });
        let (theirs, old, new) = (
            json!({ "type": "Theirs", "status": "True" }),
            json!({ "type": "Ours", "status": "False" }),
            json!({ "type": "Ours", "status": "True" }),
        );
        let deleted = json!({ "type": "Ours", "$patch": "delete" });
        for (before, change, after) in [
            (object(json!([theirs, old])), change(json!([new])), object(json!([theirs, new]))),
            (object(json!([theirs, old])), change(json!([deleted])), object(json!([theirs]))),
            (object(json!([theirs])), change(json!([deleted])), object(json!([theirs]))),
            (object(json!([theirs])), json!({}), object(json!([theirs]))),
            (object(Value::Null), change(json!([new])), object(json!([new]))),
        ] {
            let mut merged = before.clone();
            merge(&mut merged, &change);
            assert_eq!(merged, after, "{before} {change}");
        }
        let mut without = json!({ "status": {} });
        merge(&mut without, &json!({ "status": { "loadBalancer": null } }));
        assert_eq!(without, json!({ "status": {} }));
    }
}
