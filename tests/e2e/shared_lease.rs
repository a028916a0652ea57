//! One Lease for the control plane and for Services: `svc_leasename` is `vip_leasename`, or an annotation of the Service
//! names the control plane's Lease.

use std::net::{IpAddr, Ipv4Addr};

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Service;
use kube_vip_lab::fake_dhcp::{FakeDhcpServer, honest};
use kube_vip_lab::objects::load_balancer;
use kube_vip_lab::process::Process;
use kube_vip_lab::sampler::Sampler;
use kube_vip_lab::trials::{Outcome, Trial, trial};
use kube_vip_lab::{Administrator, Agent, AgentOptions, RouterKind, ServiceLab, wait_for};
use serde_json::{Value, json};

use crate::bgp::{HOSTS, agents, router};
use crate::bootstrap::empty_lab;
use crate::dhcp::leased;
use crate::harness::{PROGRAM, services};
use crate::services::wait_for_lease;
use crate::table::table;

/// Whether a state is as expected; an error says what is not.
type Check = Result<(), String>;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("a_renewal_keeps_managed_interfaces_of_services_on_the_same_lease", managed_interfaces),
        trial("a_renewal_keeps_table_routes_of_the_vip_and_of_services_on_the_same_lease", table_routes),
        trial("a_renewal_keeps_bgp_routes_of_the_vip_and_of_services_on_the_same_lease", bgp_routes),
        trial("a_service_that_shares_the_vip_is_advertised_with_its_bgp_attributes", attributes),
        trial("the_vip_is_held_provisionally_before_services_can_be_listed", provisional),
    ]
}

/// The control plane's Lease.
const LEASE: &str = "kube-system/plndr-cp-lock";
/// Elects Services on it.
const ONE_LEASE: (&str, &str) = ("svc_leasename", "plndr-cp-lock");
/// A VIP that routers or the routing table lead to.
const ROUTED_VIP: &str = "10.43.0.100";
const CONTROL_PLANE: [(&str, &str); 3] =
    [("cp_enable", "true"), ("address", ROUTED_VIP), ("svc_share_control_plane", "true")];
/// How many renew periods a state has to outlast; one takes a second here.
const RENEWALS: usize = 3;

/// Waits until a state is as expected.
fn eventually(check: impl Fn() -> Check) -> Outcome {
    let mut last = String::new();
    let reached = wait_for("a state", 20, || check().map_err(|unmet| last = unmet).ok());
    Ok(reached.map_err(|_| format!("after 20 s {last}"))?)
}

/// Checks that a state lasts while the Lease is renewed.
fn outlasts_renewals(lab: &ServiceLab, check: impl Fn() -> Check) -> Outcome {
    let renewed = || lab.objects().get::<Lease>(LEASE).ok()??.spec?.renew_time;
    let (mut last, mut count) = (renewed(), 0);
    let lasted = wait_for(&format!("{RENEWALS} renewals of {LEASE}"), 20, || {
        let now = renewed();
        if now.is_some() && now != last {
            last = now;
            count += 1;
        }
        // The first of these renewals begins a period, the last one ends one.
        check().map_or_else(|unmet| Some(Err(unmet)), |()| (count > RENEWALS).then_some(Ok(())))
    })?;
    Ok(lasted.map_err(|unmet| format!("while {LEASE} was renewed, {unmet}"))?)
}

/// Creates a Service with these annotations and a ready endpoint on every node.
fn serve(lab: &ServiceLab, name: &str, annotations: Value) -> Outcome {
    let object = json!({ "metadata": { "annotations": annotations }, "spec": load_balancer(80) });
    lab.objects().create::<Service>(name, object)?;
    Ok(lab.set_endpoints(name, "a", &["node-1", "node-2", "node-3"])?)
}

