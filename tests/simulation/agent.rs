//! A host and its process: the real state machines, and the execution of their outputs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use kube_vip::election::elector::{Input, LeaseRequest, LeaseResponse, Output, SegmentRequest};
use kube_vip::election::health::tracker::{self, HealthTracker, ProbeResult, Threshold};
use kube_vip::election::{Candidate, Elector, Settings};
use kube_vip::model::{BootTime, IfIndex, Role, Vip};

use crate::kernel::vip;
use crate::world::{Event, News, Probe, World};
use crate::{CALL_TIMEOUT, LEASE, RENEW, RETRY};

/// The API server of a host.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Server {
    Serving,
    Failing,
    /// Before the first run and to the end.
    NeverAnswers,
}

pub(crate) struct Agent {
    pub(crate) name: String,
    pub(crate) clock_offset: u64,
    /// Counts boots of the host.
    pub(crate) boots: u64,
    pub(crate) server: Server,
    pub(crate) cut_off: bool,
    /// The address in the kernel, with the moment at which that drops it.
    pub(crate) address: Option<u64>,
    pub(crate) suppressed: bool,
    /// Counts processes, so that what was meant for an earlier one is lost.
    pub(crate) life: u64,
    pub(crate) process: Option<Process>,
    /// It has reported that another host has its name.
    pub(crate) reported: bool,
}

pub(crate) struct Process {
    pub(crate) elector: Elector,
    health: HealthTracker,
    pub(crate) watching: bool,
    pub(crate) frozen: bool,
    pub(crate) held_back: Vec<News>,
    /// The request in flight: its number and its start.
    pub(crate) call: Option<(u64, BootTime)>,
    next_call: u64,
    /// While a probe is running: whether a host replied.
    pub(crate) probe: Option<bool>,
    pub(crate) announcing: bool,
    pub(crate) fences: BTreeMap<(IfIndex, Vip), BootTime>,
    pub(crate) succeeded: BTreeSet<IpAddr>,
    pub(crate) planned_wake: Option<u64>,
    pub(crate) planned_health: Option<u64>,
}

/// Those of every elector; the candidate, what it resumes and its seed are a process's own.
pub(crate) fn settings() -> Settings {
    Settings {
        candidate: Candidate { identity: String::new(), host: String::new() },
        lease_duration: LEASE,
        renew_deadline: RENEW,
        retry_period: RETRY,
        annotations: BTreeMap::new(),
        provisional: true,
        resuming: false,
        seed: 0,
    }
}

impl Agent {
    pub(crate) fn new(name: String, clock_offset: u64) -> Self {
        Self {
            name,
            clock_offset,
            boots: 0,
            server: Server::Serving,
            cut_off: false,
            address: None,
            suppressed: false,
            life: 0,
            process: None,
            reported: false,
        }
    }

    pub(crate) fn is_announcing(&self) -> bool {
        self.process.as_ref().is_some_and(|process| process.announcing)
    }
}

impl World {
    /// Starts a process, unless one is running.
    pub(crate) fn start(&mut self, agent: usize) {
        let seed = self.rng.next();
        let a = &mut self.agents[agent];
        if let Some(process) = &a.process {
            if process.frozen {
                // Still busy with its SIGTERM.
                self.schedule(1_000_000, Event::Start(agent));
            }
            return;
        }
        let candidate = Candidate { identity: a.name.clone(), host: format!("host-{agent}/{}", a.boots) };
        let threshold = Threshold { failures: 2, silence: Duration::from_millis(900) };
        a.life += 1;
        a.process = Some(Process {
            elector: Elector::new(Settings { candidate, resuming: a.address.is_some(), seed, ..settings() }),
            health: HealthTracker::new(threshold, Duration::from_millis(250)),
            watching: false,
            frozen: false,
            held_back: Vec::new(),
            call: None,
            next_call: 0,
            probe: None,
            announcing: false,
            fences: BTreeMap::new(),
            succeeded: BTreeSet::new(),
            planned_wake: None,
            planned_health: None,
        });
        self.trace(|| format!("host {agent} starts a process"));
        self.feed(agent, None);
        self.inform(10_000, agent, News::Rewatch);
    }

    pub(crate) fn thaw(&mut self, agent: usize) {
        let Some(process) = &mut self.agents[agent].process else { return };
        process.frozen = false;
        for news in std::mem::take(&mut process.held_back) {
            self.inform(0, agent, news);
        }
        self.trace(|| format!("host {agent} thaws"));
    }

