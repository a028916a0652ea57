//! The cluster: the queue of events, and what must hold after each of them.
//!
//! At no moment two hosts have the address and reply for it, or a valid claim to it. No host releases a Lease that another
//! one wrote. Once the faults end, one holder is found within a lease duration and stays; its API server answers. A host
//! whose name another host has reports that, and no other host does.

use std::collections::BTreeMap;
use std::time::Duration;

use kube_vip::election::LeaseObject;
use kube_vip::election::elector::{Input, LeaseRequest, LeaseResponse};
use kube_vip::election::health::tracker::ProbeResult;
use kube_vip::model::{BootTime, ClaimSource};

use crate::agent::{Agent, Server};
use crate::faults::cut_off;
use crate::store::Store;
use crate::{END, NEVER_ANSWERED, Rng, SECOND, SETTLE};

/// What happens at its moment.
#[expect(clippy::large_enum_variant, reason = "a few thousand events are no burden")]
pub(crate) enum Event {
    /// A request reaches the store.
    Arrive {
        from: usize,
        life: u64,
        id: u64,
        request: LeaseRequest,
        wall: i64,
    },
    /// To a process: lost if that has ended, delayed while it is frozen.
    Process {
        agent: usize,
        life: u64,
        news: News,
    },
    Fault,
    Start(usize),
    Thaw(usize),
    Reconnect(usize),
    ServerBack(usize),
}

/// What a process learns.
#[expect(clippy::large_enum_variant, reason = "a few thousand events are no burden")]
pub(crate) enum News {
    /// The moment has come, unless it waits for another one by now.
    Wake(u64),
    HealthWake(u64),
    Response {
        id: u64,
        response: LeaseResponse,
    },
    Watched(Option<LeaseObject>),
    Rewatch,
    Probed,
    /// Another host announces the address.
    Announced(usize),
    ServerProbed(ProbeResult),
    PeersProbed,
}

pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) rng: Rng,
    /// By time and order.
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    pub(crate) store: Store,
    pub(crate) agents: Vec<Agent>,
    verbose: bool,
    /// The last moment at which not exactly one host held the address, or one whose API server never answers.
    last_unsettled: u64,
    /// When the last fault was mended, and what was under way is lost; zero before.
    pub(crate) mended: u64,
    /// What an event did that must not be.
    pub(crate) violation: Option<String>,
}

impl World {
    pub(crate) fn new(seed: u64, verbose: bool) -> Self {
        let mut rng = Rng(seed);
        let count = 3 + usize::try_from(rng.below(5)).unwrap();
        let agents =
            (0..count).map(|agent| Agent::new(format!("node-{agent}"), rng.below(1 << 40))).collect();
        let mut world = Self {
            now: 0,
            rng,
            queue: BTreeMap::new(),
            sequence: 0,
            store: Store::default(),
            agents,
            verbose,
            last_unsettled: 0,
            mended: 0,
            violation: None,
        };
        let mut delays: Vec<u64> = (0..count).map(|_| world.rng.below(2 * SECOND)).collect();
        if world.rng.one_in(3) {
            world.agents[1].name = world.agents[0].name.clone();
        }
        if world.rng.one_in(3) {
            let agent = world.any_agent();
            world.agents[agent].server = Server::NeverAnswers;
        }
        if world.rng.one_in(3) {
            // Its process has just been killed: the other hosts observe the Lease later than its last renewal.
            world.leave_address_of_go_program(0);
            delays[0] = 0;
            if world.rng.one_in(2) {
                cut_off(&mut world, 0, 12 * SECOND);
            }
        }
        for (agent, delay) in delays.into_iter().enumerate() {
            world.schedule(delay, Event::Start(agent));
        }
        world.schedule(3 * SECOND, Event::Fault);
        world
    }

    pub(crate) fn schedule(&mut self, delay: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((self.now + delay, self.sequence), event);
    }

    /// News for the process that runs now.
    pub(crate) fn inform(&mut self, delay: u64, agent: usize, news: News) {
        let life = self.agents[agent].life;
        self.schedule(delay, Event::Process { agent, life, news });
    }

