//! Addresses from a DHCP server, leased by the provider.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use kube_vip_lab::fake_dhcp::{FakeDhcpServer, honest};
use kube_vip_lab::objects::annotation;
use kube_vip_lab::trials::{Outcome, Trial, trial};
use kube_vip_lab::{DhcpServer, Provider, ServerKind, ServerOptions, wait_for};
use serde_json::{Value, json};

use crate::harness::{PROGRAM, QUICK, RIGHTS, World, world};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("leases_live_as_long_as_their_services", whole_life),
        trial("another_leader_goes_on_with_the_lease", another_leader),
        trial("a_renumbered_network_is_followed", renumbered),
        trial("placeholders_become_addresses_and_back", placeholders),
        trial("a_wrong_interface_ends_the_program_at_once", wrong_interface),
    ]
}

const PORT: u16 = 10301;

fn asking(world: &World, port: u16) -> kube_vip_lab::Result<Provider> {
    let args = [&QUICK[..], &["--dhcp-interface=eth0", "--dhcp-hardware-addresses"]].concat();
    Provider::start(&world.lab, 0, PROGRAM, (port, RIGHTS), &args)
}

fn wait_for_lease(world: &World, name: &str) -> kube_vip_lab::Result<String> {
    wait_for(&format!("Service {name} to have a leased address"), 20, || {
        let addresses = world.addresses(name);
        (!addresses.is_empty() && !addresses.contains("0.0.0.0")).then_some(addresses)
    })
}

fn whole_life() -> Outcome {
    let world = world()?;
    let server = DhcpServer::start(&world.lab, ServerOptions::new(ServerKind::Dnsmasq, 600))?;
    let pools = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/home-lab/pools.yaml");
    let pools: Value = serde_saphyr::from_str(&std::fs::read_to_string(pools)?)?;
    world.configure(pools["data"].clone())?;
    let provider = asking(&world, PORT)?;
    let spec = json!({
        "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{ "port": 80 }],
    });
    let create = |name: &str, hardware: &str| {
        let annotations = json!({
            "kube-vip.io/loadbalancerHostname": "web-in-the-lab",
            "kube-vip.io/hwaddr": hardware,
        });
        world
            .objects()
            .create::<Service>(name, json!({ "metadata": { "annotations": annotations }, "spec": spec }))
    };
    create("web", "02:00:00:00:00:01")?;
    let address = wait_for_lease(&world, "web")?;
    // Of the same name: to servers another one all the same.
    create("more", "nonsense")?;
    let other = wait_for_lease(&world, "more")?;
    assert_ne!(address, other);
    world.wait_for_event("web", "EnsuredLoadBalancer", &address)?;
    world.wait_for_event("more", "EnsuredLoadBalancer", "`nonsense` is no hardware address")?;
    world.wait_for_event(
        "more",
        "EnsuredLoadBalancer",
        "Service default/web has the name `web-in-the-lab`, too",
    )?;
    let service = world.service("web");
    assert_eq!(service.spec.as_ref().unwrap().load_balancer_ip.as_ref(), Some(&address));
    assert_eq!(annotation(&service, "kube-vip.io/requestedIP"), address);
    assert!(
        annotation(&service, "kube-vip.io/dhcp-lease")
            .starts_with(&format!("{address} from 10.42.0.250 at "))
    );
    assert!(server.log().contains("web-in-the-lab"), "{}", server.log());
    assert!(world.metric(&provider, "kube_vip_cloud_provider_dhcp_leases{state=\"bound\"}") >= 2.0);
    world.objects().delete::<Service>("web")?;
    wait_for("the release", 10, || {
        server.log().contains(&format!("DHCPRELEASE(eth0) {address}")).then_some(())
    })?;
    assert!(!server.log().contains(&format!("DHCPRELEASE(eth0) {other}")));
    Ok(())
}

fn another_leader() -> Outcome {
    let world = world()?;
    let server = DhcpServer::start(&world.lab, ServerOptions::new(ServerKind::Dnsmasq, 600))?;
    world.configure(json!({ "range-global": "0.0.0.0/32" }))?;
    let mut first = asking(&world, PORT)?;
    world.create("web")?;
    let address = wait_for_lease(&world, "web")?;
    let asked = |world: &World, port, number: usize| -> Outcome {
        let provider = asking(world, port)?;
        wait_for(&format!("the lease to be confirmed {number} times"), 20, || {
            (server.log().matches("DHCPACK").count() > number).then_some(())
        })?;
        assert_eq!(world.addresses("web"), address);
        provider.terminate();
        Ok(())
    };
    first.kill();
    asked(&world, PORT, 1)?;
    asked(&world, PORT + 1, 2)?;
    // One discovery, and no word of giving it back.
    assert_eq!(server.log().matches("DHCPDISCOVER").count(), 1, "{}", server.log());
    assert!(!server.log().contains("DHCPRELEASE"));
    Ok(())
}

fn renumbered() -> Outcome {
    let world = world()?;
    let server = FakeDhcpServer::start(&world.lab, honest(Ipv4Addr::new(10, 42, 0, 150), 4))?;
    world.configure(json!({ "range-global": "dhcp" }))?;
    let _provider = asking(&world, PORT)?;
    world.create("web")?;
    world.wait_for_addresses("web", "10.42.0.150")?;
    server.play(honest(Ipv4Addr::new(10, 42, 0, 151), 600));
    world.wait_for_addresses("web", "10.42.0.151")?;
    world.wait_for_event("web", "SyncLoadBalancerFailed", "refused")?;
    world.wait_for_event("web", "EnsuredLoadBalancer", "10.42.0.151")?;
    Ok(())
}

/// Without --dhcp-interface the announcing node leases the address.
fn placeholders() -> Outcome {
    let world = world()?;
    let _server = DhcpServer::start(&world.lab, ServerOptions::new(ServerKind::Isc, 600))?;
    world.configure(json!({ "range-global": "dhcp" }))?;
    let mut plain = world.provider(PORT)?;
    world.create("web")?;
    world.wait_for_addresses("web", "0.0.0.0")?;
    plain.terminate();
    plain.wait(10)?;
    let mut provider = asking(&world, PORT)?;
    let address = wait_for_lease(&world, "web")?;
    provider.terminate();
    provider.wait(10)?;
    let mut plain = world.provider(PORT)?;
    world.wait_for_addresses("web", "0.0.0.0")?;
    // The announcing node continues the lease.
    let record = annotation(&world.service("web"), "kube-vip.io/dhcp-lease");
    assert!(record.starts_with(&address), "{record}");
    plain.terminate();
    plain.wait(10)?;
    Ok(())
}

fn wrong_interface() -> Outcome {
    let world = world()?;
    let args = [&QUICK[..], &["--dhcp-interface=eth7"]].concat();
    let mut provider = Provider::start(&world.lab, 0, PROGRAM, (PORT + 2, RIGHTS), &args)?;
    assert_eq!(provider.wait(10)?.code(), Some(1));
    let log = provider.log();
    assert!(
        log.contains("--dhcp-interface: there is no interface `eth7` here; there are: lo, eth0"),
        "{log}"
    );
    Ok(())
}
