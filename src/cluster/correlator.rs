//! Limits the Events of a process, as client-go's EventCorrelator does: an Event that repeats an earlier one becomes a new
//! count of that, and each object has a token bucket.

use std::collections::BTreeMap;
use std::mem;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;

use super::event::Event;
use crate::model::BootTime;
use crate::model::hash::fnv1a;

/// Events about one object: as many at once, and one more after each interval.
const BURST: u32 = 25;
const REFILL_INTERVAL: Duration = Duration::from_secs(300);
/// An Event that occurs again within this time is counted.
const REPEAT_WINDOW: Duration = Duration::from_secs(600);
/// Objects, and Events, that are remembered.
const REMEMBERED_MAX: usize = 4096;
/// Names of objects have at most 253 characters. The rest is for the suffix.
const NAME_MAX: usize = 200;

/// An Event that is to be written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Occurrence {
    pub(super) event: Event,
    /// The Event object's name; None leaves it to the API server.
    pub(super) name: Option<String>,
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    /// More than 1: the object may exist, with a smaller count.
    pub(super) count: i32,
}

impl Occurrence {
    /// What to create where the API server rejects the patch of the known object with this status.
    pub(super) fn instead(self, code: u16) -> Option<Self> {
        match code {
            // It was deleted, or not written: by the token bucket, or in a failed request.
            404 => Some(self),
            // Roles of earlier versions lack the verb `patch`.
            403 => Some(Self { name: None, first: self.last, count: 1, ..self }),
            _ => None,
        }
    }
}

/// Kind, namespace, name and UID.
type Object = [Option<String>; 4];

/// Of an Event: its object, whether it is a warning, its reason and its message.
type EventKey = (Object, bool, &'static str, String);

#[derive(Debug)]
struct Known {
    name: String,
    first: Timestamp,
    last: BootTime,
    count: i32,
}

#[derive(Debug, Default)]
pub(super) struct Correlator {
    known: Recent<EventKey, Known>,
    /// When the token bucket of each object is full again.
    full_at: Recent<Object, BootTime>,
    /// The last suffix of a name.
    suffix: i128,
}

impl Correlator {
    /// Counts an Event that occurs at `now`, by the wall clock at `wall`. Returns what to write, if anything.
    pub(super) fn observe(&mut self, now: BootTime, wall: Timestamp, event: Event) -> Option<Occurrence> {
        let object = object(&event.about);
        let key = (object.clone(), event.warning, event.reason, event.message.clone());
        let known = match self.known.remove(&key).filter(|known| now.since(known.last) < REPEAT_WINDOW) {
            Some(known) => Known { last: now, count: known.count.saturating_add(1), ..known },
            None => Known { name: self.name(&event, wall), first: wall, last: now, count: 1 },
        };
        let (name, first, count) = (known.name.clone(), known.first, known.count);
        self.known.insert(key, known);
        // What is dropped is counted, too: the next one that is written has the number of all.
        self.take_token(now, object).then_some(Occurrence {
            event,
            name: Some(name),
            first,
            last: wall,
            count,
        })
    }

    fn take_token(&mut self, now: BootTime, object: Object) -> bool {
        let full_at = self.full_at.remove(&object).unwrap_or_default().max(now);
        let permitted = full_at.since(now) <= REFILL_INTERVAL * (BURST - 1);
        self.full_at.insert(object, if permitted { full_at + REFILL_INTERVAL } else { full_at });
        permitted
    }

    /// As client-go names Events: the object and the time. A shared Event has a hash of its text instead, which is the same in
    /// each process.
    fn name(&mut self, event: &Event, wall: Timestamp) -> String {
        let about = &event.about;
        let suffix = if event.shared {
            let uid = about.uid.as_deref().unwrap_or_default();
            i128::from(fnv1a(format!("{uid} {} {}", event.reason, event.message).as_bytes()))
        } else {
            // Unique in this process, also where the wall clock is coarse or was set back.
            self.suffix = wall.as_nanosecond().max(self.suffix.saturating_add(1));
            self.suffix
        };
        let name = about.name.as_deref().unwrap_or_default();
        let name = name.get(..name.floor_char_boundary(NAME_MAX)).unwrap_or_default();
        format!("{}.{suffix:x}", name.trim_end_matches(['-', '.']))
    }
}

fn object(about: &ObjectReference) -> Object {
    [about.kind.clone(), about.namespace.clone(), about.name.clone(), about.uid.clone()]
}

/// The values of the keys that were inserted last: at least half of [`REMEMBERED_MAX`], at most all.
#[derive(Debug)]
struct Recent<K, V> {
    newer: BTreeMap<K, V>,
    older: BTreeMap<K, V>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { newer: BTreeMap::new(), older: BTreeMap::new() }
    }
}

impl<K: Ord, V> Recent<K, V> {
    fn remove(&mut self, key: &K) -> Option<V> {
        self.newer.remove(key).or_else(|| self.older.remove(key))
    }

    fn insert(&mut self, key: K, value: V) {
        if self.newer.len() >= REMEMBERED_MAX / 2 {
            self.older = mem::take(&mut self.newer);
        }
        self.newer.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_boot(Duration::from_secs(seconds))
    }

