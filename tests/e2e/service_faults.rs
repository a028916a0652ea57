//! Services when something is wrong: with what they ask for, with their Leases, with the API, with their neighbours.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use kube_vip_lab::{ServiceLab, wait_for};
use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::harness::services;
use crate::services::{wait_for_event, wait_for_lease};
use crate::trial;

type Outcome = Result<(), Failed>;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("addresses_that_nobody_may_announce_are_refused", refused),
        trial("an_address_that_another_station_has_is_left_to_it", occupied),
        trial("a_station_that_takes_an_address_later_is_told_of", contested),
        trial("the_link_of_a_vlan_goes_with_its_last_service", vlan),
        trial("leases_that_somebody_edits_leave_one_holder", edited_leases),
        trial("refused_for_twenty_seconds_and_back_without_a_restart", forbidden),
        trial("endpoints_that_flap_cost_neither_tasks_nor_memory", flapping),
        trial("what_is_deleted_while_the_api_is_away_is_gone_afterwards", api_away),
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
        wait_for(&format!("{name} to be refused"), 20, || {
            let events = lab.objects().events(name).unwrap();
            events.into_iter().find(|(reason, text)| reason == "AddressRefused" && text.contains(part))
        })?;
    }
    lab.wait_for_holder("10.43.0.12")?;
    // A status that somebody filled with a node's address is no reason to announce it.
    lab.create("filled", "", json!({}))?;
    lab.set_endpoints("filled", "a", &["node-1"])?;
    let status = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "10.42.0.13" }] } } });
    lab.objects().patch_status::<Service>("filled", status)?;
    wait_for("the filled status to be refused", 20, || {
        let events = lab.objects().events("filled").unwrap();
        events.into_iter().find(|(reason, _)| reason == "AddressRefused")
    })?;
    Ok(())
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
            assert!(!touched, "{address} was taken though a station has it");
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
    // The kernel may lack 802.1Q: a link of another kind stands in, one marked as ours, one not.
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
    // A kernel that knows 802.1Q makes the link and removes it with its Service; one that does not says so.
    lab.serve("made", "10.43.0.5")?;
    lab.annotate("made", on("eth0.79"))?;
    wait_for("the link, or an Event", 20, || {
        let told = lab.objects().events("made").unwrap().into_iter().any(|(_, text)| text.contains("802.1Q"));
        (told || has(&lab, 0, "eth0.79", "10.43.0.5/32")).then_some(())
    })?;
    lab.delete("made")?;
    wait_for("no such link", 20, || (!has(&lab, 0, "eth0.79", "eth0.79")).then_some(()))?;
    lab.stop_agents()?;
    assert!(has(&lab, 0, "eth0.78", "eth0.78"), "a link that somebody else made was removed");
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
    std::thread::sleep(Duration::from_secs(6));
    lab.wait_for_holder("10.43.0.14")?;
    lab.objects().patch::<Lease>("kubevip-web", json!({ "spec": { "holderIdentity": "" } }))?;
    std::thread::sleep(Duration::from_secs(6));
    lab.wait_for_holder("10.43.0.14")?;
    // Somebody else's name in it ends the claim at once, and the Service's user is told.
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
        lab.revoke()?;
        // Who cannot renew cannot hold: the address goes, and comes back with the rights.
        for _ in 0..20 {
            std::thread::sleep(Duration::from_secs(1));
            lab.objects().services("default")?;
        }
        lab.serve("late", "10.43.0.19")?;
        lab.restore()?;
        lab.wait_for_holder("10.43.0.18")?;
        lab.wait_for_holder("10.43.0.19")?;
        assert_eq!(lab.sampler.overlap(start), Duration::ZERO);
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
    lab.wait_until_nobody_has("10.43.0.15")?;
    lab.lab.start_api_server(holder)?;
    lab.lab.wait_for_api_server(holder)?;
    lab.wait_for_holder("10.43.0.16")?;
    lab.serve("new", "10.43.0.17")?;
    lab.wait_for_holder("10.43.0.17")?;
    Ok(())
}
