//! Services of type LoadBalancer: the holders of their addresses, and their status.

use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_vip::model::BootTime;
use kube_vip_lab::alerts::{self, Recording};
use kube_vip_lab::objects::annotation;
use kube_vip_lab::trials::{Failed, Outcome, Trial, trial};
use kube_vip_lab::{ServiceLab, wait_for};
use serde_json::json;

use crate::harness::{PROGRAM, services};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("one_election_for_all_services", global),
        trial("an_address_of_two_services_leaves_with_the_last", shared),
        trial("without_endpoints_there_is_no_address", endpoints),
        trial("one_election_for_each_service", per_service),
        trial("a_local_service_is_where_its_endpoint_is", local),
        trial("a_service_that_waits_has_one_event_and_a_line_in_the_status", not_announced),
        trial("an_election_on_demand_is_exclusive", on_demand),
        trial("a_live_service_changes", changes),
        trial("groups_spread_the_load_and_a_loss_moves_the_lost_ones", groups),
        trial("agents_that_stop_together_release_every_lease", stopped_together),
        trial("a_planned_move_leaves_no_gap", planned).alone(),
        trial("an_endpoint_that_moves_leaves_no_gap", endpoint_moved).alone(),
        trial("an_address_that_its_successor_cannot_place_delays_no_other", unplaceable).alone(),
        trial("agents_that_stop_leave_nothing_behind", nothing_left),
        trial("a_service_may_share_the_control_planes_address", control_plane).alone(),
    ]
}

/// The addresses that the tests watch.
pub(crate) fn watched() -> Vec<IpAddr> {
    let v4 = (1..=24).map(|number| format!("10.43.0.{number}"));
    let v6 = (1..=4).map(|number| format!("fd43::{number}"));
    let own = v4.chain(v6).chain(["10.42.0.100".to_owned()]).map(|address| address.parse().unwrap());
    own.chain(kube_vip_lab::dhcp::addresses()).collect()
}

const LOCK: &str = "kube-system/plndr-svcs-lock";

fn host_named(name: &str) -> usize {
    name.trim_start_matches("node-").parse::<usize>().unwrap() - 1
}

/// Until a Lease names a node.
pub(crate) fn wait_for_lease(lab: &ServiceLab, lease: &str) -> Result<usize, Failed> {
    let holder = wait_for(&format!("a holder of {lease}"), 20, || {
        lab.lease_holder(lease).ok().filter(|holder| !holder.is_empty())
    })?;
    Ok(host_named(&holder))
}

/// Until an Event about a Service or a Node has this reason, and this in its text.
pub(crate) fn wait_for_event(lab: &ServiceLab, object: &str, reason: &str, part: &str) -> Outcome {
    wait_for(&format!("{reason} of {object}, with `{part}`"), 20, || {
        let events = lab.objects().events(object).ok()?;
        events.into_iter().find(|(found, text)| found == reason && text.contains(part))
    })?;
    Ok(())
}

/// Until a Service names the node that announces it.
fn wait_for_host(lab: &ServiceLab, service: &str, host: usize) -> Outcome {
    wait_for(&format!("{service} to name host {}", host + 1), 20, || {
        let service: Service = lab.objects().get(service).unwrap()?;
        (annotation(&service, "kube-vip.io/vipHost") == format!("node-{}", host + 1)).then_some(())
    })?;
    Ok(())
}