/// A macvlan is needed before there is an address for it: the DHCP exchange on it takes several renewals here.
fn managed_interfaces() -> Outcome {
    let vip = "10.42.0.100";
    let mut lab = services(&[("cp_enable", "true"), ("address", vip), ONE_LEASE])?;
    let address = Ipv4Addr::new(10, 42, 0, 150);
    let answer = honest(address, 600);
    // The client sends its third DISCOVER three seconds after the first.
    let _server = FakeDhcpServer::start(&lab.lab, move |number, request| match number {
        0 | 1 => Vec::new(),
        _ => answer(number, request),
    })?;
    let monitors = lab.lab.hosts.iter().map(|host| {
        let log = host.folder.join("interfaces.log");
        Process::start(&host.namespace, &["ip", "-o", "monitor", "link"], &[], &log)
    });
    let monitors: Vec<Process> = monitors.collect::<Result<_, _>>()?;
    lab.start_agents()?;
    let holder = lab.wait_for_holder(vip)?;
    serve(
        &lab,
        "web",
        json!({ "kube-vip.io/loadbalancerIPs": "0.0.0.0", "kube-vip.io/macvlanName": "shared" }),
    )?;
    let events = || -> Vec<String> {
        let log = monitors[holder].log();
        log.lines().filter(|line| line.contains(": shared@")).map(str::to_owned).collect()
    };
    wait_for("the macvlan on the Lease's holder", 20, || (!events().is_empty()).then_some(()))?;
    let kept = || match events().iter().find(|event| event.starts_with("Deleted ")) {
        Some(event) => Err(format!("the macvlan of a DHCP exchange was removed: {event}")),
        None => Ok(()),
    };
    outlasts_renewals(&lab, kept)?;
    assert_eq!(leased(&lab, "web", 1)?, [IpAddr::from(address)]);
    kept()?;
    lab.stop_agents()?;
    Ok(())
}

/// In this mode every node whose API server is healthy has the VIP's route; the Lease's holder has those of Services.
fn table_routes() -> Outcome {
    let mode = [("vip_arp", "false"), ("vip_routingtable", "true"), ("vip_leaderelection", "true")];
    let mut lab = services(&[&mode[..], &CONTROL_PLANE, &[ONE_LEASE]].concat())?;
    let service = "10.43.0.1";
    lab.serve("web", service)?;
    lab.start_agents()?;
    let has = |host: usize, address: &str| table(&lab, host).contains(&format!("{address} dev"));
    let routes = |holder: Option<usize>| -> Check {
        let hosts = |address: &str| -> Vec<usize> { (0..3).filter(|host| has(*host, address)).collect() };
        let (vip_on, service_on) = (hosts(ROUTED_VIP), hosts(service));
        let one = holder.map_or(service_on.len() == 1, |holder| service_on == [holder]);
        match vip_on.len() == 3 && one {
            true => Ok(()),
            false => Err(format!(
                "hosts {vip_on:?} have a route of the VIP {ROUTED_VIP} (expected: all), and {service_on:?} one of the \
                 Service's address {service} (expected: the Lease's holder)"
            )),
        }
    };
    eventually(|| routes(None))?;
    let holder = wait_for_lease(&lab, LEASE)?;
    outlasts_renewals(&lab, || routes(Some(holder)))?;
    lab.stop_agents()?;
    Ok(())
}

/// The Lease's holder advertises the VIP, and the Service whose annotation names that Lease.
fn bgp_routes() -> Outcome {
    let mut lab = agents("10.42.0.254:65001", &[&CONTROL_PLANE[..], &[("svc_election", "true")]].concat())?;
    let router = router(&lab, RouterKind::Frr, 65_001, &HOSTS)?;
    lab.start_agents()?;
    let holder = wait_for_lease(&lab, LEASE)?;
    let (vip, service) = (format!("{ROUTED_VIP}/32"), "10.43.0.1/32");
    router.wait_for_next_hops(&vip, &HOSTS[holder..=holder])?;
    serve(
        &lab,
        "web",
        json!({ "kube-vip.io/loadbalancerIPs": "10.43.0.1", "kube-vip.io/leaseName": LEASE }),
    )?;
    let advertised = || -> Check {
        let (of_vip, of_service) = (router.next_hops(&vip), router.next_hops(service));
        match [&of_vip, &of_service].into_iter().all(|hops| *hops == HOSTS[holder..=holder]) {
            true => Ok(()),
            false => Err(format!(
                "the router sends {vip} to {of_vip:?} and {service} to {of_service:?}, not both to the Lease's holder, {}",
                HOSTS[holder]
            )),
        }
    };
    eventually(advertised)?;
    outlasts_renewals(&lab, advertised)?;
    lab.stop_agents()?;
    Ok(())
}

