//! `cargo xtask bench dhcp`: Services whose addresses come from a DHCP server.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube_vip_lab::process::usage;
use kube_vip_lab::recorder::Recorder;
use kube_vip_lab::sweep::Sweep;
use kube_vip_lab::{DhcpServer, Result, ServerKind, ServerOptions, ServiceLab, mdns, now};
use serde_json::json;

use super::services::{Options, Report};
use super::{save, text};
use crate::setup;
use crate::sh::{Outcome, run};

/// How long steady costs are watched.
const STEADY: Duration = Duration::from_secs(20);
/// The last part of the first address that servers give here.
const FIRST: u8 = 150;

struct Bench {
    sweep: Sweep,
    server: DhcpServer,
    lab: ServiceLab,
}

/// All of it.
pub(crate) fn run_all(options: &Options) -> Outcome {
    setup::all()?;
    if !options.has_agent() {
        run("cargo", &["build", "--release", "--workspace", "--locked"], &[])?;
    }
    let program = super::services::agent(options)?;
    let mut report = Report::default();
    let measured = || -> Result<()> {
        if options.wants("one") {
            Bench::start(&program, ServerOptions { range: (FIRST, FIRST), ..plain(ServerKind::Dnsmasq) })?
                .one(&mut report)?;
        }
        for kind in [ServerKind::Dnsmasq, ServerKind::Kea, ServerKind::Udhcpd] {
            if options.wants("burst") {
                let range = (FIRST, FIRST + 49);
                Bench::start(&program, ServerOptions { range, ..plain(kind) })?.burst(kind, &mut report)?;
            }
        }
        if options.wants("many") {
            Bench::start(&program, ServerOptions { wide: 500, ..plain(ServerKind::Dnsmasq) })?
                .many(&mut report)?;
        }
        if options.wants("names") {
            Bench::start(&program, plain(ServerKind::Dnsmasq))?.names(&mut report)?;
        }
        Ok(())
    };
    let mut measured = measured;
    measured().map_err(text)?;
    println!();
    report.print();
    save(&report, options.json(), "target/bench-dhcp.json")
}

fn plain(kind: ServerKind) -> ServerOptions {
    ServerOptions { v6: false, ..ServerOptions::new(kind, 3600) }
}

fn addresses(count: u8) -> Vec<IpAddr> {
    (FIRST..FIRST + count).map(|last| Ipv4Addr::new(10, 42, 0, last).into()).collect()
}

impl Bench {
    fn start(program: &str, options: ServerOptions) -> Result<Self> {
        let mut lab = ServiceLab::start(program, &[])?;
        let server = DhcpServer::start(&lab.lab, options)?;
        let sweep = Sweep::start(&lab.lab)?;
        lab.start_agents()?;
        std::thread::sleep(Duration::from_secs(3));
        Ok(Self { sweep, server, lab })
    }

    /// Which agent answers for an address.
    fn holder(&self, address: IpAddr) -> Result<usize> {
        self.sweep.probe(&[address], &[]);
        self.sweep.wait(20)?;
        let shares = self.sweep.shares();
        for host in 0..self.lab.lab.hosts.len() {
            if shares.contains_key(&Recorder::mac(&self.lab.lab, host)?) {
                return Ok(host);
            }
        }
        Ok(0)
    }

