//! The elector, step by step: its requests and its role after each input.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that panics has failed"
)]

mod giving_up;
mod probes;

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube_vip::election::elector::{
    DrainReason, Elector, Input, LeaseRequest, LeaseResponse, Output, SegmentRequest,
};
use kube_vip::election::health::Report;
use kube_vip::election::record::sign;
use kube_vip::election::{Candidate, LeaderElectionRecord, LeaseObject, Settings};
use kube_vip::model::BootTime;
use kube_vip::model::{ClaimSource, Health, Role};

const ME: &str = "node-a";
const HOST: &str = "boot/1";
const OTHER: &str = "node-b";

fn at(millis: u64) -> BootTime {
    BootTime::from_boot(Duration::from_millis(100_000 + millis))
}

fn settings() -> Settings {
    Settings {
        candidate: Candidate { identity: ME.into(), host: HOST.into() },
        lease_duration: Duration::from_secs(5),
        renew_deadline: Duration::from_secs(3),
        retry_period: Duration::from_secs(1),
        annotations: BTreeMap::new(),
        provisional: true,
        resuming: false,
        seed: 1,
    }
}

fn lease(holder: &str, version: u64) -> Box<LeaseObject> {
    let duration_seconds = if holder.is_empty() { 1 } else { 5 };
    let renewed = Some(i64::try_from(version).unwrap());
    let record = LeaderElectionRecord {
        holder: holder.into(),
        duration_seconds,
        renewed,
        ..LeaderElectionRecord::default()
    };
    let mut meta = ObjectMeta { resource_version: Some(version.to_string()), ..ObjectMeta::default() };
    if holder == ME {
        sign(&mut meta, HOST, version.try_into().unwrap());
    }
    Box::new(LeaseObject { record, meta })
}

/// In this host's name, by another host or, without one, by another program.
fn lease_of_twin(host: Option<&str>, version: u64) -> Box<LeaseObject> {
    let mut lease = lease(ME, version);
    lease.meta.annotations = None;
    if let Some(host) = host {
        sign(&mut lease.meta, host, version.try_into().unwrap());
    }
    lease
}

/// An elector, and its requests since the last check.
struct Script {
    elector: Elector,
    now: BootTime,
}

/// What a call is for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Read,
    Create,
    /// Put this holder, on the condition of this version.
    Put(String, String),
    Probe,
    Assert,
    Abandon,
    RenewWatch,
    Duplicate,
}

impl Script {
    fn new(settings: Settings) -> Self {
        let mut script = Self { elector: Elector::new(settings), now: at(0) };
        script.tell_at(0, Input::Watching(true));
        script
    }

    fn outputs(&mut self) -> Vec<Asked> {
        let mut asked = Vec::new();
        while let Some(output) = self.elector.poll_output() {
            asked.push(match output {
                Output::Request(LeaseRequest::Read) => Asked::Read,
                Output::Request(LeaseRequest::Create { .. }) => Asked::Create,
                Output::Request(LeaseRequest::Replace { write, meta }) => {
                    Asked::Put(write.holder, meta.resource_version.unwrap())
                }
                Output::Segment(SegmentRequest::Probe) => Asked::Probe,
                Output::Segment(SegmentRequest::Announce) => Asked::Assert,
                Output::Cancel => Asked::Abandon,
                Output::RestartWatch => Asked::RenewWatch,
                Output::DuplicateIdentity => Asked::Duplicate,
            });
        }
        asked
    }

    fn tell_at(&mut self, millis: u64, input: Input) {
        self.now = at(millis);
        self.elector.handle_input(self.now, input);
    }

    /// The answer to a call that was started at `started`.
    fn answer(&mut self, started: u64, millis: u64, response: LeaseResponse) {
        self.tell_at(millis, Input::Response { started: at(started), response });
    }

    fn wait_until(&mut self, millis: u64) {
        self.now = at(millis);
        self.elector.handle_timeout(self.now);
    }

    fn role(&self) -> Role {
        self.elector.role(self.now)
    }

