//! Arbitrary bytes as replies of DHCP servers, with and without IP headers: no panic, and no address that a host cannot have.
#![no_main]

use std::net::IpAddr;

use kube_vip::dhcp::fsm::Reply;
use kube_vip::dhcp::{datagram, v4, v6};
use kube_vip::model::validation::unusable;
use libfuzzer_sys::fuzz_target;

fn decode(bytes: &[u8]) {
    let replies = [v4::from_bytes(bytes).map(|(.., reply)| reply), v6::from_bytes(bytes).map(|(.., reply)| reply)];
    for reply in replies.into_iter().flatten() {
        if let Reply::Offer(terms) | Reply::Ack(terms) = reply {
            let usable = |address: IpAddr| !address.is_unspecified() && unusable(address).is_none();
            assert!(usable(terms.address), "{}", terms.address);
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    decode(bytes);
    if let Some(payload) = datagram::payload(bytes) {
        assert!(payload.len() < bytes.len());
        decode(payload);
    }
});
