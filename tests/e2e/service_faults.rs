//! Services with wrong requests, edited Leases, an API that fails, or address conflicts.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use kube_vip_lab::alerts::{self, Recording};
use kube_vip_lab::trials::{Outcome, Trial, trial};
use kube_vip_lab::{LateHost, ServiceLab, wait_for};
use serde_json::json;

use crate::harness::services;
use crate::services::{wait_for_event, wait_for_lease};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("reserved_addresses_are_refused", refused),
        trial("an_address_that_another_host_has_is_not_taken", occupied).alone(),
        trial("an_address_whose_host_answers_late_is_given_up", late).alone(),
        trial("a_router_that_answers_for_every_address_is_named_and_can_be_ignored", proxy).alone(),
        trial("a_later_address_conflict_is_reported", contested),
        trial("a_vlan_interface_is_removed_with_its_last_service", vlan),
        trial("edited_leases_leave_one_holder", edited_leases),
        trial("after_twenty_seconds_without_rights_services_are_back_without_a_restart", forbidden),
        trial("flapping_endpoints_leak_neither_descriptors_nor_memory", flapping),
        trial("a_service_deleted_while_the_api_is_away_is_withdrawn", api_away),
    ]
}

fn refused() -> Outcome {
    let mut lab = services(&[])?;
    lab.start_agents()?;
    lab.serve("good", "10.43.0.12")?;
    for (name, address, part) in [
        ("node", "10.42.0.12", "node node-2's own"),
        ("loopback", "127.0.0.5", "loopback"),
        ("multicast", "224.0.0.9", "multicast"),
        ("broadcast", "255.255.255.255", "broadcast"),
        ("link-local", "169.254.7.7", "link-local"),
        ("typo", "10.43.0.500", "neither an address nor a DNS name"),
    ] {
        lab.serve(name, address)?;
        wait_for_event(&lab, name, "AddressRefused", part)?;
    }
    lab.wait_for_holder("10.43.0.12")?;
    // An address that is only in the status is checked as well.
    lab.create("filled", "", json!({}))?;
    lab.set_endpoints("filled", "a", &["node-1"])?;
    let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "10.42.0.13" }] } } });
    lab.objects().patch_status::<Service>("filled", status)?;
    wait_for_event(&lab, "filled", "AddressRefused", "")
}

fn occupied() -> Outcome {
    for env in [&[][..], &[("svc_election", "true")]] {
        let mut lab = services(env)?;
        lab.start_agents()?;
        // The first one settles the Leases: what is refused later is refused for the address alone.
        lab.serve("first", "10.43.0.10")?;
        lab.wait_for_holder("10.43.0.10")?;
        let start = kube_vip_lab::now();
        for address in ["10.43.0.11/32", "fd43::4/128"] {
            lab.lab.client_host.ip(&["addr", "add", address, "dev", "eth0"])?;
        }
        lab.serve("web", "10.43.0.11,fd43::4")?;
        lab.serve("free", "10.43.0.12")?;
        wait_for_event(&lab, "web", "AddressBlocked", "has 10.43.0.11")?;
        wait_for_event(&lab, "web", "AddressBlocked", "has fd43::4")?;
        lab.wait_for_holder("10.43.0.12")?;
        for address in ["10.43.0.11", "fd43::4"] {
            let watched: IpAddr = address.parse().unwrap();
            let touched = lab.sampler.since(start).iter().any(|sample| !sample.holders(watched).is_empty());
            assert!(!touched, "{address} was taken though another host has it");
        }
        for address in ["10.43.0.11/32", "fd43::4/128"] {
            lab.lab.client_host.ip(&["addr", "del", address, "dev", "eth0"])?;
        }
        lab.wait_for_holder("10.43.0.11")?;
        lab.wait_for_holder("fd43::4")?;
        lab.wait_for_status("web", &["10.43.0.11", "fd43::4"])?;
    }
    Ok(())
}

