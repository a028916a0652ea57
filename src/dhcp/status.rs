//! Leases in `kube-vip status`.

use serde::{Deserialize, Serialize};

use super::spec::{ClientStatus, LeaseKey};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LeaseStatus {
    /// A Service, or the control plane.
    pub owner: String,
    /// IPv4 or IPv6.
    pub family: String,
    pub state: String,
    /// Until the lease expires.
    pub address: Option<String>,
    /// Server and times.
    pub lease: Option<String>,
    pub last_error: Option<String>,
}

impl LeaseStatus {
    pub fn of(owner: &str, key: &LeaseKey, status: &ClientStatus) -> Self {
        Self {
            owner: owner.to_owned(),
            family: key.family.to_string(),
            state: status.state.to_string(),
            address: status.address.map(|address| address.to_string()),
            lease: status.saved.as_ref().map(ToString::to_string),
            last_error: status.last_error.clone(),
        }
    }

    pub fn line(&self) -> String {
        let Self { owner, family, state, .. } = self;
        let lease = self.lease.as_ref().or(self.address.as_ref());
        let lease = lease.map(|lease| format!(": {lease}")).unwrap_or_default();
        let error = self.last_error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
        format!("{owner} {family} {state}{lease}{error}")
    }
}