    fn holds(&self) -> bool {
        matches!(self.role(), Role::Leader(_))
    }
}

fn put(holder: &str, version: u64) -> Asked {
    Asked::Put(holder.into(), version.to_string())
}

/// A standby that has seen `OTHER` renew at 10 ms.
fn standby() -> Script {
    let mut script = Script::new(settings());
    assert_eq!(script.outputs(), [Asked::Read]);
    script.answer(0, 10, LeaseResponse::Object(lease(OTHER, 7)));
    assert_eq!(script.outputs(), []);
    script
}

/// A holder that took an expired lease at 5,010 ms, answered at 5,020.
fn holder() -> Script {
    let mut script = standby();
    script.wait_until(5010);
    assert_eq!(script.outputs(), [put(ME, 7)]);
    script.answer(5010, 5020, LeaseResponse::Object(lease(ME, 8)));
    assert!(script.holds());
    script
}

#[test]
fn a_standby_takes_an_expired_lease_at_the_moment_of_expiry_and_not_before() {
    let mut script = standby();
    assert_eq!(script.elector.poll_timeout(), Some(at(5010)));
    script.wait_until(5009);
    assert_eq!(script.outputs(), []);
    script.wait_until(5010);
    assert_eq!(script.outputs(), [put(ME, 7)]);
}

#[test]
fn a_claim_counts_from_the_start_of_the_call_that_succeeded() {
    let script = holder();
    let Role::Leader(claim) = script.role() else { panic!("{:?}", script.role()) };
    assert_eq!((claim.since, claim.valid_until), (at(5020), at(8010)));
    assert_eq!(claim.fence_until, at(8710));
    assert_eq!(claim.source, ClaimSource::Lease);
}

#[test]
fn an_answer_that_comes_after_its_claim_would_have_ended_gives_none() {
    let mut script = standby();
    script.wait_until(5010);
    script.outputs();
    script.answer(5010, 8010, LeaseResponse::Object(lease(ME, 8)));
    assert!(!script.holds());
    assert_eq!(script.outputs(), [put(ME, 8)], "but the lease is ours to renew");
}

#[test]
fn a_holder_renews_once_per_retry_period_and_loses_its_claim_when_it_cannot() {
    let mut script = holder();
    script.wait_until(6009);
    assert_eq!(script.outputs(), []);
    script.wait_until(6010);
    assert_eq!(script.outputs(), [put(ME, 8)]);
    script.answer(6010, 6810, LeaseResponse::Failed { retry_after: None });
    while let Some(next) = script.elector.poll_timeout().filter(|next| *next < at(7700)) {
        script.now = next;
        script.elector.handle_timeout(next);
        if script.outputs() == [put(ME, 8)] {
            let started = next;
            script.elector.handle_input(
                next + Duration::from_millis(300),
                Input::Response { started, response: LeaseResponse::Failed { retry_after: None } },
            );
        }
    }
    script.wait_until(8009);
    assert!(script.holds());
    script.wait_until(8010);
    let expected = Role::Follower { holder: Some(ME.into()), fence_until: Some(at(8710)) };
    assert_eq!(script.role(), expected);
}

#[test]
fn another_holder_in_the_lease_ends_the_claim_at_once() {
    let mut script = holder();
    script.tell_at(5500, Input::Watched(lease(OTHER, 9)));
    assert_eq!(script.role(), Role::Follower { holder: Some(OTHER.into()), fence_until: None });
}

/// A paused virtual machine has no clock that shows the pause. Its next renewal bounds what two hosts hold at once.
#[test]
fn a_leader_whose_pause_no_clock_shows_follows_with_its_next_renewal() {
    let mut script = holder();
    script.wait_until(6010);
    assert_eq!(script.outputs(), [put(ME, 8)]);
    script.answer(6010, 6020, LeaseResponse::Conflict);
    assert_eq!(script.outputs(), [Asked::RenewWatch, Asked::Read]);
    script.answer(6020, 6030, LeaseResponse::Object(lease(OTHER, 9)));
    assert_eq!(script.role(), Role::Follower { holder: Some(OTHER.into()), fence_until: None });
}

