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
/// A Service that another node announced meanwhile was not overwritten: this many times in a row.
const MOVES_MAX: u32 = 3;

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
    /// How often another node was found in between.
    moves: u32,
}

/// Whether another node has announced the Service meanwhile, or claims so.
fn has_moved(view: &ServiceView, change: &Change) -> bool {
    view.annotation(VIP_HOST).is_some_and(|host| Some(host) != change.host.as_deref())
}

impl Overwrites {
    pub(super) fn retain(&mut self, now: BootTime, exists: impl Fn(&ServiceKey) -> bool) {
        self.written.retain(|key, written| exists(key) && now < written.until + STABLE);
    }

    /// When a change of a Service may be written; none: now.
    pub(super) fn postponed(
        &self,
        key: &ServiceKey,
        view: &ServiceView,
        change: &Change,
    ) -> Option<BootTime> {
        let written = self.written.get(key).filter(|written| written.change.is_same(change))?;
        (written.moves >= MOVES_MAX || !has_moved(view, change)).then_some(written.until)
    }

    /// A change was written. Returns the fields that did not stay, for an Event, and the pause until the next write.
    pub(super) fn record(
        &mut self,
        now: BootTime,
        key: &ServiceKey,
        view: &ServiceView,
        change: Change,
    ) -> Option<(String, Duration)> {
        let moves = match self.written.get(key).filter(|written| written.change.is_same(&change)) {
            Some(written) if has_moved(view, &change) => written.moves + 1,
            Some(written) => written.moves,
            None => 0,
        };
        if self.postponed(key, view, &change).is_none() {
            self.written.remove(key);
        }
        let fields = change.differences(view).join(", ");
        let first = Written { change, backoff: Backoff::new(BACKOFF_MIN, BACKOFF_MAX), until: now, moves };
        let written = self.written.entry(key.clone()).or_insert(first);
        written.moves = moves;
        let pause = written.backoff.next_pause();
        written.until = now + pause;
        (written.backoff.attempts() == REPORTED_AFTER).then_some((fields, pause))
    }

    /// The ends of all pauses.
    pub(super) fn ends(&self) -> impl Iterator<Item = BootTime> {
        self.written.values().map(|written| written.until)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use std::collections::BTreeSet;

    use super::*;

    /// Two nodes that both believe to announce a Service must not write at the speed of the API server.
    #[test]
    fn a_service_that_moves_again_and_again_is_written_with_growing_pauses() {
        let key = ServiceKey { namespace: "lab".into(), name: "web".into() };
        let change = Change {
            resource_version: String::new(),
            ingress: Vec::new(),
            host: Some("me".to_owned()),
            kept: BTreeSet::new(),
            annotations: BTreeMap::new(),
            of_another: false,
        };
        let annotations = BTreeMap::from([(VIP_HOST.to_owned(), "other".to_owned())]);
        let elsewhere = ServiceView { annotations, ..ServiceView::default() };
        let mut overwrites = Overwrites::default();
        let mut now = BootTime::from_boot(Duration::from_secs(1000));
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let until = overwrites.postponed(&key, &elsewhere, &change).unwrap_or(now).max(now);
            pauses.push(until.since(now).as_secs());
            now = until;
            overwrites.record(now, &key, &elsewhere, change.clone());
        }
        assert_eq!(pauses, [0, 0, 0, 0, 1, 2, 4, 8, 16]);
        assert_eq!(
            overwrites.postponed(&key, &ServiceView::default(), &change),
            Some(now + Duration::from_secs(32))
        );
    }
}
