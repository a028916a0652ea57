//! Which Leases are watched: those of each namespace that a candidacy names or, beyond a number of namespaces, those of all
//! namespaces with our label. The namespace of the election scheme always has a watch of its own: a Lease without our label
//! counts there, too.
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
    /// Watches these namespaces and no others: `always` by a watch of its own, the others if they are few.
    pub fn cover(&mut self, mut namespaces: BTreeSet<String>, always: Option<&str>) -> Changes {
        // Separate watches return well below the limit, so that one namespace more or less does not list everything again.
        let limit =
            if self.scopes.contains_key(&Scope::Labelled) { MAX_NAMESPACES / 2 } else { MAX_NAMESPACES };
        let many = namespaces.len() > limit;
        if many {
            namespaces.clear();
        }
        namespaces.extend(always.map(str::to_owned));
        let labelled = many.then_some(Scope::Labelled);
        let wanted: BTreeSet<Scope> = namespaces.into_iter().map(Scope::Namespace).chain(labelled).collect();
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

    /// Whether this is the one watch that counts for a Lease.
    pub fn shows(&self, scope: &Scope, lease: &LeaseName) -> bool {
        match scope {
            Scope::Namespace(namespace) => lease.namespace == *namespace,
            Scope::Labelled => !self.scopes.contains_key(&Scope::Namespace(lease.namespace.clone())),
        }
    }

    /// The watch that shows a Lease, once its list has arrived.
    pub fn of(&self, lease: &LeaseName) -> Option<&Scope> {
        let shown = |(scope, listed): &(&Scope, &bool)| **listed && self.shows(scope, lease);
        self.scopes.iter().find(shown).map(|(scope, _)| scope)
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
        assert_eq!(watches.cover(namespaces(16), None).started.len(), 16);
        let changes = watches.cover(namespaces(17), None);
        assert_eq!((changes.ended.len(), changes.started), (16, vec![Scope::Labelled]));
        assert_eq!(watches.cover(namespaces(1000), None), Changes::default());
        assert_eq!(watches.cover(namespaces(9), None), Changes::default());
        let changes = watches.cover(namespaces(8), None);
        assert_eq!((changes.ended, changes.started.len()), (vec![Scope::Labelled], 8));
    }

    #[test]
    fn the_namespace_of_the_scheme_keeps_its_watch() {
        let mut watches = Watches::default();
        let own = Scope::Namespace("n3".into());
        watches.cover(namespaces(16), Some("n3"));
        assert!(watches.set_listed(&own));
        let changes = watches.cover(namespaces(17), Some("n3"));
        assert_eq!((changes.ended.len(), changes.started), (15, vec![Scope::Labelled]));
        watches.set_listed(&Scope::Labelled);
        let lease = |namespace: &str| LeaseName { namespace: namespace.to_owned(), name: "x".into() };
        assert_eq!(watches.of(&lease("n3")), Some(&own));
        assert_eq!(watches.of(&lease("n4")), Some(&Scope::Labelled));
        assert!(!watches.shows(&Scope::Labelled, &lease("n3")));
    }

    #[test]
    fn the_watch_of_a_namespace_that_is_not_named_any_more_ends() {
        let mut watches = Watches::default();
        for number in 0..1000 {
            watches.cover([format!("n{number}")].into(), None);
        }
        assert_eq!(watches.scopes, [(Scope::Namespace("n999".into()), false)].into());
        watches.cover(BTreeSet::new(), None);
        assert!(watches.scopes.is_empty());
    }
}
