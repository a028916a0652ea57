//! The Lease as client-go's LeaseLock reads and writes it.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The label of our Leases: they are found by it in all namespaces.
pub const MANAGED_BY: (&str, &str) = ("app.kubernetes.io/managed-by", "kube-vip");

/// The annotation of [`LeaseObject::host`].
const WRITTEN_BY: &str = "kube-vip.io/written-by";
/// On a Lease whose holder does not know yet whether another host has the address, or knows that one has it.
const UNVERIFIED: &str = "kube-vip.io/address-unverified";
const TRUE: &str = "true";

/// A time of day as written into a Lease, in microseconds since 1970. Never compared with this host's clock.
pub type WallTime = i64;

/// The election's part of a Lease (client-go: `resourcelock.LeaderElectionRecord`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LeaderElectionRecord {
    /// `spec.holderIdentity`; empty when the Lease was released.
    pub holder: String,
    /// `spec.leaseDurationSeconds`; zero when absent.
    pub duration_seconds: i32,
    /// `spec.acquireTime`.
    pub acquired: Option<WallTime>,
    /// `spec.renewTime`.
    pub renewed: Option<WallTime>,
    /// `spec.leaseTransitions`.
    pub transitions: i32,
}

impl LeaderElectionRecord {
    /// Whether its holder released it.
    ///
    /// A release writes a duration of one second (client-go) or none. An empty holder with a longer duration was
    /// emptied by hand: the holder may still be acting on its claim, so the full duration has to pass.
    pub fn is_released(&self) -> bool {
        self.holder.is_empty() && self.duration_seconds <= 1
    }

    /// How long the record is valid after it was first observed.
    ///
    /// The record's own duration, as in client-go; `fallback` where it has none, so that a Lease written by
    /// hand with a holder and nothing else does not count as expired.
    pub fn duration(&self, fallback: Duration) -> Duration {
        match u64::try_from(self.duration_seconds) {
            Ok(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => fallback,
        }
    }
}

/// A record with the metadata of its object.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LeaseObject {
    pub record: LeaderElectionRecord,
    /// The object's metadata: a write keeps it, and its `resourceVersion` is the precondition.
    pub meta: ObjectMeta,
}

impl LeaseObject {
    /// The `resourceVersion`, as a number where it is one (Kubernetes 1.35 and later promise that).
    pub fn version(&self) -> Option<u64> {
        self.meta.resource_version.as_deref().and_then(|version| version.parse().ok())
    }

    /// The host that wrote the record. None where another program did, or an administrator: those keep the annotation, but
    /// not with the `renewTime` that it was written for.
    pub fn host(&self) -> Option<&str> {
        let (host, renewed) = self.meta.annotations.as_ref()?.get(WRITTEN_BY)?.rsplit_once(' ')?;
        (renewed.parse().ok() == Some(self.record.renewed?)).then_some(host)
    }

    /// Whether its holder, or the last one, did not know the address to be free. Not where another program wrote the record
    /// and kept the annotation.
    pub fn is_unverified(&self) -> bool {
        let mark = self.meta.annotations.as_ref().and_then(|all| all.get(UNVERIFIED));
        mark.is_some_and(|mark| mark == TRUE) && self.host().is_some()
    }

    /// Whether it has [`MANAGED_BY`].
    pub fn is_labelled(&self) -> bool {
        let (name, value) = MANAGED_BY;
        self.meta.labels.iter().any(|labels| labels.get(name).is_some_and(|found| found == value))
    }

    /// Whether `other` is an older state. The store has one counter, so this holds across deletion and creation, until the
    /// store is restored from a backup.
    pub fn is_newer_than(&self, other: &Self) -> bool {
        matches!((self.version(), other.version()), (Some(mine), Some(theirs)) if mine > theirs)
    }
}

/// Notes among the annotations of a Lease whether its holder has yet to verify the address. Counts once the write is signed.
pub fn mark_unverified(annotations: &mut BTreeMap<String, String>, unverified: bool) {
    if unverified {
        annotations.insert(UNVERIFIED.to_owned(), TRUE.to_owned());
    } else {
        annotations.remove(UNVERIFIED);
    }
}

