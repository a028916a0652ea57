//! Crashes, changes of leader, conflicts, an API server that is killed: no duplicate, no leak, all Services served.

use k8s_openapi::api::core::v1::Service;
use kube_vip_lab::alerts::{self, Recording};
use kube_vip_lab::objects::load_balancer;
use kube_vip_lab::trials::{Failed, Trial, trial};
use kube_vip_lab::{Provider, wait_for};
use serde_json::json;

use super::harness::{PROGRAM, QUICK, world};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("killed_between_decision_and_write", killed_between_decision_and_write),
        trial("a_change_of_leader_in_a_burst", a_change_of_leader_in_a_burst),
        trial("a_frozen_leader_writes_nothing_when_it_wakes", a_frozen_leader_writes_nothing_when_it_wakes),
        trial("another_client_writes_all_the_time", another_client_writes_all_the_time),
        trial("the_api_server_goes_in_a_burst", the_api_server_goes_in_a_burst),
        trial("refused_writes_raise_an_alert", refused_writes_raise_an_alert),
        trial("the_go_programs_role_is_enough", the_go_programs_role_is_enough),
    ]
}

fn killed_between_decision_and_write() -> Result<(), Failed> {
    let world = world()?;
    world.configure(json!({ "cidr-global": "192.0.2.0/24" }))?;
    world.objects().create_services("web", 120, &load_balancer(80))?;
    for round in 0..4 {
        // Without an election a new process begins at once, whatever the old one left under way.
        let port = 10258 + round;
        let mut provider = Provider::start(
            &world.lab,
            0,
            PROGRAM,
            (port, super::harness::RIGHTS),
            &["--leader-elect=false"],
        )?;
        let some = f64::from(5 * (round + 1));
        world.wait_for_writes(&provider, some)?;
        provider.kill();
    }
    let _last = world.provider(10290)?;
    world.wait_for_served(120)?;
    Ok(())
}

fn a_change_of_leader_in_a_burst() -> Result<(), Failed> {
    let world = world()?;
    world.configure(json!({ "cidr-global": "192.0.2.0/24" }))?;
    let first = world.provider(10258)?;
    let mut second = world.provider(10259)?;
    let leads = |provider: &Provider| world.metric(provider, "kube_vip_cloud_provider_is_leader") == 1.0;
    wait_for("a leader", 20, || (leads(&first) || leads(&second)).then_some(()))?;
    world.objects().create_services("web", 100, &load_balancer(80))?;
    let mut first = first;
    if leads(&second) {
        std::mem::swap(&mut first, &mut second);
    }
    first.terminate();
    world.objects().create_services("more", 100, &load_balancer(80))?;
    assert!(first.wait(10)?.success());
    world.wait_for_served(200)?;
    assert!(leads(&second));
    // The third dies without a word.
    let _third = world.provider(10260)?;
    world.objects().create_services("last", 40, &load_balancer(80))?;
    second.kill();
    world.wait_for_served(240)?;
    Ok(())
}

fn a_frozen_leader_writes_nothing_when_it_wakes() -> Result<(), Failed> {
    let world = world()?;
    world.configure(json!({ "cidr-global": "192.0.2.0/24" }))?;
    let first = world.provider(10258)?;
    world.create("before")?;
    world.wait_for_served(1)?;
    world.wait_for_writes(&first, 1.0)?;
    first.freeze();
    let second = world.provider(10259)?;
    world.objects().create_services("web", 60, &load_balancer(80))?;
    world.wait_for_served(61)?;
    world.objects().create_services("more", 60, &load_balancer(80))?;
    first.thaw();
    world.wait_for_served(121)?;
    assert_eq!(world.wait_for_writes(&second, 120.0)?, 120.0);
    assert_eq!(world.wait_for_writes(&first, 1.0)?, 1.0);
    Ok(())
}

