//! Several gateways, gateways that change or misbehave; and the policy for port mappings.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Namespace, Service};
use kube_vip::model::service::UPNP_DELEGATED;
use kube_vip_lab::fake_gateway::{Answer, Call, FakeGateway, done, honest, refused};
use kube_vip_lab::home_router::HomeRouter;
use kube_vip_lab::objects::{annotation, load_balancer};
use kube_vip_lab::trials::{Outcome, Trial, trial};
use kube_vip_lab::{ServiceLab, wait_for};
use serde_json::json;

use crate::harness::services;
use crate::services::wait_for_event;
use crate::upnp::{ALL, V4, serve, wait_until_reached, workload};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("ports_are_mapped_where_the_policy_allows_it", consent),
        trial("several_gateways_open_the_port", several),
        trial("a_changed_external_address_is_published", moved),
        trial("two_clusters_behind_one_router_share_its_ports", two_clusters),
        trial("gateways_that_misbehave_cost_no_more_than_time", hostile),
        trial("only_hosts_that_answered_are_queried", elsewhere),
    ]
}

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(100, 200, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(100, 200, 0, 9);

/// Until the annotation has these external addresses, and the status has these. A gateway is queried every 20 seconds.
fn wait_for_status(lab: &ServiceLab, name: &str, status: &[&str], outside: &str) -> Outcome {
    wait_for(&format!("the external address to be `{outside}`"), 50, || {
        let service: Service = lab.objects().get(name).ok().flatten()?;
        (annotation(&service, "kube-vip.io/upnp-external-ip") == outside).then_some(())
    })?;
    lab.wait_for_status(name, status)?;
    Ok(())
}

/// The cloud provider's delegation, the agent's own setting, and the cleanup when either is withdrawn.
fn consent() -> Outcome {
    let url = "http://100.200.0.1:8080/";
    let mut lab = services(&[])?;
    let mut router = HomeRouter::start(&lab.lab)?;
    router.switch_on(ALL)?;
    let _workload = workload(&lab, "8080")?;
    lab.start_agents()?;
    // What an earlier cloud provider wrote: its author cannot permit it.
    let asks = json!({ "kube-vip.io/forwardUPNP": "true", "kube-vip.io/upnp-delegated": "true" });
    serve(&lab, "web", V4, asks)?;
    wait_for_event(&lab, "web", "PortNotForwarded", "UPnP is disabled")?;
    assert!(!router.open().contains(V4));
    let delegate = |lab: &ServiceLab, status: &str| {
        let condition = json!({ "type": UPNP_DELEGATED, "status": status, "reason": "Test", "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z" });
        lab.objects().patch_status::<Service>("web", json!({ "status": { "conditions": [condition] } }))
    };
    delegate(&lab, "True")?;
    wait_until_reached(&router, url, true)?;
    wait_for_status(&lab, "web", &[V4, "100.200.0.1"], "100.200.0.1")?;
    delegate(&lab, "False")?;
    wait_until_reached(&router, url, false)?;
    wait_for_status(&lab, "web", &[V4], "")?;
    // Switched off between one process and the next.
    delegate(&lab, "True")?;
    wait_until_reached(&router, url, true)?;
    wait_for_status(&lab, "web", &[V4, "100.200.0.1"], "100.200.0.1")?;
    lab.stop_agents()?;
    assert!(router.open().contains(V4), "a node that stops leaves it to the next");
    lab.options = lab.plain_options().with("enable_upnp", "false");
    lab.start_agents()?;
    wait_until_reached(&router, url, false)?;
    wait_for_status(&lab, "web", &[V4], "")?;
    // The Event from before names the cloud provider's flag as well.
    wait_for("the Event that UPnP is disabled on the node", 20, || {
        let events = lab.objects().events("web").unwrap();
        events.into_iter().find(|(_, text)| text.ends_with("UPnP is disabled: set enable_upnp=true"))
    })?;
    // The status alone may be left as it is.
    lab.stop_agents()?;
    lab.options = lab.plain_options().with("enable_upnp", "true").with("upnp_status", "false");
    lab.start_agents()?;
    wait_until_reached(&router, url, true)?;
    wait_for_status(&lab, "web", &[V4], "100.200.0.1")
}

/// The mappings that a gateway was asked for: action, port, and where to.
fn asked(gateway: &FakeGateway, action: &str) -> Vec<Call> {
    gateway.calls().into_iter().filter(|call| call.action == action).collect()
}

fn several() -> Outcome {
    let mut lab = services(&[("enable_upnp", "true")])?;
    let mut router = HomeRouter::start(&lab.lab)?;
    router.switch_on(ALL)?;
    let other = FakeGateway::start(&lab.lab, 247, None, |call| honest(call, OTHER))?;
    let _workload = workload(&lab, "8080")?;
    lab.start_agents()?;
    serve(&lab, "web", V4, json!({ "kube-vip.io/forwardUPNP": "true" }))?;
    wait_until_reached(&router, "http://100.200.0.1:8080/", true)?;
    wait_for_status(&lab, "web", &[V4, "100.200.0.1", "100.200.0.9"], "100.200.0.1,100.200.0.9")?;
    let opened = asked(&other, "AddPortMapping");
    assert!(opened[0].body.contains(&format!("<NewInternalClient>{V4}</NewInternalClient>")), "{opened:?}");
    // In secure mode it would have to come from there.
    assert_eq!(opened[0].from.ip().to_string(), V4);
    lab.delete("web")?;
    wait_until_reached(&router, "http://100.200.0.1:8080/", false)?;
    wait_for("the other gateway to be asked to delete it", 10, || {
        asked(&other, "DeletePortMapping").first().map(|call| call.from.ip().to_string() == V4)
    })?;
    Ok(())
}

/// As Internet providers do every night.
fn moved() -> Outcome {
    let mut lab = services(&[("enable_upnp", "true")])?;
    let gateway = FakeGateway::start(&lab.lab, 247, None, |call| honest(call, OUTSIDE))?;
    lab.start_agents()?;
    serve(&lab, "web", V4, json!({ "kube-vip.io/forwardUPNP": "true" }))?;
    wait_for_status(&lab, "web", &[V4, "100.200.0.1"], "100.200.0.1")?;
    // Meanwhile it has none.
    gateway.play(|call| match call.action.as_str() {
        "GetExternalIPAddress" => done(call, "<NewExternalIPAddress></NewExternalIPAddress>"),
        _ => honest(call, OUTSIDE),
    });
    let asked_so_far = asked(&gateway, "GetExternalIPAddress").len();
    wait_for("it to be asked", 50, || {
        (asked(&gateway, "GetExternalIPAddress").len() > asked_so_far).then_some(())
    })?;
    wait_for_status(&lab, "web", &[V4, "100.200.0.1"], "100.200.0.1")?;
    gateway.play(|call| honest(call, OTHER));
    wait_for_status(&lab, "web", &[V4, "100.200.0.9"], "100.200.0.9")?;
    // From a carrier that has no addresses left.
    gateway.play(|call| honest(call, Ipv4Addr::new(100, 64, 0, 9)));
    wait_for_status(&lab, "web", &[V4, "100.64.0.9"], "100.64.0.9")?;
    wait_for_event(&lab, "web", "PortNotForwarded", "double NAT")
}

/// Two agents that know nothing of each other's Services, as those of two clusters.
fn two_clusters() -> Outcome {
    let mut lab = crate::services::fresh()?;
    lab.objects().create::<Namespace>("shop", json!({}))?;
    let mut router = HomeRouter::start(&lab.lab)?;
    router.switch_on(ALL)?;
    let _workload = workload(&lab, "8080")?;
    for (host, namespace) in [(0, "default"), (1, "shop")] {
        let plain = lab.plain_options().with("enable_upnp", "true");
        lab.options =
            plain.with("svc_namespace", namespace).with("svc_leasename", &format!("lock-{namespace}"));
        lab.start_agent(host)?;
    }
    let web = |address: &str| {
        let annotations = json!({
            "kube-vip.io/loadbalancerIPs": address,
            "kube-vip.io/allow-reconcile-without-endpoints": "true",
            "kube-vip.io/forwardUPNP": "true",
        });
        json!({ "metadata": { "annotations": annotations }, "spec": load_balancer(8080) })
    };
    lab.objects().create::<Service>("web", web(V4))?;
    wait_until_reached(&router, "http://100.200.0.1:8080/", true)?;
    // The first mapping wins; the Event of the other Service names its owner.
    lab.objects().create::<Service>("shop/web", web("10.42.0.151"))?;
    wait_for_event(
        &lab,
        "shop/web",
        "PortNotForwarded",
        "port 8080/TCP of the gateway is mapped to 10.42.0.150",
    )?;
    let leads_to = |inside: &str, not: &str| {
        let open = router.open();
        open.contains(inside) && !open.contains(not)
    };
    assert!(leads_to(V4, "10.42.0.151"), "{}", router.open());
    // Another port there is free.
    let other = json!({ "kube-vip.io/upnp-external-port": "9090" });
    lab.annotate("shop/web", other)?;
    wait_until_reached(&router, "http://100.200.0.1:9090/", true)?;
    lab.annotate("shop/web", json!({ "kube-vip.io/upnp-external-port": null }))?;
    wait_until_reached(&router, "http://100.200.0.1:9090/", false)?;
    // When the first one has no use for it any more it is the other one's.
    lab.delete("web")?;
    wait_for("the port to lead to the other cluster", 60, || leads_to("10.42.0.151", V4).then_some(()))?;
    wait_until_reached(&router, "http://100.200.0.1:8080/", true)
}

fn hostile() -> Outcome {
    let mut lab = services(&[("enable_upnp", "true")])?;
    let gateway = FakeGateway::start(&lab.lab, 247, None, |call| honest(call, OUTSIDE))?;
    lab.start_agents()?;
    // What is announced must not suffer, whatever the gateway does.
    lab.serve("other", "10.43.0.10")?;
    let holder = lab.wait_for_holder("10.43.0.10")?;
    let otherwise = |wanted: &'static str, answer: fn(&Call) -> Answer| {
        move |call: &Call| if call.action == wanted { answer(call) } else { honest(call, OUTSIDE) }
    };
    type Play = fn(&Call) -> Answer;
    let plays: [(&str, Play, &str); 8] = [
        ("AddPortMapping", |_| refused(728, "NoPortMapsAvailable"), "error 728 (NoPortMapsAvailable)"),
        ("AddPortMapping", |_| refused(501, "Action\r\nFailed"), "error 501 (ActionFailed)"),
        ("AddPortMapping", |_| Answer::Text(200, "<html>please log in</html>".into()), "malformed response"),
        ("AddPortMapping", |_| Answer::Text(200, "\u{0}".repeat(100)), "malformed response"),
        ("AddPortMapping", |_| Answer::Endless, "malformed response"),
        ("/description.xml", |_| Answer::Endless, "no gateway answers"),
        ("/description.xml", |_| Answer::Silence, "no gateway answers"),
        ("/actions.xml", |_| Answer::Text(200, "<scpd><actionList>".into()), "no gateway answers"),
    ];
    for (number, (action, play, part)) in plays.into_iter().enumerate() {
        if action.starts_with('/') {
            // One that is known is not looked for: it has to be gone first.
            gateway.play(|_| Answer::Silence);
            let gone = format!("gone-{number}");
            serve(&lab, &gone, V4, json!({ "kube-vip.io/forwardUPNP": "true" }))?;
            wait_for_event(&lab, &gone, "PortNotForwarded", "no gateway answers")?;
            lab.delete(&gone)?;
            lab.wait_until_no_host_has(V4)?;
        }
        gateway.play(otherwise(action, play));
        let name = format!("web-{number}");
        serve(&lab, &name, V4, json!({ "kube-vip.io/forwardUPNP": "true" }))?;
        let found = wait_for_event(&lab, &name, "PortNotForwarded", part);
        found.map_err(|error| format!("{action}, {part}: {error:?} {:?}", lab.objects().events(&name)))?;
        // Later it behaves.
        gateway.play(|call| honest(call, OUTSIDE));
        wait_for_event(
            &lab,
            &name,
            "PortForwarded",
            "port 8080/TCP of 100.200.0.1 is mapped to 10.42.0.150",
        )?;
        lab.delete(&name)?;
        lab.wait_until_no_host_has(V4)?;
    }
    // A list without an end.
    let entry = "<NewRemoteHost></NewRemoteHost><NewExternalPort>7</NewExternalPort><NewProtocol>UDP</NewProtocol>\
                 <NewInternalPort>7</NewInternalPort><NewInternalClient>10.42.0.99</NewInternalClient>\
                 <NewEnabled>1</NewEnabled><NewPortMappingDescription>x</NewPortMappingDescription>\
                 <NewLeaseDuration>0</NewLeaseDuration>";
    gateway.play(move |call| match call.action.as_str() {
        "GetGenericPortMappingEntry" => done(call, entry),
        _ => honest(call, OUTSIDE),
    });
    serve(&lab, "web", V4, json!({ "kube-vip.io/forwardUPNP": "true" }))?;
    wait_for_event(&lab, "web", "PortForwarded", "port 8080/TCP of 100.200.0.1 is mapped to 10.42.0.150")?;
    assert_eq!(lab.wait_for_holder("10.43.0.10")?, holder);
    Ok(())
}

/// An answer to a search that points to another host is ignored.
fn elsewhere() -> Outcome {
    let mut lab = services(&[("enable_upnp", "true")])?;
    let victim = FakeGateway::start(&lab.lab, 248, None, |_| Answer::Silence)?;
    let _liar = FakeGateway::start(&lab.lab, 247, Some(victim.address), |call| honest(call, OUTSIDE))?;
    lab.start_agents()?;
    serve(&lab, "web", V4, json!({ "kube-vip.io/forwardUPNP": "true" }))?;
    wait_for_event(&lab, "web", "PortNotForwarded", "no gateway answers on interface eth0")?;
    // The victim answers searches itself, and is queried for its own description only.
    let paths: Vec<String> = victim.calls().into_iter().map(|call| call.action).collect();
    assert!(paths.iter().all(|path| path == "/description.xml"), "{paths:?}");
    Ok(())
}