    fn one(&mut self, report: &mut Report) -> Result<()> {
        let wanted = addresses(1);
        let (mut reachable, mut published) = (Vec::new(), Vec::new());
        for number in 0..20 {
            let name = format!("one-{number}");
            self.lab.set_endpoints(&name, "a", &["node-1", "node-2", "node-3"])?;
            self.sweep.probe(&wanted, &[]);
            let start = now();
            self.lab.create(&name, "0.0.0.0", json!({}))?;
            reachable.push(self.sweep.wait(20)?.since(start).as_secs_f64() * 1000.0);
            kube_vip_lab::wait_for("the status", 10, || {
                let service: Service = self.lab.objects().get(&name).ok().flatten()?;
                service.status?.load_balancer?.ingress.map(drop)
            })?;
            published.push(now().since(start).as_secs_f64() * 1000.0);
            self.lab.delete(&name)?;
            let given_back =
                format!("DHCPRELEASE(eth0) {}", wanted.first().map(ToString::to_string).unwrap_or_default());
            kube_vip_lab::wait_for("the address to be free", 10, || {
                (self.server.log().matches(&given_back).count() > number).then_some(())
            })?;
        }
        report.add_all("dnsmasq: created to ARP answered", reachable, "ms", "its exchange + 50");
        report.add_all("dnsmasq: created to status seen by polling", published, "ms", "its exchange + 50");
        self.lab.serve("web", "0.0.0.0")?;
        let Some(address) = wanted.first().copied() else { return Ok(()) };
        let (mut planned, mut lost) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let holder = self.holder(address)?;
            let start = now();
            self.sweep.probe(&wanted, &Recorder::mac(&self.lab.lab, holder)?);
            self.lab.agent(holder).terminate();
            planned.push(self.sweep.wait(20)?.since(start).as_secs_f64());
            self.lab.agent(holder).wait(10)?;
            self.lab.start_agent(holder)?;
            std::thread::sleep(Duration::from_secs(3));
            let holder = self.holder(address)?;
            let start = now();
            self.sweep.probe(&wanted, &Recorder::mac(&self.lab.lab, holder)?);
            self.lab.agent(holder).kill();
            lost.push(self.sweep.wait(30)?.since(start).as_secs_f64());
            self.lab.start_agent(holder)?;
            std::thread::sleep(Duration::from_secs(3));
        }
        let mut gone = Vec::new();
        for _ in 0..3 {
            let holder = self.holder(address)?;
            let start = now();
            self.sweep.probe(&wanted, &Recorder::mac(&self.lab.lab, holder)?);
            self.lab.lab.lose_host(holder)?;
            self.lab.agent(holder).kill();
            gone.push(self.sweep.wait(30)?.since(start).as_secs_f64());
            self.lab.lab.heal()?;
            self.lab.start_agent(holder)?;
            std::thread::sleep(Duration::from_secs(5));
        }
        report.add_all("failover with the same address: SIGTERM", planned, "s", "0.1");
        report.add_all("failover with the same address: agent killed", lost, "s", "lease (5) + 0.2");
        report.add_all("failover with the same address: host lost", gone, "s", "lease (5) + 0.2");
        Ok(())
    }

    /// From the end of the node that publishes a name to the answer of the next.
    fn names(&mut self, report: &mut Report) -> Result<()> {
        let seeker = self.lab.lab.machine("seeker", 246)?;
        let answered = |not: Option<IpAddr>| {
            kube_vip_lab::wait_for("an answer", 30, || {
                let (from, _) = mdns::query(&seeker, "web.local").ok().flatten()?;
                (Some(from) != not).then_some(from)
            })
        };
        self.lab.serve("web", "10.42.0.200")?;
        self.lab.annotate("web", json!({ "kube-vip.io/mdns": "web" }))?;
        let (mut planned, mut lost) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            for (kill, times) in [(false, &mut planned), (true, &mut lost)] {
                let holder = answered(None)?;
                let hosts = &self.lab.lab.hosts;
                let index = hosts.iter().position(|host| IpAddr::from(host.v4) == holder).unwrap_or(0);
                let start = now();
                if kill {
                    self.lab.agent(index).kill();
                } else {
                    self.lab.agent(index).terminate();
                }
                answered(Some(holder))?;
                times.push(now().since(start).as_secs_f64());
                self.lab.agent(index).wait(10)?;
                self.lab.start_agent(index)?;
                std::thread::sleep(Duration::from_secs(3));
            }
        }
        report.add_all("name by mDNS, answered by the next node: SIGTERM", planned, "s", "1");
        report.add_all("name by mDNS, answered by the next node: agent killed", lost, "s", "lease (5) + 1");
        Ok(())
    }

    fn burst(&mut self, kind: ServerKind, report: &mut Report) -> Result<()> {
        let services: Vec<(String, String)> =
            (0..50).map(|number| (format!("burst-{number}"), "0.0.0.0".into())).collect();
        self.sweep.probe(&addresses(50), &[]);
        let start = now();
        self.lab.serve_all(&services)?;
        let created = now();
        let last = self.sweep.wait(120)?;
        report.add(
            format!("{kind:?}: 50 at once, first created to all answer"),
            last.since(start).as_secs_f64(),
            "s",
            "1.5",
        );
        report.add(
            format!("{kind:?}: 50 at once, last created to all answer"),
            last.since(created).as_secs_f64(),
            "s",
            "",
        );
        Ok(())
    }

    /// The holder's share of a processor when nothing happens, in per cent.
    fn at_rest(&mut self, holder: usize) -> f64 {
        let (before, watched) = (usage(self.lab.agent(holder).pid()).cpu, now());
        std::thread::sleep(STEADY);
        let used = usage(self.lab.agent(holder).pid()).cpu - before;
        used / now().since(watched).as_secs_f64() * 100.0
    }

    /// What so many Services with addresses of their own cost at rest.
    fn plain_addresses(&mut self, count: u32) -> Result<f64> {
        let first = Ipv4Addr::new(10, 43, 2, 0).to_bits();
        let wanted: Vec<IpAddr> =
            (0..count).map(|number| Ipv4Addr::from_bits(first + number).into()).collect();
        let name = |number: usize| format!("plain-{number}");
        let services: Vec<(String, String)> =
            wanted.iter().enumerate().map(|(number, address)| (name(number), address.to_string())).collect();
        self.sweep.probe(&wanted, &[]);
        self.lab.serve_all(&services)?;
        self.sweep.wait(120)?;
        let holder = self.holder(wanted.first().copied().unwrap_or(Ipv4Addr::UNSPECIFIED.into()))?;
        std::thread::sleep(STEADY);
        let share = self.at_rest(holder);
        services.iter().try_for_each(|(name, _)| self.lab.delete(name))?;
        Ok(share)
    }

    fn many(&mut self, report: &mut Report) -> Result<()> {
        let first = Ipv4Addr::new(10, 43, 4, 0).to_bits();
        let wanted: Vec<IpAddr> = (0..500).map(|number| Ipv4Addr::from_bits(first + number).into()).collect();
        let Some(address) = wanted.first().copied() else { return Ok(()) };
        let plain = self.plain_addresses(500)?;
        let before: Vec<f64> = (0..3).map(|host| usage(self.lab.agent(host).pid()).rss_mb).collect();
        let services: Vec<(String, String)> =
            (0..500).map(|number| (format!("many-{number}"), "0.0.0.0".into())).collect();
        self.sweep.probe(&wanted, &[]);
        let start = now();
        self.lab.serve_all(&services)?;
        let created = now();
        let last = self.sweep.wait(120)?;
        report.add("500 leases: first created to all answer", last.since(start).as_secs_f64(), "s", "");
        report.add("500 leases: last created to all answer", last.since(created).as_secs_f64(), "s", "");
        let holder = self.holder(address)?;
        std::thread::sleep(STEADY);
        let agent = usage(self.lab.agent(holder).pid());
        report.add(
            "500 leases: memory of the holder, more than without",
            agent.rss_mb - before.get(holder).copied().unwrap_or(0.0),
            "MiB",
            "24",
        );
        let leased = self.at_rest(holder);
        report.add("500 addresses without leases: processor at rest", plain, "%", "");
        report.add("500 leases: processor at rest, more than without", leased - plain, "%", "0.2");
        report.add(
            "500 leases: messages that the server got",
            self.server.log().matches("DHCPREQUEST").count() as f64,
            "",
            "",
        );
        Ok(())
    }
}