#[test]
fn news_that_is_older_than_what_is_known_is_no_news() {
    let mut script = holder();
    script.tell_at(5500, Input::Watched(lease(OTHER, 7)));
    assert!(script.holds());
    // A renewal is answered late, after the watch has shown another's later write.
    script.wait_until(6010);
    script.outputs();
    script.tell_at(6200, Input::Watched(lease(OTHER, 10)));
    script.answer(6010, 6300, LeaseResponse::Object(lease(ME, 9)));
    assert!(!script.holds());
}

#[test]
fn a_read_that_started_before_newer_news_is_no_news() {
    let mut script = Script::new(settings());
    assert_eq!(script.outputs(), [Asked::Read]);
    script.tell_at(5, Input::Watched(lease(OTHER, 8)));
    script.answer(0, 10, LeaseResponse::Object(lease("node-c", 7)));
    assert_eq!(script.role(), Role::Follower { holder: Some(OTHER.into()), fence_until: None });
}

/// The store is restored from a backup: all versions are smaller than those that are known.
#[test]
fn a_follower_reads_a_lease_whose_versions_went_back() {
    let mut script = standby();
    // A stale watch does the same for a short time.
    script.tell_at(900, Input::Watched(lease("node-c", 3)));
    assert_eq!(script.outputs(), []);
    assert_eq!(script.role(), Role::Follower { holder: Some(OTHER.into()), fence_until: None });
    script.tell_at(1900, Input::Watched(lease("node-c", 4)));
    assert_eq!(script.outputs(), [Asked::Read]);
    script.answer(1900, 1910, LeaseResponse::Object(lease("node-c", 4)));
    assert_eq!(script.role(), Role::Follower { holder: Some("node-c".into()), fence_until: None });
    script.tell_at(2900, Input::Watched(lease("node-c", 5)));
    assert_eq!((script.outputs(), script.elector.poll_timeout()), (vec![], Some(at(7900))));
}

#[test]
fn a_stale_watch_costs_a_follower_one_read_per_retry_period() {
    let mut script = standby();
    let mut reads = 0;
    for millis in (20..5000).step_by(20) {
        script.tell_at(millis, Input::Watched(lease("node-c", 3)));
        for asked in script.outputs() {
            assert_eq!(asked, Asked::Read);
            reads += 1;
            script.answer(millis, millis, LeaseResponse::Object(lease(OTHER, 7)));
        }
    }
    assert_eq!(reads, 4);
    assert_eq!(script.role(), Role::Follower { holder: Some(OTHER.into()), fence_until: None });
}

#[test]
fn a_leader_whose_lease_went_back_reads_and_renews_it_or_follows() {
    for (named, holds) in [(ME, true), (OTHER, false)] {
        let mut script = holder();
        script.wait_until(6010);
        assert_eq!(script.outputs(), [put(ME, 8)]);
        script.answer(6010, 6020, LeaseResponse::Conflict);
        assert_eq!(script.outputs(), [Asked::RenewWatch, Asked::Read]);
        script.answer(6020, 6030, LeaseResponse::Object(lease(named, 4)));
        assert_eq!(script.holds(), holds);
        assert_eq!(script.outputs() == [put(ME, 4)], holds);
    }
}

#[test]
fn two_standbys_at_one_expired_lease_the_loser_reads_and_follows() {
    let mut script = standby();
    script.wait_until(5010);
    script.outputs();
    script.answer(5010, 5020, LeaseResponse::Conflict);
    assert_eq!(script.outputs(), [Asked::RenewWatch, Asked::Read]);
    script.answer(5020, 5030, LeaseResponse::Object(lease("node-c", 8)));
    assert_eq!(script.role(), Role::Follower { holder: Some("node-c".into()), fence_until: None });
    assert_eq!(script.elector.poll_timeout(), Some(at(10_030)));
}