/// The attributes come with the Service, outlast renewals, and go with it; the VIP stays.
fn attributes() -> Outcome {
    let permitted = ("svc_infrastructure_namespaces", "default");
    let mut lab = agents("10.42.0.254:65000", &[&CONTROL_PLANE[..], &[ONE_LEASE, permitted]].concat())?;
    let router = router(&lab, RouterKind::Frr, 65_000, &HOSTS)?;
    lab.start_agents()?;
    let holder = wait_for_lease(&lab, LEASE)?;
    let vip = format!("{ROUTED_VIP}/32");
    router.wait_for_next_hops(&vip, &HOSTS[holder..=holder])?;
    let annotations = json!({
        "kube-vip.io/loadbalancerIPs": ROUTED_VIP,
        "kube-vip.io/bgp-communities": "65000:2",
        "kube-vip.io/bgp-large-communities": "65000:1:2",
        "kube-vip.io/bgp-local-pref": "200",
    });
    serve(&lab, "web", annotations)?;
    let attributes = ["Community: 65000:2", "Large Community: 65000:1:2", "localpref 200"];
    let advertised = |present: bool| -> Check {
        let (hops, text) = (router.next_hops(&vip), router.about(&vip));
        let matching = attributes.iter().all(|attribute| text.contains(attribute) == present);
        match matching && hops == HOSTS[holder..=holder] {
            true => Ok(()),
            false => Err(format!(
                "the Lease's holder, {}, does not advertise {vip} {} the attributes {attributes:?}: {text}",
                HOSTS[holder],
                if present { "with" } else { "without" }
            )),
        }
    };
    eventually(|| advertised(true))?;
    outlasts_renewals(&lab, || advertised(true))?;
    lab.delete("web")?;
    eventually(|| advertised(false))?;
    lab.stop_agents()?;
    Ok(())
}

/// Neither Leases nor Services can be read yet; with the rights the claim rests on the Lease, and Services go with it.
fn provisional() -> Outcome {
    let mut lab = empty_lab(1)?;
    lab.start_etcd()?;
    lab.start_api_servers()?;
    let vips: [IpAddr; 2] = [lab.vip_v4.into(), lab.vip_v6.into()];
    let service: IpAddr = Ipv4Addr::new(10, 42, 0, 150).into();
    let sampler = Sampler::watching(&lab, &[&vips[..], &[service]].concat())?;
    let options = AgentOptions::new(&lab, PROGRAM).with("svc_enable", "true").with(ONE_LEASE.0, ONE_LEASE.1);
    let options = options.with("svc_share_control_plane", "true");
    let mut agent = Agent::start(lab.host(0), &options)?;
    sampler.wait_for_holders(&vips, 15)?;
    let held = kube_vip_lab::now();
    agent.wait_for_log("this node now holds the VIP provisional=true", 5)?;
    let administrator = Administrator::new(&lab, 0)?;
    let objects = administrator.objects(&lab);
    let annotations = json!({
        "kube-vip.io/loadbalancerIPs": service.to_string(),
        "kube-vip.io/allow-reconcile-without-endpoints": "true",
    });
    let object = json!({ "metadata": { "annotations": annotations }, "spec": load_balancer(80) });
    objects.create::<Service>("web", object)?;
    assert!(objects.get::<Lease>(LEASE)?.is_none());
    lab.bind_admin(0)?;
    sampler.wait_for_holders(&[service], 15)?;
    wait_for(&format!("a holder of {LEASE}"), 10, || {
        let lease = objects.get::<Lease>(LEASE).ok()??;
        lease.spec?.holder_identity.filter(|holder| *holder == lab.host(0).name)
    })?;
    let lost =
        sampler.since(held).iter().any(|sample| vips.iter().any(|vip| sample.holders(*vip).is_empty()));
    assert!(!lost, "the VIP was removed for a moment");
    agent.terminate();
    assert!(agent.wait(5)?.success());
    Ok(())
}
