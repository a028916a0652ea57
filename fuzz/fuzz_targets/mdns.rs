//! Any bytes as what another host sends by mDNS: no panic, which would end the whole agent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mdns_sd::fuzz_api::parse_packet;

fuzz_target!(|bytes: &[u8]| parse_packet(bytes));