#[test]
fn a_restarted_process_that_still_has_the_address_goes_on_without_a_probe() {
    for resuming in [true, false] {
        let mut script = Script::new(Settings { resuming, ..settings() });
        script.outputs();
        assert_eq!(script.role(), Role::Starting);
        script.answer(0, 10, LeaseResponse::Object(lease(ME, 3)));
        assert_eq!(script.outputs(), [put(ME, 3)]);
        assert_eq!(script.role(), Role::Starting);
        script.answer(10, 20, LeaseResponse::Object(lease(ME, 4)));
        assert_eq!(script.holds(), resuming);
        assert_eq!(script.outputs() == [Asked::Probe], !resuming);
    }
}

#[test]
fn a_released_lease_is_taken_at_once() {
    let mut script = standby();
    script.tell_at(1000, Input::Watched(lease("", 8)));
    assert_eq!(script.outputs(), [put(ME, 8)]);
    script.answer(1000, 1010, LeaseResponse::Object(lease(ME, 9)));
    assert!(script.holds());
}

#[test]
fn a_follower_repeats_a_rejected_write_after_long_pauses_and_a_leader_goes_on() {
    for response in [LeaseResponse::Rejected, LeaseResponse::Forbidden] {
        let mut script = Script::new(Settings { provisional: false, ..settings() });
        script.outputs();
        script.answer(0, 10, LeaseResponse::NotFound);
        let mut writes = 0;
        for at in (10..60_000).step_by(10) {
            script.wait_until(at);
            if script.outputs() == [Asked::Create] {
                writes += 1;
                script.answer(at, at + 5, response.clone());
            }
        }
        assert!((3..=8).contains(&writes), "{writes} after {response:?}");
    }
    let mut script = holder();
    for at in [6010, 6200] {
        script.wait_until(at);
        assert_eq!(script.outputs().len(), 1);
        script.answer(at, at, LeaseResponse::Rejected);
    }
}

/// As in kubeadm's first minute: the server is healthy and refuses us.
fn refused() -> Script {
    let mut script = Script::new(settings());
    script.outputs();
    script.tell_at(5, Input::Health(Report { local: Health::Serving, peer_serving: false }));
    script.answer(0, 10, LeaseResponse::Forbidden);
    assert_eq!(script.outputs(), [Asked::Probe]);
    script
}

#[test]
fn a_refusal_and_a_free_address_make_a_provisional_claim_that_lasts_from_the_last_refusal() {
    let mut script = refused();
    script.tell_at(110, Input::Probed { taken: false });
    let Role::Leader(claim) = script.role() else { panic!("{:?}", script.role()) };
    assert_eq!((claim.source, claim.valid_until), (ClaimSource::Provisional, at(3000)));
    script.wait_until(600);
    assert_eq!(script.outputs(), [Asked::Read], "a fresh API server is asked at least every 500 ms");
    script.answer(600, 610, LeaseResponse::Forbidden);
    let Role::Leader(claim) = script.role() else { panic!("{:?}", script.role()) };
    assert_eq!(claim.valid_until, at(3600));
}

#[test]
fn a_provisional_claim_turns_into_a_lease_without_a_gap() {
    let mut script = refused();
    script.tell_at(110, Input::Probed { taken: false });
    script.wait_until(600);
    script.outputs();
    script.answer(600, 610, LeaseResponse::NotFound);
    assert_eq!(script.outputs(), [Asked::Create]);
    assert!(script.holds());
    script.answer(610, 620, LeaseResponse::Object(lease(ME, 1)));
    let Role::Leader(claim) = script.role() else { panic!("{:?}", script.role()) };
    assert_eq!((claim.source, claim.since), (ClaimSource::Lease, at(110)));
}

#[test]
fn a_provisional_claim_yields_to_another_station_and_to_a_lease_holder_at_once() {
    let mut script = refused();
    script.tell_at(110, Input::Probed { taken: false });
    script.tell_at(200, Input::AddressClaimed);
    assert!(!script.holds());
    assert!(!script.outputs().contains(&Asked::Probe), "two that yield to each other come back apart");
    let mut script = refused();
    script.tell_at(110, Input::Probed { taken: false });
    script.tell_at(200, Input::Watched(lease(OTHER, 5)));
    assert_eq!(script.role(), Role::Follower { holder: Some(OTHER.into()), fence_until: None });
}

