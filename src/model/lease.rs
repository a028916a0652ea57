//! The name of a Lease.

use std::fmt;

use super::validation::{is_label, is_subdomain};

/// A Lease object (`coordination.k8s.io/v1`).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseName {
    pub namespace: String,
    pub name: String,
}

/// Own Leases of Services begin with this.
pub const OWN_LEASES: &str = "kubevip-";

impl LeaseName {
    /// What [`Self::parse`] accepts, for messages.
    pub const ALLOWED: &str =
        "the name of a Lease: `name` or `namespace/name`, of lower-case letters, digits, `-` and `.`";

    /// Reads `name` or `namespace/name`; `namespace` is the default. None for a name that the API server rejects.
    pub fn parse(namespace: &str, text: &str) -> Option<Self> {
        let (namespace, name) = text.split_once('/').unwrap_or((namespace, text));
        let valid = is_label(namespace) && is_subdomain(name);
        valid.then(|| Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
