//! When each DNS name is looked up: a few at a time, and a name without an answer less and less often.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::config::DnsMode;
use crate::model::{Backoff, BootTime};

/// Lookups in flight: the resolver's threads are few, and a server that does not answer keeps one for seconds.
const MAX_LOOKUPS: usize = 8;
/// Of these, lookups of Services' names that have addresses: slow answers must not keep others without any.
const MAX_REFRESHES: usize = 6;
/// Interval of queries, as in the Go program.
const DNS_INTERVAL: Duration = Duration::from_secs(3);
/// Longest pause of a name without an answer.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// The names to resolve, and their addresses.
#[derive(Debug)]
pub(super) struct Lookups {
    mode: DnsMode,
    control_plane: BTreeSet<String>,
    names: BTreeMap<String, Name>,
    in_flight: BTreeSet<String>,
}

#[derive(Debug)]
struct Name {
    addresses: Vec<IpAddr>,
    due: BootTime,
    backoff: Backoff,
}

/// What the answer to a query changes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Resolution {
    Unchanged,
    /// The name has these addresses now.
    Changed(Vec<IpAddr>),
    /// The first query without an answer, or the first since the last answer. The addresses stay.
    Failed,
}

impl Lookups {
    /// The names of the control plane come first, and are always queried at the same interval.
    pub(super) fn new(mode: DnsMode, control_plane: BTreeSet<String>) -> Self {
        Self { mode, control_plane, names: BTreeMap::new(), in_flight: BTreeSet::new() }
    }

    /// These names are to be resolved, and no others. Returns those that had addresses and are not resolved any more.
    pub(super) fn set(&mut self, now: BootTime, wanted: BTreeSet<String>) -> Vec<String> {
        let gone = self.names.extract_if(.., |name, _| !wanted.contains(name));
        let gone = gone.filter(|(_, it)| !it.addresses.is_empty()).map(|(name, _)| name).collect();
        for name in wanted {
            let backoff = Backoff::new(DNS_INTERVAL, BACKOFF_MAX);
            self.names.entry(name).or_insert(Name { addresses: Vec::new(), due: now, backoff });
        }
        gone
    }

    /// Names to query now. Those that answer precede those that do not: however many these are, they delay no others.
    pub(super) fn start(&mut self, now: BootTime) -> Vec<String> {
        let due = self.names.iter().filter(|(name, it)| it.due <= now && !self.in_flight.contains(*name));
        let precedence = |name: &String, it: &Name| {
            let other = !self.control_plane.contains(name);
            (other, it.addresses.is_empty(), it.backoff.attempts(), it.due)
        };
        let mut due: Vec<_> = due.map(|(name, it)| (precedence(name, it), name.clone())).collect();
        due.sort();
        let mut refreshes = self.refreshes();
        let mut may_start = |name: &String| {
            refreshes += usize::from(self.is_refresh(name));
            !self.is_refresh(name) || refreshes <= MAX_REFRESHES
        };
        let free = MAX_LOOKUPS.saturating_sub(self.in_flight.len());
        let started = due.into_iter().map(|(_, name)| name).filter(|name| may_start(name)).take(free);
        let started: Vec<String> = started.collect();
        self.in_flight.extend(started.iter().cloned());
        started
    }

    /// A query has ended; without an answer there are no addresses. Addresses stay as long as they are among the answers.
    pub(super) fn finish(&mut self, now: BootTime, name: &str, answers: &[IpAddr]) -> Resolution {
        self.in_flight.remove(name);
        let Some(it) = self.names.get_mut(name) else { return Resolution::Unchanged };
        let found = select(self.mode, answers);
        if found.is_empty() {
            let pause = it.backoff.next_pause();
            it.due = now + if self.control_plane.contains(name) { DNS_INTERVAL } else { pause };
            return if it.backoff.attempts() == 1 { Resolution::Failed } else { Resolution::Unchanged };
        }
        it.backoff.reset();
        it.due = now + DNS_INTERVAL;
        if !it.addresses.is_empty() && it.addresses.iter().all(|address| answers.contains(address)) {
            return Resolution::Unchanged;
        }
        it.addresses.clone_from(&found);
        Resolution::Changed(found)
    }

