//! The cloud provider: bursts, single Services, restarts, full pools.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube_vip::model::BootTime;
use kube_vip_lab::objects::load_balancer;
use kube_vip_lab::process::usage;
use kube_vip_lab::{Administrator, Follower, Lab, LabError, LabOptions, Provider, Result, wait_for};
use serde_json::{Value, json};

use super::{Options, Report, provider};

const POOLS: &str = "kube-system/kubevip";
const PORT: u16 = 10258;
/// How long a burst may take before it counts as failed.
const PATIENCE: u64 = 7200;

struct Bench {
    follower: Follower,
    admin: Administrator,
    lab: Lab,
    program: String,
    foreign: bool,
}

/// Everything that concerns the provider.
pub(super) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let program = provider(options).map_err(LabError::Missing)?;
    for count in [100, 500, 1000, 5000] {
        if options.wants(&format!("burst-{count}")) {
            Bench::new(&program, options)?.burst(count, report)?;
        }
    }
    if options.wants("single") {
        Bench::new(&program, options)?.single(report)?;
    }
    if options.wants("pool") {
        Bench::new(&program, options)?.full_pool(report)?;
    }
    Ok(())
}

impl Bench {
    fn new(program: &str, options: &Options) -> Result<Self> {
        let lab = Lab::start(LabOptions { hosts: 1, control_plane: true })?;
        let admin = Administrator::new(&lab, 0)?;
        let follower = Follower::start(&lab, 0)?;
        let bench =
            Self { follower, admin, lab, program: program.to_owned(), foreign: options.provider.is_some() };
        bench.admin.objects(&bench.lab).create::<ConfigMap>(POOLS, json!({ "data": {} }))?;
        Ok(bench)
    }

    fn configure(&self, data: &Value) -> Result<()> {
        self.admin.objects(&self.lab).patch::<ConfigMap>(POOLS, json!({ "data": data }))
    }

    fn start(&self) -> Result<Provider> {
        let quick = [
            "--leader-elect-lease-duration=3s",
            "--leader-elect-renew-deadline=2s",
            "--leader-elect-retry-period=500ms",
        ];
        if self.foreign {
            // A program of the framework serves no plain HTTP, and knows no such flag.
            return Provider::foreign(&self.lab, 0, &self.program, &quick);
        }
        Provider::start(&self.lab, 0, &self.program, (PORT, "system:masters"), &quick)
    }

    fn served(&self, count: usize) -> Result<()> {
        self.follower.wait_for("Services with an address", count, PATIENCE, |one| one.allocated.is_some())
    }

