//! The faults: how each is made, and when it is over.

use std::time::Duration;

use kube_vip_lab::{Cluster, LabError, Result};
use nix::sys::signal::Signal;

use super::report::Sample;
use super::subject::Running;

/// A fault of the holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Sigterm,
    KillAndRestart,
    Kill,
    HostLost,
    CableCut,
    ApiServerKilled,
    ApiServerHangs,
    CutOff,
    Frozen,
    QuorumLost,
    RemovedByHand,
    Overwritten,
    Started,
}

impl Fault {
    pub(crate) const ALL: [Self; 13] = [
        Self::Sigterm,
        Self::KillAndRestart,
        Self::Kill,
        Self::HostLost,
        Self::CableCut,
        Self::ApiServerKilled,
        Self::ApiServerHangs,
        Self::CutOff,
        Self::Frozen,
        Self::QuorumLost,
        Self::RemovedByHand,
        Self::Overwritten,
        Self::Started,
    ];

    pub(crate) fn key(self) -> &'static str {
        self.texts().0
    }

    pub(crate) fn title(self) -> &'static str {
        self.texts().1
    }

    fn texts(self) -> (&'static str, &'static str) {
        match self {
            Self::Sigterm => ("sigterm", "SIGTERM of the holder's agent"),
            Self::KillAndRestart => ("restart", "SIGKILL and restart within a second"),
            Self::Kill => ("kill", "SIGKILL without restart"),
            Self::HostLost => ("host", "host lost"),
            Self::CableCut => ("cable", "cable cut"),
            Self::ApiServerKilled => ("api-killed", "local API server killed"),
            Self::ApiServerHangs => ("api-hangs", "local API server hangs"),
            Self::CutOff => ("cut-off", "cut off from the hosts, not from the client"),
            Self::Frozen => ("frozen", "SIGSTOP for 30 s, then SIGCONT"),
            Self::QuorumLost => ("quorum", "etcd quorum lost for 20 s"),
            Self::RemovedByHand => ("removed", "VIP deleted by hand"),
            Self::Overwritten => ("overwritten", "holderIdentity overwritten by hand"),
            Self::Started => ("start", "start to first answer, API ready"),
        }
    }

    /// keepalived has no Lease, and no quorum.
    pub(crate) fn concerns_keepalived(self) -> bool {
        !matches!(self, Self::QuorumLost | Self::Overwritten)
    }

    /// The next holder has to wait for the end of the Lease.
    fn lets_the_lease_expire(self) -> bool {
        matches!(self, Self::Kill | Self::HostLost | Self::CableCut | Self::CutOff | Self::Frozen)
    }

    /// Cause the fault, wait until it is over, and report what a client measured.
    pub(crate) fn play(self, cluster: &mut Cluster, running: &mut Running) -> Result<Sample> {
        let holder = cluster.sampler.wait_for_holder(20)?;
        if self == Self::Started {
            return started(cluster, running);
        }
        let start = kube_vip_lab::now();
        match self {
            Self::Started => {}
            Self::Sigterm => running.terminate(cluster, holder),
            Self::KillAndRestart | Self::Kill => running.signal(cluster, holder, Signal::SIGKILL),
            Self::HostLost => {
                cluster.lab.lose_host(holder)?;
                running.signal(cluster, holder, Signal::SIGKILL);
            }
            Self::CableCut => cluster.lab.segment.pull_cable(cluster.lab.host(holder).number)?,
            Self::ApiServerKilled => cluster.lab.host_mut(holder).kill_api_server(),
            Self::ApiServerHangs => cluster.lab.host(holder).freeze_api_server(),
            Self::CutOff => cluster.lab.cut_off(holder)?,
            Self::Frozen => running.signal(cluster, holder, Signal::SIGSTOP),
            Self::QuorumLost => {
                for other in others(cluster, holder) {
                    cluster.lab.host_mut(other).etcd = None;
                }
            }
            Self::RemovedByHand => cluster.lab.remove_vips(holder)?,
            Self::Overwritten => cluster.lab.edit_lease(holder, Some("another"))?,
        }
        match self {
            Self::KillAndRestart => {
                std::thread::sleep(Duration::from_millis(500));
                running.forget(holder);
                running.heal(cluster)?;
            }
            Self::Frozen => {
                std::thread::sleep(Duration::from_secs(30));
                running.signal(cluster, holder, Signal::SIGCONT);
                std::thread::sleep(Duration::from_secs(3));
            }
            Self::QuorumLost => {
                std::thread::sleep(Duration::from_secs(20));
                for other in others(cluster, holder) {
                    cluster.lab.host_mut(other).restart_etcd()?;
                }
            }
            Self::RemovedByHand => std::thread::sleep(Duration::from_secs(1)),
            // The address may outlive its holder by a lease duration; keepalived's stays for good.
            _ => drop(wait_until_lost(cluster, holder)),
        }
        settle(cluster)?;
        let sample = Sample {
            reaction: if self.lets_the_lease_expire() { running.reaction(cluster, start) } else { None },
            ..Sample::taken(cluster, start)
        };
        if matches!(self, Self::Sigterm | Self::Kill | Self::HostLost) {
            running.forget(holder);
        }
        Ok(sample)
    }
}

/// The host has neither VIP any more.
fn wait_until_lost(cluster: &Cluster, host: usize) -> Result<()> {
    let bare = || {
        let held = cluster.sampler.latest()?.holds.into_iter().nth(host)?;
        held.is_empty().then_some(())
    };
    kube_vip_lab::wait_for("the former holder to lose the address", 8, bare)
}

fn others(cluster: &Cluster, holder: usize) -> Vec<usize> {
    (0..cluster.lab.hosts.len()).filter(|other| *other != holder).collect()
}

/// Both VIPs answer for a whole second.
fn settle(cluster: &Cluster) -> Result<()> {
    let deadline = kube_vip_lab::now() + Duration::from_secs(60);
    loop {
        let now = kube_vip_lab::now();
        if now > deadline {
            return Err(LabError::Timeout { what: "the VIP to answer steadily".into(), seconds: 60 });
        }
        cluster.v4.wait_for_answer(now, 40)?;
        cluster.v6.wait_for_answer(now, 40)?;
        let steady = kube_vip_lab::now();
        std::thread::sleep(Duration::from_secs(1));
        if cluster.v4.outage(steady).max(cluster.v6.outage(steady)) < Duration::from_millis(300) {
            return Ok(());
        }
    }
}

/// From nothing to the first answer.
fn started(cluster: &mut Cluster, running: &mut Running) -> Result<Sample> {
    for host in 0..cluster.lab.hosts.len() {
        running.terminate(cluster, host);
    }
    std::thread::sleep(Duration::from_secs(2));
    super::subject::stop_agents(cluster);
    for host in 0..cluster.lab.hosts.len() {
        running.forget(host);
    }
    let start = kube_vip_lab::now();
    match running {
        Running::KubeVip => cluster.start_agents()?,
        Running::Keepalived(_) => running.heal(cluster)?,
    }
    let v4 = cluster.v4.wait_for_answer(start, 40)?;
    let v6 = cluster.v6.wait_for_answer(start, 40)?;
    let took = |answer: kube_vip_lab::probe::Answer| answer.done.since(start).as_secs_f64();
    Ok(Sample { outage_v4: took(v4), outage_v6: took(v6), ..Sample::taken(cluster, start) })
}
