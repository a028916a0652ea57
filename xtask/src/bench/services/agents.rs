//! The agents: many Services by each kind of election.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use kube_vip::model::BootTime;
use kube_vip_lab::process::usage;
use kube_vip_lab::recorder::Recorder;
use kube_vip_lab::sweep::Sweep;
use kube_vip_lab::{LabError, Result, ServiceLab};
use serde_json::{Value, json};

use super::{Options, Report, agent};

/// A kind of election, its variables, and its load.
struct Kind {
    key: &'static str,
    env: &'static [(&'static str, &'static str)],
    /// Services for appearance and steady costs, for a planned hand-over, and for the loss of a host.
    many: usize,
    some: usize,
    lost: usize,
    appear_mark: &'static str,
}

const GROUPS: &[(&str, &str)] = &[("svc_election_groups", "16")];

const KINDS: [Kind; 3] = [
    Kind { key: "global", env: &[], many: 1000, some: 500, lost: 1000, appear_mark: "2" },
    Kind { key: "groups", env: GROUPS, many: 1000, some: 500, lost: 1000, appear_mark: "2" },
    Kind {
        key: "per-service",
        env: &[("svc_election", "true")],
        many: 500,
        some: 500,
        lost: 200,
        appear_mark: "20",
    },
];

/// How long steady costs are watched.
const STEADY: Duration = Duration::from_secs(20);

struct Bench {
    sweep: Sweep,
    lab: ServiceLab,
}

/// Everything that concerns the agents.
pub(super) fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let program = agent(options).map_err(LabError::Missing)?;
    for kind in KINDS {
        if !options.wants(&format!("agents-{}", kind.key)) {
            continue;
        }
        Bench::start(&program, kind.env)?.run(&kind, report)?;
    }
    if options.wants("scale") {
        Bench::start(&program, GROUPS)?.scale(report)?;
    }
    Ok(())
}

fn address(number: usize) -> IpAddr {
    let number = u32::try_from(number).unwrap_or(0);
    IpAddr::V4(Ipv4Addr::from_bits(Ipv4Addr::new(10, 43, 4, 0).to_bits() + number))
}

impl Bench {
    fn start(program: &str, env: &[(&str, &str)]) -> Result<Self> {
        let mut lab = ServiceLab::start(program, &[])?;
        lab.options =
            env.iter().fold(lab.plain_options(), |options, (name, value)| options.with(name, value));
        let sweep = Sweep::start(&lab.lab)?;
        lab.start_agents()?;
        std::thread::sleep(Duration::from_secs(3));
        Ok(Self { sweep, lab })
    }

    /// Groups with few Services and with thousands: how even, and at what cost.
    fn scale(&mut self, report: &mut Report) -> Result<()> {
        self.create(0..100)?;
        let (counts, _) = self.shares(100)?;
        for (host, count) in counts.iter().enumerate() {
            report.add(
                format!("groups with 100: addresses on host {}", host + 1),
                *count as f64,
                "",
                "27 to 40",
            );
        }
        self.create(100..5000)?;
        let (_, holder) = self.shares(5000)?;
        report.add("groups with 5000: API requests a second", self.requests()?, "", "2 x 16");
        let memory = usage(self.lab.agent(holder).pid()).rss_mb;
        report.add("groups with 5000: holder's memory", memory, "MiB", "");
        Ok(())
    }