fn global() -> Outcome {
    let mut lab = services(&[])?;
    lab.serve("web", "10.43.0.1,fd43::1")?;
    lab.start_agents()?;
    let holder = lab.wait_for_holder("10.43.0.1")?;
    lab.wait_for_holder_to_be("fd43::1", holder)?;
    assert_eq!(holder, wait_for_lease(&lab, LOCK)?);
    let service = lab.wait_for_status("web", &["10.43.0.1", "fd43::1"])?;
    assert_eq!(annotation(&service, "kube-vip.io/vipHost"), format!("node-{}", holder + 1));
    let status = service.status.unwrap().load_balancer.unwrap().ingress.unwrap();
    assert_eq!(status[0].ip_mode.as_deref(), Some("VIP"));
    assert_eq!(status[0].ports.as_ref().unwrap()[0].port, 80);
    wait_for_event(&lab, "web", "AddressGained", "")?;
    // A second Service leaves the first unchanged, and so does one without an address.
    lab.create("empty", "", json!({}))?;
    lab.serve("more", "10.43.0.2")?;
    lab.wait_for_holder_to_be("10.43.0.2", holder)?;
    lab.delete("web")?;
    lab.wait_until_no_host_has("10.43.0.1")?;
    lab.wait_until_no_host_has("fd43::1")?;
    assert_eq!(lab.holders("10.43.0.2"), [holder]);
    Ok(())
}

fn shared() -> Outcome {
    for env in [&[][..], &[("svc_election", "true")]] {
        let mut lab = services(env)?;
        lab.start_agents()?;
        lab.serve("first", "10.43.0.3")?;
        lab.create("second", "10.43.0.3", json!({ "ports": [{ "port": 81 }] }))?;
        lab.set_endpoints("second", "a", &["node-2"])?;
        lab.wait_for_holder("10.43.0.3")?;
        lab.wait_for_status("first", &["10.43.0.3"])?;
        lab.wait_for_status("second", &["10.43.0.3"])?;
        lab.delete("first")?;
        // The address may not leave with the first.
        std::thread::sleep(Duration::from_secs(1));
        lab.wait_for_holder("10.43.0.3")?;
        lab.delete("second")?;
        lab.wait_until_no_host_has("10.43.0.3")?;
        assert_eq!(lab.sampler.overlap(lab.started()), Duration::ZERO);
    }
    Ok(())
}

fn endpoints() -> Outcome {
    for env in [&[][..], &[("svc_election", "true")], &[("svc_election_groups", "4")]] {
        let mut lab = services(env)?;
        lab.start_agents()?;
        lab.create("web", "10.43.0.4", json!({}))?;
        lab.set_endpoints("web", "a", &["node-1"])?;
        lab.wait_for_holder("10.43.0.4")?;
        lab.wait_for_status("web", &["10.43.0.4"])?;
        // One that is not ready counts for nothing; a second slice counts as much as the first.
        lab.set_endpoints("web", "a", &["-node-1"])?;
        lab.wait_until_no_host_has("10.43.0.4")?;
        lab.wait_for_status("web", &[])?;
        lab.set_endpoints("web", "b", &["node-3"])?;
        lab.wait_for_holder("10.43.0.4")?;
        lab.set_endpoints("web", "a", &["node-2"])?;
        lab.set_endpoints("web", "b", &[])?;
        // The address may not leave with the second slice.
        std::thread::sleep(Duration::from_millis(500));
        lab.wait_for_holder("10.43.0.4")?;
        // A slice that is deleted and made again is seen again.
        lab.objects().delete::<EndpointSlice>("web-a")?;
        lab.wait_until_no_host_has("10.43.0.4")?;
        lab.set_endpoints("web", "a", &["node-2"])?;
        lab.wait_for_holder("10.43.0.4")?;
        lab.wait_for_status("web", &["10.43.0.4"])?;
        lab.set_endpoints("web", "a", &[])?;
        lab.wait_until_no_host_has("10.43.0.4")?;
        let forced = json!({ "kube-vip.io/allow-reconcile-without-endpoints": "true" });
        lab.annotate("web", forced)?;
        lab.wait_for_holder("10.43.0.4")?;
    }
    Ok(())
}

