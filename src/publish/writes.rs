//! When the status of each Service is written.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::Sources;
use super::overwrites::Overwrites;
use super::status::{Change, Here, change};
use crate::cluster::event::Event;
use crate::cluster::write::WriteResult;
use crate::model::annotation::{IGNORE, MDNS_NAME, UPNP_EXTERNAL_IP, VIP_HOST};
use crate::model::hash::{fnv1a, spread};
use crate::model::{Backoff, BootTime, GroupId, HostStatus, ServiceKey, ServiceView};
use crate::planner::plan::ServicePlan;
use crate::planner::select::is_ignored;

/// Writes in flight.
const MAX_WRITES: usize = 16;
/// Back-off after a failed write of a Service.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// After a change of the announced addresses writes that can wait leave the API server to the elections for this long.
const SETTLE_TIME: Duration = Duration::from_millis(300);
/// Spreads the writes of nodes that could all write the same status.
const WRITE_JITTER: Duration = Duration::from_millis(300);
/// The plan has seen a written version after this time, unless versions went back with the restore of a backup.
const SEEN_TIMEOUT: Duration = Duration::from_secs(10);
/// The node that a write belongs to makes it sooner.
const STAND_IN_DELAY: Duration = Duration::from_secs(2);

/// A write of the status of a Service.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) key: ServiceKey,
    pub(super) change: Change,
    /// For the Service once it is written: another node announces it than before, or none.
    event: Option<Event>,
}

/// The schedule of writes.
#[derive(Debug, Default)]
pub(super) struct StatusWrites {
    in_flight: BTreeSet<ServiceKey>,
    /// Written versions that the plan may not have seen yet, each with the end of the wait for that.
    written: BTreeMap<ServiceKey, (ServiceView, BootTime)>,
    /// Failed writes, and when they are repeated.
    failures: BTreeMap<ServiceKey, (Backoff, BootTime)>,
    overwrites: Overwrites,
    /// Start of this node's write where every node could write.
    postponed: BTreeMap<ServiceKey, BootTime>,
    /// End of the last [`SETTLE_TIME`].
    settled_at: BootTime,
}

impl StatusWrites {
    /// Forgets Services that are not planned any more.
    pub(super) fn retain(&mut self, now: BootTime, sources: &Sources) {
        let services = &sources.plan.services;
        self.overwrites.retain(now, |key| services.contains_key(key));
        let outdated = |key: &ServiceKey, written: &ServiceView| {
            services.get(key).is_some_and(|service| service.view.is_older_than(written))
        };
        self.written.retain(|key, (written, until)| now < *until && outdated(key, written));
        self.failures.retain(|key, _| services.get(key).is_some_and(|service| !service.terminating));
        self.postponed.retain(|key, _| services.contains_key(key));
    }

    /// The announced addresses have changed.
    pub(super) fn settle(&mut self, now: BootTime) {
        // Not twice in a row: a flapping address must not postpone writes forever.
        if now >= self.settled_at + SETTLE_TIME {
            self.settled_at = now + SETTLE_TIME;
        }
    }

    /// Writes to start now, as many as may be in flight.
    pub(super) fn start(&mut self, now: BootTime, sources: &Sources) -> Vec<Write> {
        let mut writes = Vec::new();
        for (key, service) in &sources.plan.services {
            if self.in_flight.len() >= MAX_WRITES {
                break;
            }
            let paused = self.failures.get(key).is_some_and(|(_, until)| now < *until);
            let waiting = self.in_flight.contains(key) || self.written.contains_key(key);
            if paused || waiting || service.terminating {
                continue;
            }
            if let Some(write) = self.due(now, sources, key, service) {
                self.in_flight.insert(key.clone());
                writes.push(write);
            }
        }
        writes
    }

