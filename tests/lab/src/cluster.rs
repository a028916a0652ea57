//! Three hosts with agents, under observation: what tests, demo and benchmarks work with.

use std::time::Duration;

use kube_vip::model::BootTime;

use crate::probe::Prober;
use crate::recorder::Recorder;
use crate::sampler::Sampler;
use crate::{Agent, AgentOptions, Lab, LabOptions, Result};

/// Three hosts, each with an agent.
#[derive(Debug)]
pub struct Cluster {
    /// The agent on each host, where one was started.
    pub agents: Vec<Option<Agent>>,
    /// Probes the IPv4 VIP from the client host.
    pub v4: Prober,
    /// Probes the IPv6 VIP from the client host.
    pub v6: Prober,
    /// Records announcements of the VIPs.
    pub recorder: Recorder,
    /// Watches which hosts have the VIPs.
    pub sampler: Sampler,
    /// How agents are started.
    pub options: AgentOptions,
    /// The hosts.
    pub lab: Lab,
}

impl AsRef<Lab> for Cluster {
    fn as_ref(&self) -> &Lab {
        &self.lab
    }
}

impl Cluster {
    /// Bring up hosts and API servers, but no agents yet.
    pub fn start(program: &str) -> Result<Self> {
        let lab = Lab::start(LabOptions { hosts: 3, control_plane: true })?;
        let options = AgentOptions::new(&lab, program);
        let sampler = Sampler::start(&lab)?;
        let recorder = Recorder::start(&lab)?;
        let v4 = Prober::start(&lab, &lab.client_host, lab.vip_v4.into())?;
        let v6 = Prober::start(&lab, &lab.client_host, lab.vip_v6.into())?;
        let agents = lab.hosts.iter().map(|_| None).collect();
        Ok(Self { agents, v4, v6, recorder, sampler, options, lab })
    }

    /// Make everything run, until one host holds both VIPs, and both answer.
    pub fn heal(&mut self) -> Result<()> {
        self.lab.heal()?;
        self.start_agents()?;
        self.wait_until_answering()
    }

    /// Start an agent on every host that has none, and continue those that are stopped.
    pub fn start_agents(&mut self) -> Result<()> {
        for (host, agent) in self.lab.hosts.iter().zip(&mut self.agents) {
            drop(agent.take_if(|agent| agent.ended().is_some()));
            match agent {
                Some(running) => running.thaw(),
                None => *agent = Some(Agent::start(host, &self.options)?),
            }
        }
        Ok(())
    }

    /// One host holds both VIPs, and both answer.
    pub fn wait_until_answering(&self) -> Result<()> {
        self.sampler.wait_for_holder(30)?;
        let now = crate::now();
        self.v4.wait_for_answer(now, 20)?;
        self.v6.wait_for_answer(now, 20).map(drop)
    }

    /// The agent on a host.
    #[expect(clippy::expect_used, reason = "a test may only use an agent that it started")]
    pub fn agent(&mut self, index: usize) -> &mut Agent {
        self.agents.get_mut(index).and_then(Option::as_mut).expect("an agent on that host")
    }

    /// The longest time without an answer on either VIP.
    pub fn outage(&self, start: BootTime) -> Duration {
        self.v4.outage(start).max(self.v6.outage(start))
    }
}
