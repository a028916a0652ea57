//! What the author of a Service cannot take from others, with the default settings.

use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1::{Namespace, Service};
use kube_vip_lab::process::Process;
use kube_vip_lab::trials::{Outcome, Trial, trial};
use kube_vip_lab::{Agent, AgentOptions, ServiceLab, wait_for};
use serde_json::json;

use crate::harness::services;
use crate::services::wait_for_event;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("the_control_planes_vip_is_not_for_services", control_plane).alone(),
        trial("infrastructure_is_not_for_services", infrastructure),
        trial("addresses_inside_the_cluster_are_not_for_services", cluster_ips),
        trial("a_process_for_services_leaves_the_vip_of_another_process_alone", two_processes),
        trial("an_address_that_its_service_does_not_ask_for_leaves_the_status", stale_status),
        trial("an_address_stays_with_its_tenant_while_there_are_no_endpoints", kept_address),
    ]
}

const VIP: &str = "10.42.0.100";

fn api_answers(lab: &ServiceLab) -> bool {
    let client = &lab.lab.client_host;
    client.run(&["curl", "-sk", "--max-time", "2", &format!("https://{VIP}:6443/livez")]).is_ok()
}

fn control_plane() -> Outcome {
    for sharing in ["false", "true"] {
        let env = [("cp_enable", "true"), ("address", VIP), ("svc_share_control_plane", sharing)];
        let mut lab = services(&env)?;
        lab.start_agents()?;
        lab.wait_for_holder(VIP)?;
        lab.create("thief", VIP, json!({ "ports": [{ "port": 6443 }] }))?;
        lab.set_endpoints("thief", "a", &["node-1", "node-2", "node-3"])?;
        wait_for_event(&lab, "thief", "AddressRefused", "belongs to the API server")?;
        // One on another port shows that the plan is complete.
        lab.create("web", VIP, json!({ "ports": [{ "port": 80 }] }))?;
        lab.set_endpoints("web", "a", &["node-1", "node-2", "node-3"])?;
        match sharing {
            "true" => drop(lab.wait_for_status("web", &[VIP])?),
            _ => wait_for_event(&lab, "web", "AddressRefused", "svc_share_control_plane")?,
        }
        lab.wait_for_status("thief", &[])?;
        assert!(api_answers(&lab));
    }
    Ok(())
}

fn infrastructure() -> Outcome {
    let env = [("svc_election", "true"), ("svc_infrastructure_namespaces", "kube-system")];
    let mut lab = services(&env)?;
    for (name, address) in [("lo", "10.43.0.1"), ("lease", "10.43.0.2")] {
        lab.create(name, address, json!({}))?;
        lab.set_endpoints(name, "a", &["node-1", "node-2", "node-3"])?;
    }
    lab.annotate("lo", json!({ "kube-vip.io/serviceInterface": "lo" }))?;
    lab.annotate("lease", json!({ "kube-vip.io/leaseName": "kube-system/kube-controller-manager" }))?;
    lab.start_agents()?;
    wait_for_event(&lab, "lo", "AddressRefused", "svc_interfaces permits it")?;
    wait_for_event(&lab, "lease", "AnnotationIgnored", "svc_lease_names permits it")?;
    // It is elected on its own Lease.
    lab.wait_for_holder("10.43.0.2")?;
    assert_eq!(lab.lease_holder("kube-system/kube-controller-manager")?, "");
    assert!(!lab.lease_holder("default/kubevip-lease")?.is_empty());
    assert_eq!(lab.holders("10.43.0.1"), [0_usize; 0]);
    Ok(())
}

fn cluster_ips() -> Outcome {
    let mut lab = services(&[])?;
    let kubernetes: Service = lab.objects().get("kubernetes")?.ok_or("there is no Service kubernetes")?;
    let inside = kubernetes.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default();
    lab.serve("thief", &inside)?;
    lab.serve("web", "10.43.0.1")?;
    lab.start_agents()?;
    wait_for_event(&lab, "thief", "AddressRefused", "is a cluster IP")?;
    lab.wait_for_status("web", &["10.43.0.1"])?;
    lab.wait_for_status("thief", &[])?;
    // Not in use, which no Service shows.
    let inside: Ipv4Addr = inside.parse()?;
    let [first, second, ..] = inside.octets();
    lab.serve("free", &Ipv4Addr::new(first, second, 0, 253).to_string())?;
    wait_for_event(&lab, "free", "AddressRefused", "is in the ServiceCIDR")?;
    Ok(())
}