    fn due(
        &mut self,
        now: BootTime,
        sources: &Sources,
        key: &ServiceKey,
        service: &ServicePlan,
    ) -> Option<Write> {
        let me = &sources.options.me;
        let anycast = service.group == Some(GroupId::EveryNode);
        let (external, entries) = sources.external_addresses(key, service);
        let mut annotations = service.lease_annotations.clone();
        annotations.extend(sources.name_annotation(key, service).map(|text| (MDNS_NAME, text)));
        annotations.extend(external.map(|text| (UPNP_EXTERNAL_IP, text)));
        let HostStatus { held, taken, .. } = &sources.host;
        let here = Here { held, taken, me, anycast, external: entries };
        let Some(change) = change(service, here, annotations) else {
            self.postponed.remove(key);
            return None;
        };
        let host = service.view.annotation(VIP_HOST);
        // One node's write is enough.
        if change.of_another || (anycast && host != Some(me)) {
            let delay = if change.of_another { STAND_IN_DELAY } else { Duration::ZERO };
            let seed = fnv1a(format!("{me}/{key}").as_bytes());
            let due = self.postponed.entry(key.clone());
            if now < *due.or_insert_with(|| now + delay + WRITE_JITTER.mul_f64(spread(seed, 0))) {
                return None;
            }
        }
        // With the same address only the node's name changes: no traffic depends on it.
        if change.status_is_written(&service.view) && now < self.settled_at {
            return None;
        }
        if self.overwrites.postponed(key, &service.view, &change).is_some_and(|until| now < until) {
            return None;
        }
        let event = event(sources, key, service, &change);
        Some(Write { key: key.clone(), change, event })
    }

    /// The result of a write. Returns an Event about the Service.
    pub(super) fn finish(
        &mut self,
        now: BootTime,
        sources: &Sources,
        write: Write,
        result: WriteResult,
    ) -> Option<Event> {
        let Write { key, change, event } = write;
        self.in_flight.remove(&key);
        let WriteResult::Done(view) = result else {
            let first = (Backoff::new(BACKOFF_MIN, BACKOFF_MAX), now);
            let (backoff, until) = self.failures.entry(key).or_insert(first);
            *until = now + backoff.next_pause();
            return None;
        };
        self.failures.remove(&key);
        let service = sources.plan.services.get(&key)?;
        let overwritten = self.overwrites.record(now, &key, &service.view, change);
        let overwritten = overwritten.map(|(fields, pause)| {
            let text = format!(
                "another client overwrites {fields}, or the API server drops it; kube-vip writes it again after {pause:?}: \
                 let only one controller write the status of the Service"
            );
            sources.event(&key, true, "StatusOverwritten", text)
        });
        if service.view.is_older_than(&view) {
            self.written.insert(key, (*view, now + SEEN_TIMEOUT));
        }
        overwritten.or(event)
    }

    /// When [`Self::start`] may have something to do.
    #[must_use]
    pub(super) fn poll_timeout(&self, now: BootTime) -> Option<BootTime> {
        let retries = self.failures.values().map(|(_, until)| *until);
        let due = retries.chain(self.postponed.values().copied()).chain(self.overwrites.ends());
        let due = due.chain(self.written.values().map(|(_, until)| *until)).chain([self.settled_at]);
        due.filter(|at| *at > now).min()
    }
}

