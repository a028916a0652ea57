//! `cargo xtask bench bgp`: how fast routers learn changes, and what that costs.

mod prefixes;

use std::time::Duration;

use kube_vip_lab::process::usage;
use kube_vip_lab::{
    LabError, Neighbour, Result, Router, RouterKind, RouterOptions, ServiceLab, now, wait_for,
};

use super::services::{Options, Report, agent};
use super::{save, text};
use crate::setup;
use crate::sh::{Outcome, run};

const HOSTS: [&str; 3] = ["10.42.0.11", "10.42.0.12", "10.42.0.13"];
const SERVICE: &str = "10.43.0.1/32";
/// The control plane's address.
const VIP: &str = "10.43.0.100";

/// All of it.
pub(crate) fn run_all(options: &Options) -> Outcome {
    setup::all()?;
    if !options.has_agent() {
        run("cargo", &["build", "--release", "--locked"], &[])?;
    }
    let mut report = Report::default();
    measure(options, &mut report).map_err(text)?;
    println!();
    report.print();
    save(&report, options.json(), "target/bench-bgp.json")
}

fn measure(options: &Options, report: &mut Report) -> Result<()> {
    let program = agent(options).map_err(LabError::Missing)?;
    let lab = ServiceLab::start(&program, &[])?;
    let mut bench = Bench { lab };
    if options.wants("change") {
        bench.changes(report)?;
    }
    if options.wants("hold") {
        bench.hold_time(report)?;
    }
    if options.wants("bfd") {
        bench.bfd(report)?;
    }
    if options.wants("server") {
        bench.server(report)?;
    }
    if options.wants("scale") {
        bench.scale(report)?;
    }
    if options.wants("prefixes") {
        prefixes::measure(&mut bench, report)?;
    }
    if options.wants("idle") {
        bench.idle(report)?;
    }
    Ok(())
}

struct Bench {
    lab: ServiceLab,
}

impl Bench {
    /// Agents with these peers, and a router for them.
    fn start(
        &mut self,
        kind: RouterKind,
        peers: &str,
        env: &[(&str, &str)],
        change: impl Fn(&mut RouterOptions),
    ) -> Result<Router> {
        self.lab.stop_agents()?;
        let all = [
            ("vip_arp", "false"),
            ("bgp_enable", "true"),
            ("bgp_as", "65000"),
            ("bgp_peers", peers),
            ("vip_leaderelection", "false"),
        ];
        let plain = self.lab.plain_options();
        self.lab.options =
            all.iter().chain(env).fold(plain, |options, (name, value)| options.with(name, value));
        let neighbours = HOSTS.map(|host| Neighbour::new(host, 65_000)).into();
        let mut router = RouterOptions::new(kind, 65_001, neighbours);
        change(&mut router);
        let router = Router::start(&self.lab.lab, router)?;
        self.lab.start_agents()?;
        router.wait_for_established(3)?;
        Ok(router)
    }

    /// Seconds until a route has so many next hops.
    fn until(router: &Router, prefix: &str, hosts: usize) -> Result<f64> {
        let begun = now();
        wait_for(&format!("{prefix} by {hosts} hosts"), 60, || {
            (router.next_hops(prefix).len() == hosts).then_some(())
        })?;
        Ok(now().since(begun).as_secs_f64())
    }

    /// Sessions and Services that come and go.
    fn changes(&mut self, report: &mut Report) -> Result<()> {
        for kind in [RouterKind::Frr, RouterKind::Bird] {
            self.changes_of(kind, report)?;
        }
        Ok(())
    }

