//! Any bytes as an ARP packet: no panic, and what is accepted is written back as it was.
#![no_main]

use kube_vip::arp::packet::Packet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(packet) = Packet::from_bytes(bytes) {
        assert!(bytes.starts_with(&packet.to_bytes()));
    }
});