    fn wall(seconds: u64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + i64::try_from(seconds).unwrap()).unwrap()
    }

    fn event(object: &str, message: &str) -> Event {
        let about = ObjectReference { name: Some(object.to_owned()), ..ObjectReference::default() };
        Event {
            about,
            warning: true,
            reason: "AnnotationIgnored",
            message: message.to_owned(),
            shared: false,
        }
    }

    fn observe(correlator: &mut Correlator, seconds: u64, object: &str, message: &str) -> Option<Occurrence> {
        correlator.observe(at(seconds), wall(seconds), event(object, message))
    }

    #[test]
    fn a_repeated_event_is_a_new_count_of_the_first() {
        let mut correlator = Correlator::default();
        let first = observe(&mut correlator, 100, "web", "a").unwrap();
        assert_eq!((first.count, first.first, first.last), (1, wall(100), wall(100)));
        let again = observe(&mut correlator, 699, "web", "a").unwrap();
        assert_eq!((again.count, again.first, again.last), (2, wall(100), wall(699)));
        assert_eq!(again.name, first.name);
        let late = observe(&mut correlator, 1299, "web", "a").unwrap();
        assert_eq!((late.count, late.name == first.name), (1, false));
        for (object, message) in [("web", "b"), ("shop", "a")] {
            let other = observe(&mut correlator, 1300, object, message).unwrap();
            assert_eq!((other.count, other.name == late.name), (1, false), "{object} {message}");
        }
    }

    #[test]
    fn a_hundred_changes_are_a_burst_and_then_one_event_in_five_minutes() {
        let mut correlator = Correlator::default();
        let written = (0..100).filter(|change| {
            observe(&mut correlator, 1000 + change / 10, "web", &format!("value {change}")).is_some()
        });
        assert_eq!(written.count(), 25);
        assert!(observe(&mut correlator, 1010, "shop", "a").is_some(), "each object has its own");
        // An annotation that flips for an hour.
        let mut written = Vec::new();
        for second in 1010..4600 {
            let text = if second % 2 == 0 { "a" } else { "b" };
            written.extend(observe(&mut correlator, second, "web", text));
        }
        assert!((11..=12).contains(&written.len()), "{}", written.len());
        // Counts include what was not written.
        assert!(written.last().unwrap().count > 1000);
    }

    #[test]
    fn memory_is_bounded_and_what_is_used_is_kept() {
        let mut correlator = Correlator::default();
        for number in 0..20_000 {
            observe(&mut correlator, 1000, &format!("web-{number}"), "a");
            if number % 1000 == 0 {
                observe(&mut correlator, 1000, "used", "a");
            }
        }
        let length = |newer: usize, older: usize| newer + older;
        assert!(length(correlator.known.newer.len(), correlator.known.older.len()) <= REMEMBERED_MAX);
        assert!(length(correlator.full_at.newer.len(), correlator.full_at.older.len()) <= REMEMBERED_MAX);
        assert_eq!(observe(&mut correlator, 1000, "used", "a").unwrap().count, 21);
    }

    #[test]
    fn names_are_distinct_and_accepted_by_the_api_server() {
        let mut correlator = Correlator::default();
        let long = format!("{}-.{}", "a".repeat(199), "b".repeat(50));
        let names: Vec<String> = ["web", "web", long.as_str()]
            .into_iter()
            .enumerate()
            .map(|(number, object)| {
                observe(&mut correlator, 0, object, &number.to_string()).unwrap().name.unwrap()
            })
            .collect();
        assert_ne!(names[0], names[1]);
        assert!(names[0].starts_with("web."), "{}", names[0]);
        assert!(names.iter().all(|name| crate::model::validation::is_subdomain(name)), "{names:?}");
    }

    /// Otherwise a Service has the same Event from each node, and from each process of a node.
    #[test]
    fn a_shared_event_has_one_name_in_all_processes() {
        let name = |shared, message: &str, uid: &str, second| {
            let event = event("web", message);
            let about = ObjectReference { uid: Some(uid.to_owned()), ..event.about };
            let event = Event { about, shared, ..event };
            Correlator::default().observe(at(0), wall(second), event).unwrap().name.unwrap()
        };
        assert_eq!(name(true, "a", "u", 1), name(true, "a", "u", 2));
        for other in [name(true, "b", "u", 1), name(true, "a", "v", 1), name(false, "a", "u", 1)] {
            assert_ne!(name(true, "a", "u", 1), other);
        }
        assert_ne!(name(false, "a", "u", 1), name(false, "a", "u", 2));
    }

    #[test]
    fn an_event_that_cannot_be_patched_is_created() {
        let mut correlator = Correlator::default();
        observe(&mut correlator, 0, "web", "a");
        let again = observe(&mut correlator, 60, "web", "a").unwrap();
        assert_eq!(again.clone().instead(404), Some(again.clone()));
        let new = again.clone().instead(403).unwrap();
        assert_eq!((new.name, new.first, new.last, new.count), (None, wall(60), wall(60), 1));
        assert_eq!(again.instead(500), None);
    }
}
