//! What is measured: kube-vip, or keepalived on the same hosts.

use std::time::Duration;

use kube_vip::conflict::FrameKind;
use kube_vip::model::BootTime;
use kube_vip::status::Status;
use kube_vip_lab::keepalived::Keepalived;
use kube_vip_lab::process;
use kube_vip_lab::recorder::Recorder;
use kube_vip_lab::{Cluster, Result};
use serde::Serialize;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Subject {
    KubeVip,
    Keepalived,
}

/// It, running on the hosts.
pub(crate) enum Running {
    KubeVip,
    Keepalived(Vec<Option<Keepalived>>),
}

impl Subject {
    pub(crate) const ALL: [Self; 2] = [Self::KubeVip, Self::Keepalived];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KubeVip => "kube-vip",
            Self::Keepalived => "keepalived",
        }
    }

    pub(crate) fn start(self, cluster: &mut Cluster) -> Result<Running> {
        match self {
            Self::KubeVip => Ok(Running::KubeVip),
            Self::Keepalived => {
                let none = (0..cluster.lab.hosts.len()).map(|_| None).collect();
                Ok(Running::Keepalived(none))
            }
        }
    }
}

impl Running {
    /// Everything runs, and one host has the VIPs, which answer.
    pub(crate) fn heal(&mut self, cluster: &mut Cluster) -> Result<()> {
        match self {
            Self::KubeVip => cluster.heal(),
            Self::Keepalived(running) => {
                cluster.lab.heal()?;
                for (index, slot) in running.iter_mut().enumerate() {
                    if slot.is_none() {
                        *slot = Some(Keepalived::start(&cluster.lab, cluster.lab.host(index))?);
                    }
                }
                cluster.wait_until_answering()?;
                // Its priorities decide the master in the end: wait for that.
                std::thread::sleep(Duration::from_secs(5));
                cluster.wait_until_answering()
            }
        }
    }

    pub(crate) fn terminate(&mut self, cluster: &mut Cluster, host: usize) {
        match self {
            Self::KubeVip => cluster.agent(host).terminate(),
            Self::Keepalived(running) => {
                if let Some(Some(keepalived)) = running.get(host) {
                    keepalived.terminate();
                }
            }
        }
    }

    /// Bring the subject back on a host where it was stopped.
    pub(crate) fn forget(&mut self, host: usize) {
        if let Self::Keepalived(running) = self
            && let Some(slot) = running.get_mut(host)
        {
            *slot = None;
        }
    }

    pub(crate) fn signal(&mut self, cluster: &mut Cluster, host: usize, signal: nix::sys::signal::Signal) {
        match self {
            Self::KubeVip => cluster.agent(host).signal(signal),
            Self::Keepalived(running) => {
                if let Some(Some(keepalived)) = running.get(host) {
                    keepalived.signal(signal);
                }
            }
        }
    }
}

impl Running {
    /// From the expiry of the Lease to the first announcement by the next holder.
    ///
    /// The next holder's status has how long after the last renewal it gained the VIP, and how long ago that was.
    pub(crate) fn reaction(&self, cluster: &Cluster, start: BootTime) -> Option<f64> {
        let Self::KubeVip = self else { return None };
        let holder = cluster.sampler.holder().ok()?;
        let mac = Recorder::mac(&cluster.lab, holder).ok()?;
        let frames = cluster.recorder.since(start);
        let (announced, _) =
            frames.iter().find(|(_, frame)| frame.mac == mac && frame.kind == FrameKind::Announcement)?;
        let metrics = cluster.lab.host(holder).namespace.http_get(METRICS_PORT, "/metrics").ok()?;
        let line = metrics.lines().find(|line| line.starts_with("kube_vip_last_failover_seconds"))?;
        let since_renewal: f64 = line.rsplit(' ').next()?.parse().ok()?;
        let queried = kube_vip_lab::now();
        let program = cluster.options.program.to_string_lossy();
        let report = cluster.lab.host(holder).namespace.run(&[&program, "status", "-o", "json"]).ok()?;
        let reports: Vec<Status> = serde_json::from_str(&report).ok()?;
        let held_for = reports.first()?.election.for_seconds;
        let (lease, _, _) = cluster.options.lease;
        let announced_after_gain = held_for - queried.since(*announced).as_secs_f64();
        Some(since_renewal - f64::from(lease) + announced_after_gain)
    }
}

/// End kube-vip on every host.
pub(crate) fn stop_agents(cluster: &mut Cluster) {
    cluster.agents.iter_mut().for_each(|agent| *agent = None);
}

/// What an idle agent costs.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Idle {
    pub(crate) holder: Cost,
    pub(crate) standby: Cost,
}

/// What one process costs.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Cost {
    pub(crate) rss_mb: f64,
    pub(crate) private_mb: f64,
    pub(crate) cpu_seconds_per_minute: f64,
    pub(crate) requests_per_minute: f64,
}

/// Where agents serve their metrics.
pub(crate) const METRICS_PORT: u16 = 2112;
const IDLE: Duration = Duration::from_secs(60);

/// Leave everything alone for a minute and see what it costs.
pub(crate) fn idle(cluster: &mut Cluster) -> Result<Idle> {
    println!("idle for a minute …");
    let holder = cluster.sampler.wait_for_holder(10)?;
    let standby = (holder + 1) % cluster.lab.hosts.len();
    std::thread::sleep(Duration::from_secs(3));
    let before = [holder, standby].map(|host| usage(cluster, host));
    std::thread::sleep(IDLE);
    let after = [holder, standby].map(|host| usage(cluster, host));
    let cost = |index: usize| {
        let (Some(before), Some(after)) = (before.get(index), after.get(index)) else { return Cost::NONE };
        Cost {
            rss_mb: after.process.rss_mb,
            private_mb: after.process.private_mb,
            cpu_seconds_per_minute: after.process.cpu - before.process.cpu,
            requests_per_minute: after.requests - before.requests,
        }
    };
    Ok(Idle { holder: cost(0), standby: cost(1) })
}

impl Cost {
    const NONE: Self =
        Self { rss_mb: 0.0, private_mb: 0.0, cpu_seconds_per_minute: 0.0, requests_per_minute: 0.0 };
}

struct Usage {
    process: process::Usage,
    requests: f64,
}

fn usage(cluster: &mut Cluster, host: usize) -> Usage {
    // Requests for the Lease, as the agent itself counts them; the probes of /livez are not among them.
    let metrics = cluster.lab.host(host).namespace.http_get(METRICS_PORT, "/metrics");
    let metrics = metrics.unwrap_or_default();
    let requests = metrics
        .lines()
        .filter(|line| line.starts_with("kube_vip_api_requests_total"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    Usage { process: process::usage(cluster.agent(host).pid()), requests }
}
