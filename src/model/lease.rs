//! The name of a Lease: what an election is about.

use std::fmt;

/// Namespace and name of a Lease.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl LeaseName {
    /// The name of a group of addresses that nobody is elected for.
    pub fn of_no_lease(name: &str) -> Self {
        Self { namespace: String::new(), name: name.to_owned() }
    }

    /// Whether there is such a Lease.
    pub fn is_lease(&self) -> bool {
        !self.namespace.is_empty()
    }
}

impl fmt::Display for LeaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
