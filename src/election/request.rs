//! Sends a request for a Lease.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use kube::api::PostParams;
use tokio::time::timeout;

use super::elector::{Input, LeaseRequest, LeaseResponse};
use super::observer::{FailedCall, FailureReason, Observer};
use super::record::{Acquired, LeaderElectionRecord, LeaseObject, MANAGED_BY, WallTime, Write, sign};
use crate::cluster::{Api, ApiClient};
use crate::model::{LeaseName, LeaseOwner};
use crate::net::clock;

const NO_RESPONSE: LeaseResponse = LeaseResponse::Failed { retry_after: None };

/// Sends a request with a timeout. It starts when the future is first polled; the input has the start time.
///
/// A Lease that is created belongs to `owner`. The owner of an existing Lease is left as it is: where the admission plugin
/// OwnerReferencesPermissionEnforcement is on, changing it needs the right to delete the Lease.
pub async fn send(
    api: Arc<Api>,
    lease: LeaseName,
    owner: Option<LeaseOwner>,
    limit: Duration,
    observer: Arc<dyn Observer>,
    call: LeaseRequest,
) -> Input {
    let (started, wall) = (clock::now(), Timestamp::now());
    let verb = match &call {
        LeaseRequest::Read => "get",
        LeaseRequest::Create { .. } => "create",
        LeaseRequest::Replace { .. } => "update",
    };
    let chosen = match api.client().await {
        Ok(chosen) => chosen,
        Err(error) => {
            observer.no_access(&error.to_string());
            return Input::Response { started, response: NO_RESPONSE };
        }
    };
    let creating = matches!(call, LeaseRequest::Create { .. });
    let (response, reason, why) = match timeout(limit, perform(&chosen, &lease, owner, call, wall)).await {
        Ok(Ok(stored)) => {
            observer.call_succeeded(verb, &lease);
            return Input::Response { started, response: LeaseResponse::Object(Box::new(stored)) };
        }
        Ok(Err(error)) => {
            let (response, reason) = response_of(&error, creating);
            if crate::cluster::is_failure(&error) {
                api.failed(&chosen.server);
            } else if matches!(response, LeaseResponse::Failed { .. }) {
                // A claim may end before this server can serve a renewal again.
                api.avoid(&chosen.server);
            }
            (response, reason, describe(&error))
        }
        Err(_elapsed) => {
            api.failed(&chosen.server);
            (NO_RESPONSE, FailureReason::Timeout, "no response in time".to_owned())
        }
    };
    let failed = FailedCall { verb, lease: &lease, server: &chosen.server, reason, why: &why };
    observer.call_failed(failed);
    Input::Response { started, response }
}

async fn perform(
    chosen: &ApiClient,
    lease: &LeaseName,
    owner: Option<LeaseOwner>,
    call: LeaseRequest,
    wall: Timestamp,
) -> Result<LeaseObject, kube::Error> {
    let leases = kube::Api::<Lease>::namespaced(chosen.client.clone(), &lease.namespace);
    let stored = match call {
        LeaseRequest::Read => leases.get(&lease.name).await?,
        LeaseRequest::Create { write, annotations } => {
            let metadata = new_metadata(lease, owner, annotations);
            leases.create(&PostParams::default(), &object(write, metadata, wall)).await?
        }
        LeaseRequest::Replace { write, meta } => {
            leases.replace(&lease.name, &PostParams::default(), &object(write, *meta, wall)).await?
        }
    };
    Ok(lease_object(stored))
}

/// The metadata of a Lease to create.
fn new_metadata(
    lease: &LeaseName,
    owner: Option<LeaseOwner>,
    annotations: BTreeMap<String, String>,
) -> ObjectMeta {
    let reference = |LeaseOwner { service, uid }| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Service".to_owned(),
        name: service,
        uid,
        controller: Some(false),
        // `true` would need a right on the finalizers of Services.
        block_owner_deletion: Some(false),
    };
    let owner_references = owner.map(|owner| vec![reference(owner)]);
    let annotations = (!annotations.is_empty()).then_some(annotations);
    ObjectMeta { name: Some(lease.name.clone()), owner_references, annotations, ..ObjectMeta::default() }
}

/// The Lease that a write makes: signed, and with our label unless another program manages it. `renewTime` is `now`.
fn object(write: Write, mut metadata: ObjectMeta, now: Timestamp) -> Lease {
    let (label, value) = MANAGED_BY;
    metadata.labels.get_or_insert_default().entry(label.to_owned()).or_insert_with(|| value.to_owned());
    sign(&mut metadata, &write.host, now.as_microsecond());
    let acquired = match write.acquired {
        Acquired::Now => Some(now),
        Acquired::Keep(before) => before.and_then(|wall| Timestamp::from_microsecond(wall).ok()),
    };
    let spec = LeaseSpec {
        holder_identity: Some(write.holder),
        lease_duration_seconds: Some(write.duration_seconds),
        acquire_time: acquired.map(MicroTime),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(write.transitions),
        ..LeaseSpec::default()
    };
    Lease { metadata, spec: Some(spec) }
}

