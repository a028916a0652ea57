//! Writes to Services: as a patch, and where an older role has no right to that, as whole objects.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::api::{PatchParams, PostParams};
use serde_json::Value;
use tokio::time::timeout;

use super::Api;
use crate::model::{ServiceKey, ServiceView, service};

/// How long a write may take. Shorter than what lies between the end of a claim and another's beginning.
pub const PATIENCE: Duration = Duration::from_secs(4);

/// What became of it.
#[derive(Debug)]
pub enum WriteResult {
    /// This is the Service now.
    Done(Box<ServiceView>),
    /// The Service has changed since.
    Conflict,
    /// There is no such Service.
    Gone,
    /// The API server does not want it.
    Refused(String),
    /// Nobody knows.
    Failed(String),
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    /// The Service itself.
    Object,
    /// Its status, and with it annotations.
    Status,
}

/// Writes for one program.
#[derive(Debug)]
pub struct Writer {
    manager: &'static str,
    part: Subresource,
    may_not_patch: AtomicBool,
}

impl Writer {
    /// Nothing was written yet. `manager` is the name in `managedFields`.
    pub fn new(manager: &'static str, part: Subresource) -> Self {
        Self { manager, part, may_not_patch: AtomicBool::new(false) }
    }

    /// Merge a change into a Service. The change names the version that it was decided on.
    pub async fn write(&self, api: &Api, key: &ServiceKey, change: &Value) -> WriteResult {
        let chosen = match api.client().await {
            Ok(chosen) => chosen,
            Err(error) => return WriteResult::Failed(error.to_string()),
        };
        let services = kube::Api::<Service>::namespaced(chosen.client, &key.namespace);
        let Ok(written) = timeout(PATIENCE, self.attempt(&services, &key.name, change)).await else {
            api.failed(&chosen.server);
            return WriteResult::Failed("no answer in time".to_owned());
        };
        match written {
            Ok(service) => match service::view(service) {
                Some((_, view)) => WriteResult::Done(Box::new(view)),
                None => WriteResult::Failed("the answer is no Service".to_owned()),
            },
            Err(kube::Error::Api(status)) => match status.code {
                404 => WriteResult::Gone,
                409 => WriteResult::Conflict,
                400..=499 if status.code != 429 => WriteResult::Refused(status.message.clone()),
                _ => WriteResult::Failed(status.message.clone()),
            },
            Err(error) => {
                api.failed(&chosen.server);
                WriteResult::Failed(error.to_string())
            }
        }
    }

    async fn attempt(
        &self,
        services: &kube::Api<Service>,
        name: &str,
        change: &Value,
    ) -> Result<Service, kube::Error> {
        if self.may_not_patch.load(Ordering::Relaxed) {
            let replaced = self.replace(services, name, change).await;
            // The role was mended meanwhile, or it is another trouble: patch again from the next time on.
            self.may_not_patch.store(!is_forbidden(&replaced), Ordering::Relaxed);
            return replaced;
        }
        let params = PatchParams { field_manager: Some(self.manager.to_owned()), ..PatchParams::default() };
        let merge = kube::api::Patch::Merge(change);
        let patched = match self.part {
            Subresource::Object => services.patch(name, &params, &merge).await,
            Subresource::Status => services.patch_status(name, &params, &merge).await,
        };
        if !is_forbidden(&patched) {
            return patched;
        }
        let replaced = self.replace(services, name, change).await;
        // An API server that has just started refuses everything for a moment.
        if replaced.is_ok() && !self.may_not_patch.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the role has no right to `patch` services: each write costs a read more; apply the role that \
                 `{} manifest` prints",
                self.manager
            );
        }
        replaced
    }

    /// The change as a read and writes of the whole object. It brings the version that it was decided on along: a
    /// newer Service is refused as a conflict.
    async fn replace(
        &self,
        services: &kube::Api<Service>,
        name: &str,
        change: &Value,
    ) -> Result<Service, kube::Error> {
        let serde = kube::Error::SerdeError;
        let mut object = serde_json::to_value(services.get(name).await?).map_err(serde)?;
        json_patch::merge(&mut object, change);
        let object: Service = serde_json::from_value(object).map_err(serde)?;
        let params = PostParams { field_manager: Some(self.manager.to_owned()), ..PostParams::default() };
        match self.part {
            Subresource::Object => services.replace(name, &params, &object).await,
            Subresource::Status => services.replace_status(name, &params, &object).await,
        }
    }
}

fn is_forbidden(answer: &Result<Service, kube::Error>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.code == 403)
}
