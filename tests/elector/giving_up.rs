//! Who gives up the Lease: at a stop, when drained, and where the local API server fails.

use super::*;

#[test]
fn stopping_falls_silent_releases_and_keeps_the_address_until_the_successor_is_seen() {
    let mut script = holder();
    script.tell_at(5500, Input::Stop);
    assert!(matches!(script.role(), Role::HandingOver { .. }));
    assert_eq!(script.outputs(), [put("", 8)]);
    script.answer(5500, 5510, LeaseResponse::Object(lease("", 9)));
    assert_eq!(script.role(), Role::HandingOver { until: at(6010) });
    assert!(!script.elector.is_stopped(script.now));
    script.tell_at(5530, Input::Succeeded);
    assert_eq!(script.role(), Role::Follower { holder: None, fence_until: None });
    assert!(script.elector.is_stopped(script.now));
    assert_eq!(script.outputs(), []);
}

#[test]
fn stopping_without_a_successor_ends_after_the_window() {
    let mut script = holder();
    script.tell_at(5500, Input::Stop);
    script.outputs();
    script.answer(5500, 5510, LeaseResponse::Object(lease("", 9)));
    script.wait_until(6009);
    assert!(matches!(script.role(), Role::HandingOver { .. }));
    script.wait_until(6010);
    assert!(script.elector.is_stopped(script.now));
}

#[test]
fn a_stop_that_cannot_release_ends_all_the_same() {
    let mut script = holder();
    script.tell_at(5500, Input::Stop);
    script.outputs();
    script.wait_until(6500);
    assert!(!matches!(script.role(), Role::HandingOver { .. }));
    script.wait_until(8500);
    assert!(script.elector.is_stopped(script.now));
}

/// Otherwise other hosts wait for the expiry of a Lease that no host renews.
#[test]
fn who_gives_up_reads_and_releases_a_lease_whose_write_had_no_answer() {
    for input in [Input::Stop, Input::Drain(DrainReason::NotEligible)] {
        let mut script = standby();
        script.wait_until(5010);
        assert_eq!(script.outputs(), [put(ME, 7)]);
        script.tell_at(5100, input);
        script.answer(5010, 5900, LeaseResponse::Failed { retry_after: None });
        assert!(!script.elector.is_idle());
        script.wait_until(6500);
        assert_eq!(script.outputs(), [Asked::Read]);
        script.answer(6500, 6510, LeaseResponse::Object(lease(ME, 8)));
        let release = script.elector.poll_output();
        let Some(Output::Request(LeaseRequest::Replace { write, .. })) = release else {
            panic!("{release:?}")
        };
        // One second: the Lease is free at once.
        assert_eq!((write.holder.as_str(), write.duration_seconds), ("", 1));
        script.answer(6510, 6520, LeaseResponse::Object(lease("", 9)));
        assert!(script.elector.is_idle());
    }
}

#[test]
fn an_agent_that_stops_at_its_start_gives_up_the_addresses_of_its_last_process_with_the_lease() {
    let mut script = Script::new(Settings { resuming: true, ..settings() });
    assert_eq!(script.outputs(), [Asked::Read]);
    script.tell_at(10, Input::Stop);
    assert_eq!(script.role(), Role::Starting);
    script.answer(0, 20, LeaseResponse::Object(lease(ME, 7)));
    assert_eq!(script.outputs(), [put("", 7)]);
    assert_ne!(script.role(), Role::Starting);
}

fn failing(peer_serving: bool) -> Input {
    Input::Health(Report { local: Health::Failing, peer_serving })
}

#[test]
fn a_failing_api_server_makes_its_host_hand_over_only_if_another_is_ready() {
    let mut script = holder();
    script.tell_at(5500, failing(false));
    assert!(script.holds());
    script.tell_at(5600, failing(true));
    assert!(matches!(script.role(), Role::HandingOver { .. }));
    assert_eq!(script.outputs(), [put("", 8)]);
}

#[test]
fn a_call_that_hangs_at_the_failed_server_is_abandoned_and_the_lease_read_again() {
    let mut script = holder();
    script.wait_until(6010);
    assert_eq!(script.outputs(), [put(ME, 8)]);
    script.tell_at(6500, failing(true));
    assert_eq!(script.outputs(), [Asked::Abandon, Asked::Read]);
    script.answer(6500, 6510, LeaseResponse::Object(lease(ME, 8)));
    assert_eq!(script.outputs(), [put("", 8)]);
}

