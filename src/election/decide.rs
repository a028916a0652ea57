//! What the Lease, as last seen, allows this host to do.
//!
//! Expiry is judged by this host's own clock alone: a record is good for its duration from the moment we
//! first saw it in this form (client-go's rule). The times written in it are never compared with our clock.

use std::time::Duration;

use super::record::{LeaderElectionRecord, LeaseObject};
use crate::model::BootTime;

/// What this host knows of the Lease.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "there is one of it in a process")]
pub enum ObservedLease {
    /// It was never read.
    Unknown,
    /// It does not exist.
    Missing {
        /// From when on it may be created: a holder whose Lease was deleted still has its claim until then.
        free_at: BootTime,
    },
    /// It exists.
    Present {
        /// In this form.
        lease: LeaseObject,
        /// First seen in this form at this moment.
        first_seen: BootTime,
    },
}

impl ObservedLease {
    /// The record, where there is one.
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

    /// Take note of what a read, a write or a watch event showed.
    #[must_use]
    pub fn observe(self, lease: LeaseObject, now: BootTime) -> Self {
        match self {
            Self::Present { lease: before, first_seen } if before.record == lease.record => {
                Self::Present { lease, first_seen }
            }
            _ => Self::Present { lease, first_seen: now },
        }
    }

    /// Take note that the Lease does not exist.
    ///
    /// Whoever held it last may have renewed it after we last looked, and its claim outlives the deletion: where
    /// a Lease is known to have been there, a whole duration has to pass. A Lease that was never seen is free at
    /// once; the address is then probed for before it is used.
    #[must_use]
    pub fn missing(self, fallback: Duration, now: BootTime) -> Self {
        match self {
            Self::Present { lease, .. } => {
                Self::Missing { free_at: now + lease.record.duration(fallback).max(fallback) }
            }
            Self::Missing { free_at } => Self::Missing { free_at },
            Self::Unknown => Self::Missing { free_at: now },
        }
    }
}

/// What the Lease allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Read it first.
    Read,
    /// It is ours: renew.
    Renew,
    /// Take it (or create it) from this moment on.
    Acquire {
        /// Not before.
        at: BootTime,
    },
}

/// What `seen` allows the host `me`; `fallback` is our own lease duration.
pub fn decide(seen: &ObservedLease, me: &str, fallback: Duration) -> Decision {
    match seen {
        ObservedLease::Unknown => Decision::Read,
        ObservedLease::Missing { free_at } => Decision::Acquire { at: *free_at },
        ObservedLease::Present { lease, first_seen } => {
            let record = &lease.record;
            if record.holder == me {
                Decision::Renew
            } else if record.is_released() {
                Decision::Acquire { at: *first_seen }
            } else {
                Decision::Acquire { at: *first_seen + record.duration(fallback) }
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
        ];
        for (seen, expected) in table {
            assert_eq!(decide(&seen, "me", FIVE), expected, "{seen:?}");
        }
    }

    #[test]
    fn only_a_changed_record_starts_the_clock_again() {
        let seen = ObservedLease::Unknown.observe(lease("a", 1, 5), at(10));
        let annotated = {
            let mut lease = lease("a", 1, 5);
            lease.meta.resource_version = Some("9".into());
            lease
        };
        let seen = seen.observe(annotated, at(12));
        assert_eq!(decide(&seen, "me", FIVE), Decision::Acquire { at: at(15) });
        let seen = seen.observe(lease("a", 2, 5), at(13));
        assert_eq!(decide(&seen, "me", FIVE), Decision::Acquire { at: at(18) });
    }

    #[test]
    fn a_clock_that_is_wrong_by_an_hour_in_the_record_changes_nothing() {
        let hour = 3_600_000_000;
        for renewed in [-hour, 0, hour] {
            let seen = ObservedLease::Unknown.observe(lease("a", renewed, 5), at(10));
            assert_eq!(decide(&seen, "me", FIVE), Decision::Acquire { at: at(15) });
        }
    }

    #[test]
    fn a_deleted_lease_protects_its_last_holder_for_its_duration() {
        let seen = ObservedLease::Unknown.observe(lease("a", 1, 5), at(10)).missing(FIVE, at(11));
        assert_eq!(seen, ObservedLease::Missing { free_at: at(16) });
        assert_eq!(seen.missing(FIVE, at(14)), ObservedLease::Missing { free_at: at(16) });
    }

    #[test]
    fn a_lease_that_was_never_seen_is_free_at_once() {
        assert_eq!(ObservedLease::Unknown.missing(FIVE, at(11)), ObservedLease::Missing { free_at: at(11) });
    }
}
