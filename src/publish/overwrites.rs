//! Writes that do not stay: another client writes the same fields of a Service, or the API server drops a field that it does
//! not know.

use std::collections::BTreeMap;
use std::time::Duration;

use super::status::Change;
use crate::model::annotation::VIP_HOST;
use crate::model::{Backoff, BootTime, ServiceKey, ServiceView};

/// Pauses before the same is written once more.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// A write that has stayed for this long is forgotten.
const STABLE: Duration = Duration::from_secs(600);
/// The owner of a Service gets an Event after this many writes of the same.
const REPORTED_AFTER: u32 = 4;

/// What was written last to each Service.
#[derive(Debug, Default)]
pub(super) struct Overwrites {
    written: BTreeMap<ServiceKey, Written>,
}

#[derive(Debug)]
struct Written {
    change: Change,
    backoff: Backoff,
    /// The same is not written again before this moment.
    until: BootTime,
}

impl Overwrites {
    pub(super) fn retain(&mut self, now: BootTime, exists: impl Fn(&ServiceKey) -> bool) {
        self.written.retain(|key, written| exists(key) && now < written.until + STABLE);
    }

    /// When a change of a Service may be written; none: now. A Service that another node announced meanwhile was not
    /// overwritten.
    pub(super) fn postponed(
        &self,
        key: &ServiceKey,
        view: &ServiceView,
        change: &Change,
    ) -> Option<BootTime> {
        let written = self.written.get(key).filter(|written| written.change.is_same(change))?;
        let moved = view.annotation(VIP_HOST).is_some_and(|host| Some(host) != change.host.as_deref());
        (!moved).then_some(written.until)
    }

    /// A change was written. Returns the fields that did not stay, for an Event, and the pause until the next write.
    pub(super) fn record(
        &mut self,
        now: BootTime,
        key: &ServiceKey,
        view: &ServiceView,
        change: Change,
    ) -> Option<(String, Duration)> {
        if self.postponed(key, view, &change).is_none() {
            self.written.remove(key);
        }
        let fields = change.differences(view).join(", ");
        let first = Written { change, backoff: Backoff::new(BACKOFF_MIN, BACKOFF_MAX), until: now };
        let written = self.written.entry(key.clone()).or_insert(first);
        let pause = written.backoff.next_pause();
        written.until = now + pause;
        (written.backoff.attempts() == REPORTED_AFTER).then_some((fields, pause))
    }

    /// The ends of all pauses.
    pub(super) fn ends(&self) -> impl Iterator<Item = BootTime> {
        self.written.values().map(|written| written.until)
    }
}