fn another_client_writes_all_the_time() -> Result<(), Failed> {
    let world = world()?;
    world.configure(json!({ "cidr-global": "192.0.2.0/24" }))?;
    let _provider = world.provider(10258)?;
    for number in 0..30 {
        let name = format!("web-{number}");
        world.create(&name)?;
        for turn in 0..5 {
            let change = json!({ "metadata": { "annotations": { "turn": turn.to_string() } } });
            world.objects().patch::<Service>(&name, change)?;
        }
    }
    world.wait_for_served(30)?;
    for service in world.objects().services("default")? {
        if service.metadata.name.as_deref() != Some("kubernetes") {
            let annotations = service.metadata.annotations.unwrap();
            assert_eq!(annotations["turn"], "4", "another client's change was lost");
        }
    }
    Ok(())
}

fn the_api_server_goes_in_a_burst() -> Result<(), Failed> {
    let mut world = world()?;
    world.configure(json!({ "cidr-global": "192.0.2.0/24" }))?;
    let _provider = world.provider(10258)?;
    world.create("before")?;
    world.wait_for_served(1)?;
    world.objects().create_services("web", 100, &load_balancer(80))?;
    world.lab.host_mut(0).kill_api_server();
    world.lab.start_api_server(0)?;
    world.lab.wait_for_api_server(0)?;
    world.wait_for_served(101)?;
    // What is deleted while it is away is known to be gone afterwards.
    world.objects().delete::<Service>("before")?;
    world.lab.host(0).freeze_api_server();
    world.lab.host(0).thaw_api_server();
    let gone = || world.objects().get::<Service>("before").unwrap().is_none().then_some(());
    Ok(wait_for("the deleted Service to go", 30, gone)?)
}

/// A role that permits no write to Services.
fn refused_writes_raise_an_alert() -> Result<(), Failed> {
    let world = world()?;
    world.grant(
        "reader",
        &json!([
            { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update", "watch"] },
            { "apiGroups": [""], "resources": ["configmaps", "namespaces", "nodes", "services"], "verbs": ["list", "get", "watch"] },
            { "apiGroups": [""], "resources": ["events"], "verbs": ["create", "patch"] },
        ]),
    )?;
    world.configure(json!({ "cidr-global": "192.0.2.0/24" }))?;
    let provider = Provider::start(&world.lab, 0, PROGRAM, (10258, "reader"), &QUICK)?;
    let refused = || world.metric(&provider, "kube_vip_cloud_provider_writes_total{result=\"refused\"}");
    world.create("web")?;
    wait_for("a refusal", 20, || (refused() > 0.0).then_some(()))?;
    let mut recording = Recording::default();
    recording.scrape(alerts::providers(&world.lab, &[&provider]));
    let first = refused();
    wait_for("another one", 30, || (refused() > first).then_some(()))?;
    recording.scrape(alerts::providers(&world.lab, &[&provider]));
    Ok(recording.expect_at_least(&["KubeVipProviderWritesFail"])?)
}

/// The rights of the Go program's role: no `patch`, no `watch` on Leases, no namespaces.
fn the_go_programs_role_is_enough() -> Result<(), Failed> {
    let world = world()?;
    world.grant(
        "old",
        &json!([
            { "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update", "list", "put"] },
            { "apiGroups": [""], "resources": ["configmaps", "endpoints", "events", "services/status", "leases"], "verbs": ["*"] },
            { "apiGroups": [""], "resources": ["nodes", "services"], "verbs": ["list", "get", "watch", "update"] },
        ]),
    )?;
    world.configure(json!({ "cidr-global": "192.0.2.0/24" }))?;
    let provider = Provider::start(&world.lab, 0, PROGRAM, (10258, "old"), &QUICK)?;
    world.objects().create_services("web", 20, &load_balancer(80))?;
    world.wait_for_served(20)?;
    assert!(provider.log().contains("the role lacks the verb `patch` for services"), "{}", provider.log());
    assert_eq!(world.addresses("web-0").parse::<std::net::Ipv4Addr>()?.octets()[..3], [192, 0, 2]);
    Ok(())
}
