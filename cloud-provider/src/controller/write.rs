//! One write to one Service.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::api::{PatchParams, PostParams};
use kube_vip::api::Api;
use kube_vip::model::{ServiceKey, ServiceView, service};
use tokio::time::timeout;

use crate::plan::Patch;

/// How long a write may take. Shorter than what lies between the end of a claim and another's beginning.
pub const PATIENCE: Duration = Duration::from_secs(4);
const MANAGER: &str = "kube-vip-cloud-provider";

/// What became of it.
#[derive(Debug)]
pub enum Outcome {
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

/// Writes patches, and where the role is an old one that lacks the right to, whole objects.
#[derive(Debug, Default)]
pub struct Writer {
    may_not_patch: AtomicBool,
}

impl Writer {
    /// Write, on the condition that the Service is as it was when the patch was decided on.
    pub async fn write(&self, api: &Api, key: &ServiceKey, patch: &Patch) -> Outcome {
        let chosen = match api.client().await {
            Ok(chosen) => chosen,
            Err(error) => return Outcome::Failed(error.to_string()),
        };
        let services = kube::Api::<Service>::namespaced(chosen.client, &key.namespace);
        let Ok(written) = timeout(PATIENCE, self.attempt(&services, key, patch)).await else {
            api.failed(&chosen.server);
            return Outcome::Failed("no answer in time".to_owned());
        };
        match written {
            Ok(service) => match service::view(service) {
                Some((_, view)) => Outcome::Done(Box::new(view)),
                None => Outcome::Failed("the answer is no Service".to_owned()),
            },
            Err(kube::Error::Api(status)) => match status.code {
                404 => Outcome::Gone,
                409 => Outcome::Conflict,
                400..=499 if status.code != 429 => Outcome::Refused(status.message.clone()),
                _ => Outcome::Failed(status.message.clone()),
            },
            Err(error) => {
                api.failed(&chosen.server);
                Outcome::Failed(error.to_string())
            }
        }
    }

    async fn attempt(
        &self,
        services: &kube::Api<Service>,
        key: &ServiceKey,
        patch: &Patch,
    ) -> Result<Service, kube::Error> {
        let json = patch.to_json();
        if self.may_not_patch.load(Ordering::Relaxed) {
            let replaced = replace(services, key, &json).await;
            // The role was mended meanwhile, or it is another trouble: patch again from the next time on.
            self.may_not_patch.store(!is_forbidden(&replaced), Ordering::Relaxed);
            return replaced;
        }
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patched = services.patch(&key.name, &params, &kube::api::Patch::Merge(&json)).await;
        if !is_forbidden(&patched) {
            return patched;
        }
        let replaced = replace(services, key, &json).await;
        // An API server that has just started refuses everything for a moment.
        if replaced.is_ok() && !self.may_not_patch.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                "the role has no right to `patch` services: each address costs a read more; apply the role that \
                 `kube-vip-cloud-provider manifest` prints"
            );
        }
        replaced
    }
}

fn is_forbidden(answer: &Result<Service, kube::Error>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.code == 403)
}

/// The patch as a read and a write of the whole object. The patch brings the version it was decided on along: a newer
/// Service is refused as a conflict.
async fn replace(
    services: &kube::Api<Service>,
    key: &ServiceKey,
    json: &serde_json::Value,
) -> Result<Service, kube::Error> {
    let mut object = serde_json::to_value(services.get(&key.name).await?).map_err(kube::Error::SerdeError)?;
    json_patch::merge(&mut object, json);
    let object: Service = serde_json::from_value(object).map_err(kube::Error::SerdeError)?;
    let params = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
    services.replace(&key.name, &params, &object).await
}
