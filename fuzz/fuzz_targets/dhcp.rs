//! Any bytes as what a DHCP server sends: no panic, and no address that a host cannot have.
#![no_main]

use std::net::IpAddr;

use kube_vip::dhcp::fsm::Answer;
use kube_vip::dhcp::{datagram, v4, v6};
use kube_vip::model::validation::unusable;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _ = datagram::payload(bytes);
    let answers = [v4::from_bytes(bytes).map(|(_, _, answer)| answer), v6::from_bytes(bytes).map(|(_, _, answer)| answer)];
    for answer in answers.into_iter().flatten() {
        if let Answer::Offer(grant) | Answer::Ack(grant) = answer {
            let usable = |address: IpAddr| !address.is_unspecified() && unusable(address).is_none();
            assert!(usable(grant.address), "{}", grant.address);
        }
    }
});
