//! Ten thousand prefixes: how long until they are in a router's kernel, from kube-vip and from other speakers, and what
//! that costs.

use std::time::Duration;

use kube_vip_lab::process::usage;
use kube_vip_lab::{LabError, Neighbour, Result, Router, RouterKind, RouterOptions, now, wait_for};

use super::{Bench, HOSTS, Report, SERVICE};

const COUNT: usize = 10_000;
/// So many routers at once.
const MOST: u8 = 4;
/// Others that announce are at this number.
const OTHER: u8 = 61;
/// So often with each.
const RUNS: usize = 3;

fn all() -> Vec<String> {
    (0..COUNT).map(|n| format!("10.128.{}.{}/32", n / 250, n % 250 + 1)).collect()
}

pub(super) fn measure(bench: &mut Bench, report: &mut Report) -> Result<()> {
    let prefixes = all();
    // A variable has no room for so many.
    let list: String = prefixes.iter().map(|prefix| format!("  - {prefix}\n")).collect();
    let etc = bench.lab.lab.host(0).folder.join("root/etc");
    let text = format!("bgpConfig:\n  advertiseServiceCIDRs:\n{list}");
    let wrote = std::fs::create_dir_all(&etc).and_then(|()| std::fs::write(etc.join("many.yaml"), text));
    wrote.map_err(|source| LabError::Io { what: "many.yaml".into(), source })?;
    agents(bench)?;
    bench.lab.start_agent(0)?;
    let agent = bench.lab.agent(0).pid();
    compare(bench, report, "kube-vip", HOSTS[0], agent)?;
    one_change(bench, report)?;
    bench.lab.stop_agents()?;
    for kind in [RouterKind::GoBgp, RouterKind::Frr] {
        let speaker = other(bench, kind, &prefixes)?;
        // FRR's BGP is its last process.
        let pid = speaker.processes().last().map_or(0, |process| process.pid());
        compare(bench, report, &format!("{kind:?}"), &format!("10.42.0.{OTHER}"), pid)?;
    }
    Ok(())
}

/// Agents that announce all of them to up to four routers.
fn agents(bench: &mut Bench) -> Result<()> {
    bench.lab.stop_agents()?;
    let peers: Vec<String> = (0..MOST).map(|n| format!("10.42.0.{}:65001", 254 - n)).collect();
    let env = [
        ("vip_arp", "false"),
        ("bgp_enable", "true"),
        ("bgp_as", "65000"),
        ("vip_leaderelection", "false"),
        ("bgp_peers", &peers.join(",")),
        ("config_file", "/etc/many.yaml"),
    ];
    let plain = bench.lab.plain_options();
    bench.lab.options = env.iter().fold(plain, |options, (name, value)| options.with(name, value));
    Ok(())
}

/// Passive routers for one speaker: the first is FRR, the others BIRD, which needs less memory.
fn receivers(bench: &Bench, count: u8, speaker: &str) -> Result<Vec<Router>> {
    let router = |n: u8| {
        let kind = if n == 0 { RouterKind::Frr } else { RouterKind::Bird };
        let name = if n == 0 { "router".to_owned() } else { format!("router{n}") };
        let mut options = RouterOptions::new(kind, 65_001, vec![Neighbour::new(speaker, 65_000)]);
        options.graceful_restart = false;
        Router::start_as(&bench.lab.lab, &name, 254 - n, options)
    };
    (0..count).map(router).collect()
}

/// From the last session to all prefixes in all kernels.
fn filled(routers: &[Router]) -> Result<f64> {
    let up = || routers.iter().all(|router| router.established() > 0);
    wait_for("all sessions", 60, || up().then_some(()))?;
    let begun = now();
    let full = || routers.iter().all(|router| router.kernel_routes() >= COUNT);
    wait_for("all prefixes in all kernels", 120, || full().then_some(()))?;
    Ok(now().since(begun).as_secs_f64())
}

/// How long one speaker takes to fill one router, and four at once.
fn compare(bench: &Bench, report: &mut Report, subject: &str, address: &str, pid: u32) -> Result<()> {
    let ours = subject == "kube-vip";
    for count in [1, MOST] {
        let mut times = Vec::new();
        for _ in 0..RUNS {
            let routers = receivers(bench, count, address)?;
            times.push(filled(&routers)?);
            // A session that ends at once would count as a bad one.
            std::thread::sleep(Duration::from_secs(2));
        }
        let what = format!("{subject}: 10,000 prefixes → kernel of {count} router(s), after Established");
        report.add_all(&what, times, "s", if ours { "as GoBGP" } else { "" });
    }
    let memory = usage(pid).rss_mb;
    report.add(
        format!("{subject}: memory with 10,000 prefixes"),
        memory,
        "MiB",
        if ours { "48" } else { "" },
    );
    Ok(())
}

/// Another speaker that announces all of them to up to four routers.
fn other(bench: &Bench, kind: RouterKind, prefixes: &[String]) -> Result<Router> {
    let neighbour =
        |n: u8| Neighbour { connects: true, ..Neighbour::new(&format!("10.42.0.{}", 254 - n), 65_001) };
    let mut options = RouterOptions::new(kind, 65_000, (0..MOST).map(neighbour).collect());
    options.graceful_restart = false;
    if kind == RouterKind::Frr {
        options.networks = prefixes.to_vec();
    }
    let speaker = Router::start_as(&bench.lab.lab, "speaker", OTHER, options)?;
    if kind == RouterKind::GoBgp {
        speaker.announce(prefixes)?;
    }
    Ok(speaker)
}

/// Among ten thousand prefixes one Service is added and deleted.
fn one_change(bench: &Bench, report: &mut Report) -> Result<()> {
    let options = RouterOptions::new(RouterKind::Bird, 65_001, vec![Neighbour::new(HOSTS[0], 65_000)]);
    let router = Router::start(&bench.lab.lab, options)?;
    wait_for("all prefixes", 60, || (router.kernel_routes() >= COUNT).then_some(()))?;
    let (mut came, mut updates) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        bench.lab.create("web", "10.43.0.1", serde_json::json!({}))?;
        bench.lab.set_endpoints("web", "a", &[])?;
        let before = received(&router)?;
        bench.lab.set_endpoints("web", "a", &["node-1"])?;
        // One route: a list of ten thousand takes longer than what is measured.
        let begun = now();
        wait_for("the route", 10, || {
            let route = router.namespace.ip(&["route", "get", "fibmatch", "10.43.0.1"]).ok()?;
            route.contains("via 10.42.0.11").then_some(())
        })?;
        came.push(now().since(begun).as_secs_f64());
        updates.push(received(&router)? - before);
        bench.lab.delete("web")?;
        Bench::until(&router, SERVICE, 0)?;
    }
    report.add_all("10,000 prefixes, one Service more → route in the kernel", came, "s", "0.02");
    report.add_all("10,000 prefixes, one Service more: routes that BIRD received", updates, "", "1");
    Ok(())
}

/// How many routes BIRD has received in UPDATEs.
fn received(router: &Router) -> Result<f64> {
    let text = router.query("show protocols all peer0")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Import updates:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    Ok(number.unwrap_or(f64::NAN))
}
