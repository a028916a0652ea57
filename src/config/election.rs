//! The election for the control plane's VIPs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{HostFacts, Problem, Values};
use crate::config::Key;
use crate::model::LeaseName;

/// The election of the control plane, or of the cloud provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Election {
    pub lease: LeaseName,
    /// Time after the last observed renewal before another candidate may acquire the Lease.
    pub lease_duration: Duration,
    /// Time after its last renewal for which the leader keeps acting on it.
    pub renew_deadline: Duration,
    /// Time between renewals.
    pub retry_period: Duration,
    /// Annotations for the Lease.
    pub annotations: BTreeMap<String, String>,
}

pub(super) fn read(values: &Values, facts: &HostFacts) -> Election {
    let seconds = |seconds: u16| Duration::from_secs(seconds.into());
    Election {
        lease: lease(values, &values.lease_name, facts),
        lease_duration: seconds(values.lease_duration),
        renew_deadline: seconds(values.renew_deadline),
        retry_period: seconds(values.retry_period),
        annotations: values.lease_annotations.clone(),
    }
}

/// A Lease given as `name` or `namespace/name`.
pub(super) fn lease(values: &Values, given: &str, facts: &HostFacts) -> LeaseName {
    let default = facts.service_account_namespace.as_ref().unwrap_or(&values.namespace);
    let (namespace, name) = given.split_once('/').unwrap_or((default, given));
    LeaseName { namespace: namespace.to_owned(), name: name.to_owned() }
}

pub(super) fn check(values: &Values) -> Option<Problem> {
    let (duration, renew, retry) = (values.lease_duration, values.renew_deadline, values.retry_period);
    let origin = |key| values.raw.origin(key);
    (duration <= renew || renew <= retry).then(|| {
        Problem::Combination(format!(
            "the lease timings do not fit: vip_leaseduration ({duration}, {}) has to be greater than \
             vip_renewdeadline ({renew}, {}), and that greater than vip_retryperiod ({retry}, {})",
            origin(Key::LeaseDuration),
            origin(Key::RenewDeadline),
            origin(Key::RetryPeriod)
        ))
    })
}
