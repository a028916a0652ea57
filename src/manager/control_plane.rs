//! The control plane's election, and all that feeds it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{Common, LINK_PATIENCE, ManagerError, Parts};
use crate::desired::{Board, Group, LinkChoice, Place, PrefixLength};
use crate::health;
use crate::health::driver::Report;
use crate::leader::driver::{Ask, Handles};
use crate::leader::elector::{DrainReason, Input};
use crate::leader::{self, Health, Standing};
use crate::model::address::left_over;
use crate::model::{BootTime, LeaseName, Prefix, Vip};
use crate::net::clock;
use crate::telemetry::Telemetry;

impl Common {
    /// The control plane's election, or the judge of every node, and all that feeds it.
    pub(super) fn start_control_plane(
        &self,
        lease: &LeaseName,
        shared: watch::Receiver<BTreeSet<Place>>,
        link_down: watch::Receiver<Option<BootTime>>,
        parts: &mut Parts,
    ) -> Result<Option<mpsc::Sender<Input>>, ManagerError> {
        let (standing, commands) = match self.config.elects_control_plane() {
            true => {
                let (standing, commands) = self.elect_control_plane(lease, link_down, parts)?;
                (standing, Some(commands))
            }
            false => (self.judge_control_plane(parts)?, None),
        };
        // The board has the group before the main loop first looks at it.
        let layout = Layout {
            lease: lease.clone(),
            link: self.link.name.clone(),
            routed: self.config.is_routed(),
            standing,
            vips: self.vips.clone(),
            shared,
        };
        layout.put_on(&self.board);
        parts.election("the layout of the control plane", layout.keep_on(self.board.clone()));
        Ok(commands)
    }

    /// Every node announces while its API server is well.
    fn judge_control_plane(&self, parts: &mut Parts) -> Result<watch::Receiver<Standing>, ManagerError> {
        let (health_in, health) = watch::channel(Report::default());
        let (_always, probe_health) = watch::channel(true);
        let prober =
            health::driver::Driver::new(&self.config.health, self.api.clone(), probe_health, health_in)?;
        tokio::spawn(prober.run());
        tokio::spawn(show(health.clone(), self.telemetry.clone()));
        let (judge, standing) = self.judge(Some(health), Some(self.telemetry.clone()));
        parts.election("the judge of the control plane", judge.run());
        Ok(standing)
    }

    fn elect_control_plane(
        &self,
        lease: &LeaseName,
        link_down: watch::Receiver<Option<BootTime>>,
        parts: &mut Parts,
    ) -> Result<(watch::Receiver<Standing>, mpsc::Sender<Input>), ManagerError> {
        let vips: BTreeSet<IpAddr> = self.vips.borrow().iter().map(|vip| vip.address).collect();
        let (health_in, health_out) = watch::channel(Report::default());
        let (combined_in, combined) = watch::channel(Report::default());
        let (election, handles) = leader::driver::Driver::new(
            self.settings(true, left_over(&self.addresses, &vips)),
            lease.clone(),
            self.api.clone(),
            combined,
            self.telemetry.clone(),
        );
        let Handles { standing, commands, asks, probe_health } = handles;
        let prober =
            health::driver::Driver::new(&self.config.health, self.api.clone(), probe_health, health_in)?;
        parts.election("the election", election.run());
        tokio::spawn(prober.run());
        tokio::spawn(judge(
            self.config.layer2.clone(),
            health_out,
            link_down,
            combined_in,
            commands.clone(),
            self.telemetry.clone(),
        ));
        tokio::spawn(forward_asks(lease.clone(), asks, self.asks.clone()));
        tokio::spawn(command(self.drained.clone(), self.stopping.clone(), commands.clone()));
        Ok((standing, commands))
    }
}

/// Tell how the API server does.
async fn show(mut health: watch::Receiver<Report>, telemetry: Arc<Telemetry>) {
    loop {
        telemetry.health(health.borrow_and_update().local);
        if health.changed().await.is_err() {
            return;
        }
    }
}

/// Where the control plane's addresses go.
struct Layout {
    lease: LeaseName,
    link: String,
    /// Routers are told of them.
    routed: bool,
    standing: watch::Receiver<Standing>,
    vips: watch::Receiver<BTreeSet<Vip>>,
    /// Addresses of Services that go with them.
    shared: watch::Receiver<BTreeSet<Place>>,
}