#[test]
fn a_provisional_claim_is_never_made_because_the_api_cannot_be_reached() {
    let mut script = Script::new(settings());
    script.outputs();
    script.tell_at(5, Input::Health(Report { local: Health::Serving, peer_serving: false }));
    script.answer(0, 10, LeaseResponse::Failed { retry_after: None });
    script.wait_until(20_000);
    assert_eq!(script.outputs(), [Asked::Read]);
    assert!(!script.holds());
    // Nor while the server does not report itself healthy, nor where a holder is known.
    let mut script = Script::new(settings());
    script.outputs();
    script.tell_at(5, Input::Health(Report { local: Health::Refusing, peer_serving: false }));
    script.answer(0, 10, LeaseResponse::Forbidden);
    assert_eq!(script.outputs(), []);
    let mut script = standby();
    script.tell_at(20, Input::Health(Report { local: Health::Serving, peer_serving: false }));
    script.wait_until(5010);
    script.outputs();
    script.answer(5010, 5020, LeaseResponse::Forbidden);
    assert_eq!(script.outputs(), []);
}

#[test]
fn without_a_watch_the_lease_is_read_once_per_retry_period() {
    let mut script = standby();
    script.tell_at(100, Input::Watching(false));
    assert_eq!(script.elector.poll_timeout(), Some(at(1010)));
    script.wait_until(1010);
    assert_eq!(script.outputs(), [Asked::Read]);
    script.answer(1010, 1015, LeaseResponse::Object(lease(OTHER, 8)));
    script.tell_at(1100, Input::Watching(true));
    assert_eq!(script.outputs(), [Asked::Read], "a new watch may have missed a deletion");
    script.answer(1100, 1110, LeaseResponse::Object(lease(OTHER, 8)));
    assert_eq!(script.elector.poll_timeout(), Some(at(6015)));
}

#[test]
fn a_lease_deleted_under_its_holder_is_made_again_at_once() {
    let mut script = holder();
    script.tell_at(5500, Input::WatchedDeletion);
    assert!(script.holds());
    assert_eq!(script.outputs(), [Asked::Create]);
    script.answer(5500, 5510, LeaseResponse::Object(lease(ME, 12)));
    assert!(script.holds());
    assert_eq!(script.outputs(), []);
}

/// Another host may have created it anew.
#[test]
fn a_renewal_before_the_deletion_of_the_lease_extends_no_claim() {
    let mut script = holder();
    script.wait_until(6010);
    assert_eq!(script.outputs(), [put(ME, 8)]);
    script.tell_at(6100, Input::WatchedDeletion);
    script.answer(6010, 6200, LeaseResponse::Object(lease(ME, 9)));
    let Role::Leader(claim) = script.role() else { panic!("{:?}", script.role()) };
    assert_eq!(claim.valid_until, at(8010));
    assert_eq!(script.outputs(), [Asked::Create]);
}

#[test]
fn what_another_holder_has_annotated_is_not_overwritten() {
    let annotated = |version| {
        let mut lease = lease("", version);
        lease.meta.annotations = Some([("lease".to_owned(), "theirs".to_owned())].into());
        lease
    };
    let written = |script: &mut Script| {
        let output = script.elector.poll_output().unwrap();
        let Output::Request(LeaseRequest::Replace { meta, .. }) = output else { panic!("{output:?}") };
        meta.annotations.unwrap_or_default().get("lease").cloned()
    };
    let mut script = holder();
    script.tell_at(5500, Input::Annotate("lease", "ours".to_owned()));
    script.wait_until(6010);
    assert_eq!(written(&mut script).as_deref(), Some("ours"));
    script.answer(6010, 6020, LeaseResponse::Object(lease(OTHER, 9)));
    script.tell_at(6030, Input::Watched(annotated(10)));
    assert_eq!(written(&mut script).as_deref(), Some("theirs"));
}

