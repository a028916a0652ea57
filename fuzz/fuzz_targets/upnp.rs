//! Any bytes as what a gateway answers to a request: no panic, which would end the whole agent.
#![no_main]

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV6};

use futures::executor::block_on;
use igd_next::aio::{Gateway, Provider};
use igd_next::{PortMappingProtocol, RequestError};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static ANSWER: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A gateway that answers all requests with the same text.
#[derive(Debug, Clone)]
struct Parrot;

impl Provider for Parrot {
    async fn send_async(_: &str, _: &str, _: &str) -> Result<String, RequestError> {
        Ok(ANSWER.with_borrow(Clone::clone))
    }
}

fuzz_target!(|answer: &str| {
    ANSWER.set(answer.to_owned());
    let address: SocketAddr = (Ipv4Addr::LOCALHOST, 80).into();
    let gateway = Gateway {
        addr: address,
        root_url: String::new(),
        control_url: String::new(),
        control_schema_url: String::new(),
        control_schema: Default::default(),
        service_type: String::new(),
        ipv6_firewall_control_url: Some(String::new()),
        provider: Parrot,
    };
    block_on(async {
        let _ = gateway.get_external_ip().await;
        let _ = gateway.get_generic_port_mapping_entry(0).await;
        let _ = gateway.add_port(PortMappingProtocol::TCP, 80, address, 0, "").await;
        let _ = gateway.remove_port(PortMappingProtocol::TCP, 80).await;
        if let Some(firewall) = gateway.ipv6_firewall() {
            let inside = SocketAddrV6::new(1.into(), 80, 0, 0);
            let _ = firewall.add_pinhole(PortMappingProtocol::TCP, inside, 0).await;
            let _ = firewall.update_pinhole(0, 0).await;
            let _ = firewall.remove_pinhole(0).await;
        }
    });
});
