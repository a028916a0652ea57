//! Events, metrics, probes, commands.

use k8s_openapi::api::core::v1::{Namespace, Node, Service};
use kube_vip::model::service::UPNP_DELEGATED;
use kube_vip_lab::alerts::{self, Recording};
use kube_vip_lab::objects::load_balancer;
use kube_vip_lab::trials::{Failed, Trial, trial};
use kube_vip_lab::{Provider, provider, wait_for};
use serde_json::{Value, json};

use super::harness::{PROGRAM, QUICK, RIGHTS, world};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("errors_of_the_config_map_are_reported", errors_of_the_config_map_are_reported),
        trial("addresses_of_nodes_and_of_others_are_refused", addresses_of_nodes_and_of_others_are_refused),
        trial(
            "metrics_and_probes_show_leader_pools_and_readiness",
            metrics_and_probes_show_leader_pools_and_readiness,
        ),
        trial("the_pools_command_shows_waiting_services", the_pools_command_shows_waiting_services),
        trial(
            "port_mappings_are_delegated_to_the_announcing_node",
            port_mappings_are_delegated_to_the_announcing_node,
        ),
    ]
}

fn errors_of_the_config_map_are_reported() -> Result<(), Failed> {
    let world = world()?;
    let provider = world.provider(10258)?;
    world.configure(json!({ "cidr-default": "192.0.2.0/24", "cidr-global": "nonsense", "cird-x": "", "range-nowhere": "192.0.2.7" }))?;
    world.create("web")?;
    world.wait_for_addresses("web", "192.0.2.1")?;
    world.wait_for_event("kube-system/kubevip", "InvalidPool", "cidr-global: `nonsense` is no address")?;
    world.wait_for_event("kube-system/kubevip", "PoolWarning", "did you mean")?;
    world.wait_for_event("kube-system/kubevip", "PoolWarning", "there is no namespace nowhere")?;
    world.wait_for_event("kube-system/kubevip", "PoolWarning", "in common with")?;
    assert_eq!(world.metric(&provider, "kube_vip_cloud_provider_config_problems{key=\"cidr-global\"}"), 1.0);
    alerts::expect(alerts::providers(&world.lab, &[&provider]), &["KubeVipProviderConfigProblem"])?;
    world.objects().create::<Namespace>("nowhere", json!({}))?;
    let gone = || world.metric(&provider, "kube_vip_cloud_provider_config_problems{key=\"cird-x\"}") == 1.0;
    wait_for("the namespace to be seen", 10, || gone().then_some(()))?;
    // A bad edit leaves what was good in force.
    world.configure(json!({ "cidr-default": "192.0.2.0/99" }))?;
    world.wait_for_event("kube-system/kubevip", "PoolWarning", "192.0.2.0/24 stays in force")?;
    world.create("more")?;
    world.wait_for_addresses("more", "192.0.2.2")?;
    Ok(())
}

fn addresses_of_nodes_and_of_others_are_refused() -> Result<(), Failed> {
    let world = world()?;
    world.objects().create::<Node>("node-1", json!({}))?;
    let addresses = json!([{ "type": "InternalIP", "address": "192.0.2.1" }]);
    world.objects().patch_status::<Node>("node-1", json!({ "status": { "addresses": addresses } }))?;
    world.configure(json!({ "range-global": "192.0.2.1-192.0.2.9" }))?;
    let _provider = world.provider(10258)?;
    world.create("web")?;
    world.wait_for_addresses("web", "192.0.2.2")?;
    let asking = |address: &str| {
        let annotations = json!({ "kube-vip.io/loadbalancerIPs": address });
        json!({ "metadata": { "annotations": annotations }, "spec": load_balancer(80) })
    };
    for (name, address, text) in [
        ("own", "192.0.2.1", "192.0.2.1 is node node-1's own"),
        ("taken", "192.0.2.2", "192.0.2.2 is in use by Service default/web"),
        ("multicast", "224.0.0.1", "224.0.0.1 is a multicast address"),
        ("typo", "192.0.2.2.2", "unable to parse IP `192.0.2.2.2`"),
    ] {
        world.objects().create::<Service>(name, asking(address))?;
        let text = world.wait_for_event(name, "SyncLoadBalancerFailed", text)?;
        assert!(text.starts_with("Error syncing load balancer: failed to ensure load balancer: "), "{text}");
    }
    // Refused Services do not block others.
    world.create("after")?;
    world.wait_for_addresses("after", "192.0.2.3")?;
    world.wait_for_event("after", "EnsuredLoadBalancer", "Ensured load balancer: 192.0.2.3")?;
    world.objects().delete::<Node>("node-1")?;
    world.wait_for_event("own", "EnsuredLoadBalancer", "Ensured load balancer: 192.0.2.1")?;
    Ok(())
}