/// A cloned machine with the same node name.
#[test]
fn a_host_with_this_hosts_name_is_another_holder() {
    for host in [Some("boot/2"), None] {
        let mut script = holder();
        script.tell_at(5500, Input::Watched(lease_of_twin(host, 9)));
        assert_eq!(script.outputs(), [Asked::Duplicate], "{host:?}");
        assert_eq!(script.role(), Role::Follower { holder: Some(ME.into()), fence_until: None });
        // What the other host renews is neither renewed nor released here.
        script.tell_at(5600, Input::Drain(DrainReason::Operator));
        script.tell_at(6000, Input::Undrain(DrainReason::Operator));
        script.tell_at(6500, Input::Watched(lease_of_twin(host, 10)));
        assert_eq!(script.outputs(), [Asked::Duplicate]);
        assert_eq!(script.elector.poll_timeout(), Some(at(11_500)));
        script.wait_until(11_500);
        let Some(Output::Request(LeaseRequest::Replace { write, .. })) = script.elector.poll_output() else {
            panic!("the Lease has expired")
        };
        assert_eq!((write.holder.as_str(), write.host.as_str(), write.transitions), (ME, HOST, 1));
        script.answer(11_500, 11_510, LeaseResponse::Object(lease(ME, 11)));
        assert!(script.holds());
    }
}

/// The response to this host's write is late, and the other host has written since.
#[test]
fn a_write_in_flight_does_not_hide_a_host_with_the_same_name() {
    let mut script = holder();
    script.wait_until(6010);
    assert_eq!(script.outputs(), [put(ME, 8)]);
    script.tell_at(6100, Input::Watched(lease_of_twin(Some("boot/2"), 9)));
    assert!(!script.holds());
    script.answer(6010, 6200, LeaseResponse::Conflict);
    assert_eq!(script.outputs(), [Asked::Duplicate, Asked::RenewWatch, Asked::Read]);
    script.answer(6200, 6210, LeaseResponse::Object(lease_of_twin(Some("boot/2"), 9)));
    assert_eq!((script.outputs(), script.elector.poll_timeout()), (vec![], Some(at(11_100))));
}

#[test]
fn a_process_continues_what_this_host_wrote_or_has_from_the_go_program_and_waits_for_another_host() {
    for (found, resuming, adopted) in [
        (lease(ME, 3), true, true),
        (lease_of_twin(None, 3), true, true),
        // By the Go program, which may run on another host.
        (lease_of_twin(None, 3), false, false),
        // A clone, or this host before it booted: the address is gone, and whether another host has it is unknown.
        (lease_of_twin(Some("boot/2"), 3), true, false),
    ] {
        let mut script = Script::new(Settings { resuming, ..settings() });
        assert_eq!(script.outputs(), [Asked::Read]);
        script.answer(0, 10, LeaseResponse::Object(found));
        assert_eq!(script.outputs() == [put(ME, 3)], adopted);
        assert_eq!(script.role() == Role::Starting, adopted);
        let started = if adopted { 10 } else { 5010 };
        script.wait_until(started);
        assert_eq!(script.outputs() == [put(ME, 3)], !adopted);
        script.answer(started, started + 10, LeaseResponse::Object(lease(ME, 4)));
        assert!(script.holds());
    }
}

/// etcd was restored: another host may have acquired the Lease in between, and hold the address.
#[test]
fn an_older_record_in_our_name_gives_no_claim_without_a_probe() {
    let mut script = holder();
    script.wait_until(6010);
    script.outputs();
    script.answer(6010, 6020, LeaseResponse::Conflict);
    assert_eq!(script.outputs(), [Asked::RenewWatch, Asked::Read]);
    script.wait_until(8010);
    script.answer(6020, 8020, LeaseResponse::Object(lease(ME, 4)));
    assert_eq!(script.outputs(), [put(ME, 4)]);
    script.answer(8020, 8030, LeaseResponse::Object(lease(ME, 11)));
    assert!(!script.holds());
    assert_eq!(script.outputs(), [Asked::Probe]);
}
