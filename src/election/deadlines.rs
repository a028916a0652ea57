//! The deadlines of many electors: an event of one costs nothing for the others.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{BootTime, LeaseName};

#[derive(Debug, Default)]
pub(super) struct Deadlines {
    by_lease: BTreeMap<LeaseName, BootTime>,
    queue: BTreeSet<(BootTime, LeaseName)>,
}

impl Deadlines {
    pub(super) fn set(&mut self, lease: &LeaseName, deadline: Option<BootTime>) {
        let before = match deadline {
            Some(at) => self.by_lease.insert(lease.clone(), at),
            None => self.by_lease.remove(lease),
        };
        if before == deadline {
            return;
        }
        before.map(|at| self.queue.remove(&(at, lease.clone())));
        self.queue.extend(deadline.map(|at| (at, lease.clone())));
    }

    pub(super) fn first(&self) -> Option<BootTime> {
        self.queue.first().map(|(at, _)| *at)
    }

    /// Leases whose deadline has come, by their deadlines.
    pub(super) fn due(&self, now: BootTime) -> Vec<LeaseName> {
        self.queue.iter().take_while(|(at, _)| *at <= now).map(|(_, lease)| lease.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn lease(number: u8) -> LeaseName {
        LeaseName { namespace: "kube-system".into(), name: number.to_string() }
    }

    proptest! {
        /// The same as a search of all deadlines.
        #[test]
        fn the_first_and_all_due_deadlines_are_found(
            changes in prop::collection::vec((0..5_u8, prop::option::of(0..10_u64)), 0..30),
            now in 0..10_u64,
        ) {
            let at = |second| BootTime::from_boot(Duration::from_secs(second));
            let (mut deadlines, mut expected) = (Deadlines::default(), BTreeMap::new());
            for (number, second) in changes {
                deadlines.set(&lease(number), second.map(at));
                match second {
                    Some(second) => drop(expected.insert(number, second)),
                    None => drop(expected.remove(&number)),
                }
            }
            prop_assert_eq!(deadlines.first(), expected.values().min().copied().map(at));
            let mut due: Vec<(u64, u8)> = expected.iter().map(|(number, second)| (*second, *number)).collect();
            due.retain(|(second, _)| *second <= now);
            due.sort_unstable();
            let due: Vec<LeaseName> = due.into_iter().map(|(_, number)| lease(number)).collect();
            prop_assert_eq!(deadlines.due(at(now)), due);
        }
    }
}