    /// Requests for Services and Events that changed something, as the API server counts them.
    fn requests(&self) -> Result<(f64, f64)> {
        let text = self.admin.objects(&self.lab).raw("/metrics")?;
        let sum = |resource: &str, verbs: &[&str]| -> f64 {
            let lines = text.lines().filter(|line| {
                line.starts_with("apiserver_request_total{")
                    && line.contains(&format!("resource=\"{resource}\""))
                    && verbs.iter().any(|verb| line.contains(&format!("verb=\"{verb}\"")))
            });
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        Ok((sum("services", &["PATCH", "PUT"]), sum("events", &["POST", "PATCH"])))
    }

    fn burst(&self, count: usize, report: &mut Report) -> Result<()> {
        let objects = self.admin.objects(&self.lab);
        let running = self.start()?;
        objects.create_services("web", count, &load_balancer(80))?;
        self.follower.wait_for("Services", count, 600, |_| true)?;
        std::thread::sleep(std::time::Duration::from_secs(if self.foreign { 30 } else { 3 }));
        let (cpu, before) = (usage(running.pid()).cpu, self.requests()?);
        let start = kube_vip_lab::now();
        self.configure(&json!({ "cidr-global": "10.128.0.0/16" }))?;
        self.served(count)?;
        let seconds = self.last_allocated(start);
        let different: BTreeSet<String> = self.addresses().into_iter().collect();
        // The last Events are still on their way.
        std::thread::sleep(std::time::Duration::from_secs(3));
        let (after, used) = (self.requests()?, usage(running.pid()));
        let name = |what: &str| format!("{count} waiting Services: {what}");
        report.add(name("all served"), seconds, "s", if count == 5000 { "30; 12 x that of 500" } else { "" });
        report.add(name("a second"), count as f64 / seconds, "", "");
        report.add(name("duplicates"), (self.addresses().len() - different.len()) as f64, "", "0");
        report.add(name("writes for each"), (after.0 - before.0) / count as f64, "", "1");
        report.add(name("Events for each"), (after.1 - before.1) / count as f64, "", "1");
        report.add(name("processor time"), used.cpu - cpu, "s", if count == 5000 { "10" } else { "" });
        report.add(name("peak memory"), used.peak_mb, "MiB", if count == 5000 { "64" } else { "" });
        if count == 5000 {
            drop(running);
            self.restart(count, report)?;
        }
        Ok(())
    }

    fn last_allocated(&self, start: BootTime) -> f64 {
        let all = self.follower.all();
        let last = all.values().filter_map(|one| one.allocated).max().unwrap_or(start);
        last.since(start).as_secs_f64()
    }

    fn addresses(&self) -> Vec<String> {
        let all = self.follower.all().into_values().map(|one| one.addresses);
        all.filter(|addresses| !addresses.is_empty()).collect()
    }

    /// A new process among Services that have all they want, and one that has not.
    fn restart(&self, count: usize, report: &mut Report) -> Result<()> {
        let objects = self.admin.objects(&self.lab);
        let before = self.requests()?;
        objects.create::<Service>("new", json!({ "spec": load_balancer(80) }))?;
        let running = self.start()?;
        let leading = || {
            let metrics = self.lab.host(0).namespace.http_get(PORT, "/metrics").unwrap_or_default();
            metrics.contains("\nkube_vip_cloud_provider_is_leader 1\n").then(kube_vip_lab::now)
        };
        let start = if self.foreign { kube_vip_lab::now() } else { wait_for("a leader", 60, leading)? };
        self.served(count + 1)?;
        let served = self.follower.service("default/new").and_then(|one| one.allocated).unwrap_or(start);
        std::thread::sleep(std::time::Duration::from_secs(2));
        let after = self.requests()?;
        let name = |what: &str| format!("restart with {count} Services: {what}");
        report.add(name("leading to a new one served"), served.since(start).as_secs_f64(), "s", "1");
        report.add(name("writes"), after.0 - before.0, "", "1");
        report.add(name("peak memory"), usage(running.pid()).peak_mb, "MiB", "64");
        Ok(())
    }

    fn single(&self, report: &mut Report) -> Result<()> {
        let objects = self.admin.objects(&self.lab);
        self.configure(&json!({ "cidr-global": "10.128.0.0/16" }))?;
        let _running = self.start()?;
        objects.create::<Service>("first", json!({ "spec": load_balancer(80) }))?;
        self.served(1)?;
        let mut values = Vec::new();
        for number in 0..50 {
            let name = format!("web-{number}");
            let start = kube_vip_lab::now();
            objects.create::<Service>(&name, json!({ "spec": load_balancer(80) }))?;
            self.served(number + 2)?;
            let served = self.follower.service(&format!("default/{name}")).and_then(|one| one.allocated);
            values.push(served.unwrap_or(start).since(start).as_secs_f64() * 1000.0);
        }
        report.add_all("one Service: created to address written", values, "ms", "30");
        Ok(())
    }

    fn full_pool(&self, report: &mut Report) -> Result<()> {
        let objects = self.admin.objects(&self.lab);
        self.configure(&json!({ "range-global": "192.0.2.1-192.0.2.40" }))?;
        let _running = self.start()?;
        objects.create_services("web", 50, &load_balancer(80))?;
        self.served(40)?;
        std::thread::sleep(std::time::Duration::from_secs(2));
        let served = self.follower.all().into_iter().filter(|(_, one)| one.allocated.is_some());
        let victims: Vec<String> = served.map(|(name, _)| name).take(5).collect();
        let start = kube_vip_lab::now();
        for name in &victims {
            objects.delete::<Service>(name)?;
        }
        self.served(40)?;
        report.add("pool of 40, 50 Services, 5 freed: 5 more served", self.last_allocated(start), "s", "0.2");
        std::thread::sleep(std::time::Duration::from_secs(1));
        let count = self.addresses().len();
        let start = kube_vip_lab::now();
        self.configure(&json!({ "range-global": "192.0.2.1-192.0.2.45" }))?;
        self.served(45)?;
        report.add("pool grown by 5: 5 more served", self.last_allocated(start), "s", "0.2");
        report.add("served before it grew", count as f64, "", "40");
        Ok(())
    }
}