#[test]
fn a_hand_over_without_a_successor_is_taken_back_before_the_claim_ends() {
    let mut script = holder();
    script.tell_at(5500, failing(true));
    script.outputs();
    script.answer(5500, 5510, LeaseResponse::Object(lease("", 9)));
    script.wait_until(5759);
    assert_eq!(script.outputs(), []);
    script.wait_until(5760);
    assert_eq!(script.outputs(), [put(ME, 9)]);
    script.answer(5760, 5770, LeaseResponse::Object(lease(ME, 10)));
    let Role::Leader(claim) = script.role() else { panic!("{:?}", script.role()) };
    assert_eq!(claim.since, at(5020), "it was held without interruption");
    script.tell_at(5800, failing(true));
    assert!(script.holds(), "the next attempt has to wait");
}

#[test]
fn a_host_with_a_failing_api_server_lets_the_others_go_first() {
    let mut script = standby();
    script.tell_at(100, failing(true));
    script.wait_until(5010);
    assert_eq!(script.outputs(), []);
    script.wait_until(7010);
    assert_eq!(script.outputs(), [put(ME, 7)]);
}

#[test]
fn a_drained_host_stays_away() {
    let mut script = holder();
    script.tell_at(5500, Input::Drain(DrainReason::Operator));
    script.outputs();
    script.answer(5500, 5510, LeaseResponse::Object(lease("", 9)));
    script.wait_until(30_000);
    assert_eq!(script.outputs(), []);
    // A link that comes back does not undo what the operator wanted.
    script.tell_at(30_100, Input::Drain(DrainReason::InterfaceDown));
    script.tell_at(30_200, Input::Undrain(DrainReason::InterfaceDown));
    assert_eq!(script.outputs(), []);
    script.tell_at(31_000, Input::Undrain(DrainReason::Operator));
    assert_eq!(script.outputs(), [put(ME, 9)]);
}

/// Otherwise other hosts wait for the expiry of a Lease that no host renews.
#[test]
fn a_drained_host_releases_the_lease_as_soon_as_it_can_be_written() {
    let failed = LeaseResponse::Failed { retry_after: None };
    for failure in [failed, LeaseResponse::Rejected, LeaseResponse::Forbidden, LeaseResponse::Conflict] {
        let mut script = holder();
        script.tell_at(5500, Input::Drain(DrainReason::Operator));
        let mut released = None;
        for millis in (5500..12_000).step_by(20) {
            script.wait_until(millis);
            for asked in script.outputs() {
                let response = match asked {
                    Asked::Read => LeaseResponse::Object(lease(ME, 8)),
                    asked if asked != put("", 8) => {
                        assert_eq!(asked, Asked::RenewWatch, "{failure:?} at {millis}");
                        continue;
                    }
                    // The hand-over and the claim are over by then.
                    _ if millis < 8500 => failure.clone(),
                    _ => LeaseResponse::Object(lease("", 9)),
                };
                released = matches!(&response, LeaseResponse::Object(it) if it.record.holder.is_empty())
                    .then_some(millis);
                script.answer(millis, millis, response);
            }
        }
        assert!(released.is_some_and(|at| at < 9500), "{failure:?}: {released:?}");
        assert_eq!(script.role(), Role::Follower { holder: None, fence_until: None });
    }
}

#[test]
fn a_lease_that_is_won_after_being_told_to_stay_away_is_given_up() {
    let mut script = Script::new(settings());
    script.outputs();
    script.answer(0, 10, LeaseResponse::Object(lease("", 7)));
    assert_eq!(script.outputs(), [put(ME, 7)]);
    script.tell_at(20, Input::Drain(DrainReason::NotEligible));
    script.answer(10, 30, LeaseResponse::Object(lease(ME, 8)));
    assert_eq!(script.outputs(), [Asked::Probe]);
    script.tell_at(130, Input::Probed { taken: false });
    assert!(!script.holds());
    assert_eq!(script.outputs(), [put("", 8)]);
}

#[test]
fn a_withdrawal_while_it_probes_waits_for_the_result() {
    for input in [Input::Drain(DrainReason::NotEligible), Input::Stop] {
        for taken in [false, true] {
            let mut script = Script::new(settings());
            script.outputs();
            script.answer(0, 10, LeaseResponse::NotFound);
            script.answer(10, 20, LeaseResponse::Object(lease(ME, 1)));
            script.outputs();
            script.tell_at(30, input.clone());
            assert_eq!(script.outputs(), []);
            script.tell_at(120, Input::Probed { taken });
            assert!(!script.holds());
            let asked: Vec<Output> = std::iter::from_fn(|| script.elector.poll_output()).collect();
            let durations = asked.iter().filter_map(|output| match output {
                Output::Request(LeaseRequest::Replace { write, .. }) => {
                    Some((write.holder.as_str(), write.duration_seconds))
                }
                _ => None,
            });
            // What is known to be free is there for the next at once; what is not, when its time is over.
            assert_eq!(durations.collect::<Vec<_>>(), [("", if taken { 5 } else { 1 })]);
        }
    }
}