fn per_service() -> Outcome {
    let mut lab = services(&[("svc_election", "true")])?;
    lab.start_agents()?;
    lab.serve("web", "10.43.0.5")?;
    lab.serve("more", "10.43.0.6")?;
    let holder = lab.wait_for_holder("10.43.0.5")?;
    assert_eq!(holder, wait_for_lease(&lab, "kubevip-web")?);
    lab.wait_for_holder("10.43.0.6")?;
    wait_for_lease(&lab, "kubevip-more")?;
    // A common Lease brings Services together.
    let common = json!({ "kube-vip.io/leaseName": "together" });
    lab.annotate("web", common.clone())?;
    lab.annotate("more", common)?;
    wait_for("both in one place", 20, || {
        let together = lab.lease_holder("together").ok().filter(|name| !name.is_empty())?;
        let place = vec![host_named(&together)];
        (lab.holders("10.43.0.5") == place && lab.holders("10.43.0.6") == place).then_some(())
    })?;
    // The death of the holder's agent.
    let holder = lab.wait_for_holder("10.43.0.5")?;
    lab.agent(holder).kill();
    wait_for("another holder", 20, || {
        let holders = lab.holders("10.43.0.5");
        (holders.len() == 1 && holders != [holder] && lab.holders("10.43.0.6") == holders).then_some(())
    })?;
    Ok(())
}

fn local() -> Outcome {
    let modes = [
        &[("svc_election", "true")][..],
        &[("svc_election_groups", "4")],
        // With one election for all, whichever node leads that.
        &[("svc_local_election", "true")],
    ];
    for env in modes {
        let mut lab = services(env)?;
        lab.start_agents()?;
        lab.create("web", "10.43.0.7", json!({ "externalTrafficPolicy": "Local" }))?;
        lab.set_endpoints("web", "a", &["node-2"])?;
        lab.wait_for_holder_to_be("10.43.0.7", 1)?;
        lab.set_endpoints("web", "a", &["node-3"])?;
        lab.wait_for_holder_to_be("10.43.0.7", 2)?;
        wait_for_host(&lab, "web", 2)?;
        // With Cluster it need not move, and with Local again it has to be where the endpoint is.
        lab.objects().patch::<Service>("web", json!({ "spec": { "externalTrafficPolicy": "Cluster" } }))?;
        lab.set_endpoints("web", "a", &["node-1"])?;
        std::thread::sleep(Duration::from_millis(500));
        lab.wait_for_holder("10.43.0.7")?;
        lab.objects().patch::<Service>("web", json!({ "spec": { "externalTrafficPolicy": "Local" } }))?;
        lab.wait_for_holder_to_be("10.43.0.7", 0)?;
    }
    Ok(())
}

/// As many Events as there are nodes would bury the others.
fn not_announced() -> Outcome {
    let mut lab = services(&[("svc_election", "true")])?;
    lab.create("elsewhere", "10.43.0.8", json!({ "externalTrafficPolicy": "Local" }))?;
    lab.set_endpoints("elsewhere", "a", &["node-9"])?;
    lab.create("empty", "10.43.0.9", json!({}))?;
    lab.create("pending", "", json!({}))?;
    lab.start_agents()?;
    for (name, part) in [
        ("elsewhere", "its endpoints are on node-9"),
        ("empty", "no ready IPv4 endpoints"),
        ("pending", "install kube-vip-cloud-provider"),
    ] {
        let reported = || lab.objects().events(name).ok()?.into_iter().find(|(_, text)| text.contains(part));
        let (reason, _) = wait_for(&format!("an Event of {name}"), 60, reported)?;
        assert_eq!(reason, "NotAnnounced");
        let line = format!("default/{name}: ");
        for host in &lab.lab.hosts {
            let status = host.namespace.run(&[PROGRAM, "status"])?;
            let mut lines = status.lines().filter(|text| text.contains(&line));
            assert!(lines.next().is_some_and(|text| text.contains(part)), "{status}");
            assert_eq!(lines.next(), None);
        }
    }
    // Every node has reported by now.
    std::thread::sleep(Duration::from_secs(1));
    for name in ["elsewhere", "empty", "pending"] {
        let events = lab.objects().events(name)?;
        assert_eq!(events.len(), 1, "{events:?}");
    }
    // An announced Service has no line any more.
    lab.set_endpoints("elsewhere", "a", &["node-2"])?;
    lab.wait_for_holder_to_be("10.43.0.8", 1)?;
    wait_for("a status without it", 10, || {
        let status = lab.lab.host(1).namespace.run(&[PROGRAM, "status"]).ok()?;
        (!status.contains("default/elsewhere: ")).then_some(())
    })?;
    Ok(())
}