    /// FRR collects changes for 50 ms before it looks at them; BIRD does not.
    fn changes_of(&mut self, kind: RouterKind, report: &mut Report) -> Result<()> {
        let router = self.start(kind, "10.42.0.254:65001", &[], |_| {})?;
        let mut starts = Vec::new();
        for _ in 0..10 {
            self.lab.agent(0).terminate();
            self.lab.agent(0).wait(10)?;
            wait_for("two sessions", 20, || (router.established() == 2).then_some(()))?;
            let begun = now();
            self.lab.start_agent(0)?;
            wait_for("three sessions", 20, || (router.established() == 3).then_some(()))?;
            starts.push(now().since(begun).as_secs_f64());
        }
        report.add_all(&format!("{kind:?}: process start → session established"), starts, "s", "0.5");
        let (mut ready, mut gone) = (Vec::new(), Vec::new());
        for _ in 0..20 {
            self.lab.create("web", "10.43.0.1", serde_json::json!({}))?;
            self.lab.set_endpoints("web", "a", &[])?;
            self.lab.set_endpoints("web", "a", &["node-1", "node-2", "node-3"])?;
            ready.push(Self::until(&router, SERVICE, 3)?);
            self.lab.delete("web")?;
            gone.push(Self::until(&router, SERVICE, 0)?);
        }
        report.add_all(
            &format!("{kind:?}: Service ready → route in the router's kernel"),
            ready,
            "s",
            "0.05; worst 0.15",
        );
        report.add_all(&format!("{kind:?}: Service deleted → route gone"), gone, "s", "0.05");
        Ok(())
    }

    /// A host whose cable is pulled, found by the hold time, and its return.
    fn hold_time(&mut self, report: &mut Report) -> Result<()> {
        for hold in [3, 30] {
            let text = hold.to_string();
            let env = [("bgp_hold_time", text.as_str()), ("bgp_keepalive_interval", "1")];
            let router =
                self.start(RouterKind::Frr, "10.42.0.254:65001", &env, |router| router.hold = hold)?;
            self.lab.serve("web", "10.43.0.1")?;
            Self::until(&router, SERVICE, 3)?;
            self.lab.lab.segment.pull_cable(self.lab.lab.host(1).number)?;
            report.add(
                format!("host lost, hold time {hold} s"),
                Self::until(&router, SERVICE, 2)?,
                "s",
                text.clone(),
            );
            self.lab.lab.segment.plug_cable(self.lab.lab.host(1).number)?;
            report.add(format!("host back, hold time {hold} s"), Self::until(&router, SERVICE, 3)?, "s", "");
            self.lab.delete("web")?;
        }
        Ok(())
    }

    /// The same, found by BFD.
    fn bfd(&mut self, report: &mut Report) -> Result<()> {
        for kind in [RouterKind::Frr, RouterKind::Bird] {
            for (millis, mark) in [(300, "0.95"), (50, "0.19")] {
                let peers = format!("10.42.0.254:65001:::::true;{millis};{millis};3");
                let router = self.start(kind, &peers, &[("bgp_hold_time", "90")], |router| {
                    router.hold = 90;
                    router.neighbours.iter_mut().for_each(|neighbour| neighbour.bfd = Some((millis, 3)));
                })?;
                self.lab.serve("web", "10.43.0.1")?;
                Self::until(&router, SERVICE, 3)?;
                std::thread::sleep(Duration::from_secs(5));
                let (mut lost, mut back) = (Vec::new(), Vec::new());
                for _ in 0..10 {
                    self.lab.lab.segment.pull_cable(self.lab.lab.host(1).number)?;
                    lost.push(Self::until(&router, SERVICE, 2)?);
                    self.lab.lab.segment.plug_cable(self.lab.lab.host(1).number)?;
                    back.push(Self::until(&router, SERVICE, 3)?);
                    // BFD comes up, and slows down to what was agreed on.
                    std::thread::sleep(Duration::from_secs(4));
                }
                report.add_all(&format!("{kind:?}: host lost, BFD {millis} ms × 3"), lost, "s", mark);
                report.add_all(&format!("{kind:?}: way back → route back, BFD {millis} ms"), back, "s", "2");
                self.lab.delete("web")?;
            }
        }
        Ok(())
    }

