//! Any bytes as a BFD control packet: no panic, and an accepted packet encodes to the same fields.
#![no_main]

use kube_vip::bfd::packet::Packet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(packet) = Packet::from_bytes(bytes) {
        assert_eq!(Packet::from_bytes(&packet.to_bytes()), Ok(packet));
    }
});