/// As two manifests have it: a static pod with the control plane, and a DaemonSet with Services.
fn two_processes() -> Outcome {
    let mut lab = services(&[])?;
    let options = [("cp_enable", "true"), ("svc_enable", "false")];
    let options =
        options.iter().fold(lab.plain_options(), |options, (name, value)| options.with(name, value));
    let options = AgentOptions { address: VIP.into(), ..options };
    let _control_plane = Agent::start(lab.lab.host(0), &options)?;
    assert_eq!(lab.wait_for_holder(VIP)?, 0);
    let host = lab.lab.host(0);
    let monitor = ["ip", "-4", "monitor", "address"];
    let monitor = Process::start(&host.namespace, &monitor, &[], &lab.lab.path("addresses.log"))?;
    lab.serve("thief", VIP)?;
    lab.start_agents()?;
    wait_for_event(&lab, "thief", "AddressRefused", "is the control plane's VIP")?;
    lab.serve("web", "10.43.0.1")?;
    lab.wait_for_status("web", &["10.43.0.1"])?;
    lab.wait_for_status("thief", &[])?;
    wait_for("the lifetime of the VIP to be extended", 10, || monitor.log().contains(VIP).then_some(()))?;
    lab.stop_agents()?;
    let events = monitor.log();
    let deleted = events.lines().filter(|line| line.starts_with("Deleted"));
    assert_eq!(deleted.filter(|line| line.contains(VIP)).count(), 0, "{events}");
    assert_eq!(lab.holders(VIP), [0]);
    Ok(())
}

/// Otherwise it leads to the endpoints of this Service wherever another one gets it.
fn stale_status() -> Outcome {
    let mut lab = services(&[])?;
    lab.start_agents()?;
    for host in ["node-1", "gone"] {
        lab.serve("web", "10.43.0.1")?;
        lab.wait_for_status("web", &["10.43.0.1"])?;
        lab.annotate("web", json!({ "kube-vip.io/loadbalancerIPs": ",", "kube-vip.io/vipHost": host }))?;
        lab.wait_for_status("web", &[])?;
        lab.wait_until_no_host_has("10.43.0.1")?;
        lab.delete("web")?;
    }
    Ok(())
}

fn kept_address() -> Outcome {
    let mut lab = services(&[])?;
    lab.objects().create::<Namespace>("another", json!({}))?;
    // The older one, also by name where both are created within a second.
    lab.create("another/old", "", json!({}))?;
    lab.serve("web", "10.43.0.1")?;
    lab.start_agents()?;
    lab.wait_for_status("web", &["10.43.0.1"])?;
    lab.annotate("another/old", json!({ "kube-vip.io/loadbalancerIPs": "10.43.0.1" }))?;
    wait_for_event(&lab, "another/old", "AddressRefused", "default/web")?;
    lab.set_endpoints("web", "a", &[])?;
    let service = lab.wait_for_status("web", &[])?;
    let conditions = service.status.and_then(|status| status.conditions).unwrap_or_default();
    let conditions: Vec<(&str, &str)> =
        conditions.iter().map(|condition| (condition.type_.as_str(), condition.message.as_str())).collect();
    assert_eq!(conditions, [("kube-vip.io/AddressesKept", "10.43.0.1")]);
    // Processes that have not seen the address in the status.
    lab.stop_agents()?;
    lab.start_agents()?;
    lab.set_endpoints("web", "a", &["node-1", "node-2", "node-3"])?;
    let service = lab.wait_for_status("web", &["10.43.0.1"])?;
    assert_eq!(service.status.and_then(|status| status.conditions).unwrap_or_default(), []);
    lab.objects().delete::<Service>("another/old")?;
    Ok(())
}