fn on_demand() -> Outcome {
    let mut lab = services(&[("per_service_election_on_demand", "true")])?;
    lab.start_agents()?;
    lab.serve("plain", "10.43.0.8")?;
    lab.serve("own", "10.43.0.9")?;
    let force = json!({ "kube-vip.io/forcePerServiceElection": "true" });
    lab.annotate("own", force)?;
    let holder = lab.wait_for_holder("10.43.0.8")?;
    assert_eq!(holder, wait_for_lease(&lab, LOCK)?);
    wait_for_lease(&lab, "kubevip-own")?;
    wait_for("its own holder", 20, || {
        let named = host_named(&lab.lease_holder("kubevip-own").ok().filter(|name| !name.is_empty())?);
        (lab.holders("10.43.0.9") == [named]).then_some(())
    })?;
    let since = kube_vip_lab::now();
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(lab.sampler.overlap(since), Duration::ZERO);
    Ok(())
}

fn changes() -> Outcome {
    for env in [&[][..], &[("svc_election", "true")]] {
        let mut lab = services(env)?;
        lab.start_agents()?;
        lab.serve("web", "10.43.0.10")?;
        let holder = lab.wait_for_holder("10.43.0.10")?;
        lab.wait_for_status("web", &["10.43.0.10"])?;
        // Ports: the status follows, the address stays.
        let start = kube_vip_lab::now();
        lab.objects().patch::<Service>("web", json!({ "spec": { "ports": [{ "port": 90 }] } }))?;
        wait_for("the status to have the new port", 20, || {
            let service: Service = lab.objects().get("web").unwrap()?;
            let ingress = service.status?.load_balancer?.ingress?;
            (ingress.first()?.ports.as_ref()?.first()?.port == 90).then_some(())
        })?;
        let watched: IpAddr = "10.43.0.10".parse().unwrap();
        assert!(lab.sampler.since(start).iter().all(|sample| sample.holders(watched) == [holder]));
        // The address.
        lab.annotate("web", json!({ "kube-vip.io/loadbalancerIPs": "10.43.0.11" }))?;
        lab.wait_for_holder("10.43.0.11")?;
        lab.wait_until_no_host_has("10.43.0.10")?;
        lab.wait_for_status("web", &["10.43.0.11"])?;
        // Ignored, and not.
        lab.annotate("web", json!({ "kube-vip.io/ignore": "true" }))?;
        lab.wait_until_no_host_has("10.43.0.11")?;
        lab.annotate("web", json!({ "kube-vip.io/ignore": null }))?;
        lab.wait_for_holder("10.43.0.11")?;
        // The type.
        let change = json!({ "spec": { "type": "ClusterIP", "allocateLoadBalancerNodePorts": null } });
        lab.objects().patch::<Service>("web", change)?;
        lab.wait_until_no_host_has("10.43.0.11")?;
        let classed = json!({ "spec": { "type": "LoadBalancer", "loadBalancerClass": "example.com/other" } });
        lab.objects().patch::<Service>("web", classed)?;
        std::thread::sleep(Duration::from_millis(500));
        assert!(lab.holders("10.43.0.11").is_empty());
    }
    Ok(())
}

