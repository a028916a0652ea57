//! Ten thousand prefixes: how long until they are in a router's kernel, told by us and by others, and what that costs.

use kube_vip_lab::process::usage;
use kube_vip_lab::{LabError, Neighbour, Result, Router, RouterKind, RouterOptions, now, wait_for};

use super::{Bench, HOSTS, Report, SERVICE};

const COUNT: usize = 10_000;
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
    for routers in [1, 4] {
        ours(bench, report, routers)?;
        others(bench, report, routers, &prefixes)?;
    }
    one_change(bench, report)
}

fn agents(bench: &mut Bench, routers: u8) -> Result<()> {
    bench.lab.stop_agents()?;
    let peers: Vec<String> = (0..routers).map(|n| format!("10.42.0.{}:65001", 254 - n)).collect();
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

/// Routers that wait for one speaker, the first of them FRR and the others BIRD, for the machine's sake.
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

/// From the first session to all prefixes in all kernels.
fn filled(routers: &[Router]) -> Result<f64> {
    let up = || routers.iter().any(|router| router.established() > 0);
    wait_for("a session", 60, || up().then_some(()))?;
    let begun = now();
    let full = || routers.iter().all(|router| router.kernel_routes() >= COUNT);
    wait_for("all prefixes in all kernels", 120, || full().then_some(()))?;
    Ok(now().since(begun).as_secs_f64())
}

fn tell(report: &mut Report, who: &str, routers: u8, times: Vec<f64>, memory: f64) {
    let what = format!("{who}: 10,000 prefixes → kernel of {routers} router(s), after Established");
    report.add_all(&what, times, "s", if who == "kube-vip" { "as GoBGP" } else { "" });
    let mark = if who == "kube-vip" { "48" } else { "" };
    report.add(format!("{who}: memory with 10,000 prefixes and {routers} peer(s)"), memory, "MiB", mark);
}

fn ours(bench: &mut Bench, report: &mut Report, count: u8) -> Result<()> {
    let (mut times, mut memory) = (Vec::new(), 0.0_f64);
    for _ in 0..RUNS {
        agents(bench, count)?;
        bench.lab.start_agent(0)?;
        let routers = receivers(bench, count, HOSTS[0])?;
        times.push(filled(&routers)?);
        memory = memory.max(usage(bench.lab.agent(0).pid()).rss_mb);
        bench.lab.stop_agents()?;
    }
    tell(report, "kube-vip", count, times, memory);
    Ok(())
}

fn others(bench: &Bench, report: &mut Report, count: u8, prefixes: &[String]) -> Result<()> {
    for kind in [RouterKind::GoBgp, RouterKind::Frr] {
        let address = format!("10.42.0.{OTHER}");
        let (mut times, mut memory) = (Vec::new(), 0.0_f64);
        for _ in 0..RUNS {
            let neighbours = (0..count).map(|n| Neighbour {
                connects: true,
                ..Neighbour::new(&format!("10.42.0.{}", 254 - n), 65_001)
            });
            let mut options = RouterOptions::new(kind, 65_000, neighbours.collect());
            options.graceful_restart = false;
            if kind == RouterKind::Frr {
                options.networks = prefixes.to_vec();
            }
            let speaker = Router::start_as(&bench.lab.lab, "speaker", OTHER, options)?;
            if kind == RouterKind::GoBgp {
                speaker.announce(prefixes)?;
            }
            let routers = receivers(bench, count, &address)?;
            times.push(filled(&routers)?);
            // FRR's BGP is its last process.
            memory =
                memory.max(speaker.processes().last().map_or(0.0, |process| usage(process.pid()).rss_mb));
        }
        tell(report, &format!("{kind:?}"), count, times, memory);
    }
    Ok(())
}

/// Among ten thousand prefixes one Service comes and goes.
fn one_change(bench: &mut Bench, report: &mut Report) -> Result<()> {
    agents(bench, 1)?;
    bench.lab.start_agent(0)?;
    let options = RouterOptions::new(RouterKind::Bird, 65_001, vec![Neighbour::new(HOSTS[0], 65_000)]);
    let router = Router::start(&bench.lab.lab, options)?;
    wait_for("all prefixes", 60, || (router.kernel_routes() >= COUNT).then_some(()))?;
    let (mut came, mut updates) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        bench.lab.create("web", "10.43.0.1", serde_json::json!({}))?;
        bench.lab.set_endpoints("web", "a", &[])?;
        let before = heard(&router)?;
        bench.lab.set_endpoints("web", "a", &["node-1"])?;
        came.push(Bench::until(&router, SERVICE, 1)?);
        updates.push(heard(&router)? - before);
        bench.lab.delete("web")?;
        Bench::until(&router, SERVICE, 0)?;
    }
    report.add_all("10,000 prefixes, one Service more → route in the kernel", came, "s", "0.02");
    report.add_all("10,000 prefixes, one Service more: routes that BIRD heard of", updates, "", "1");
    bench.lab.stop_agents()
}

/// How many routes BIRD has been told of in UPDATEs.
fn heard(router: &Router) -> Result<f64> {
    let text = router.ask("show protocols all peer0")?;
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Import updates:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    Ok(number.unwrap_or(f64::NAN))
}