    /// Passes an input to the elector, executes its outputs, and reconciles the host.
    pub(crate) fn feed(&mut self, agent: usize, input: Option<Input>) {
        let now = self.boot_time(agent);
        let Some(process) = &mut self.agents[agent].process else { return };
        let before = process.elector.role(now);
        match input {
            Some(input) => process.elector.handle_input(now, input),
            None => process.elector.handle_timeout(now),
        }
        let outputs: Vec<Output> = std::iter::from_fn(|| process.elector.poll_output()).collect();
        let after = process.elector.role(now);
        if !matches!(after, Role::HandingOver { .. }) {
            process.succeeded.clear();
        }
        let stopped = process.elector.is_stopped(now);
        let timeout = process.elector.poll_timeout();
        if std::mem::discriminant(&before) != std::mem::discriminant(&after) {
            self.trace(|| format!("host {agent}: {after:?}"));
        }
        for output in outputs {
            self.execute(agent, output);
        }
        self.reconcile(agent);
        if stopped {
            self.agents[agent].process = None;
            return;
        }
        if let Some(at) = timeout.map(|timeout| self.moment(agent, timeout))
            && let Some(process) = &mut self.agents[agent].process
            && process.planned_wake != Some(at)
        {
            process.planned_wake = Some(at);
            self.inform(at - self.now, agent, News::Wake(at));
        }
        self.feed_health(agent, None);
    }

    /// A moment of a host's clock, which is not before the next event.
    fn moment(&self, agent: usize, at: BootTime) -> u64 {
        let at = u64::try_from(at.since_boot().as_micros()).unwrap();
        at.saturating_sub(self.agents[agent].clock_offset).max(self.now + 1)
    }

    fn execute(&mut self, agent: usize, output: Output) {
        let now = self.boot_time(agent);
        let life = self.agents[agent].life;
        let Some(process) = &mut self.agents[agent].process else { return };
        match output {
            Output::Request(request) => {
                process.next_call += 1;
                let id = process.next_call;
                process.call = Some((id, now));
                let timed_out = News::Response { id, response: LeaseResponse::Failed { retry_after: None } };
                self.inform(u64::try_from(CALL_TIMEOUT.as_micros()).unwrap(), agent, timed_out);
                self.send(agent, life, id, request);
            }
            Output::Cancel => process.call = None,
            Output::Segment(SegmentRequest::Probe) => {
                process.probe = Some(false);
                self.inform(100_000, agent, News::Probed);
            }
            Output::Segment(SegmentRequest::Announce) => {}
            Output::RestartWatch => self.inform(5_000, agent, News::Rewatch),
            Output::DuplicateIdentity => {
                self.agents[agent].reported = true;
                self.trace(|| format!("host {agent} reports that another host has its name"));
            }
        }
    }

    /// A request can be lost, or be delayed far beyond its timeout and still take effect.
    fn send(&mut self, from: usize, life: u64, id: u64, request: LeaseRequest) {
        let wall = i64::try_from(self.now).unwrap();
        let delay = if self.mishap(40) { self.rng.below(20_000_000) } else { self.latency() };
        if !self.mishap(50) {
            self.schedule(delay, Event::Arrive { from, life, id, request, wall });
        }
    }

    pub(crate) fn announced(&mut self, agent: usize, by: usize) {
        if !self.agents[by].is_announcing() {
            return;
        }
        let now = self.boot_time(agent);
        let Some(process) = &mut self.agents[agent].process else { return };
        if matches!(process.elector.role(now), Role::HandingOver { .. }) {
            process.succeeded.insert(vip().address);
            self.feed(agent, Some(Input::Succeeded));
        } else {
            self.feed(agent, Some(Input::AddressClaimed));
        }
    }

    /// Passes a result to the health tracker, and its reports to the elector.
    pub(crate) fn feed_health(&mut self, agent: usize, input: Option<Probe>) {
        let now = self.boot_time(agent);
        let server = self.agents[agent].server;
        let Some(process) = &mut self.agents[agent].process else { return };
        let following = matches!(process.elector.role(now), Role::Follower { .. });
        process.health.handle_input(now, Probe::Active(!following || !process.watching));
        match input {
            Some(input) => process.health.handle_input(now, input),
            None => process.health.handle_timeout(now),
        }
        let outputs: Vec<_> = std::iter::from_fn(|| process.health.poll_output()).collect();
        if let Some(at) = process.health.poll_timeout().map(|timeout| self.moment(agent, timeout))
            && let Some(process) = &mut self.agents[agent].process
            && process.planned_health != Some(at)
        {
            process.planned_health = Some(at);
            self.inform(at - self.now, agent, News::HealthWake(at));
        }
        for output in outputs {
            match output {
                tracker::Output::ProbeLocal => {
                    let alive = server == Server::Serving;
                    let result = if alive { ProbeResult::Alive } else { ProbeResult::Failed };
                    let delay = if alive { 2_000 } else { 1_000 + self.rng.below(500_000) };
                    self.inform(delay, agent, News::ServerProbed(result));
                }
                tracker::Output::ProbePeers => self.inform(3_000, agent, News::PeersProbed),
                tracker::Output::Report(report) => self.feed(agent, Some(Input::Health(report))),
            }
        }
    }
}
