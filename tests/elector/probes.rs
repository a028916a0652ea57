//! The address is probed before a claim counts that no known holder explains.

use kube_vip::election::record::{UNVERIFIED, sign};

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
            if marked {
                let annotations = lease.meta.annotations.get_or_insert_default();
                annotations.insert(UNVERIFIED.to_owned(), "true".to_owned());
            }
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