impl Layout {
    fn put_on(&self, board: &watch::Sender<Board>) {
        let place = |vip: &Vip| Place {
            address: vip.address,
            prefix: PrefixLength::Fixed(vip.prefix),
            link: LinkChoice::Named(self.link.clone()),
        };
        let mut places = self.shared.borrow().clone();
        places.extend(self.vips.borrow().iter().map(place));
        let hosts = places.iter().filter(|_| self.routed).map(|place| Prefix::host(place.address));
        let routes = hosts.map(|prefix| (prefix, Arc::default())).collect();
        let group = Group { standing: self.standing.borrow().clone(), places, routes: Arc::new(routes) };
        board.send_if_modified(|board| {
            board.groups.insert(self.lease.clone(), group.clone()).as_ref() != Some(&group)
        });
    }

    /// Until the election ends.
    async fn keep_on(mut self, board: Arc<watch::Sender<Board>>) -> std::io::Result<()> {
        loop {
            self.standing.borrow_and_update();
            self.vips.borrow_and_update();
            self.shared.borrow_and_update();
            self.put_on(&board);
            tokio::select! {
                changed = self.standing.changed() => if changed.is_err() {
                    return Ok(());
                },
                Ok(()) = self.vips.changed() => {}
                Ok(()) = self.shared.changed() => {}
            }
        }
    }
}

async fn forward_asks(lease: LeaseName, mut asks: mpsc::Receiver<Ask>, to: mpsc::Sender<(LeaseName, Ask)>) {
    while let Some(ask) = asks.recv().await {
        to.try_send((lease.clone(), ask)).ok();
    }
}

/// Tell the control plane's election what an operator wants.
async fn command(
    mut drained: watch::Receiver<bool>,
    mut stopping: watch::Receiver<bool>,
    commands: mpsc::Sender<Input>,
) {
    let mut known = false;
    loop {
        if *stopping.borrow_and_update() {
            // The queue is only closed when the election has ended.
            commands.send(Input::Stop).await.ok();
            return;
        }
        let wanted = *drained.borrow_and_update();
        if wanted != known {
            known = wanted;
            let reason = DrainReason::Operator;
            let input = if wanted { Input::Drain(reason) } else { Input::Undrain(reason) };
            if commands.send(input).await.is_err() {
                return;
            }
        }
        tokio::select! {
            changed = drained.changed() => if changed.is_err() { return },
            changed = stopping.changed() => if changed.is_err() { return },
        }
    }
}

/// Brings the API server's health and the link's state together, for the election.
async fn judge(
    layer2: crate::config::Layer2,
    mut health: watch::Receiver<Report>,
    mut link_down: watch::Receiver<Option<BootTime>>,
    combined: watch::Sender<Report>,
    commands: mpsc::Sender<Input>,
    telemetry: Arc<Telemetry>,
) {
    let mut given_up = false;
    loop {
        let report = *health.borrow_and_update();
        let down_for = (*link_down.borrow_and_update()).map(|since| clock::now().since(since));
        let cut_off = !layer2.tolerate_down && down_for.is_some_and(|down| down >= LINK_PATIENCE);
        let local = if cut_off { Health::Failing } else { report.local };
        telemetry.health(local);
        // Whoever has no link cannot ask the others; that they are better is a safe guess.
        let new = Report { local, peer_serving: report.peer_serving || cut_off };
        combined.send_if_modified(|before| std::mem::replace(before, new) != new);
        let give_up = layer2
            .give_up_when_down_for
            .is_some_and(|patience| down_for.is_some_and(|down| down >= patience));
        if give_up != given_up {
            given_up = give_up;
            let command = if give_up {
                Input::Drain(DrainReason::LinkDown)
            } else {
                Input::Undrain(DrainReason::LinkDown)
            };
            if commands.send(command).await.is_err() {
                return;
            }
        }
        let tick = async {
            match down_for {
                Some(_) => tokio::time::sleep(Duration::from_millis(250)).await,
                None => std::future::pending().await,
            }
        };
        let alive = tokio::select! {
            changed = health.changed() => changed.is_ok(),
            changed = link_down.changed() => changed.is_ok(),
            () = tick => true,
        };
        if !alive {
            return;
        }
    }
}
