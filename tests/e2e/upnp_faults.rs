//! Gateways that are several, change their minds, or misbehave; and who may open ports at all.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::Service;
use kube_vip_lab::gateway_stand_in::{Answer, Call, GatewayStandIn, done, honest, refused};
use kube_vip_lab::home_router::HomeRouter;
use kube_vip_lab::objects::annotation;
use kube_vip_lab::{ServiceLab, wait_for};
use libtest_mimic::{Failed, Trial};
use serde_json::json;

use crate::harness::services;
use crate::services::wait_for_event;
use crate::trial;
use crate::upnp::{ALL, V4, serve, wait_until_reached, workload};

type Outcome = Result<(), Failed>;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("ports_are_opened_for_those_that_may", consent),
        trial("several_gateways_open_the_port", several),
        trial("gateways_that_misbehave_cost_no_more_than_time", hostile),
        trial("nobody_is_asked_but_who_answered", elsewhere),
    ]
}

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(100, 200, 0, 1);
const OTHER: Ipv4Addr = Ipv4Addr::new(100, 200, 0, 9);

/// Until the status has these addresses, and the annotation for those outside says so.
fn wait_for_status(lab: &ServiceLab, name: &str, status: &[&str], outside: &str) -> Outcome {
    lab.wait_for_status(name, status)?;
    wait_for(&format!("the address outside to be `{outside}`"), 30, || {
        let service: Service = lab.objects().get(name).ok().flatten()?;
        (annotation(&service, "kube-vip.io/upnp-external-ip") == outside).then_some(())
    })?;
    Ok(())
}

/// The cloud provider's word, the agent's own setting, and what is left when it is taken back.
fn consent() -> Outcome {
    let url = "http://100.200.0.1:8080/";
    let mut lab = services(&[])?;
    let mut router = HomeRouter::start(&lab.lab)?;
    router.switch_on(ALL)?;
    let _workload = workload(&lab, "8080")?;
    lab.start_agents()?;
    serve(&lab, "web", V4, json!({ "kube-vip.io/forwardUPNP": "true" }))?;
    wait_for_event(&lab, "web", "PortNotForwarded", "nobody opens ports of gateways")?;
    assert!(!router.open().contains(V4));
    lab.annotate("web", json!({ "kube-vip.io/upnp-delegated": "true" }))?;
    wait_until_reached(&router, url, true)?;
    wait_for_status(&lab, "web", &[V4, "100.200.0.1"], "100.200.0.1")?;
    lab.annotate("web", json!({ "kube-vip.io/upnp-delegated": null }))?;
    wait_until_reached(&router, url, false)?;
    wait_for_status(&lab, "web", &[V4], "")?;
    // Switched off between one process and the next.
    lab.annotate("web", json!({ "kube-vip.io/upnp-delegated": "true" }))?;
    wait_until_reached(&router, url, true)?;
    wait_for_status(&lab, "web", &[V4, "100.200.0.1"], "100.200.0.1")?;
    lab.stop_agents()?;
    assert!(router.open().contains(V4), "a node that stops leaves it to the next");
    lab.options = lab.plain_options().with("enable_upnp", "false");
    lab.start_agents()?;
    wait_until_reached(&router, url, false)?;
    wait_for_status(&lab, "web", &[V4], "")?;
    wait_for_event(&lab, "web", "PortNotForwarded", "enable_upnp=false forbids it")?;
    // The status alone may be left as it is.
    lab.stop_agents()?;
    lab.options = lab.plain_options().with("enable_upnp", "true").with("upnp_status", "false");
    lab.start_agents()?;
    wait_until_reached(&router, url, true)?;
    wait_for_status(&lab, "web", &[V4], "100.200.0.1")
}

/// The mappings that a gateway was asked for: action, port, and where to.
fn asked(gateway: &GatewayStandIn, action: &str) -> Vec<Call> {
    gateway.calls().into_iter().filter(|call| call.action == action).collect()
}

fn several() -> Outcome {
    let mut lab = services(&[("enable_upnp", "true")])?;
    let mut router = HomeRouter::start(&lab.lab)?;
    router.switch_on(ALL)?;
    let other = GatewayStandIn::start(&lab.lab, 247, None, |call| honest(call, OTHER))?;
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
    wait_for("the other one to be told", 10, || {
        asked(&other, "DeletePortMapping").first().map(|call| call.from.ip().to_string() == V4)
    })?;
    Ok(())
}

fn hostile() -> Outcome {
    let mut lab = services(&[("enable_upnp", "true")])?;
    let gateway = GatewayStandIn::start(&lab.lab, 247, None, |call| honest(call, OUTSIDE))?;
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
        ("AddPortMapping", |_| Answer::Text(200, "<html>please log in</html>".into()), "its answer is none"),
        ("AddPortMapping", |_| Answer::Text(200, "\u{0}".repeat(100)), "its answer is none"),
        ("AddPortMapping", |_| Answer::Endless, "its answer is none"),
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
            lab.wait_until_nobody_has(V4)?;
        }
        gateway.play(otherwise(action, play));
        let name = format!("web-{number}");
        serve(&lab, &name, V4, json!({ "kube-vip.io/forwardUPNP": "true" }))?;
        let told = wait_for_event(&lab, &name, "PortNotForwarded", part);
        told.map_err(|error| format!("{action}, {part}: {error:?} {:?}", lab.objects().events(&name)))?;
        // It may have thought better of it.
        gateway.play(|call| honest(call, OUTSIDE));
        wait_for_event(&lab, &name, "PortForwarded", "port 8080/TCP of 100.200.0.1 leads to 10.42.0.150")?;
        lab.delete(&name)?;
        lab.wait_until_nobody_has(V4)?;
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
    wait_for_event(&lab, "web", "PortForwarded", "port 8080/TCP of 100.200.0.1 leads to 10.42.0.150")?;
    assert_eq!(lab.wait_for_holder("10.43.0.10")?, holder);
    Ok(())
}

/// Who answers a search, and names another host to be asked, is passed over.
fn elsewhere() -> Outcome {
    let mut lab = services(&[("enable_upnp", "true")])?;
    let victim = GatewayStandIn::start(&lab.lab, 248, None, |_| Answer::Silence)?;
    let _liar = GatewayStandIn::start(&lab.lab, 247, Some(victim.address), |call| honest(call, OUTSIDE))?;
    lab.start_agents()?;
    serve(&lab, "web", V4, json!({ "kube-vip.io/forwardUPNP": "true" }))?;
    wait_for_event(&lab, "web", "PortNotForwarded", "no gateway answers on link eth0")?;
    // It is asked for itself, as it answers, too; and by nobody's word but its own.
    let paths: Vec<String> = victim.calls().into_iter().map(|call| call.action).collect();
    assert!(paths.iter().all(|path| path == "/description.xml"), "{paths:?}");
    Ok(())
}
