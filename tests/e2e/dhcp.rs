//! Services whose addresses come from a DHCP server, leased by the agent that announces them.

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::core::v1::Service;
use kube_vip::model::Family;
use kube_vip_lab::fake_dhcp::{FakeDhcpServer, honest, kind};
use kube_vip_lab::objects::annotation;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{DhcpServer, ServerKind, ServerOptions, ServiceLab, wait_for};
use serde_json::{Value, json};

use crate::harness::services;
use crate::services::wait_for_event;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("an_address_comes_from_a_server_of_every_kind", every_server),
        trial("annotations_set_the_options_of_a_dhcp_request", annotations),
        trial("services_of_one_hostname_have_different_addresses", namesakes),
        trial("a_lease_is_kept_when_another_node_takes_over", failover),
        trial("a_lease_is_renewed_while_the_service_has_no_ready_endpoints", asleep),
        trial("the_control_plane_may_have_a_leased_address", control_plane),
        trial("a_lease_may_have_an_interface_of_its_own", macvlan),
    ]
}

const LEASE: &str = "kube-vip.io/dhcp-lease";

/// The addresses in the status of a Service, once there are so many.
pub(crate) fn leased(lab: &ServiceLab, name: &str, count: usize) -> Result<Vec<IpAddr>, Failed> {
    let found = wait_for(&format!("{count} leased addresses of {name}"), 20, || {
        let addresses = addresses_of(lab, name);
        (addresses.len() == count).then_some(addresses)
    })?;
    Ok(found)
}

fn addresses_of(lab: &ServiceLab, name: &str) -> Vec<IpAddr> {
    let service: Option<Service> = lab.objects().get(name).ok().flatten();
    let status = service.and_then(|service| service.status?.load_balancer?.ingress).unwrap_or_default();
    let mut addresses: Vec<IpAddr> =
        status.iter().filter_map(|entry| entry.ip.as_ref()?.parse().ok()).collect();
    addresses.sort_unstable();
    addresses
}

fn every_server() -> Outcome {
    for kind in ServerKind::ALL {
        let mut lab = services(&[])?;
        let server = DhcpServer::start(&lab.lab, ServerOptions::new(kind, 600))?;
        lab.start_agents()?;
        let placeholders = if kind.serves_v6() { "0.0.0.0,::" } else { "0.0.0.0" };
        lab.serve("web", placeholders)?;
        let count = if kind.serves_v6() { 2 } else { 1 };
        let addresses =
            leased(&lab, "web", count).map_err(|error| format!("{kind:?}: {error:?}\n{}", server.log()))?;
        for address in &addresses {
            assert!(kube_vip_lab::dhcp::addresses().contains(address), "{kind:?} gave {address}");
            lab.wait_for_holder(&address.to_string())?;
        }
        assert_eq!(addresses.iter().filter(|address| Family::of(**address) == Family::V6).count(), count - 1);
        wait_for_event(&lab, "web", "AskingForLease", "on interface eth0")?;
        wait_for_event(&lab, "web", "AddressLeased", &addresses[0].to_string())?;
        // Two have different ones.
        lab.serve("more", placeholders)?;
        let others = leased(&lab, "more", count)?;
        assert!(
            others.iter().all(|address| !addresses.contains(address)),
            "{kind:?}: {addresses:?} {others:?}"
        );
        let service: Service = lab.objects().get("web")?.unwrap();
        let record = annotation(&service, LEASE);
        for address in &addresses {
            assert!(record.contains(&format!("{address} from ")), "{record}");
        }
        // A deleted Service's leases are released.
        lab.delete("web")?;
        for address in &addresses {
            lab.wait_until_no_host_has(&address.to_string())?;
        }
        // BusyBox does not log releases.
        if kind != ServerKind::Udhcpd {
            wait_for(&format!("{kind:?} to log the release"), 10, || {
                let log = server.log().to_lowercase();
                (log.matches("release").count() >= count).then_some(())
            })
            .map_err(|error| format!("{error}\n{}", server.log()))?;
        }
        lab.delete("more")?;
    }
    Ok(())
}