    fn run(&mut self, kind: &Kind, report: &mut Report) -> Result<()> {
        let name = |what: &str| format!("{}: {what}", kind.key);
        report.add(name("API requests a second without Services"), self.requests()?, "", "");
        self.one(kind, report)?;
        let start = kube_vip_lab::now();
        let created = self.create(0..kind.some)?;
        let last = self.appeared(kind.some, 90)?;
        report.add(
            name(&format!("{} appear: first created to all answer", kind.some)),
            last.since(start).as_secs_f64(),
            "s",
            "",
        );
        report.add(
            name(&format!("{} appear: last created to all answer", kind.some)),
            last.since(created).as_secs_f64(),
            "s",
            "",
        );
        let (_, holder) = self.shares(kind.some)?;
        self.planned(kind, holder, report)?;
        let start = kube_vip_lab::now();
        let created = self.create(kind.some..kind.many)?;
        let last = self.appeared(kind.many, 90)?;
        let count = kind.many;
        report.add(
            name(&format!("{count} appear: first created to all answer")),
            last.since(start).as_secs_f64(),
            "s",
            kind.appear_mark,
        );
        report.add(
            name(&format!("{count} appear: last created to all answer")),
            last.since(created).as_secs_f64(),
            "s",
            "",
        );
        std::thread::sleep(Duration::from_secs(8));
        self.steady(kind, report)?;
        self.started(kind, report)?;
        self.lost(kind, report)
    }

    fn create(&self, range: std::ops::Range<usize>) -> Result<BootTime> {
        let services: Vec<(String, String)> =
            range.map(|number| (format!("web-{number}"), address(number).to_string())).collect();
        self.lab.serve_all(&services)?;
        Ok(kube_vip_lab::now())
    }

    fn appeared(&self, count: usize, seconds: u64) -> Result<BootTime> {
        let all: Vec<IpAddr> = (0..count).map(address).collect();
        self.sweep.probe(&all, &[]);
        self.sweep.wait(seconds)
    }

    /// One Service after the other: from its creation to the first answer.
    fn one(&self, kind: &Kind, report: &mut Report) -> Result<()> {
        let mut values = Vec::new();
        for number in 0..20 {
            let (name, address) = (format!("one-{number}"), address(5000 + number));
            self.lab.set_endpoints(&name, "a", &["node-1", "node-2", "node-3"])?;
            self.sweep.probe(&[address], &[]);
            let start = kube_vip_lab::now();
            self.lab.create(&name, &address.to_string(), json!({}))?;
            values.push(self.sweep.wait(20)?.since(start).as_secs_f64() * 1000.0);
        }
        report.add_all(&format!("{}: one Service created to ARP answered", kind.key), values, "ms", "25");
        for number in 0..20 {
            self.lab.delete(&format!("one-{number}"))?;
        }
        Ok(())
    }

    /// How many addresses each host answers for, and the host with the most.
    fn shares(&self, count: usize) -> Result<(Vec<usize>, usize)> {
        self.appeared(count, 30)?;
        let shares = self.sweep.shares();
        let mut counts = Vec::new();
        for host in 0..self.lab.lab.hosts.len() {
            counts.push(shares.get(&Recorder::mac(&self.lab.lab, host)?).copied().unwrap_or(0));
        }
        let most = counts.iter().enumerate().max_by_key(|(_, count)| **count).map_or(0, |(host, _)| host);
        Ok((counts, most))
    }

    /// The agent that holds most gets SIGTERM: until everything it held answers elsewhere.
    fn planned(&mut self, kind: &Kind, holder: usize, report: &mut Report) -> Result<()> {
        let mac = Recorder::mac(&self.lab.lab, holder)?;
        let all: Vec<IpAddr> = (0..kind.some).map(address).collect();
        self.sweep.probe(&all, &mac);
        let start = kube_vip_lab::now();
        self.lab.agent(holder).terminate();
        let last = self.sweep.wait(60)?;
        let mark = if kind.key == "per-service" { "0.5" } else { "0.15" };
        let text = format!("{}: SIGTERM with {}, until all answer elsewhere", kind.key, kind.some);
        report.add(text, last.since(start).as_secs_f64(), "s", mark);
        self.lab.agent(holder).wait(15)?;
        self.lab.start_agent(holder)?;
        std::thread::sleep(Duration::from_secs(10));
        Ok(())
    }

