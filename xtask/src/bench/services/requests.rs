//! From the creation of a Service to the first answer to a client, through a real kube-proxy.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube_vip_lab::workload::{Caller, Workload, set_pods};
use kube_vip_lab::{LabError, Provider, Result, ServiceLab, wait_for};
use serde_json::{Value, json};

use super::{Options, Report, agent, provider};

/// Services for each figure.
const COUNT: u8 = 10;
/// kube-proxy writes its rules at most once a second: a Service that comes later than that need not wait for it.
const PAUSE: Duration = Duration::from_millis(1500);

/// Three times the same: an address that is there already, one that our agent brings, one that our provider gives.
pub(super) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    if !options.wants("http") {
        return Ok(());
    }
    let agent = agent(options).map_err(LabError::Missing)?;
    let provider = provider(options).map_err(LabError::Missing)?;
    let mut lab = ServiceLab::start(&agent, &[])?;
    let _workload = Workload::start(&lab.lab)?;
    lab.start_agents()?;
    std::thread::sleep(Duration::from_secs(5));

    // The latency of kube-proxy alone: the address is on a host and in the status from the beginning.
    let mut values = Vec::new();
    for number in 1..=COUNT {
        let address = Ipv4Addr::new(10, 43, 1, number);
        lab.lab.host(0).namespace.ip(&["addr", "add", &format!("{address}/32"), "dev", "eth0"])?;
        values.push(first_answer(&lab, &format!("given-{number}"), address, || {
            lab.create(&format!("given-{number}"), "", with_port(Some("example.com/none")))?;
            let status =
                json!({ "status": { "loadBalancer": { "ingress": [{ "ip": address, "ipMode": "VIP" }] } } });
            lab.objects().patch_status::<Service>(&format!("given-{number}"), status)
        })?);
    }
    report.add_all("kube-proxy alone: created to first HTTP answer", values, "ms", "");

    let mut values = Vec::new();
    for number in 1..=COUNT {
        let (name, address) = (format!("preset-{number}"), Ipv4Addr::new(10, 43, 2, number));
        values.push(first_answer(&lab, &name, address, || {
            lab.create(&name, &address.to_string(), with_port(None))
        })?);
    }
    report.add_all("address preset: created to first HTTP answer", values, "ms", "kube-proxy + 20");

    let pools = json!({ "data": { "cidr-global": "10.43.3.0/24" } });
    lab.objects().create::<ConfigMap>("kube-system/kubevip", pools)?;
    let quick = ["--leader-elect-lease-duration=5s", "--leader-elect-renew-deadline=3s"];
    let quick = [&quick[..], &["--leader-elect-retry-period=1s"]].concat();
    let _provider = Provider::start(&lab.lab, 0, &provider, (10258, "system:masters"), &quick)?;
    std::thread::sleep(Duration::from_secs(3));
    let mut values = Vec::new();
    for number in 1..=COUNT {
        // The next one in order.
        let (name, address) = (format!("given-away-{number}"), Ipv4Addr::new(10, 43, 3, number));
        values.push(first_answer(&lab, &name, address, || lab.create(&name, "", with_port(None)))?);
    }
    report.add_all("our provider in front: created to first HTTP answer", values, "ms", "kube-proxy + 50");
    Ok(())
}

/// A Service's spec, with this in it.
fn with_port(class: Option<&str>) -> Value {
    let port = json!({ "name": "tcp", "port": 80, "targetPort": 8080, "protocol": "TCP" });
    match class {
        Some(class) => json!({ "loadBalancerClass": class, "ports": [port] }),
        None => json!({ "ports": [port] }),
    }
}

/// Milliseconds from the beginning of `create` to the first answer of a request that was begun every few of them.
fn first_answer(
    lab: &ServiceLab,
    name: &str,
    address: Ipv4Addr,
    create: impl FnOnce() -> Result<()>,
) -> Result<f64> {
    set_pods(lab.objects(), name, &[0, 1, 2])?;
    std::thread::sleep(PAUSE);
    let caller = Caller::eager(&lab.lab, IpAddr::V4(address), 80);
    let start = kube_vip_lab::now();
    create()?;
    let first = || {
        caller.since(start).into_iter().filter(|request| request.answered).map(|request| request.done).min()
    };
    let done = wait_for(&format!("an answer from {address}"), 20, first)?;
    Ok(done.since(start).as_secs_f64() * 1000.0)
}