    /// When [`Self::start`] has more to start.
    #[must_use]
    pub(super) fn poll_timeout(&self) -> Option<BootTime> {
        if self.in_flight.len() >= MAX_LOOKUPS {
            return None;
        }
        let full = self.refreshes() >= MAX_REFRESHES;
        let waiting = self.names.iter().filter(|(name, _)| !self.in_flight.contains(*name));
        let may_start = waiting.filter(|(name, _)| !full || !self.is_refresh(name));
        may_start.map(|(_, it)| it.due).min()
    }

    /// See [`MAX_REFRESHES`].
    fn is_refresh(&self, name: &str) -> bool {
        let has_addresses = self.names.get(name).is_some_and(|it| !it.addresses.is_empty());
        has_addresses && !self.control_plane.contains(name)
    }

    fn refreshes(&self) -> usize {
        self.in_flight.iter().filter(|name| self.is_refresh(name)).count()
    }
}

/// Which of the answers for a name are used. With `Dual` both families are required.
fn select(mode: DnsMode, answers: &[IpAddr]) -> Vec<IpAddr> {
    let v4 = answers.iter().find(|address| address.is_ipv4()).copied();
    let v6 = answers.iter().find(|address| address.is_ipv6()).copied();
    match mode {
        DnsMode::First => answers.first().copied().into_iter().collect(),
        DnsMode::Ipv4 => v4.into_iter().collect(),
        DnsMode::Ipv6 => v6.into_iter().collect(),
        DnsMode::Dual => v4.zip(v6).map(|(v4, v6)| vec![v4, v6]).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_boot(Duration::from_secs(seconds))
    }

    fn address(last: u8) -> IpAddr {
        [192, 0, 2, last].into()
    }

    fn set(lookups: &mut Lookups, now: BootTime, names: &[&str]) -> Vec<String> {
        lookups.set(now, names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn each_mode_takes_its_answers() {
        let answers: Vec<IpAddr> =
            ["2001:db8::1", "192.0.2.1", "192.0.2.2"].map(|address| address.parse().unwrap()).into();
        let table = [
            (DnsMode::First, &answers[..1]),
            (DnsMode::Ipv4, &answers[1..2]),
            (DnsMode::Ipv6, &answers[..1]),
        ];
        for (mode, expected) in table {
            assert_eq!(select(mode, &answers), expected, "{mode:?}");
        }
        assert_eq!(select(DnsMode::Dual, &answers), [answers[1], answers[0]]);
        assert_eq!(select(DnsMode::Dual, &answers[1..]), Vec::<IpAddr>::new());
    }

    /// A thousand names of one user whose servers never answer.
    #[test]
    fn names_without_an_answer_do_not_delay_a_name_that_has_one() {
        let mut lookups = Lookups::new(DnsMode::First, ["vip.test".to_owned()].into());
        assert!(set(&mut lookups, at(0), &["web.example"]).is_empty());
        assert_eq!(lookups.start(at(0)), ["web.example"]);
        let found = lookups.finish(at(0), "web.example", &[address(1)]);
        assert_eq!(found, Resolution::Changed(vec![address(1)]));
        let mut wanted: BTreeSet<String> = (0..1000).map(|number| format!("{number}.silent")).collect();
        wanted.insert("web.example".into());
        lookups.set(at(0), wanted);
        // Each query of a silent name takes five seconds.
        let mut refreshed = Vec::new();
        let mut silent: Vec<String> = Vec::new();
        for now in (0..1000).step_by(5).map(at) {
            for name in std::mem::take(&mut silent) {
                lookups.finish(now, &name, &[]);
            }
            let started = lookups.start(now);
            assert!(lookups.in_flight.len() <= MAX_LOOKUPS);
            assert!(lookups.poll_timeout().is_none_or(|due| due > now));
            for name in started {
                if name == "web.example" {
                    refreshed.push(now);
                    assert_eq!(lookups.finish(now, &name, &[address(1)]), Resolution::Unchanged);
                } else {
                    silent.push(name);
                }
            }
        }
        let longest = refreshed.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap();
        assert_eq!(longest, Duration::from_secs(5));
        // All of the others have been asked in the meantime.
        assert!(lookups.names.iter().all(|(name, it)| name == "web.example" || it.backoff.attempts() > 0));
        // A name that is new is asked before they are asked again.
        let known: BTreeSet<String> = lookups.names.keys().cloned().collect();
        lookups.set(at(1000), known.into_iter().chain(["new.example".to_owned()]).collect());
        lookups.in_flight.clear();
        assert_eq!(lookups.start(at(2000))[..2], ["web.example", "new.example"]);
    }

    #[test]
    fn a_name_without_an_answer_keeps_its_addresses_and_is_asked_less_and_less_often() {
        let mut lookups = Lookups::new(DnsMode::First, ["vip.test".to_owned()].into());
        set(&mut lookups, at(0), &["web.example"]);
        let mut now = at(0);
        let mut ask = |answers: &[IpAddr]| {
            now = lookups.poll_timeout().unwrap();
            assert_eq!(lookups.start(now), ["web.example"]);
            assert_eq!((lookups.start(now), lookups.poll_timeout()), (Vec::new(), None));
            let resolution = lookups.finish(now, "web.example", answers);
            (resolution, lookups.poll_timeout().unwrap().since(now).as_secs())
        };
        assert_eq!(ask(&[]), (Resolution::Failed, 3));
        assert_eq!(ask(&[address(1), address(2)]), (Resolution::Changed(vec![address(1)]), 3));
        // Another order, then other addresses.
        assert_eq!(ask(&[address(2), address(1)]), (Resolution::Unchanged, 3));
        assert_eq!(ask(&[]), (Resolution::Failed, 3));
        for pause in [6, 12, 24, 48, 60, 60] {
            assert_eq!(ask(&[]), (Resolution::Unchanged, pause));
        }
        assert_eq!(ask(&[address(1)]), (Resolution::Unchanged, 3));
        assert_eq!(ask(&[address(2)]), (Resolution::Changed(vec![address(2)]), 3));
    }

    #[test]
    fn the_control_planes_name_comes_first_and_is_asked_as_often_as_before() {
        let mut lookups = Lookups::new(DnsMode::First, ["vip.test".to_owned()].into());
        set(&mut lookups, at(0), &["a.example", "vip.test"]);
        assert_eq!(lookups.start(at(0)), ["vip.test", "a.example"]);
        for round in 0..9 {
            lookups.finish(at(3 * round), "vip.test", &[]);
            assert_eq!(lookups.start(at(3 * round + 2)), [""; 0]);
            assert_eq!(lookups.start(at(3 * round + 3)), ["vip.test"]);
        }
    }

    #[test]
    fn slow_answers_for_many_names_leave_room_for_a_name_without_addresses() {
        let mut lookups = Lookups::new(DnsMode::First, ["vip.test".to_owned()].into());
        let names: Vec<String> = (0..20).map(|number| format!("{number:02}.slow")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).chain(["vip.test"]).collect();
        set(&mut lookups, at(0), &names);
        while let Some(name) = lookups.start(at(0)).first().cloned() {
            lookups.in_flight.clear();
            lookups.finish(at(0), &name, &[address(1)]);
        }
        set(&mut lookups, at(10), &[&names[..], &["new.example"]].concat());
        let started = lookups.start(at(10));
        assert_eq!(started.len(), MAX_REFRESHES + 2, "{started:?}");
        assert!(started.contains(&"new.example".to_owned()) && started.contains(&"vip.test".to_owned()));
        // The control plane's name is not kept waiting.
        lookups.finish(at(10), "vip.test", &[address(1)]);
        assert_eq!(lookups.poll_timeout(), Some(at(13)));
        assert_eq!(lookups.start(at(13)), ["vip.test"]);
    }

    #[test]
    fn a_name_that_is_not_wanted_any_more_is_forgotten() {
        let mut lookups = Lookups::new(DnsMode::First, ["vip.test".to_owned()].into());
        set(&mut lookups, at(0), &["a", "b"]);
        lookups.start(at(0));
        lookups.finish(at(0), "a", &[address(1)]);
        assert_eq!(set(&mut lookups, at(0), &[]), ["a"]);
        // The answer comes too late, or for the name that is wanted again.
        assert_eq!(lookups.finish(at(1), "b", &[address(2)]), Resolution::Unchanged);
        set(&mut lookups, at(1), &["a"]);
        assert_eq!(lookups.start(at(1)), ["a"]);
        assert_eq!(lookups.finish(at(1), "a", &[address(1)]), Resolution::Changed(vec![address(1)]));
    }
}
