//! Any bytes as a neighbour discovery packet: no panic, no endless loop over options.
#![no_main]

use kube_vip::ndp::packet::Packet;
use kube_vip::ndp::router::{self, RouterMessage};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(RouterMessage::Advertisement(router)) = router::from_bytes(bytes) {
        assert!(router.is_unicast_link_local());
    }
    if let Ok(packet) = Packet::from_bytes(bytes) {
        assert!(bytes.len() >= 64, "{packet:?}");
    }
});
