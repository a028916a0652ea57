//! The kernel of a host and its segment: the address, its lifetime, and what replies to probes.

use std::time::Duration;

use kube_vip::election::{LeaderElectionRecord, LeaseObject};
use kube_vip::model::{ActualAddress, IfIndex, Tag, Vip};
use kube_vip::reconcile::desired::{Inputs, PlacedGroup, desired};
use kube_vip::reconcile::diff::{Action, Actual, lifetime, plan};

use crate::agent::settings;
use crate::world::{News, World};

const INTERFACE: IfIndex = IfIndex(2);
/// An infinite lifetime.
const FOREVER: u64 = u64::MAX;
/// The kernel drops an address up to this long after its lifetime ended.
const LATENESS: u64 = 1_250_000;

pub(crate) fn vip() -> Vip {
    Vip::host("192.0.2.1".parse().unwrap())
}

impl World {
    /// The Go program held the address until now: it has no lifetime.
    pub(crate) fn leave_address_of_go_program(&mut self, agent: usize) {
        self.agents[agent].address = Some(FOREVER);
        let record = LeaderElectionRecord {
            holder: self.agents[agent].name.clone(),
            duration_seconds: 5,
            renewed: Some(-1),
            ..LeaderElectionRecord::default()
        };
        self.put(LeaseObject { record, ..LeaseObject::default() });
    }

    pub(crate) fn expire_until(&mut self, at: u64) {
        for agent in 0..self.agents.len() {
            if self.agents[agent].address.is_some_and(|expiry| expiry <= at) {
                self.agents[agent].address = None;
                self.trace(|| format!("host {agent} loses the address: its lifetime ended"));
            }
        }
    }

    /// A holder of the address replies to a probe at any moment while that runs.
    pub(crate) fn observe_probes(&mut self) {
        let holders = self.holders();
        for (number, agent) in self.agents.iter_mut().enumerate() {
            if let Some(taken) = agent.process.as_mut().and_then(|process| process.probe.as_mut()) {
                *taken |= holders.iter().any(|holder| *holder != number);
            }
        }
    }

    pub(crate) fn reconcile(&mut self, agent: usize) {
        let now = self.boot_time(agent);
        let host = &self.agents[agent];
        let Some(process) = &host.process else { return };
        let inputs = Inputs {
            routes: Vec::new(),
            aggregates: Vec::new(),
            quiet: false,
            groups: vec![PlacedGroup {
                role: process.elector.role(now),
                elected: true,
                addresses: [(INTERFACE, vip())].into(),
            }],
            succeeded: process.succeeded.clone(),
            preserve: false,
            adopted_lifetime: settings().adopted_lifetime(),
        };
        let address = host.address.map(|expiry| ActualAddress {
            interface: INTERFACE,
            vip: vip(),
            tag: Tag::Ours,
            deprecated: true,
            valid_for: (expiry != FOREVER).then(|| Duration::from_micros(expiry - self.now)),
            dad_failed: false,
        });
        let actual = Actual {
            addresses: address.into_iter().collect(),
            announcing: process.announcing.then_some((INTERFACE, vip().address)).into_iter().collect(),
            suppressed: host.suppressed.then_some(vip().address).into_iter().collect(),
            fences: process.fences.clone(),
            managed: [vip().address].into(),
            ..Actual::default()
        };
        for action in plan(&desired(&inputs, now), &actual, now).actions {
            self.apply(agent, action);
        }
    }

    fn apply(&mut self, agent: usize, action: Action) {
        let now = self.boot_time(agent);
        let lateness = self.rng.below(LATENESS);
        let host = &mut self.agents[agent];
        let Some(process) = &mut host.process else { return };
        match action {
            Action::Withdraw { .. } => process.announcing = false,
            Action::Suppress { .. } => host.suppressed = true,
            Action::Unsuppress { .. } => host.suppressed = false,
            Action::Remove { .. } => host.address = None,
            Action::Hold { fence_until, .. } => {
                let Some((seconds, until)) = lifetime(fence_until, now) else { return };
                host.address = Some(self.now + u64::from(seconds) * 1_000_000 + lateness);
                process.fences.insert((INTERFACE, vip()), until);
            }
            Action::Announce { .. } => {
                process.announcing = true;
                self.trace(|| format!("host {agent} announces"));
                for to in (0..self.agents.len()).filter(|&to| to != agent) {
                    self.inform(1_000, to, News::Announced(agent));
                }
            }
        }
    }
}