fn groups() -> Outcome {
    let mut lab = services(&[("svc_election_groups", "9"), ("vip_loglevel", "-4")])?;
    lab.start_agents()?;
    for number in 1..=18 {
        lab.serve(&format!("web-{number}"), &format!("10.43.0.{number}"))?;
    }
    let counts = |lab: &ServiceLab| {
        let holders = (1..=18).map(|number| lab.holders(&format!("10.43.0.{number}")));
        holders.fold([0; 3], |mut counts, holders| {
            if let [only] = holders.as_slice() {
                counts[*only] += 1;
            }
            counts
        })
    };
    wait_for("an even spread", 40, || (counts(&lab) == [6, 6, 6]).then_some(()))?;
    Recording::begin(&lab.lab)?.expect(&[])?;
    let before: Vec<Vec<usize>> = (1..=18).map(|number| lab.holders(&format!("10.43.0.{number}"))).collect();
    lab.agent(1).kill();
    // Nine groups of two addresses do not divide evenly by two.
    wait_for("the others to take over", 30, || {
        let counts = counts(&lab);
        ([[10, 0, 8], [8, 0, 10]].contains(&counts)).then_some(())
    })?;
    for (number, before) in (1..=18).zip(before) {
        let now = lab.holders(&format!("10.43.0.{number}"));
        assert!(before == [1] || now == before, "10.43.0.{number} moved without need: {before:?}, {now:?}");
    }
    lab.start_agent(1)?;
    wait_for("an even spread again", 40, || (counts(&lab) == [6, 6, 6]).then_some(()))?;
    Ok(())
}

/// A Lease that stays held keeps its addresses from the hosts that start next, for its whole duration.
fn stopped_together() -> Outcome {
    let mut lab = services(&[("svc_election_groups", "16"), ("vip_loglevel", "-4")])?;
    let all: Vec<(String, String)> =
        (1..=24).map(|number| (format!("web-{number}"), format!("10.43.0.{number}"))).collect();
    lab.serve_all(&all)?;
    for _ in 0..4 {
        lab.start_agents()?;
        wait_for("every address on a host", 20, || {
            all.iter().all(|(_, address)| lab.holders(address).len() == 1).then_some(())
        })?;
        (0..3).for_each(|host| lab.agent(host).terminate());
        (0..3).try_for_each(|host| lab.agent(host).wait(10).map(drop))?;
        alerts::expect(alerts::agents(&lab.lab), &["KubeVipAgentDown", "KubeVipAgentsAbsent"])?;
        for lease in lab.objects().leases()? {
            let holder = lab.lease_holder(&lease)?;
            let logs = (0..3).map(|host| lab.agent(host).log());
            let of_lease = logs.flat_map(|log| {
                log.lines().filter(|line| line.contains(&lease)).map(str::to_owned).collect::<Vec<_>>()
            });
            let of_lease: Vec<String> = of_lease.collect();
            assert!(holder.is_empty(), "{lease} is still held by {holder}: {of_lease:#?}");
        }
    }
    Ok(())
}

/// Each address was on a host at every moment: the old holder keeps it, without announcing it, until the new one has it.
fn assert_no_gap(lab: &ServiceLab, start: BootTime, addresses: &[&str], what: &str) {
    for address in addresses {
        let watched: IpAddr = address.parse().unwrap();
        let gap = lab.sampler.since(start).iter().filter(|sample| sample.holders(watched).is_empty()).count();
        assert!(gap <= 2, "{what}: {address} was nowhere in {gap} samples");
    }
}