/// Notes in the metadata of a Lease which host writes its record, with this `renewTime`.
pub fn sign(meta: &mut ObjectMeta, host: &str, renewed: WallTime) {
    meta.annotations.get_or_insert_default().insert(WRITTEN_BY.to_owned(), format!("{host} {renewed}"));
}

/// How this host names itself in Leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// `holderIdentity`. Two hosts may have the same by mistake.
    pub identity: String,
    /// See [`LeaseObject::host`].
    pub host: String,
}

/// A write of the record. `renewTime` is the time of the write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The new holder; empty to release.
    pub holder: String,
    /// The host that writes.
    pub host: String,
    pub duration_seconds: i32,
    pub acquired: Acquired,
    pub transitions: i32,
}

/// `acquireTime` of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acquired {
    Now,
    /// Keep the previous value.
    Keep(Option<WallTime>),
}

impl Write {
    /// Create the Lease, or acquire it from the holder of `before`.
    pub fn acquire(me: &Candidate, duration: Duration, before: Option<&LeaderElectionRecord>) -> Self {
        Self {
            holder: me.identity.clone(),
            host: me.host.clone(),
            duration_seconds: i32::try_from(duration.as_secs()).unwrap_or(i32::MAX),
            acquired: Acquired::Now,
            transitions: before.map_or(0, |record| record.transitions.saturating_add(1)),
        }
    }

    /// Renew: client-go keeps `acquireTime` and the count while the holder stays the same.
    pub fn renew(me: &Candidate, duration: Duration, before: &LeaderElectionRecord) -> Self {
        let acquired = Acquired::Keep(before.acquired);
        Self { acquired, transitions: before.transitions, ..Self::acquire(me, duration, None) }
    }

    /// Release, as client-go does it: no holder, a duration of one second.
    pub fn release(me: &Candidate, before: &LeaderElectionRecord) -> Self {
        let transitions = before.transitions;
        Self { holder: String::new(), transitions, ..Self::acquire(me, Duration::from_secs(1), None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_by(holder: &str) -> LeaderElectionRecord {
        LeaderElectionRecord {
            holder: holder.into(),
            duration_seconds: 5,
            acquired: Some(10),
            renewed: Some(20),
            transitions: 3,
        }
    }

    fn me(identity: &str) -> Candidate {
        Candidate { identity: identity.into(), host: "host".into() }
    }

    #[test]
    fn a_signature_counts_for_the_record_that_it_was_written_for() {
        let mut lease = LeaseObject { record: held_by("a"), ..LeaseObject::default() };
        assert_eq!(lease.host(), None);
        sign(&mut lease.meta, "boot id/1", 20);
        assert_eq!(lease.host(), Some("boot id/1"));
        for renewed in [Some(21), None] {
            lease.record.renewed = renewed;
            assert_eq!(lease.host(), None);
        }
    }

    #[test]
    fn renewing_keeps_the_time_of_acquisition_and_the_count() {
        let write = Write::renew(&me("a"), Duration::from_secs(5), &held_by("a"));
        assert_eq!((write.acquired, write.transitions), (Acquired::Keep(Some(10)), 3));
    }

    #[test]
    fn taking_counts_a_transition() {
        let write = Write::acquire(&me("b"), Duration::from_secs(5), Some(&held_by("a")));
        assert_eq!((write.acquired, write.transitions), (Acquired::Now, 4));
    }

    #[test]
    fn a_release_looks_like_client_gos() {
        let write = Write::release(&me("a"), &held_by("a"));
        assert_eq!((write.holder.as_str(), write.duration_seconds, write.transitions), ("", 1, 3));
    }

    #[test]
    fn a_record_without_duration_is_good_for_ours() {
        let record = LeaderElectionRecord { duration_seconds: 0, ..held_by("a") };
        assert_eq!(record.duration(Duration::from_secs(7)), Duration::from_secs(7));
    }
}