/// The Event if another node announces the Service than before, or none.
fn event(sources: &Sources, key: &ServiceKey, service: &ServicePlan, change: &Change) -> Option<Event> {
    if service.view.annotation(VIP_HOST) == change.host.as_deref() {
        return None;
    }
    let before = service.view.status.iter().filter_map(|entry| entry.ip);
    let gone = service.addresses.is_empty();
    let addresses: Vec<IpAddr> = if gone { before.collect() } else { service.served().collect() };
    let addresses: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    let addresses = addresses.join(", ");
    let taken = |address: &IpAddr| sources.host.taken.contains(address);
    let Some(node) = &change.host else {
        let why = match service.refusal() {
            Some(refusal) => refusal.to_string(),
            None if service.lost_lease() => "its DHCP lease is lost".to_owned(),
            None if is_ignored(&service.view) => format!("{IGNORE} is set"),
            None if gone && !service.unresolved => "the Service does not ask for it any more".to_owned(),
            None if service.has_endpoints && service.addresses.iter().any(taken) => {
                "another host has it".to_owned()
            }
            None => "the Service has no ready endpoints".to_owned(),
        };
        return Some(sources.event(key, true, "AddressWithdrawn", format!("withdrew {addresses}: {why}")));
    };
    Some(sources.event(key, false, "AddressGained", format!("node {node} announces {addresses}")))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::annotation::DHCP_LEASE;
    use crate::model::service::Ingress;
    use crate::planner::plan::{Issue, Plan};
    use crate::publish::Options;

    const ADDRESS: &str = "192.0.2.1";

    fn at(milliseconds: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(milliseconds))
    }

    fn key() -> ServiceKey {
        ServiceKey { namespace: "lab".into(), name: "web".into() }
    }

    fn view(version: &str) -> ServiceView {
        ServiceView { resource_version: version.into(), ..ServiceView::default() }
    }

    /// A node that announces one Service of this version, as the elected one or as any node does.
    fn sources(version: &str, anycast: bool) -> Sources {
        let address: IpAddr = ADDRESS.parse().unwrap();
        let service = ServicePlan {
            view: Arc::new(view(version)),
            addresses: vec![address],
            group: anycast.then_some(GroupId::EveryNode),
            servable_here: true,
            has_endpoints: true,
            ..ServicePlan::default()
        };
        let plan = Plan { services: [(key(), service)].into(), ..Plan::default() };
        Sources {
            options: Options { me: "node-1".into(), ..Options::default() },
            plan: Arc::new(plan),
            host: HostStatus { held: [address].into(), ..HostStatus::default() },
            ..Sources::default()
        }
    }

    fn done(version: &str) -> WriteResult {
        WriteResult::Done(Box::new(view(version)))
    }

    #[test]
    fn a_write_is_followed_by_none_until_the_plan_has_seen_it() {
        let mut writes = StatusWrites::default();
        let before = sources("1", false);
        let write = writes.start(at(1000), &before).pop().unwrap();
        assert!(writes.start(at(1000), &before).is_empty(), "one at a time");
        let event = writes.finish(at(1000), &before, write, done("2")).unwrap();
        assert_eq!(
            (event.reason, event.message.as_str()),
            ("AddressGained", "node node-1 announces 192.0.2.1")
        );
        assert!(writes.start(at(1000), &before).is_empty(), "the plan is of an earlier version");
        let after = sources("2", false);
        writes.retain(at(1000), &after);
        assert_eq!(writes.start(at(2000), &after).len(), 1);
    }

    #[test]
    fn a_written_version_that_the_plan_never_sees_is_waited_for_only_so_long() {
        let mut writes = StatusWrites::default();
        let before = sources("1", false);
        let write = writes.start(at(1000), &before).pop().unwrap();
        writes.finish(at(1000), &before, write, done("1000"));
        // The store was restored from a backup.
        let restored = sources("500", false);
        writes.retain(at(10_999), &restored);
        assert!(writes.start(at(10_999), &restored).is_empty());
        assert_eq!(writes.poll_timeout(at(10_999)), Some(at(11_000)));
        writes.retain(at(11_000), &restored);
        assert_eq!(writes.start(at(11_000), &restored).len(), 1);
    }

    #[test]
    fn what_does_not_stay_is_written_with_growing_pauses_and_reported_once() {
        let (mut writes, mut now, mut events) = (StatusWrites::default(), 1000, Vec::new());
        for (version, pause) in [("1", 1), ("3", 2), ("5", 4), ("7", 8), ("9", 16)] {
            let found = sources(version, false);
            writes.retain(at(now), &found);
            let write = writes.start(at(now), &found).pop().unwrap();
            let next = format!("{}", version.parse::<u32>().unwrap() + 1);
            events.extend(writes.finish(at(now), &found, write, done(&next)));
            let reverted = sources(&format!("{}", next.parse::<u32>().unwrap() + 1), false);
            writes.retain(at(now), &reverted);
            assert!(writes.start(at(now + pause * 1000 - 1), &reverted).is_empty());
            assert_eq!(writes.poll_timeout(at(now)), Some(at(now + pause * 1000)));
            now += pause * 1000;
        }
        let overwritten: Vec<_> = events
            .iter()
            .filter(|event| event.reason == "StatusOverwritten")
            .map(|event| &event.message)
            .collect();
        assert_eq!(
            overwritten,
            [&format!(
                "another client overwrites status.loadBalancer.ingress, {VIP_HOST}, or the API server drops it; kube-vip \
                 writes it again after 8s: let only one controller write the status of the Service"
            )]
        );
        // Anything else is written at once.
        let mut moved = sources("11", false);
        let service = Arc::get_mut(&mut moved.plan).unwrap().services.get_mut(&key()).unwrap();
        Arc::make_mut(&mut service.view).ports = vec![(crate::model::service::Protocol::Tcp, 81)];
        assert_eq!(writes.start(at(now - 1), &moved).len(), 1);
    }

    #[test]
    fn the_lease_of_a_service_without_endpoints_is_written_without_an_event() {
        let mut sources = sources("1", false);
        let plan = Arc::get_mut(&mut sources.plan).unwrap();
        let service = plan.services.get_mut(&key()).unwrap();
        (service.has_endpoints, service.servable_here) = (false, false);
        service.lease_annotations = [(DHCP_LEASE, Some("a lease".to_owned()))].into();
        let mut writes = StatusWrites::default();
        let write = writes.start(at(1000), &sources).pop().unwrap();
        assert_eq!(writes.finish(at(1000), &sources, write, done("2")), None);
    }

    #[test]
    fn a_lost_lease_is_the_reason_of_a_withdrawal() {
        let mut sources = sources("1", false);
        let plan = Arc::get_mut(&mut sources.plan).unwrap();
        let service = plan.services.get_mut(&key()).unwrap();
        let announced = Ingress { ip: ADDRESS.parse().ok(), ..Ingress::default() };
        let announced = ServiceView {
            annotations: [(VIP_HOST.to_owned(), "node-1".to_owned())].into(),
            status: vec![announced],
            ..view("1")
        };
        (service.view, service.addresses) = (Arc::new(announced), Vec::new());
        service.issues = vec![Issue::Lease(String::new())];
        let mut writes = StatusWrites::default();
        let write = writes.start(at(1000), &sources).pop().unwrap();
        let event = writes.finish(at(1000), &sources, write, done("2")).unwrap();
        assert_eq!(event.message, "withdrew 192.0.2.1: its DHCP lease is lost");
    }

    #[test]
    fn another_host_that_has_the_address_is_the_reason_of_a_withdrawal() {
        let mut sources = sources("1", false);
        let service = Arc::get_mut(&mut sources.plan).unwrap().services.get_mut(&key()).unwrap();
        let announced = Ingress { ip: ADDRESS.parse().ok(), ..Ingress::default() };
        service.view = Arc::new(ServiceView {
            annotations: [(VIP_HOST.to_owned(), "node-1".to_owned())].into(),
            status: vec![announced],
            ..view("1")
        });
        sources.host.taken = std::mem::take(&mut sources.host.held);
        let mut writes = StatusWrites::default();
        let write = writes.start(at(1000), &sources).pop().unwrap();
        let event = writes.finish(at(1000), &sources, write, done("2")).unwrap();
        assert_eq!(
            (event.reason, event.message.as_str()),
            ("AddressWithdrawn", "withdrew 192.0.2.1: another host has it")
        );
    }

    #[test]
    fn the_status_of_a_deleted_service_is_not_written() {
        let mut sources = sources("1", false);
        let (mut writes, now) = (StatusWrites::default(), at(1000));
        let write = writes.start(now, &sources).pop().unwrap();
        writes.finish(now, &sources, write, WriteResult::Gone);
        let plan = Arc::get_mut(&mut sources.plan).unwrap();
        plan.services.get_mut(&key()).unwrap().terminating = true;
        writes.retain(at(1000), &sources);
        assert!(writes.start(at(9000), &sources).is_empty());
        // One of the same name is written at once.
        let plan = Arc::get_mut(&mut sources.plan).unwrap();
        plan.services.get_mut(&key()).unwrap().terminating = false;
        assert_eq!(writes.start(now, &sources).len(), 1);
    }

    #[test]
    fn failed_writes_are_repeated_with_back_off() {
        for result in [|| WriteResult::Gone, || WriteResult::Conflict, || WriteResult::Failed(String::new())]
        {
            let (mut writes, sources) = (StatusWrites::default(), sources("1", false));
            for (now, again) in [(1000, 1050), (1050, 1150), (1150, 1350)] {
                let write = writes.start(at(now), &sources).pop().unwrap();
                assert_eq!(writes.finish(at(now), &sources, write, result()), None);
                assert!(writes.start(at(again - 1), &sources).is_empty());
                assert_eq!(writes.poll_timeout(at(now)), Some(at(again)));
            }
        }
    }

    #[test]
    fn nodes_that_could_all_write_do_so_apart() {
        let (mut writes, sources) = (StatusWrites::default(), sources("1", true));
        assert!(writes.start(at(1000), &sources).is_empty());
        let due = writes.poll_timeout(at(1000)).unwrap();
        assert!(due > at(1000) && due <= at(1300), "{due:?}");
        assert_eq!(writes.start(due, &sources).len(), 1);
    }
}