fn late() -> Outcome {
    let (v4, v6) = ("10.43.0.11", "fd43::4");
    let addresses: [IpAddr; 2] = [v4.parse().unwrap(), v6.parse().unwrap()];
    for (env, delay) in
        [(&[("svc_election", "true")][..], 600), (&[("svc_election", "true")], 50), (&[], 600)]
    {
        let mut lab = services(env)?;
        lab.start_agents()?;
        lab.serve("first", "10.43.0.10")?;
        lab.wait_for_holder("10.43.0.10")?;
        let other = LateHost::start(&lab.lab.client_host, &addresses, Duration::from_millis(delay))?;
        let start = kube_vip_lab::now();
        lab.serve("web", "10.43.0.11,fd43::4")?;
        for address in [v4, v6] {
            wait_for_event(&lab, "web", "AddressBlocked", &format!("has {address}"))?;
            lab.wait_until_no_host_has(address)?;
        }
        lab.wait_for_status("web", &[])?;
        let held = |since| {
            let samples = lab.sampler.since(since);
            let held = |address: IpAddr| samples.iter().filter(|it| !it.holders(address).is_empty()).count();
            addresses.map(held)
        };
        let tentative = held(start);
        assert!(tentative.iter().all(|count| *count > 0), "the answers were not late: {tentative:?}");
        // Two rounds of two probes for each address.
        let (before, since) = (other.answers(), kube_vip_lab::now());
        wait_for("more probes", 20, || (other.answers() >= before + 8).then_some(()))?;
        assert_eq!(held(since), [0, 0], "an address was taken again though the other host answers");
        drop(other);
        lab.wait_for_holder(v4)?;
        lab.wait_for_holder(v6)?;
        lab.wait_for_status("web", &[v4, v6])?;
    }
    Ok(())
}

fn proxy() -> Outcome {
    let mut lab = services(&[])?;
    let names = [("one", "10.43.0.10"), ("two", "10.43.0.11"), ("three", "10.43.0.12")];
    let addresses: Vec<IpAddr> = names.iter().map(|(_, address)| address.parse().unwrap()).collect();
    let _router = LateHost::start(&lab.lab.client_host, &addresses, Duration::ZERO)?;
    lab.start_agents()?;
    for (name, address) in names {
        lab.serve(name, address)?;
    }
    for (name, _) in names {
        wait_for_event(&lab, name, "AddressBlocked", "vip_skip_arp_probe")?;
    }
    lab.stop_agents()?;
    lab.options = lab.plain_options().with("vip_skip_arp_probe", "true");
    lab.start_agents()?;
    for (name, address) in names {
        lab.wait_for_holder(address)?;
        lab.wait_for_status(name, &[address])?;
    }
    Ok(())
}

fn contested() -> Outcome {
    let mut lab = services(&[])?;
    lab.start_agents()?;
    lab.serve("web", "10.43.0.13")?;
    let holder = lab.wait_for_holder("10.43.0.13")?;
    lab.wait_for_status("web", &["10.43.0.13"])?;
    // Longer than an address is tentative.
    std::thread::sleep(Duration::from_millis(1500));
    let client = &lab.lab.client_host;
    client.ip(&["addr", "add", "10.43.0.13/32", "dev", "eth0"])?;
    client.run(&["arping", "-q", "-c", "3", "-w", "3", "-U", "-I", "eth0", "10.43.0.13"]).ok();
    client.ip(&["addr", "del", "10.43.0.13/32", "dev", "eth0"])?;
    wait_for_event(&lab, "web", "AddressConflict", "another host")?;
    assert_eq!(lab.holders("10.43.0.13"), [holder]);
    Ok(())
}