    /// All agents stop and start: Services that are all there at once.
    fn started(&mut self, kind: &Kind, report: &mut Report) -> Result<()> {
        self.lab.stop_agents()?;
        let all: Vec<IpAddr> = (0..kind.many).map(address).collect();
        self.sweep.probe(&all, &[]);
        let start = kube_vip_lab::now();
        self.lab.start_agents()?;
        let last = self.sweep.wait(60)?;
        let text = format!("{} with {}: agents started, until all answer", kind.key, kind.many);
        report.add(text, last.since(start).as_secs_f64(), "s", kind.appear_mark);
        std::thread::sleep(Duration::from_secs(10));
        Ok(())
    }

    fn steady(&mut self, kind: &Kind, report: &mut Report) -> Result<()> {
        let (counts, holder) = self.shares(kind.many)?;
        let name = |what: &str| format!("{} with {}: {what}", kind.key, kind.many);
        for (host, count) in counts.iter().enumerate() {
            report.add(name(&format!("addresses on host {}", host + 1)), *count as f64, "", "");
        }
        let pid = self.lab.agent(holder).pid();
        let before = usage(pid);
        let transitions = self.transitions()?;
        let requests = self.requests()?;
        let after = usage(pid);
        let moved = self.transitions()?.saturating_sub(transitions);
        let mark = if kind.key == "groups" { "2 x 16" } else { "" };
        report.add(name("API requests a second"), requests, "", mark);
        report.add(name("Leases lost"), moved as f64, "", "0");
        report.add(
            name("holder's processor time"),
            (after.cpu - before.cpu) / STEADY.as_secs_f64() * 100.0,
            "%",
            "2",
        );
        report.add(name("holder's memory"), after.rss_mb, "MiB", "40");
        Ok(())
    }

    /// Requests of the agents that are not watches, over a while, on all API servers together.
    fn requests(&self) -> Result<f64> {
        let count = || -> Result<f64> {
            let mut sum = 0.0;
            for host in 0..self.lab.lab.hosts.len() {
                let text = self.lab.raw(host, "/metrics")?;
                let lines = text.lines().filter(|line| {
                    let ours = ["leases", "services", "endpointslices", "nodes"];
                    line.starts_with("apiserver_request_total{")
                        && !line.contains("verb=\"WATCH\"")
                        && ours.iter().any(|resource| line.contains(&format!("resource=\"{resource}\"")))
                });
                sum += lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
            }
            Ok(sum)
        };
        let before = count()?;
        std::thread::sleep(STEADY);
        Ok((count()? - before) / STEADY.as_secs_f64())
    }

    /// How often Leases have changed hands.
    fn transitions(&self) -> Result<u64> {
        let list: Value = serde_json::from_str(&self.lab.raw(0, "/apis/coordination.k8s.io/v1/leases")?)
            .map_err(|error| LabError::Api(error.to_string()))?;
        let items = list.pointer("/items").and_then(Value::as_array).into_iter().flatten();
        let count = |lease: &Value| lease.pointer("/spec/leaseTransitions").and_then(Value::as_u64);
        Ok(items.filter_map(count).sum())
    }

    /// The host that holds most is cut off and dies.
    fn lost(&mut self, kind: &Kind, report: &mut Report) -> Result<()> {
        for number in kind.lost..kind.many {
            self.lab.delete(&format!("web-{number}"))?;
        }
        let (_, holder) = self.shares(kind.lost)?;
        let mac = Recorder::mac(&self.lab.lab, holder)?;
        let all: Vec<IpAddr> = (0..kind.lost).map(address).collect();
        self.sweep.probe(&all, &mac);
        let start = kube_vip_lab::now();
        self.lab.lab.lose_host(holder)?;
        self.lab.agent(holder).kill();
        let last = self.sweep.wait(120)?;
        let text = format!("{} with {}: host lost, until all answer elsewhere", kind.key, kind.lost);
        report.add(text, last.since(start).as_secs_f64(), "s", "6");
        Ok(())
    }
}