fn planned() -> Outcome {
    // With a health port open, stopping takes no longer.
    let kinds =
        [&[("health_check_port", "9100")][..], &[("svc_election", "true")], &[("svc_election_groups", "4")]];
    let addresses = ["10.43.0.13", "fd43::2"];
    for env in kinds {
        let mut lab = services(env)?;
        lab.start_agents()?;
        lab.serve("web", "10.43.0.13,fd43::2")?;
        let first = lab.wait_for_holder("10.43.0.13")?;
        lab.wait_for_holder_to_be("fd43::2", first)?;
        lab.wait_for_status("web", &addresses)?;
        let start = kube_vip_lab::now();
        lab.agent(first).terminate();
        assert!(lab.agent(first).wait(10)?.success());
        let second = lab.wait_for_holder("10.43.0.13")?;
        assert_ne!(second, first);
        lab.wait_for_holder_to_be("fd43::2", second)?;
        assert_no_gap(&lab, start, &addresses, &format!("{env:?}, SIGTERM"));
        wait_for_host(&lab, "web", second)?;

        let third = 3 - first - second;
        let start = kube_vip_lab::now();
        lab.lab.host(second).namespace.run(&[PROGRAM, "drain"])?;
        lab.wait_for_holder_to_be("10.43.0.13", third)?;
        lab.wait_for_holder_to_be("fd43::2", third)?;
        assert_no_gap(&lab, start, &addresses, &format!("{env:?}, drain"));
        wait_for_host(&lab, "web", third)?;
        lab.lab.host(second).namespace.run(&[PROGRAM, "undrain"])?;
    }
    Ok(())
}

/// One election for two addresses; the interface of one of them is on the first host alone.
fn unplaceable() -> Outcome {
    let mut lab = services(&[("svc_interfaces", "extra0")])?;
    lab.start_agents()?;
    lab.serve("web", "10.43.0.13")?;
    let first = lab.wait_for_holder("10.43.0.13")?;
    let namespace = &lab.lab.host(first).namespace;
    namespace.run(&["ip", "link", "add", "extra0", "type", "veth", "peer", "name", "extra1"])?;
    namespace.run(&["ip", "link", "set", "extra1", "up"])?;
    namespace.run(&["ip", "link", "set", "extra0", "up"])?;
    lab.create("extra", "10.43.0.15", json!({}))?;
    lab.annotate("extra", json!({ "kube-vip.io/serviceInterface": "extra0" }))?;
    lab.set_endpoints("extra", "a", &["node-1", "node-2", "node-3"])?;
    lab.wait_for_holder_to_be("10.43.0.15", first)?;
    lab.wait_for_status("web", &["10.43.0.13"])?;

    let start = kube_vip_lab::now();
    namespace.run(&[PROGRAM, "drain"])?;
    lab.wait_until_no_host_has("10.43.0.15")?;
    let second = wait_for_lease(&lab, LOCK)?;
    assert_ne!(second, first);
    assert_eq!(lab.wait_for_holder("10.43.0.13")?, second);
    assert_no_gap(&lab, start, &["10.43.0.13"], "the other address");
    let left = |address: &str| {
        let address: IpAddr = address.parse().unwrap();
        let samples = lab.sampler.since(start);
        let last = samples.iter().rev().find(|sample| sample.holders(address).contains(&first));
        last.map_or(Duration::ZERO, |sample| sample.at.since(start))
    };
    let (web, extra) = (left("10.43.0.13"), left("10.43.0.15"));
    println!("  on the former holder for {web:?}, the address that cannot be placed for {extra:?}");
    // The one leaves when its successor has it, the other at the end of the window.
    assert!(web < extra, "{web:?} {extra:?}");
    namespace.run(&[PROGRAM, "undrain"])?;
    namespace.run(&["ip", "link", "del", "extra0"])?;
    Ok(())
}

fn endpoint_moved() -> Outcome {
    for env in [&[("svc_election", "true")][..], &[("svc_election_groups", "4")]] {
        let mut lab = services(env)?;
        lab.start_agents()?;
        lab.create("web", "10.43.0.14", json!({ "externalTrafficPolicy": "Local" }))?;
        lab.set_endpoints("web", "a", &["node-1"])?;
        lab.wait_for_holder_to_be("10.43.0.14", 0)?;
        lab.wait_for_status("web", &["10.43.0.14"])?;
        // As in a rolling update of the endpoints: the new one is ready before the old one is removed.
        lab.set_endpoints("web", "a", &["node-1", "node-3"])?;
        let start = kube_vip_lab::now();
        lab.set_endpoints("web", "a", &["node-3"])?;
        lab.wait_for_holder_to_be("10.43.0.14", 2)?;
        assert_no_gap(&lab, start, &["10.43.0.14"], &format!("{env:?}"));
        wait_for_host(&lab, "web", 2)?;
    }
    Ok(())
}