fn vlan() -> Outcome {
    let mut lab = services(&[])?;
    // The kernel may lack 802.1Q: veth interfaces replace VLANs, one marked as managed, one not.
    for host in &lab.lab.hosts {
        for (name, peer) in [("eth0.77", "far77"), ("eth0.78", "far78")] {
            host.namespace.ip(&["link", "add", name, "type", "veth", "peer", "name", peer])?;
            host.namespace.ip(&["link", "set", name, "up"])?;
            host.namespace.ip(&["link", "set", peer, "up"])?;
        }
        host.namespace.ip(&["link", "set", "eth0.77", "alias", "kube-vip"])?;
    }
    let on = |link: &str| json!({ "kube-vip.io/serviceVLAN": link });
    let has = |lab: &ServiceLab, host: usize, link: &str, part: &str| {
        let shown = lab.lab.host(host).namespace.ip(&["addr", "show", "dev", link]);
        shown.is_ok_and(|shown| shown.contains(part))
    };
    lab.serve("one", "10.43.0.1")?;
    lab.serve("two", "10.43.0.2")?;
    lab.serve("other", "10.43.0.3")?;
    lab.serve("missing", "10.43.0.4")?;
    for (name, link) in [("one", "eth0.77"), ("two", "eth0.77"), ("other", "eth0.78"), ("missing", "eth7.5")]
    {
        lab.annotate(name, on(link))?;
    }
    lab.start_agent(0)?;
    for (link, address) in
        [("eth0.77", "10.43.0.1/32"), ("eth0.77", "10.43.0.2/32"), ("eth0.78", "10.43.0.3/32")]
    {
        wait_for(address, 20, || has(&lab, 0, link, address).then_some(()))?;
    }
    wait_for_event(&lab, "missing", "AddressBlocked", "there is no interface eth7")?;
    lab.delete("one")?;
    wait_for("one address to go", 20, || (!has(&lab, 0, "eth0.77", "10.43.0.1/32")).then_some(()))?;
    assert!(has(&lab, 0, "eth0.77", "10.43.0.2/32"));
    lab.delete("two")?;
    wait_for("the link to go", 20, || (!has(&lab, 0, "eth0.77", "eth0.77")).then_some(()))?;
    lab.delete("other")?;
    wait_for("the other address to go", 20, || (!has(&lab, 0, "eth0.78", "10.43.0.3/32")).then_some(()))?;
    // With 802.1Q the interface is made, and removed with its Service; without, an Event reports it.
    lab.serve("made", "10.43.0.5")?;
    lab.annotate("made", on("eth0.79"))?;
    wait_for("the link, or an Event", 20, || {
        let reported =
            lab.objects().events("made").unwrap().into_iter().any(|(_, text)| text.contains("802.1Q"));
        (reported || has(&lab, 0, "eth0.79", "10.43.0.5/32")).then_some(())
    })?;
    lab.delete("made")?;
    wait_for("no such link", 20, || (!has(&lab, 0, "eth0.79", "eth0.79")).then_some(()))?;
    lab.stop_agents()?;
    assert!(has(&lab, 0, "eth0.78", "eth0.78"), "an unmanaged interface was removed");
    for host in &lab.lab.hosts {
        for name in ["eth0.77", "eth0.78"] {
            host.namespace.ip(&["link", "del", name]).ok();
        }
    }
    Ok(())
}

fn edited_leases() -> Outcome {
    let mut lab = services(&[("svc_election", "true")])?;
    lab.start_agents()?;
    lab.serve("web", "10.43.0.14")?;
    lab.wait_for_holder("10.43.0.14")?;
    wait_for_lease(&lab, "kubevip-web")?;
    let start = kube_vip_lab::now();
    lab.objects().delete::<Lease>("kubevip-web")?;
    wait_for_lease(&lab, "kubevip-web")?;
    lab.wait_for_holder("10.43.0.14")?;
    lab.objects().patch::<Lease>("kubevip-web", json!({ "spec": { "holderIdentity": "" } }))?;
    wait_for_lease(&lab, "kubevip-web")?;
    lab.wait_for_holder("10.43.0.14")?;
    // Another holder's name in it ends the claim at once, with an Event.
    lab.objects().patch::<Lease>("kubevip-web", json!({ "spec": { "holderIdentity": "stranger" } }))?;
    wait_for_event(&lab, "web", "AddressLost", "names stranger")?;
    lab.wait_for_holder("10.43.0.14")?;
    assert_eq!(lab.sampler.overlap(start), Duration::ZERO);
    Ok(())
}

