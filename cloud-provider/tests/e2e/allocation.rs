//! Services get addresses, keep them, and give them back.

use k8s_openapi::api::core::v1::Service;
use kube_vip_lab::objects::load_balancer;
use kube_vip_lab::trials::{Failed, Trial, trial};
use kube_vip_lab::{Provider, wait_for};
use serde_json::json;

use super::harness::{World, world};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "a_service_gets_what_the_go_program_would_write",
            a_service_gets_what_the_go_program_would_write,
        ),
        trial(
            "the_address_of_a_deleted_service_is_allocated_again",
            the_address_of_a_deleted_service_is_allocated_again,
        ),
        trial(
            "a_change_of_type_removes_label_annotations_and_finalizer",
            a_change_of_type_removes_label_annotations_and_finalizer,
        ),
        trial(
            "an_edit_of_the_config_map_serves_waiting_services",
            an_edit_of_the_config_map_serves_waiting_services,
        ),
        trial("one_family_becomes_two_and_one_again", one_family_becomes_two_and_one_again),
        trial("a_restart_writes_nothing", a_restart_writes_nothing),
    ]
}

fn a_service_gets_what_the_go_program_would_write() -> Result<(), Failed> {
    let world = world()?;
    world.configure(json!({ "cidr-default": "192.0.2.8/29", "interface-global": "eth7" }))?;
    let _provider = world.provider(10258)?;
    world.create("web")?;
    world.wait_for_addresses("web", "192.0.2.8")?;
    let service = world.service("web");
    let (meta, spec) = (service.metadata, service.spec.unwrap());
    assert_eq!(meta.labels.unwrap()["implementation"], "kube-vip");
    assert_eq!(meta.annotations.unwrap()["kube-vip.io/serviceInterface"], "eth7");
    assert_eq!(meta.finalizers.unwrap(), ["service.kubernetes.io/load-balancer-cleanup"]);
    assert_eq!(spec.load_balancer_ip.as_deref(), Some("192.0.2.8"));
    assert!(service.status.unwrap().load_balancer.unwrap().ingress.is_none(), "the status is kube-vip's");
    Ok(())
}

/// A provider whose only address the Service `first` has, while `second` waits for one.
fn one_address_for_two(world: &World) -> Result<Provider, Failed> {
    world.configure(json!({ "range-global": "192.0.2.1-192.0.2.1" }))?;
    let provider = world.provider(10258)?;
    world.create("first")?;
    world.wait_for_addresses("first", "192.0.2.1")?;
    world.create("second")?;
    Ok(provider)
}

fn the_address_of_a_deleted_service_is_allocated_again() -> Result<(), Failed> {
    let world = world()?;
    let _provider = one_address_for_two(&world)?;
    world.wait_for_event("second", "SyncLoadBalancerFailed", "no addresses available in [global] range")?;
    world.objects().delete::<Service>("first")?;
    world.wait_for_addresses("second", "192.0.2.1")?;
    let gone = || world.objects().get::<Service>("first").unwrap().is_none().then_some(());
    wait_for("the first Service to go", 10, gone)?;
    Ok(())
}

fn a_change_of_type_removes_label_annotations_and_finalizer() -> Result<(), Failed> {
    let world = world()?;
    let _provider = one_address_for_two(&world)?;
    let change = json!({ "spec": { "type": "ClusterIP", "allocateLoadBalancerNodePorts": null } });
    world.objects().patch::<Service>("first", change)?;
    world.wait_for_addresses("second", "192.0.2.1")?;
    wait_for("the marks to go", 10, || {
        let meta = world.service("first").metadata;
        let clean = meta.finalizers.is_none() && meta.labels.is_none() && meta.annotations.is_none();
        clean.then_some(())
    })?;
    world.wait_for_event("first", "DeletedLoadBalancer", "Deleted load balancer")?;
    Ok(())
}

fn an_edit_of_the_config_map_serves_waiting_services() -> Result<(), Failed> {
    let world = world()?;
    let _provider = world.provider(10258)?;
    world.objects().create_services("web", 6, &load_balancer(80))?;
    world.wait_for_event("web-5", "SyncLoadBalancerFailed", "no address pools could be found")?;
    world.configure(json!({ "range-global": "192.0.2.1-192.0.2.4" }))?;
    world.wait_for_served(4)?;
    world.configure(json!({ "range-global": "192.0.2.1-192.0.2.4,192.0.2.9-192.0.2.10" }))?;
    world.wait_for_served(6)?;
    // Removing a pool keeps allocated addresses.
    world.configure(json!({}))?;
    world.create("late")?;
    world.wait_for_event("late", "SyncLoadBalancerFailed", "no address pools could be found")?;
    world.wait_for_served(6)?;
    Ok(())
}

fn one_family_becomes_two_and_one_again() -> Result<(), Failed> {
    let world = world()?;
    world.configure(json!({ "cidr-global": "192.0.2.8/29,fd00::10/124" }))?;
    let _provider = world.provider(10258)?;
    world.create("web")?;
    world.wait_for_addresses("web", "192.0.2.8")?;
    // The API server here has no IPv6 range for cluster addresses: what it refuses is not asked of it. The planner's
    // own tests change families; here an address that its user asks for joins, and goes.
    let ask = |text: Option<&str>| json!({ "metadata": { "annotations": { "kube-vip.io/loadbalancerIPs": text } } });
    world.objects().patch::<Service>("web", ask(Some("192.0.2.9,fd00::11")))?;
    wait_for("the request to be taken up", 10, || {
        let annotations = world.service("web").metadata.annotations?;
        (!annotations.contains_key("kube-vip.io/allocated-addresses")).then_some(())
    })?;
    assert_eq!(world.addresses("web"), "192.0.2.9,fd00::11");
    world.objects().patch::<Service>(
        "web",
        json!({ "metadata": { "annotations": { "kube-vip.io/loadbalancerIPs": null } }, "spec": { "loadBalancerIP": null } }),
    )?;
    world.wait_for_addresses("web", "192.0.2.8")?;
    Ok(())
}

fn a_restart_writes_nothing() -> Result<(), Failed> {
    let world = world()?;
    world.configure(json!({ "cidr-global": "192.0.2.0/24" }))?;
    let mut provider = world.provider(10258)?;
    world.objects().create_services("web", 20, &load_balancer(80))?;
    world.wait_for_served(20)?;
    assert_eq!(world.wait_for_writes(&provider, 20.0)?, 20.0);
    provider.terminate();
    assert!(provider.wait(10)?.success());
    let again = world.provider(10259)?;
    world.create("new")?;
    world.wait_for_served(21)?;
    assert_eq!(world.wait_for_writes(&again, 1.0)?, 1.0);
    Ok(())
}