pub fn lease_object(lease: Lease) -> LeaseObject {
    let spec = lease.spec.unwrap_or_default();
    let wall = |time: Option<MicroTime>| -> Option<WallTime> { time.map(|time| time.0.as_microsecond()) };
    let record = LeaderElectionRecord {
        holder: spec.holder_identity.unwrap_or_default(),
        duration_seconds: spec.lease_duration_seconds.unwrap_or_default(),
        acquired: wall(spec.acquire_time),
        renewed: wall(spec.renew_time),
        transitions: spec.lease_transitions.unwrap_or_default(),
    };
    let mut meta = lease.metadata;
    meta.managed_fields = None;
    LeaseObject { record, meta }
}

fn response_of(error: &kube::Error, creating: bool) -> (LeaseResponse, FailureReason) {
    let kube::Error::Api(status) = error else { return (NO_RESPONSE, FailureReason::Error) };
    match status.code {
        // A creation answered with 404: the namespace does not exist.
        404 if creating => (LeaseResponse::Forbidden, FailureReason::Forbidden),
        404 => (LeaseResponse::NotFound, FailureReason::NotFound),
        409 => (LeaseResponse::Conflict, FailureReason::Conflict),
        403 => (LeaseResponse::Forbidden, FailureReason::Forbidden),
        400..500 if !matches!(status.code, 401 | 408 | 429) => {
            (LeaseResponse::Rejected, FailureReason::Rejected)
        }
        _ => {
            let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
            let retry_after = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
            (LeaseResponse::Failed { retry_after }, FailureReason::Error)
        }
    }
}

/// The server's message, else the error's.
fn describe(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;
    use crate::election::Candidate;

    #[test]
    fn the_status_decides_what_a_response_means() {
        use LeaseResponse::{Conflict, Failed, Forbidden, NotFound, Rejected};
        let failed = Failed { retry_after: None };
        for (code, creating, expected) in [
            (404, false, NotFound),
            (404, true, Forbidden),
            (409, false, Conflict),
            (403, false, Forbidden),
            (400, true, Rejected),
            (422, true, Rejected),
            (401, false, failed.clone()),
            (429, false, failed.clone()),
            (500, false, failed.clone()),
            (503, true, failed),
        ] {
            let error = kube::Error::Api(Box::new(Status { code, ..Status::failure("", "") }));
            assert_eq!(response_of(&error, creating).0, expected, "{code}");
        }
    }

    fn write() -> Write {
        let me = Candidate { identity: "node-a".into(), host: "boot/1".into() };
        Write::release(&me, &LeaderElectionRecord::default())
    }

    #[test]
    fn every_write_is_signed_for_its_own_time() {
        let lease = lease_object(object(write(), ObjectMeta::default(), Timestamp::MAX));
        assert_eq!(lease.host(), Some("boot/1"));
    }

    #[test]
    fn every_write_labels_the_lease_unless_another_program_manages_it() {
        let labels = |meta| object(write(), meta, Timestamp::UNIX_EPOCH).metadata.labels;
        let expected = |value: &str| Some([(MANAGED_BY.0.to_owned(), value.to_owned())].into());
        assert_eq!(labels(ObjectMeta::default()), expected("kube-vip"));
        assert_eq!(
            labels(ObjectMeta { labels: expected("Helm"), ..ObjectMeta::default() }),
            expected("Helm")
        );
        let unlabelled = LeaseObject::default();
        let labelled = LeaseObject {
            meta: ObjectMeta { labels: expected("kube-vip"), ..ObjectMeta::default() },
            ..unlabelled.clone()
        };
        assert!(labelled.is_labelled() && !unlabelled.is_labelled());
    }

    #[test]
    fn a_lease_that_stands_for_a_service_belongs_to_it() {
        let lease = LeaseName { namespace: "shop".into(), name: "kubevip-web".into() };
        let owner = LeaseOwner { service: "web".into(), uid: "an UID".into() };
        let annotations = [("scheme".to_owned(), "of the holder".to_owned())].into();
        let owned = new_metadata(&lease, Some(owner), annotations);
        assert_eq!(owned.annotations.unwrap()["scheme"], "of the holder");
        let references = owned.owner_references.unwrap();
        assert_eq!(
            serde_json::to_value(references).unwrap(),
            serde_json::json!([{ "apiVersion": "v1", "kind": "Service", "name": "web", "uid": "an UID",
                "controller": false, "blockOwnerDeletion": false }])
        );
        assert_eq!(new_metadata(&lease, None, BTreeMap::new()).owner_references, None);
    }
}
