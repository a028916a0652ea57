//! The address is probed before a claim counts that no known holder explains.

use std::collections::BTreeMap;

use kube_vip::election::record::{mark_unverified, sign};

use super::*;

#[test]
fn a_fresh_lease_is_created_and_the_address_probed_before_the_claim_counts() {
    let mut script = Script::new(settings());
    script.outputs();
    script.answer(0, 10, LeaseResponse::NotFound);
    assert_eq!(script.outputs(), [Asked::Create]);
    script.answer(10, 20, LeaseResponse::Object(lease(ME, 1)));
    assert!(!script.holds());
    assert_eq!(script.outputs(), [Asked::Probe]);
    script.tell_at(60, Input::Probed { taken: true });
    assert_eq!(script.outputs(), [Asked::Assert]);
    assert!(!script.holds());
    let again = script.elector.poll_timeout().unwrap();
    assert!(again > at(60) && again <= at(460));
    script.now = again;
    script.elector.handle_timeout(again);
    assert_eq!(script.outputs(), [Asked::Probe]);
    script.elector.handle_input(again + Duration::from_millis(100), Input::Probed { taken: false });
    script.now = again + Duration::from_millis(100);
    assert!(script.holds());
}

/// Another host may have the address: the one that answered the last holder's probes.
#[test]
fn a_successor_probes_unless_the_last_holder_had_verified_the_address() {
    for (marked, signed) in [(true, true), (true, false), (false, true)] {
        let mark = |mut lease: Box<LeaseObject>| {
            mark_unverified(lease.meta.annotations.get_or_insert_default(), marked);
            // Another program keeps the annotation.
            if signed && let Some(renewed) = lease.record.renewed {
                sign(&mut lease.meta, "elsewhere", renewed);
            }
            lease
        };
        let mut script = Script::new(settings());
        script.outputs();
        script.answer(0, 10, LeaseResponse::Object(mark(lease(OTHER, 1))));
        script.tell_at(1000, Input::Watched(mark(lease("", 2))));
        assert_eq!(script.outputs(), [put(ME, 2)]);
        script.answer(1000, 1010, LeaseResponse::Object(lease(ME, 3)));
        let probes = marked && signed;
        assert_eq!(
            (script.holds(), script.outputs().contains(&Asked::Probe)),
            (!probes, probes),
            "{marked} {signed}"
        );
    }
}

/// The annotations of the next write.
fn annotations(script: &mut Script) -> BTreeMap<String, String> {
    loop {
        match script.elector.poll_output().unwrap() {
            Output::Request(LeaseRequest::Create { annotations, .. }) => return annotations,
            Output::Request(LeaseRequest::Replace { meta, .. }) => {
                return meta.annotations.unwrap_or_default();
            }
            _ => {}
        }
    }
}

#[test]
fn the_lease_is_marked_until_the_address_is_verified() {
    const MARK: &str = "kube-vip.io/address-unverified";
    for taken in [true, false] {
        let mut script = Script::new(settings());
        script.outputs();
        script.answer(0, 10, LeaseResponse::NotFound);
        let mut written = annotations(&mut script);
        assert!(written.contains_key(MARK));
        let mut version = 0;
        // The API server returns what was written.
        let mut accepted = |script: &mut Script, millis, written: &BTreeMap<String, String>| {
            version += 1;
            let mut lease = lease(ME, version);
            mark_unverified(lease.meta.annotations.get_or_insert_default(), written.contains_key(MARK));
            script.answer(millis, millis + 10, LeaseResponse::Object(lease));
        };
        accepted(&mut script, 10, &written);
        script.tell_at(60, Input::Probed { taken });
        script.outputs();
        script.wait_until(1010);
        written = annotations(&mut script);
        assert_eq!(written.contains_key(MARK), taken);
        accepted(&mut script, 1010, &written);
        script.tell_at(1490, Input::Probed { taken });
        script.outputs();
        script.tell_at(1500, Input::Stop);
        assert_eq!(annotations(&mut script).contains_key(MARK), taken, "released");
    }
}

/// It has the address already: the Lease that it takes over is not marked, and so released at once.
#[test]
fn a_provisional_holder_that_takes_a_vacant_lease_does_not_mark_it() {
    let mut script = refused();
    script.tell_at(110, Input::Probed { taken: false });
    script.wait_until(600);
    assert_eq!(script.outputs(), [Asked::Read]);
    script.answer(600, 610, LeaseResponse::Object(lease("", 3)));
    let written = annotations(&mut script);
    assert!(script.holds() && !written.contains_key("kube-vip.io/address-unverified"), "{written:?}");
}
