//! Asks the API server what the pod's ServiceAccount, or the user of the credentials, may do.

use futures::StreamExt;
use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec, SubjectAccessReview,
    SubjectAccessReviewSpec,
};
use kube::api::PostParams;
use kube::{Api, Client};

use super::driver::{Context, REQUEST_TIMEOUT};
use super::manifest::ServiceAccount;
use crate::cluster::within;
use crate::config::{Config, Values};
use crate::manifest::rbac::{self, Right};

/// Reviews that are sent at once.
const REVIEWS: usize = 8;

/// Rights that the API server refuses to the ServiceAccount of the pod, or to this process.
pub(super) async fn denied(
    config: &Config,
    context: &Context,
    client: &Client,
) -> Result<Vec<Right>, String> {
    let values = Values::read(config.raw.clone())
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))?;
    let account = context.account.as_ref();
    let reviews = rbac::rights(&values, context.namespace.as_deref()).into_iter().map(|right| async move {
        let allowed = within(REQUEST_TIMEOUT, allows(client, account, &right)).await;
        let allowed = allowed.map_err(|problem| problem.why)?;
        Ok(Some(right).filter(|_| !allowed))
    });
    let results: Vec<Result<Option<Right>, String>> =
        futures::stream::iter(reviews).buffered(REVIEWS).collect().await;
    let denied: Result<Vec<Option<Right>>, String> = results.into_iter().collect();
    Ok(denied?.into_iter().flatten().collect())
}

async fn allows(client: &Client, account: Option<&ServiceAccount>, right: &Right) -> kube::Result<bool> {
    let (resource, subresource) = match right.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (right.resource, None),
    };
    let attributes = Some(ResourceAttributes {
        namespace: right.namespace.clone(),
        group: Some(right.group.to_owned()),
        resource: Some(resource.to_owned()),
        subresource,
        name: right.name.clone(),
        verb: Some(right.verb.to_owned()),
        ..ResourceAttributes::default()
    });
    let params = PostParams::default();
    let status = match account {
        Some(account) => {
            let spec = SubjectAccessReviewSpec {
                user: Some(account.user()),
                groups: Some(account.groups()),
                resource_attributes: attributes,
                ..Default::default()
            };
            let review = SubjectAccessReview { spec, ..Default::default() };
            Api::<SubjectAccessReview>::all(client.clone()).create(&params, &review).await?.status
        }
        None => {
            let spec = SelfSubjectAccessReviewSpec { resource_attributes: attributes, ..Default::default() };
            let review = SelfSubjectAccessReview { spec, ..Default::default() };
            Api::<SelfSubjectAccessReview>::all(client.clone()).create(&params, &review).await?.status
        }
    };
    Ok(status.is_some_and(|status| status.allowed))
}
