//! The faults, and their end.

use kube_vip::election::elector::Input;

use crate::agent::Server;
use crate::world::{Event, News, World};
use crate::{FAULTS_END, SECOND};

/// Strikes a host, for a time.
type Fault = fn(&mut World, usize, u64);

/// Each is as frequent as it is listed.
const FAULTS: &[Fault] = &[
    cut_off,
    cut_off,
    freeze,
    kill,
    reset,
    terminate,
    api_down,
    server_fails,
    watch_breaks,
    delete_lease,
    edit_lease,
];

impl World {
    pub(crate) fn fault(&mut self) {
        if self.now >= FAULTS_END {
            return self.mend();
        }
        let agent = self.any_agent();
        let time = SECOND * (1 + self.rng.below(12));
        let choice = usize::try_from(self.rng.below(FAULTS.len() as u64)).unwrap();
        FAULTS[choice](self, agent, time);
        let pause = SECOND / 5 + self.rng.below(4 * SECOND);
        self.schedule(pause, Event::Fault);
    }

    fn mend(&mut self) {
        self.mended = self.now;
        self.store.down_until = 0;
        for agent in 0..self.agents.len() {
            for event in
                [Event::ServerBack(agent), Event::Reconnect(agent), Event::Thaw(agent), Event::Start(agent)]
            {
                self.schedule(0, event);
            }
        }
    }

    /// Ends the process, which releases nothing.
    fn end(&mut self, agent: usize, time: u64) {
        self.agents[agent].process = None;
        let pause = if self.rng.one_in(2) { SECOND / 5 } else { time };
        self.schedule(pause, Event::Start(agent));
    }
}

pub(crate) fn cut_off(world: &mut World, agent: usize, time: u64) {
    world.trace(|| format!("host {agent} is cut off from the API for {} s", time / SECOND));
    world.agents[agent].cut_off = true;
    world.schedule(time, Event::Reconnect(agent));
}

fn freeze(world: &mut World, agent: usize, time: u64) {
    let Some(process) = &mut world.agents[agent].process else { return };
    process.frozen = true;
    world.trace(|| format!("the process of host {agent} freezes for {} s", time / SECOND));
    world.schedule(time, Event::Thaw(agent));
}

fn kill(world: &mut World, agent: usize, time: u64) {
    world.trace(|| format!("the process of host {agent} is killed"));
    world.end(agent, time);
}

/// The host loses power, and boots.
fn reset(world: &mut World, agent: usize, time: u64) {
    world.trace(|| format!("host {agent} is reset"));
    let host = &mut world.agents[agent];
    (host.address, host.suppressed, host.boots) = (None, false, host.boots + 1);
    world.end(agent, time);
}

fn terminate(world: &mut World, agent: usize, _: u64) {
    world.trace(|| format!("the process of host {agent} gets SIGTERM"));
    if world.agents[agent].process.as_ref().is_some_and(|process| !process.frozen) {
        world.feed(agent, Some(Input::Stop));
    }
    world.schedule(3_500_000, Event::Start(agent));
}

fn api_down(world: &mut World, _: usize, time: u64) {
    world.trace(|| format!("the API is down for {} s", time / SECOND));
    world.store.down_until = world.now + time;
}

fn server_fails(world: &mut World, agent: usize, time: u64) {
    if world.agents[agent].server == Server::Serving {
        world.trace(|| format!("the API server of host {agent} fails for {} s", time / SECOND));
        world.agents[agent].server = Server::Failing;
        world.schedule(time, Event::ServerBack(agent));
    }
}

fn watch_breaks(world: &mut World, agent: usize, time: u64) {
    let Some(process) = world.agents[agent].process.as_mut().filter(|process| !process.frozen) else {
        return;
    };
    process.watching = false;
    world.trace(|| format!("the watch of host {agent} breaks"));
    world.feed(agent, Some(Input::Watching(false)));
    world.inform(time / 4, agent, News::Rewatch);
}

fn delete_lease(world: &mut World, _: usize, _: u64) {
    world.trace(|| "the Lease is deleted by hand".into());
    world.delete();
}

fn edit_lease(world: &mut World, _: usize, _: u64) {
    let mut lease = world.store.lease.clone().unwrap_or_default();
    lease.record.duration_seconds = 5;
    match world.rng.below(3) {
        0 => lease.record.holder = String::new(),
        // Without a holder it would be a release.
        1 if !lease.record.holder.is_empty() => lease.record.duration_seconds = 1,
        _ => lease.record.holder = "another".into(),
    }
    world.trace(|| "the Lease is edited by hand".into());
    world.put(lease);
}