/// A Service `web` that has these annotations from the beginning, with an endpoint.
fn create(lab: &ServiceLab, annotations: Value) -> Outcome {
    let spec =
        json!({ "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [{ "port": 80 }] });
    lab.objects()
        .create::<Service>("web", json!({ "metadata": { "annotations": annotations }, "spec": spec }))?;
    Ok(lab.set_endpoints("web", "a", &["node-1"])?)
}

/// What is sent, what is written back; and real servers that answer to the hardware address alone.
fn annotations() -> Outcome {
    let mut lab = services(&[("svc_hwaddr", "true")])?;
    let server = FakeDhcpServer::start(&lab.lab, honest(Ipv4Addr::new(10, 42, 0, 151), 600))?;
    lab.start_agents()?;
    create(
        &lab,
        json!({
            "kube-vip.io/loadbalancerIPs": "0.0.0.0",
            "kube-vip.io/hwaddr": "02:00:00:0a:0b:0c",
            "kube-vip.io/requestedIP": "10.42.0.151",
            "kube-vip.io/loadbalancerHostname": "shop.lab.example",
            "kube-vip.io/ddns": "true",
            "kube-vip.io/dhcp-broadcast": "false",
        }),
    )?;
    assert_eq!(leased(&lab, "web", 1)?[0].to_string(), "10.42.0.151");
    let asked = server.seen();
    for request in asked.iter().filter(|request| [kind::DISCOVER, kind::REQUEST].contains(&request.kind())) {
        assert_eq!(request.hardware(), "02:00:00:0a:0b:0c");
        assert_eq!(request.requested(), Some(Ipv4Addr::new(10, 42, 0, 151)));
        assert_eq!(request.hostname().as_deref(), Some("shop"));
        assert_eq!(request.full_name().as_deref(), Some(&b"\x04shop\x03lab\x07example\x00"[..]));
        assert!(!request.wants_broadcast());
    }
    // Without annotations it is the Service's own, and is written down with the address.
    server.play(honest(Ipv4Addr::new(10, 42, 0, 152), 600));
    lab.create("plain", "0.0.0.0", json!({}))?;
    lab.set_endpoints("plain", "a", &["node-1"])?;
    leased(&lab, "plain", 1)?;
    let last = server.seen().last().cloned().unwrap();
    assert!(last.wants_broadcast());
    assert_eq!(last.full_name(), None);
    let service: Service = lab.objects().get("plain")?.unwrap();
    assert_eq!(annotation(&service, "kube-vip.io/hwaddr"), last.hardware());
    assert_eq!(annotation(&service, "kube-vip.io/requestedIP"), "10.42.0.152");
    drop(server);
    drop(lab);
    for kind in ServerKind::ALL {
        let mut lab = services(&[])?;
        let server = DhcpServer::start(&lab.lab, ServerOptions::new(kind, 600))?;
        lab.start_agents()?;
        create(
            &lab,
            json!({ "kube-vip.io/loadbalancerIPs": "0.0.0.0", "kube-vip.io/dhcp-broadcast": "false" }),
        )?;
        leased(&lab, "web", 1).map_err(|error| format!("{kind:?}: {error:?}\n{}", server.log()))?;
    }
    Ok(())
}

/// Servers that identify clients by their names would take them for one.
fn namesakes() -> Outcome {
    let mut lab = services(&[])?;
    let _server = DhcpServer::start(&lab.lab, ServerOptions::new(ServerKind::Dnsmasq, 600))?;
    lab.start_agents()?;
    let serve = |name: &str| -> Outcome {
        lab.create(name, "0.0.0.0,::", json!({}))?;
        lab.annotate(name, json!({ "kube-vip.io/loadbalancerHostname": "shop" }))?;
        Ok(lab.set_endpoints(name, "a", &["node-1", "node-2", "node-3"])?)
    };
    serve("web")?;
    leased(&lab, "web", 2)?;
    serve("more")?;
    let second = leased(&lab, "more", 2)?;
    // A Service may have had an address by its hardware address before its annotation was observed.
    let first = leased(&lab, "web", 2)?;
    assert!(first.iter().all(|address| !second.contains(address)), "{first:?} {second:?}");
    wait_for_event(&lab, "more", "AnnotationIgnored", "Service default/web has the name `shop`, too")?;
    // It stays so when the first one is gone.
    lab.delete("web")?;
    lab.wait_until_no_host_has(&first[0].to_string())?;
    lab.stop_agents()?;
    lab.start_agents()?;
    lab.wait_for_holder(&second[0].to_string())?;
    assert_eq!(leased(&lab, "more", 2)?, second);
    Ok(())
}

fn failover() -> Outcome {
    let cases = [
        (&[][..], ServerKind::Dnsmasq),
        (&[("svc_election", "true")], ServerKind::Isc),
        (&[("svc_election_groups", "4")], ServerKind::Kea),
    ];
    for (env, kind) in cases {
        let mut lab = services(env)?;
        let mut server = DhcpServer::start(&lab.lab, ServerOptions::new(kind, 600))?;
        lab.start_agents()?;
        lab.serve("web", "0.0.0.0,::")?;
        let addresses = leased(&lab, "web", 2)?;
        let v4 = addresses[0].to_string();
        let mut holder = lab.wait_for_holder(&v4)?;
        // By SIGTERM; the server is away meanwhile.
        server.stop()?;
        lab.agent(holder).terminate();
        lab.agent(holder).wait(10)?;
        let next = lab.wait_for_holder(&v4)?;
        assert_ne!(next, holder);
        server.launch()?;
        lab.start_agent(holder)?;
        // By SIGKILL.
        holder = next;
        lab.agent(holder).kill();
        wait_for("another node to have the address", 20, || {
            let holders = lab.holders(&v4);
            (holders.len() == 1 && holders != [holder]).then_some(())
        })?;
        lab.start_agent(holder)?;
        // All at once, and the server, too.
        lab.stop_agents()?;
        lab.wait_until_no_host_has(&v4)?;
        server.stop()?;
        server.launch()?;
        lab.start_agents()?;
        lab.wait_for_holder(&v4)?;
        for address in &addresses {
            lab.wait_for_holder(&address.to_string())?;
        }
        assert_eq!(leased(&lab, "web", 2)?, addresses);
    }
    Ok(())
}

/// For longer than the lease lasts, and beyond the death of the node that renews it.
fn asleep() -> Outcome {
    let alone = ("svc_election", "true");
    for (env, policy) in [(&[][..], "Cluster"), (&[alone], "Cluster"), (&[alone], "Local")] {
        let mut lab = services(env)?;
        let options = ServerOptions { v6: false, ..ServerOptions::new(ServerKind::Isc, 6) };
        let server = DhcpServer::start(&lab.lab, options)?;
        let given = || server.log().matches("DHCPACK").count();
        lab.start_agents()?;
        lab.create("web", "0.0.0.0", json!({ "externalTrafficPolicy": policy }))?;
        lab.set_endpoints("web", "a", &["node-1", "node-2", "node-3"])?;
        let address = leased(&lab, "web", 1)?[0].to_string();
        let holder = lab.wait_for_holder(&address)?;
        lab.set_endpoints("web", "a", &[])?;
        lab.wait_until_no_host_has(&address)?;
        lab.wait_for_status("web", &[])?;
        let before = given();
        wait_for("renewals for twice the lease", 30, || (given() >= before + 4).then_some(()))?;
        lab.agent(holder).kill();
        let before = given();
        wait_for("renewals by another node", 30, || (given() >= before + 2).then_some(()))?;
        let service: Service = lab.objects().get("web")?.unwrap();
        assert!(annotation(&service, LEASE).starts_with(&address), "{}", annotation(&service, LEASE));
        // On the node that does not renew it.
        let renews = match env {
            [] => lab.lease_holder("kube-system/plndr-svcs-lock")?,
            _ => lab.lease_holder("default/kubevip-web")?,
        };
        let idle = (0..3).find(|host| *host != holder && format!("node-{}", host + 1) != renews).unwrap();
        lab.set_endpoints("web", "a", &[&format!("node-{}", idle + 1)])?;
        lab.wait_for_status("web", &[&address])?;
        let serves = lab.wait_for_holder(&address)?;
        assert!(policy == "Cluster" || serves == idle, "node-{} serves, not node-{}", serves + 1, idle + 1);
        assert!(!server.log().contains("DHCPRELEASE"), "{}", server.log());
    }
    Ok(())
}

/// By a placeholder, and by a name in the request.
fn control_plane() -> Outcome {
    for (address, ddns) in [("0.0.0.0,::", "false"), ("vip.lab.example", "true")] {
        let env = [
            ("cp_enable", "true"),
            ("svc_enable", "false"),
            ("address", address),
            ("vip_ddns", ddns),
            ("dhcp_mode", "dual"),
        ];
        let mut lab = services(&env)?;
        let mut server = DhcpServer::start(&lab.lab, ServerOptions::new(ServerKind::Dnsmasq, 600))?;
        lab.start_agents()?;
        let held = |lab: &ServiceLab| -> Vec<IpAddr> {
            let all = kube_vip_lab::dhcp::addresses().into_iter();
            all.filter(|address| lab.holders(&address.to_string()).len() == 1).collect()
        };
        let addresses = wait_for("both addresses of the control plane", 20, || {
            Some(held(&lab)).filter(|held| held.len() == 2)
        })?;
        let holder = lab.wait_for_holder(&addresses[0].to_string())?;
        if ddns == "true" {
            assert!(server.log().contains("client provides name: vip.lab.example"), "{}", server.log());
        }
        // The next holder reads it from the Lease, though the server is away.
        wait_for("the lease to be written down", 10, || {
            use k8s_openapi::api::coordination::v1::Lease;
            let lease: Lease = lab.objects().get("kube-system/plndr-cp-lock").ok().flatten()?;
            let noted = lease.metadata.annotations?.get(LEASE)?.clone();
            addresses.iter().all(|address| noted.contains(&format!("{address} from "))).then_some(())
        })?;
        server.stop()?;
        lab.agent(holder).kill();
        let next = wait_for("another holder", 20, || {
            let holders = lab.holders(&addresses[0].to_string());
            (holders.len() == 1 && holders != [holder]).then(|| holders[0])
        })?;
        wait_for("both addresses there", 10, || (held(&lab) == addresses).then_some(()))?;
        server.launch()?;
        let status = lab.lab.host(next).namespace.run(&[crate::harness::PROGRAM, "status"])?;
        assert!(status.contains("DHCP          control plane IPv4"), "{status}");
    }
    Ok(())
}

/// For networks that require the MAC address of the interface: a macvlan on the leader's node.
fn macvlan() -> Outcome {
    let mut lab = services(&[])?;
    let server = DhcpServer::start(&lab.lab, ServerOptions::new(ServerKind::Dnsmasq, 600))?;
    let link = |lab: &ServiceLab, host: usize| {
        lab.lab.host(host).namespace.ip(&["-d", "link", "show", "dev", "shared"]).unwrap_or_default()
    };
    lab.start_agents()?;
    for name in ["web", "more"] {
        lab.create(name, "0.0.0.0", json!({}))?;
        let annotations =
            json!({ "kube-vip.io/macvlanName": "shared", "kube-vip.io/hwaddr": "00:00:6c:01:02:03" });
        lab.annotate(name, annotations)?;
        lab.set_endpoints(name, "a", &["node-1", "node-2", "node-3"])?;
    }
    let address = leased(&lab, "web", 1)?[0];
    let holder = lab.wait_for_holder(&address.to_string())?;
    assert!(link(&lab, holder).contains("link/ether 00:00:6c:01:02:03"), "{}", link(&lab, holder));
    let shown = lab.lab.host(holder).namespace.ip(&["address", "show", "dev", "shared"])?;
    assert!(shown.contains(&address.to_string()), "{shown}");
    let filter = lab.lab.host(holder).namespace.run(&["sysctl", "-n", "net.ipv4.conf.shared.rp_filter"])?;
    assert_eq!(filter.trim(), "0");
    // Another node has the address and the MAC address, and no other node.
    lab.agent(holder).terminate();
    lab.agent(holder).wait(10)?;
    let next = lab.wait_for_holder(&address.to_string())?;
    assert!(link(&lab, next).contains("link/ether 00:00:6c:01:02:03"), "{}", link(&lab, next));
    let events = lab.objects().events("web")?;
    assert!(events.iter().all(|(reason, _)| reason != "NoLease"), "{events:?}");
    wait_for("the link to be gone from the first", 10, || link(&lab, holder).is_empty().then_some(()))?;
    // One MAC address is one lease, which is released with its last Service.
    assert_eq!(leased(&lab, "more", 1)?, [address]);
    wait_for("both leases on this host", 10, || {
        let status = lab.lab.host(next).namespace.run(&[crate::harness::PROGRAM, "status"]).ok()?;
        ["web", "more"]
            .iter()
            .all(|name| status.contains(&format!("default/{name} IPv4 bound")))
            .then_some(())
    })?;
    let releases = || server.log().matches(&format!("DHCPRELEASE(eth0) {address}")).count();
    lab.delete("web")?;
    // The server would have received an earlier release by now.
    lab.serve("third", "0.0.0.0")?;
    assert_ne!(leased(&lab, "third", 1)?, [address]);
    assert_eq!((releases(), lab.wait_for_holder(&address.to_string())?), (0, next));
    lab.delete("third")?;
    lab.delete("more")?;
    wait_for("the release", 10, || (releases() == 1).then_some(()))?;
    wait_for("the link to be gone", 10, || link(&lab, next).is_empty().then_some(()))?;
    Ok(())
}
