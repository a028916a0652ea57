//! A lab of three hosts with agents, shared by the tests that need no other.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kube_vip::model::BootTime;
use kube_vip_lab::probe::Prober;
use kube_vip_lab::sampler::Sampler;
use kube_vip_lab::{Agent, AgentOptions, Lab, LabOptions, Result};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_kube-vip");

/// Three hosts, each with an agent.
pub(crate) struct Cluster {
    pub(crate) agents: Vec<Option<Agent>>,
    pub(crate) v4: Prober,
    pub(crate) v6: Prober,
    pub(crate) sampler: Sampler,
    pub(crate) options: AgentOptions,
    pub(crate) lab: Lab,
}

static SHARED: Mutex<Option<Cluster>> = Mutex::new(None);

/// The shared cluster, healthy.
pub(crate) fn cluster() -> Result<Guard> {
    let mut guard = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if guard.is_none() {
        *guard = Some(Cluster::start()?);
    }
    let mut guard = Guard(guard);
    guard.heal()?;
    Ok(guard)
}

/// End the shared cluster: what a static holds is never dropped by itself.
pub(crate) fn tear_down() {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner).take();
}

pub(crate) struct Guard(MutexGuard<'static, Option<Cluster>>);

impl std::ops::Deref for Guard {
    type Target = Cluster;
    fn deref(&self) -> &Cluster {
        self.0.as_ref().unwrap()
    }
}

impl std::ops::DerefMut for Guard {
    fn deref_mut(&mut self) -> &mut Cluster {
        self.0.as_mut().unwrap()
    }
}

impl Cluster {
    pub(crate) fn start() -> Result<Self> {
        let lab = Lab::start(LabOptions { hosts: 3, control_plane: true })?;
        let options = AgentOptions::new(&lab, PROGRAM);
        let sampler = Sampler::start(&lab)?;
        let v4 = Prober::start(&lab, &lab.client_host, lab.vip_v4.into())?;
        let v6 = Prober::start(&lab, &lab.client_host, lab.vip_v6.into())?;
        let agents = lab.hosts.iter().map(|_| None).collect();
        Ok(Self { agents, v4, v6, sampler, options, lab })
    }

    /// Everything runs, one host holds both VIPs, and both answer.
    pub(crate) fn heal(&mut self) -> Result<()> {
        self.lab.segment.mend()?;
        for index in 0..self.lab.hosts.len() {
            self.lab.segment.plug_cable(self.lab.host(index).number)?;
            self.lab.host(index).thaw_api_server();
            if self.lab.host(index).etcd.is_none() {
                self.lab.host_mut(index).restart_etcd()?;
            }
            if self.lab.host(index).api_server.is_none() {
                self.lab.start_api_server(index)?;
            }
        }
        for index in 0..self.lab.hosts.len() {
            self.lab.wait_for_api_server(index)?;
            let agent = &mut self.agents[index];
            if agent.as_mut().is_none_or(|agent| agent.ended().is_some()) {
                *agent = Some(Agent::start(self.lab.host(index), &self.options)?);
            }
            self.agent(index).thaw();
        }
        self.sampler.wait_for_holder(30)?;
        let now = kube_vip_lab::now();
        self.v4.wait_for_answer(now, 20)?;
        self.v6.wait_for_answer(now, 20)?;
        Ok(())
    }

    pub(crate) fn agent(&mut self, index: usize) -> &mut Agent {
        self.agents[index].as_mut().unwrap()
    }

    /// The longest time without an answer on either VIP.
    pub(crate) fn outage(&self, start: BootTime) -> Duration {
        self.v4.outage(start).max(self.v6.outage(start))
    }
}