fn nothing_left() -> Outcome {
    let control_plane = [("cp_enable", "true"), ("address", "10.42.0.100")];
    let kinds: [&[(&str, &str)]; 3] = [&[], &[("svc_election", "true")], &[("svc_election_groups", "4")]];
    for env in kinds {
        for with in [&[][..], &control_plane] {
            let mut lab = services(&[env, with].concat())?;
            let mut addresses = vec!["10.43.0.15", "fd43::3"];
            if !with.is_empty() {
                lab.options.address = "10.42.0.100".into();
                addresses.push("10.42.0.100");
            }
            lab.start_agents()?;
            lab.serve("web", "10.43.0.15,fd43::3")?;
            for address in &addresses {
                lab.wait_for_holder(address)?;
            }
            // Without rights no Lease can be released; the agents stop all the same.
            let refused = with.is_empty();
            if refused {
                lab.revoke()?;
            }
            let stopped = lab.stop_agents();
            if refused {
                lab.restore()?;
            }
            stopped?;
            for host in &lab.lab.hosts {
                let shown = host.namespace.ip(&["addr", "show"])?;
                for address in &addresses {
                    assert!(!shown.contains(&format!("{address}/")), "{env:?} {with:?}: {shown}");
                }
            }
        }
    }
    Ok(())
}

fn control_plane() -> Outcome {
    let shared = ("svc_share_control_plane", "true");
    let mut lab = services(&[("cp_enable", "true"), ("address", "10.42.0.100"), shared])?;
    lab.options.address = "10.42.0.100".into();
    lab.start_agents()?;
    let vip = "10.42.0.100";
    let holder = lab.wait_for_holder(vip)?;
    lab.serve("shares", vip)?;
    lab.serve("other", "10.43.0.22")?;
    lab.wait_for_status("shares", &[vip])?;
    wait_for_host(&lab, "shares", holder)?;
    lab.wait_for_holder("10.43.0.22")?;
    for number in 0..4 {
        let name = format!("shares-{number}");
        lab.create(&name, vip, json!({ "ports": [{ "port": 90 + number }] }))?;
        lab.set_endpoints(&name, "a", &["node-1", "node-2", "node-3"])?;
        wait_for_host(&lab, &name, holder)?;
    }
    // A Service is deleted; the control plane's address stays.
    let start = kube_vip_lab::now();
    lab.delete("shares")?;
    std::thread::sleep(Duration::from_secs(1));
    let watched: IpAddr = vip.parse().unwrap();
    assert!(lab.sampler.since(start).iter().all(|sample| sample.holders(watched) == [holder]));
    // A rolling update: a host has it all the time.
    let start = kube_vip_lab::now();
    for host in 0..3 {
        lab.agent(host).terminate();
        assert!(lab.agent(host).wait(10)?.success());
        lab.start_agent(host)?;
        let now = lab.wait_for_holder(vip)?;
        wait_for_host(&lab, "shares-3", now)?;
    }
    let gap = lab.sampler.since(start).iter().filter(|sample| sample.holders(watched).is_empty()).count();
    assert!(gap <= 4, "the address was nowhere in {gap} samples");
    let holder = lab.wait_for_holder(vip)?;
    // It follows the control plane.
    lab.serve("again", vip)?;
    wait_for_host(&lab, "again", holder)?;
    lab.agent(holder).terminate();
    assert!(lab.agent(holder).wait(10)?.success());
    let next = lab.wait_for_holder(vip)?;
    assert_ne!(next, holder);
    wait_for_host(&lab, "again", next)?;
    lab.stop_agents()?;
    Ok(())
}

/// A lab of its own, when a test changes what the others need.
pub(crate) fn fresh() -> Result<ServiceLab, kube_vip_lab::LabError> {
    ServiceLab::start(PROGRAM, &watched())
}