fn forbidden() -> Outcome {
    for env in [&[][..], &[("svc_election", "true")]] {
        let mut lab = services(env)?;
        lab.start_agents()?;
        lab.serve("web", "10.43.0.18")?;
        lab.wait_for_holder("10.43.0.18")?;
        let start = kube_vip_lab::now();
        let mut recording = Recording::begin(&lab.lab)?;
        lab.revoke()?;
        // Without renewals the claim ends: the address is withdrawn, and comes back with the rights.
        for second in 1..=20 {
            std::thread::sleep(Duration::from_secs(1));
            lab.objects().services("default")?;
            if [8, 20].contains(&second) {
                recording.scrape(alerts::agents(&lab.lab));
            }
        }
        lab.serve("late", "10.43.0.19")?;
        lab.restore()?;
        lab.wait_for_holder("10.43.0.18")?;
        lab.wait_for_holder("10.43.0.19")?;
        assert_eq!(lab.sampler.overlap(start), Duration::ZERO);
        recording.expect_at_least(&["KubeVipApiRequestsFail", "KubeVipServicesWithoutHolder"])?;
        for host in 0..3 {
            assert!(lab.agent(host).ended().is_none());
        }
    }
    Ok(())
}

fn flapping() -> Outcome {
    let mut lab = services(&[("svc_election", "true")])?;
    lab.start_agents()?;
    lab.serve("web", "10.43.0.20")?;
    lab.serve("calm", "10.43.0.21")?;
    lab.wait_for_holder("10.43.0.20")?;
    let calm = lab.wait_for_holder("10.43.0.21")?;
    let flap = |lab: &ServiceLab, seconds: u64| -> Outcome {
        let end = kube_vip_lab::now() + Duration::from_secs(seconds);
        while kube_vip_lab::now() < end {
            lab.set_endpoints("web", "a", &[])?;
            std::thread::sleep(Duration::from_millis(50));
            lab.set_endpoints("web", "a", &["node-1", "node-3"])?;
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    };
    let used = |lab: &mut ServiceLab| -> Vec<(usize, f64)> {
        let pids: Vec<u32> = (0..3).map(|host| lab.agent(host).pid()).collect();
        pids.into_iter()
            .map(|pid| {
                let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
                (descriptors, kube_vip_lab::process::usage(pid).rss_mb)
            })
            .collect()
    };
    // What is allocated once is allocated by then.
    flap(&lab, 5)?;
    let before = used(&mut lab);
    flap(&lab, 60)?;
    let after = used(&mut lab);
    for ((descriptors, memory), (descriptors_after, memory_after)) in before.into_iter().zip(after) {
        assert!(descriptors_after <= descriptors + 8, "{descriptors} descriptors became {descriptors_after}");
        assert!(memory_after <= memory + 2.0, "{memory:.1} MiB became {memory_after:.1}");
    }
    lab.wait_for_holder("10.43.0.20")?;
    assert_eq!(lab.holders("10.43.0.21"), [calm], "another Service was disturbed");
    Ok(())
}

fn api_away() -> Outcome {
    let mut lab = services(&[])?;
    lab.start_agents()?;
    lab.serve("goes", "10.43.0.15")?;
    lab.serve("stays", "10.43.0.16")?;
    lab.wait_for_holder("10.43.0.15")?;
    let holder = lab.wait_for_holder("10.43.0.16")?;
    // The API server of the holder's host is away while the Service is deleted through another.
    if holder == 0 {
        lab.agent(0).terminate();
        lab.agent(0).wait(10)?;
        lab.start_agent(0)?;
    }
    let holder = lab.wait_for_holder("10.43.0.16")?;
    lab.lab.host_mut(holder).kill_api_server();
    lab.delete("goes")?;
    lab.wait_until_no_host_has("10.43.0.15")?;
    lab.lab.start_api_server(holder)?;
    lab.lab.wait_for_api_server(holder)?;
    lab.wait_for_holder("10.43.0.16")?;
    lab.serve("new", "10.43.0.17")?;
    lab.wait_for_holder("10.43.0.17")?;
    Ok(())
}
