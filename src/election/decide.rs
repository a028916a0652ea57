//! What this host may do with the Lease as last observed.
//!
//! Expiry is measured by this host's clock alone: a record is valid for its duration from the moment it was first observed
//! in its present form (client-go's rule). The times in the record are never compared with the clock.

use std::time::Duration;

use super::record::{LeaderElectionRecord, LeaseObject};
use crate::model::BootTime;

/// The Lease as last observed (client-go: `observedRecord`, `observedTime`).
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one of it in a process")]
pub enum ObservedLease {
    /// Never read.
    Unknown,
    Missing {
        /// It may be created from then on: until then the claim of the deleted Lease's holder may be valid.
        free_at: BootTime,
    },
    Present {
        lease: LeaseObject,
        /// First observed in this form.
        first_seen: BootTime,
        /// The longest duration that this holder has written. A shorter one, written by hand, does not shorten a claim that
        /// the holder has already.
        longest: Duration,
    },
}

/// The longest duration that settings accept; a Lease with a longer one would keep all hosts away.
const LONGEST: Duration = Duration::from_secs(3600);

impl ObservedLease {
    pub fn record(&self) -> Option<&LeaderElectionRecord> {
        match self {
            Self::Present { lease, .. } => Some(&lease.record),
            _ => None,
        }
    }

    /// The identity in the Lease, unless it is vacant.
    pub fn holder(&self) -> Option<&str> {
        self.record().map(|record| record.holder.as_str()).filter(|holder| !holder.is_empty())
    }

    /// Observes the result of a read, a write or a watch event.
    pub fn observe(&mut self, lease: LeaseObject, now: BootTime) {
        let written = lease.record.duration(Duration::ZERO);
        let mut longest = written;
        if let Self::Present { lease: before, longest: earlier, .. } = self {
            if before.record == lease.record {
                *before = lease;
                return;
            }
            let term = |record: &LeaderElectionRecord| (record.holder.clone(), record.transitions);
            let emptied = lease.record.holder.is_empty() && !lease.record.is_released();
            if emptied || term(&before.record) == term(&lease.record) {
                longest = written.max(*earlier);
            }
        }
        *self = Self::Present { lease, first_seen: now, longest };
    }

    /// Observes that the Lease does not exist.
    ///
    /// The last holder may have renewed it after the last observation, and its claim outlives the deletion: a known Lease
    /// is free after its whole duration. A Lease that was never observed is free at once; the address is then probed before
    /// it is used.
    pub fn observe_missing(&mut self, fallback: Duration, now: BootTime) {
        let free_at = match self {
            Self::Present { longest, .. } => now + protection(*longest, fallback),
            Self::Missing { free_at } => *free_at,
            Self::Unknown => now,
        };
        *self = Self::Missing { free_at };
    }
}

/// How long a claim that has once been written for `longest` is protected.
fn protection(longest: Duration, fallback: Duration) -> Duration {
    longest.max(fallback).min(LONGEST)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Read,
    /// It names this host.
    Renew,
    /// Acquire or create it.
    Acquire {
        /// Not before.
        at: BootTime,
    },
}

