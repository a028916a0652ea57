//! Which Leases are watched: those of each namespace that a candidacy names or, beyond a number of namespaces, those of all
//! namespaces with our label.
//!
//! A watch is a connection, on every node and at the API server, and authors of Services may name namespaces.
//!
//! A Lease that no holder has labelled yet (the Go program's, or an earlier version's) is not shown by the watch of all
//! namespaces. Its election has no watch then, and reads it once per retry period. A watch without a selector would show it,
//! and the heartbeat of every node as well. Where a Role forbids the watch of all namespaces, all Leases are read.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::LeaseName;

/// Most namespaces that have a watch each.
const MAX_NAMESPACES: usize = 16;

/// What one watch shows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// All Leases of a namespace.
    Namespace(String),
    /// The Leases of all namespaces that have [`MANAGED_BY`](super::record::MANAGED_BY).
    Labelled,
}

impl Scope {
    pub fn contains(&self, lease: &LeaseName) -> bool {
        match self {
            Self::Namespace(namespace) => lease.namespace == *namespace,
            Self::Labelled => true,
        }
    }

    /// Whether a Lease that it does not show does not exist.
    pub fn is_complete(&self) -> bool {
        matches!(self, Self::Namespace(_))
    }
}

/// Watches to end and to start.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    pub ended: Vec<Scope>,
    pub started: Vec<Scope>,
}

/// The open watches.
#[derive(Debug, Default)]
pub struct Watches {
    /// Each with whether its list has arrived.
    scopes: BTreeMap<Scope, bool>,
}

impl Watches {
    /// Watches these namespaces and no others.
    pub fn cover(&mut self, namespaces: BTreeSet<String>) -> Changes {
        // Separate watches return well below the limit, so that one namespace more or less does not list everything again.
        let limit =
            if self.scopes.contains_key(&Scope::Labelled) { MAX_NAMESPACES / 2 } else { MAX_NAMESPACES };
        let wanted: BTreeSet<Scope> = match namespaces.len() > limit {
            true => [Scope::Labelled].into(),
            false => namespaces.into_iter().map(Scope::Namespace).collect(),
        };
        let ended: Vec<Scope> = self.scopes.keys().filter(|scope| !wanted.contains(scope)).cloned().collect();
        self.scopes.retain(|scope, _| wanted.contains(scope));
        let started: Vec<Scope> =
            wanted.into_iter().filter(|scope| !self.scopes.contains_key(scope)).collect();
        self.scopes.extend(started.iter().map(|scope| (scope.clone(), false)));
        Changes { ended, started }
    }

    /// The list of a watch has arrived. False if that watch has ended.
    pub fn set_listed(&mut self, scope: &Scope) -> bool {
        self.scopes.get_mut(scope).map(|listed| *listed = true).is_some()
    }

    pub fn is_listed(&self, scope: &Scope) -> bool {
        self.scopes.get(scope) == Some(&true)
    }

    /// The watch that shows a Lease, once its list has arrived.
    pub fn of(&self, lease: &LeaseName) -> Option<&Scope> {
        self.scopes.iter().find(|(scope, listed)| **listed && scope.contains(lease)).map(|(scope, _)| scope)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespaces(count: usize) -> BTreeSet<String> {
        (0..count).map(|number| format!("n{number}")).collect()
    }

    #[test]
    fn beyond_a_number_of_namespaces_one_watch_shows_all() {
        let mut watches = Watches::default();
        assert_eq!(watches.cover(namespaces(16)).started.len(), 16);
        let changes = watches.cover(namespaces(17));
        assert_eq!((changes.ended.len(), changes.started), (16, vec![Scope::Labelled]));
        assert_eq!(watches.cover(namespaces(1000)), Changes::default());
        assert_eq!(watches.cover(namespaces(9)), Changes::default());
        let changes = watches.cover(namespaces(8));
        assert_eq!((changes.ended, changes.started.len()), (vec![Scope::Labelled], 8));
    }

    #[test]
    fn the_watch_of_a_namespace_that_is_not_named_any_more_ends() {
        let mut watches = Watches::default();
        for number in 0..1000 {
            watches.cover([format!("n{number}")].into());
        }
        assert_eq!(watches.scopes, [(Scope::Namespace("n999".into()), false)].into());
        watches.cover(BTreeSet::new());
        assert!(watches.scopes.is_empty());
    }
}