fn metrics_and_probes_show_leader_pools_and_readiness() -> Result<(), Failed> {
    let world = world()?;
    world.configure(json!({ "range-global": "192.0.2.1-192.0.2.10" }))?;
    let mut leader = world.provider(10258)?;
    let namespace = &world.lab.host(0).namespace;
    let ready = |port: u16| {
        let answer = namespace.http_get(port, "/readyz").unwrap_or_default();
        answer.starts_with("HTTP/1.0 200").then_some(())
    };
    wait_for("the leader to be ready", 20, || ready(10258))?;
    let mut standby = world.provider(10259)?;
    wait_for("the standby to be ready", 20, || ready(10259))?;
    alerts::expect(alerts::providers(&world.lab, &[&leader, &standby]), &[])?;
    assert!(namespace.http_get(10258, "/healthz")?.ends_with("OK"));
    world.objects().create_services("web", 12, &load_balancer(80))?;
    world.wait_for_served(10)?;
    let global = "{pool=\"global\",family=\"IPv4\"}";
    for (name, value) in [
        (format!("kube_vip_cloud_provider_pool_addresses{global}"), 10.0),
        (format!("kube_vip_cloud_provider_pool_addresses_in_use{global}"), 10.0),
        (format!("kube_vip_cloud_provider_services_waiting{global}"), 2.0),
        ("kube_vip_cloud_provider_allocation_seconds_count".to_owned(), 10.0),
        ("kube_vip_cloud_provider_is_leader".to_owned(), 1.0),
    ] {
        wait_for(&format!("{name} {value}"), 10, || (world.metric(&leader, &name) == value).then_some(()))?;
    }
    assert_eq!(world.metric(&standby, "kube_vip_cloud_provider_is_leader"), 0.0);
    let full = ["KubeVipPoolNearlyFull", "KubeVipServiceWaiting"];
    let mut recording = Recording::default();
    recording.scrape(alerts::providers(&world.lab, &[&leader, &standby]));
    recording.expect(&full)?;
    leader.kill();
    standby.kill();
    recording.scrape(alerts::providers(&world.lab, &[&leader, &standby]));
    recording.expect(&[full[0], "KubeVipProviderWithoutHolder", full[1]])?;
    // Without an election.
    let start = |port| Provider::start(&world.lab, 0, PROGRAM, (port, RIGHTS), &["--leader-elect=false"]);
    let (one, other) = (start(10260)?, start(10261)?);
    let in_use = format!("kube_vip_cloud_provider_pool_addresses_in_use{global}");
    for provider in [&one, &other] {
        for (name, value) in [("kube_vip_cloud_provider_is_leader", 1.0), (in_use.as_str(), 10.0)] {
            let allocates = || (world.metric(provider, name) == value).then_some(());
            wait_for(&format!("{name} {value} of both"), 20, allocates)?;
        }
    }
    let both = alerts::providers(&world.lab, &[&one, &other]);
    Ok(alerts::expect(both, &[full[0], "KubeVipProviderTwoHolders", full[1]])?)
}

fn the_pools_command_shows_waiting_services() -> Result<(), Failed> {
    let world = world()?;
    world.configure(json!({ "range-global": "192.0.2.1-192.0.2.2" }))?;
    let mut provider = world.provider(10258)?;
    world.objects().create_services("web", 3, &load_balancer(80))?;
    world.wait_for_served(2)?;
    // As with `kubectl exec` in the provider's pod.
    let flag = provider::kubeconfig(&world.lab, world.lab.host(0), RIGHTS)?;
    let ask =
        |args: &[&str]| world.lab.host(0).namespace.run(&[&[PROGRAM, "pools", flag.as_str()], args].concat());
    let text = ask(&[])?;
    assert!(text.contains("global  IPv4    2     2     0     1        range-global"), "{text}");
    assert!(text.contains("no addresses available in [global] range [192.0.2.1-192.0.2.2]"), "{text}");
    let json: Value = serde_json::from_str(&ask(&["-o", "json"])?)?;
    assert_eq!((&json["pools"][0]["used"], &json["pools"][0]["waiting"]), (&json!(2), &json!(1)));
    // Without a provider the command names the reason.
    provider.kill();
    world.configure(json!({ "range-global": "192.0.2.1-192.0.2.3" }))?;
    let text = ask(&[])?;
    assert!(text.contains("is a kube-vip-cloud-provider running"), "{text}");
    Ok(())
}

fn port_mappings_are_delegated_to_the_announcing_node() -> Result<(), Failed> {
    let world = world()?;
    world.configure(json!({ "range-global": "192.0.2.1-192.0.2.9" }))?;
    let delegated = |wanted: &str| {
        wait_for(&format!("the delegation to be `{wanted}`"), 20, || {
            let conditions = world.service("web").status?.conditions.unwrap_or_default();
            let found = conditions.into_iter().find(|one| one.type_ == UPNP_DELEGATED);
            (found.map(|one| one.status).unwrap_or_default() == wanted).then_some(())
        })
    };
    let ask = |value: Value| {
        let annotations = json!({ "kube-vip.io/forwardUPNP": value });
        world.objects().patch::<Service>("web", json!({ "metadata": { "annotations": annotations } }))
    };
    let args = [&QUICK[..], &["--upnp"]].concat();
    let mut provider = Provider::start(&world.lab, 0, PROGRAM, (10258, RIGHTS), &args)?;
    world.create("web")?;
    ask(json!("true"))?;
    delegated("True")?;
    ask(json!(null))?;
    delegated("False")?;
    ask(json!("true"))?;
    delegated("True")?;
    // Switched off, the provider takes the permission back. Conditions of other controllers stay.
    let other = json!({ "type": "example.com/Ready", "status": "True", "reason": "Ready", "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z" });
    let mut conditions =
        serde_json::to_value(world.service("web").status.and_then(|status| status.conditions))?;
    conditions.as_array_mut().ok_or("no conditions")?.push(other);
    world.objects().patch_status::<Service>("web", json!({ "status": { "conditions": conditions } }))?;
    provider.terminate();
    provider.wait(10)?;
    let _provider = world.provider(10259)?;
    delegated("False")?;
    let conditions = world.service("web").status.and_then(|status| status.conditions).unwrap_or_default();
    assert_eq!(conditions.len(), 2, "{conditions:?}");
    Ok(())
}