    /// The API server of a host is killed; the router is restarted.
    fn server(&mut self, report: &mut Report) -> Result<()> {
        let env = [
            ("cp_enable", "true"),
            ("address", VIP),
            ("bgp_hold_time", "3"),
            ("bgp_keepalive_interval", "1"),
        ];
        let mut router = self.start(RouterKind::Frr, "10.42.0.254:65001", &env, |router| router.hold = 3)?;
        let prefix = format!("{VIP}/32");
        let mut killed = Vec::new();
        for _ in 0..5 {
            Self::until(&router, &prefix, 3)?;
            self.lab.lab.host_mut(1).kill_api_server();
            killed.push(Self::until(&router, &prefix, 2)?);
            self.lab.lab.start_api_server(1)?;
            self.lab.lab.wait_for_api_server(1)?;
        }
        report.add_all("local API server killed → route gone", killed, "s", "1.2");
        let mut back = Vec::new();
        for _ in 0..5 {
            Self::until(&router, &prefix, 3)?;
            router.kill();
            std::thread::sleep(Duration::from_secs(4));
            router.launch()?;
            back.push(Self::until(&router, &prefix, 3)?);
        }
        report.add_all("router listens again → route back", back, "s", "2");
        Ok(())
    }

    /// A thousand Services.
    fn scale(&mut self, report: &mut Report) -> Result<()> {
        let router =
            self.start(RouterKind::Frr, "10.42.0.254:65001", &[("bgp_graceful_restart_time", "0")], |_| {})?;
        let services: Vec<(String, String)> = (0..1000)
            .map(|n| (format!("many-{n}"), format!("10.43.{}.{}", 4 + n / 250, n % 250 + 1)))
            .collect();
        self.lab.serve_all(&services)?;
        let last = "10.43.7.250/32";
        Self::until(&router, last, 3)?;
        let mut restarts = Vec::new();
        for _ in 0..5 {
            self.lab.agent(0).kill();
            Self::until(&router, last, 2)?;
            let begun = now();
            self.lab.start_agent(0)?;
            for (_, address) in [services.first(), services.get(500), services.last()].into_iter().flatten() {
                Self::until(&router, &format!("{address}/32"), 3)?;
            }
            restarts.push(now().since(begun).as_secs_f64());
        }
        report.add_all("1,000 Services: restart → all announced", restarts, "s", "1.5");
        std::thread::sleep(Duration::from_secs(5));
        let used = usage(self.lab.agent(0).pid());
        report.add("1,000 Services: memory", used.rss_mb, "MiB", "40");
        for (name, _) in &services {
            self.lab.delete(name)?;
        }
        Ok(())
    }

    /// What four peers with BFD cost while nothing happens.
    fn idle(&mut self, report: &mut Report) -> Result<()> {
        let peers = (0..4).map(|n| format!("10.42.0.25{}:65001:::::true;300;300;3", 4 - n));
        let peers: Vec<String> = peers.collect();
        let bfd = |router: &mut RouterOptions| {
            router.neighbours.iter_mut().for_each(|neighbour| neighbour.bfd = Some((300, 3)));
        };
        let _first = self.start(RouterKind::Frr, &peers.join(","), &[], bfd)?;
        let mut more = Vec::new();
        for number in [253, 252, 251] {
            let neighbours = HOSTS.map(|host| Neighbour::new(host, 65_000)).into();
            let mut options = RouterOptions::new(RouterKind::Bird, 65_001, neighbours);
            bfd(&mut options);
            let router = Router::start_as(&self.lab.lab, &format!("router{number}"), number, options)?;
            router.wait_for_established(3)?;
            more.push(router);
        }
        std::thread::sleep(Duration::from_secs(5));
        let pid = self.lab.agent(0).pid();
        let before = usage(pid);
        std::thread::sleep(Duration::from_secs(30));
        let after = usage(pid);
        let seconds = (after.cpu - before.cpu) * 2.0;
        report.add("idle with 4 peers and BFD 300 ms: processor in a minute", seconds, "s", "0.2");
        report.add("idle with 4 peers and BFD 300 ms: memory", after.rss_mb, "MiB", "16");
        Ok(())
    }
}