/// The decision of a host that the Lease names if it `is_ours`; `fallback` is the host's own lease duration, and the least that
/// a claim is protected for.
pub fn decide(seen: &ObservedLease, is_ours: bool, fallback: Duration) -> Decision {
    match seen {
        ObservedLease::Present { .. } if is_ours => Decision::Renew,
        ObservedLease::Unknown => Decision::Read,
        ObservedLease::Missing { free_at } => Decision::Acquire { at: *free_at },
        ObservedLease::Present { lease, first_seen, longest } => {
            let record = &lease.record;
            if record.is_released() {
                Decision::Acquire { at: *first_seen }
            } else {
                Decision::Acquire { at: *first_seen + protection(*longest, fallback) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIVE: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> BootTime {
        BootTime::from_boot(Duration::from_secs(seconds))
    }

    fn lease(holder: &str, renewed: i64, duration_seconds: i32) -> LeaseObject {
        let record = LeaderElectionRecord {
            holder: holder.into(),
            renewed: Some(renewed),
            duration_seconds,
            ..LeaderElectionRecord::default()
        };
        LeaseObject { record, ..LeaseObject::default() }
    }

    #[test]
    fn what_each_state_of_the_lease_allows() {
        let seen = |holder: &str, duration| ObservedLease::Present {
            lease: lease(holder, 1, duration),
            first_seen: at(100),
            longest: Duration::from_secs(u64::try_from(duration).unwrap_or(0)),
        };
        let table = [
            (ObservedLease::Unknown, Decision::Read),
            (ObservedLease::Missing { free_at: at(3) }, Decision::Acquire { at: at(3) }),
            (seen("me", 5), Decision::Renew),
            (seen("", 1), Decision::Acquire { at: at(100) }),
            (seen("", 0), Decision::Acquire { at: at(100) }),
            (seen("", 5), Decision::Acquire { at: at(105) }),
            (seen("other", 15), Decision::Acquire { at: at(115) }),
            (seen("other", 0), Decision::Acquire { at: at(105) }),
            (seen("other", -4), Decision::Acquire { at: at(105) }),
            (seen("other", 1), Decision::Acquire { at: at(105) }),
            (seen("other", i32::MAX), Decision::Acquire { at: at(3700) }),
        ];
        for (seen, expected) in table {
            let is_ours = seen.holder() == Some("me");
            assert_eq!(decide(&seen, is_ours, FIVE), expected, "{seen:?}");
        }
    }

    #[test]
    fn only_a_changed_record_starts_the_clock_again() {
        let mut seen = ObservedLease::Unknown;
        seen.observe(lease("a", 1, 5), at(10));
        let mut annotated = lease("a", 1, 5);
        annotated.meta.resource_version = Some("9".into());
        seen.observe(annotated, at(12));
        assert_eq!(decide(&seen, false, FIVE), Decision::Acquire { at: at(15) });
        seen.observe(lease("a", 2, 5), at(13));
        assert_eq!(decide(&seen, false, FIVE), Decision::Acquire { at: at(18) });
    }

    #[test]
    fn a_duration_made_shorter_by_hand_does_not_end_a_claim_early() {
        let mut seen = ObservedLease::Unknown;
        seen.observe(lease("a", 1, 15), at(10));
        seen.observe(lease("a", 1, 1), at(11));
        assert_eq!(decide(&seen, false, FIVE), Decision::Acquire { at: at(26) });
        // Another holder has its own duration.
        let mut other = lease("b", 1, 6);
        other.record.transitions = 1;
        seen.observe(other, at(20));
        assert_eq!(decide(&seen, false, FIVE), Decision::Acquire { at: at(26) });
    }

    #[test]
    fn a_clock_that_is_wrong_by_an_hour_in_the_record_changes_nothing() {
        let hour = 3_600_000_000;
        for renewed in [-hour, 0, hour] {
            let mut seen = ObservedLease::Unknown;
            seen.observe(lease("a", renewed, 5), at(10));
            assert_eq!(decide(&seen, false, FIVE), Decision::Acquire { at: at(15) });
        }
    }

    #[test]
    fn a_deleted_lease_protects_its_last_holder_for_its_duration() {
        let mut seen = ObservedLease::Unknown;
        seen.observe(lease("a", 1, 5), at(10));
        for now in [11, 14] {
            seen.observe_missing(FIVE, at(now));
            assert_eq!(seen, ObservedLease::Missing { free_at: at(16) });
        }
    }

    #[test]
    fn a_lease_that_was_never_seen_is_free_at_once() {
        let mut seen = ObservedLease::Unknown;
        seen.observe_missing(FIVE, at(11));
        assert_eq!(seen, ObservedLease::Missing { free_at: at(11) });
    }
}
