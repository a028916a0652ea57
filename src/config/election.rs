//! The election for the control plane's VIPs.

use std::collections::BTreeMap;
use std::time::Duration;

use super::services::{self, ServiceElection};
use super::{HostFacts, Problem, Values};
use crate::config::Key;
use crate::model::LeaseName;
use crate::model::validation::is_label;

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

/// Lease duration, renew deadline and retry period in seconds, as in the table of settings.
const DEFAULTS: [u16; 3] = [15, 10, 2];

pub(super) fn read(values: &Values, facts: &HostFacts) -> Election {
    let seconds = |seconds: u16| Duration::from_secs(seconds.into());
    let given = [values.lease_duration, values.renew_deadline, values.retry_period];
    // A Service with a DHCP lease is elected even where no setting asks for an election.
    let [duration, deadline, period] = if check_timings(values).is_some() { DEFAULTS } else { given };
    Election {
        lease: lease(values, &values.lease_name, facts),
        lease_duration: seconds(duration),
        renew_deadline: seconds(deadline),
        retry_period: seconds(period),
        annotations: values.lease_annotations.clone(),
    }
}

/// A Lease given as `name` or `namespace/name`; [`check`] reports an invalid name.
pub(super) fn lease(values: &Values, given: &str, facts: &HostFacts) -> LeaseName {
    let default = facts.service_account_namespace.as_ref().unwrap_or(&values.namespace);
    LeaseName::parse(default, given)
        .unwrap_or_else(|| LeaseName { namespace: default.clone(), name: given.to_owned() })
}

/// Names that the API server rejects, and timings that do not fit. Without an election the timings are a note.
pub(super) fn check(values: &Values, notes: &mut Vec<String>) -> Vec<Problem> {
    let mut problems = check_names(values);
    let room = values.lease_duration.saturating_sub(values.renew_deadline);
    if room == 1 && is_held(values) {
        notes.push(format!(
            "vip_leaseduration ({}) is only a second longer than vip_renewdeadline ({}): the kernel may drop the address of a \
             killed agent a second after another node has it; make it two seconds",
            values.lease_duration, values.renew_deadline
        ));
    }
    match check_timings(values) {
        Some(text) if is_held(values) => problems.push(Problem::Combination(text)),
        text => notes.extend(text.map(|text| {
            format!("{text}; by these settings no node is elected, so the defaults are used where a Service needs it")
        })),
    }
    problems
}

/// Whether any Lease is used: see [`Config::elects`](super::Config::elects).
pub(super) fn is_held(values: &Values) -> bool {
    let of_services = values.on_demand_election || services::election(values) != ServiceElection::EveryNode;
    elects_control_plane(values) || (values.services && of_services)
}

/// See [`Config::elects_control_plane`](super::Config::elects_control_plane).
pub(crate) fn elects_control_plane(values: &Values) -> bool {
    let routed = values.bgp || values.routing_table;
    values.control_plane && (!routed || (values.bgp && values.leader_election))
}

/// Names that the API server rejects.
pub(super) fn check_names(values: &Values) -> Vec<Problem> {
    let raw = &values.raw;
    let mut problems = Vec::new();
    for key in [Key::LeaseName, Key::ServicesLeaseName] {
        // The default namespace is checked by itself.
        if LeaseName::parse("kube-system", raw.text(key)).is_none() {
            problems.push(raw.unacceptable(key, LeaseName::ALLOWED));
        }
    }
    for key in [Key::Namespace, Key::ServiceNamespace] {
        let namespace = raw.text(key);
        // All namespaces.
        let none = namespace.is_empty() && key == Key::ServiceNamespace;
        if !none && !is_label(namespace) {
            let allowed = "the name of a namespace: at most 63 lower-case letters, digits and `-`";
            problems.push(raw.unacceptable(key, allowed));
        }
    }
    problems
}

fn check_timings(values: &Values) -> Option<String> {
    let (duration, renew, retry) = (values.lease_duration, values.renew_deadline, values.retry_period);
    let origin = |key| values.raw.origin(key);
    (duration <= renew || renew <= retry || retry == 0).then(|| {
        format!(
            "the lease timings do not fit: vip_leaseduration ({duration}, {}) has to be greater than \
             vip_renewdeadline ({renew}, {}), that greater than vip_retryperiod ({retry}, {}), and that at least 1",
            origin(Key::LeaseDuration),
            origin(Key::RenewDeadline),
            origin(Key::RetryPeriod)
        )
    })
}