    pub(crate) fn trace(&self, text: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>10.3} {}", self.now as f64 / 1e6, text());
        }
    }

    pub(crate) fn boot_time(&self, agent: usize) -> BootTime {
        BootTime::from_boot(Duration::from_micros(self.now + self.agents[agent].clock_offset))
    }

    pub(crate) fn any_agent(&mut self) -> usize {
        usize::try_from(self.rng.below(self.agents.len() as u64)).unwrap()
    }

    /// Whether a fault with a chance of one in `n` strikes; none does once they are mended.
    pub(crate) fn mishap(&mut self, n: u64) -> bool {
        self.rng.one_in(n) && self.mended == 0
    }

    pub(crate) fn latency(&mut self) -> u64 {
        if self.mishap(20) { 50_000 + self.rng.below(700_000) } else { 500 + self.rng.below(15_000) }
    }

    pub(crate) fn reachable(&self, agent: usize) -> bool {
        self.now >= self.store.down_until && !self.agents[agent].cut_off
    }

    pub(crate) fn run(&mut self) -> Result<(), String> {
        while let Some(((at, _), event)) = self.queue.pop_first() {
            if at > END {
                break;
            }
            self.expire_until(at);
            self.now = at;
            self.handle(event);
            self.observe_probes();
            self.check()?;
        }
        self.check_end()
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive { from, life, id, request, wall } => {
                let outdated = wall < i64::try_from(self.mended).unwrap();
                if !self.reachable(from) || outdated {
                    return;
                }
                let response = self.serve(from, request, wall);
                let delay = self.latency();
                if !self.mishap(50) {
                    let news = News::Response { id, response };
                    self.schedule(delay, Event::Process { agent: from, life, news });
                }
            }
            Event::Process { agent, life, news } if self.agents[agent].life == life => {
                match &mut self.agents[agent].process {
                    Some(process) if process.frozen => process.held_back.push(news),
                    Some(_) => self.receive(agent, news),
                    None => {}
                }
            }
            Event::Process { .. } => {}
            Event::Fault => self.fault(),
            Event::Start(agent) => self.start(agent),
            Event::Thaw(agent) => self.thaw(agent),
            Event::Reconnect(agent) => {
                self.agents[agent].cut_off = false;
                self.inform(0, agent, News::Rewatch);
            }
            Event::ServerBack(agent) => {
                if self.agents[agent].server == Server::Failing {
                    self.agents[agent].server = Server::Serving;
                }
            }
        }
    }

    fn receive(&mut self, agent: usize, news: News) {
        let reachable = self.reachable(agent);
        let Some(process) = &mut self.agents[agent].process else { return };
        match news {
            News::Wake(at) => {
                if process.planned_wake == Some(at) {
                    process.planned_wake = None;
                    self.feed(agent, None);
                }
            }
            News::HealthWake(at) => {
                if process.planned_health == Some(at) {
                    process.planned_health = None;
                    self.feed_health(agent, None);
                }
            }
            News::Response { id, response } => {
                if let Some((_, started)) = process.call.take_if(|(call, _)| *call == id) {
                    self.feed(agent, Some(Input::Response { started, response }));
                }
            }
            News::Watched(lease) if reachable => self.feed(agent, Some(watched(lease))),
            News::Watched(_) => {}
            News::Rewatch => {
                process.watching = reachable;
                self.feed(agent, Some(Input::Watching(reachable)));
                if !reachable {
                    self.inform(SECOND / 2, agent, News::Rewatch);
                } else if let Some(lease) = self.store.lease.clone() {
                    self.feed(agent, Some(watched(Some(lease))));
                }
            }
            News::Probed => {
                if let Some(taken) = process.probe.take() {
                    self.feed(agent, Some(Input::Probed { taken }));
                }
            }
            News::Announced(by) => self.announced(agent, by),
            News::ServerProbed(result) => self.feed_health(agent, Some(Probe::Local(result))),
            News::PeersProbed => {
                let serving = |(other, it): (usize, &Agent)| other != agent && it.server == Server::Serving;
                let peers = Probe::Peers(self.agents.iter().enumerate().any(serving));
                self.feed_health(agent, Some(peers));
            }
        }
    }

    /// Hosts that have the address and reply for it.
    pub(crate) fn holders(&self) -> Vec<usize> {
        let agents = self.agents.iter().enumerate();
        agents
            .filter(|(_, agent)| agent.address.is_some() && !agent.suppressed)
            .map(|(number, _)| number)
            .collect()
    }

    fn check(&mut self) -> Result<(), String> {
        let claims = (0..self.agents.len()).filter(|&agent| {
            let now = self.boot_time(agent);
            let role = self.agents[agent].process.as_ref().map(|process| process.elector.role(now));
            role.and_then(|role| role.claim(now).cloned()).is_some_and(|it| it.source == ClaimSource::Lease)
        });
        let claims: Vec<usize> = claims.collect();
        if claims.len() > 1 {
            return Err(format!("two valid claims: {claims:?}"));
        }
        let holders = self.holders();
        if holders.len() > 1 {
            return Err(format!("two hosts hold the address: {holders:?}"));
        }
        let settled = holders.first().is_some_and(|&holder| {
            let agent = &self.agents[holder];
            agent.is_announcing() && agent.server != Server::NeverAnswers
        });
        if !settled {
            self.last_unsettled = self.now;
        }
        self.violation.take().map_or(Ok(()), Err)
    }

    fn check_end(&self) -> Result<(), String> {
        let never_answers = self.agents.iter().any(|agent| agent.server == Server::NeverAnswers);
        let limit = self.mended + SETTLE + if never_answers { NEVER_ANSWERED } else { 0 };
        if self.last_unsettled > limit {
            return Err(format!(
                "no single, lasting holder with an API server until {:.1} s, though the faults ended at {:.1} s",
                self.last_unsettled as f64 / 1e6,
                self.mended as f64 / 1e6
            ));
        }
        let holder = self.holders()[0];
        for (number, agent) in self.agents.iter().enumerate() {
            let twin = |(other, it): (usize, &Agent)| other != number && it.name == agent.name;
            let twins = self.agents.iter().enumerate().any(twin);
            let hidden = number != holder && agent.name == self.agents[holder].name;
            if agent.reported && !twins && agent.boots == 0 {
                return Err(format!("host {number} reports that another host has its name; none has"));
            } else if hidden && !agent.reported {
                return Err(format!("host {number} does not report that host {holder} has its name"));
            }
        }
        Ok(())
    }
}

pub(crate) use kube_vip::election::health::tracker::Input as Probe;

fn watched(lease: Option<LeaseObject>) -> Input {
    lease.map_or(Input::WatchedDeletion, |lease| Input::Watched(Box::new(lease)))
}
