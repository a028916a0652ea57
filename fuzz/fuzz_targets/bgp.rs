//! Any bytes as what a BGP peer sends: no panic, no endless loop, and what has been read once takes no memory that its
//! bytes do not account for.
#![no_main]

use kube_vip::bgp::packet::{Negotiated, Message, decode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for negotiated in [(false, false), (true, false), (true, true)] {
        let negotiated = Negotiated { four_octets: negotiated.0, internal: negotiated.1 };
        let mut rest = bytes;
        while let Ok(Some((message, length))) = decode(rest, negotiated) {
            assert!(length >= 19 && length <= rest.len());
            if let Message::Update(update) = message {
                // A prefix takes at least one byte.
                assert!(update.reach.len() + update.unreach.len() <= length);
            }
            rest = &rest[length..];
        }
    }
});
