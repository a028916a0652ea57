//! The control plane's election, and all that feeds it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::{Common, LINK_PATIENCE, ManagerError, Parts};
use crate::cluster::Api;
use crate::config;
use crate::election::decide::ObservedLease;
use crate::election::driver::{Ask, Handles};
use crate::election::elector::{DrainReason, Input};
use crate::election::health;
use crate::election::health::driver::Report;
use crate::election::{self, Health, Observer, Role};
use crate::mdns;
use crate::model::address::left_over;
use crate::model::{BootTime, Family, LeaseName, Prefix, Vip};
use crate::net::clock;
use crate::reconcile::desired::{AddressSpec, Board, Group, InterfaceSelector, PrefixLength};
use crate::telemetry::Telemetry;
use crate::watch_ext;

impl Common {
    /// The control plane's election, or the judge of every node, and all that feeds it.
    pub(super) fn start_control_plane(
        &self,
        lease: &LeaseName,
        shared: watch::Receiver<BTreeSet<AddressSpec>>,
        interface_down: watch::Receiver<Option<BootTime>>,
        parts: &mut Parts,
    ) -> Result<Option<mpsc::Sender<Input>>, ManagerError> {
        if self.config.elects_control_plane() {
            let (role, commands) = self.elect_control_plane(lease, interface_down, parts)?;
            self.lay_out(lease.clone(), None, role, shared, parts);
            return Ok(Some(commands));
        }
        self.judge_control_plane(&shared, parts)?;
        Ok(None)
    }

    /// Where these addresses go: on the board before the main loop first looks at it.
    fn lay_out(
        &self,
        group: LeaseName,
        family: Option<Family>,
        role: watch::Receiver<Role>,
        shared: watch::Receiver<BTreeSet<AddressSpec>>,
        parts: &mut Parts,
    ) {
        let layout = Layout {
            group,
            family,
            interface: self.interface.name.clone(),
            routed: self.config.is_routed(),
            role,
            vips: self.vips.clone(),
            shared,
        };
        layout.put_on(&self.board);
        parts.election("the layout of the control plane", layout.keep_on(self.board.clone()));
    }

    /// Every node announces an address while its API server is well by an address of the same family, or, where there is
    /// a URL to judge it by, all of them while it is well by that.
    fn judge_control_plane(
        &self,
        shared: &watch::Receiver<BTreeSet<AddressSpec>>,
        parts: &mut Parts,
    ) -> Result<(), ManagerError> {
        let families = match self.config.health {
            config::Health::Local => self.config.control_plane_families().into_iter().map(Some).collect(),
            config::Health::Url { .. } => vec![None],
        };
        let (mut reports, mut roles) = (Vec::new(), Vec::new());
        for family in families {
            let (health_in, health) = watch::channel(Report::default());
            let (_always, active) = watch::channel(true);
            let check = &self.config.health;
            let prober = health::driver::Driver::new(check, family, self.api.clone(), active, health_in)?;
            tokio::spawn(prober.run());
            let (judge, role) = self.judge(Some(health.clone()));
            parts.election("the judge of the control plane", judge.run());
            let name =
                family.map_or_else(|| "control-plane".to_owned(), |family| format!("control-plane-{family}"));
            self.lay_out(LeaseName::of_no_lease(&name), family, role.clone(), shared.clone(), parts);
            reports.push(health);
            roles.push(role);
        }
        let (api, telemetry) = (self.api.clone(), self.telemetry.clone());
        tokio::spawn(show_health(reports, api, telemetry.clone()));
        parts.election("what is told of the control plane", show_role(roles, telemetry));
        Ok(())
    }

    fn elect_control_plane(
        &self,
        lease: &LeaseName,
        interface_down: watch::Receiver<Option<BootTime>>,
        parts: &mut Parts,
    ) -> Result<(watch::Receiver<Role>, mpsc::Sender<Input>), ManagerError> {
        let vips: BTreeSet<IpAddr> = self.vips.borrow().iter().map(|vip| vip.address).collect();
        let (health_in, health_out) = watch::channel(Report::default());
        let (combined_in, combined) = watch::channel(Report::default());
        let (election, handles) = election::driver::Driver::new(
            self.settings(true, left_over(&self.addresses, &vips)),
            lease.clone(),
            self.api.clone(),
            combined,
            self.telemetry.clone(),
        );
        let Handles { role, commands, asks, probe_health, notes } = handles;
        let prober = health::driver::Driver::new(
            &self.config.health,
            None,
            self.api.clone(),
            probe_health,
            health_in,
        )?;
        parts.election("the election", election.run());
        tokio::spawn(prober.run());
        tokio::spawn(judge(
            self.config.layer2.clone(),
            health_out,
            interface_down,
            combined_in,
            commands.clone(),
            (self.api.clone(), self.telemetry.clone()),
        ));
        if let Some(dhcp) = &self.config.dhcp.control_plane {
            let asking = super::dhcp::ControlPlane {
                dhcp: dhcp.clone(),
                lease: lease.clone(),
                interface: self.interface.name.clone(),
                prefixes: self.config.prefixes,
                role: role.clone(),
                notes,
                commands: commands.clone(),
                vips: self.vips_in.clone(),
                telemetry: self.telemetry.clone(),
            };
            asking.start(self.config.dhcp.attempts)?;
        }
        if let Some(name) = self.config.mdns.control_plane.clone() {
            let (teller, names, _told) = mdns::driver::Driver::new(&self.interface.name)?;
            parts.farewells.push(tokio::spawn(teller.run()));
            let port = self.config.api.port;
            tokio::spawn(tell_name(name, port, role.clone(), self.vips.clone(), names));
        }
        tokio::spawn(forward_asks(lease.clone(), asks, self.asks.clone()));
        tokio::spawn(command(self.drained.clone(), self.stopping.clone(), commands.clone()));
        Ok((role, commands))
    }
}

/// Tell how the API server does: as well as it does by any address.
async fn show_health(mut health: Vec<watch::Receiver<Report>>, api: Arc<Api>, telemetry: Arc<Telemetry>) {
    loop {
        let reports = health.iter_mut().map(|health| health.borrow_and_update().local);
        let best = reports.max_by_key(|health| match health {
            Health::Serving => 3,
            Health::Refusing => 2,
            Health::Failing => 1,
            Health::Unknown => 0,
        });
        let best = best.unwrap_or_default();
        api.prefer_peers(best == Health::Failing);
        telemetry.health(best);
        if !any_changed(&mut health).await {
            return;
        }
    }
}

/// Tell where this node stands, until all is given up: it has the control plane while it has one of its addresses.
async fn show_role(mut roles: Vec<watch::Receiver<Role>>, telemetry: Arc<Telemetry>) -> std::io::Result<()> {
    let mut before = Role::Starting;
    loop {
        let now = clock::now();
        // Before they are read: what an ended judge said last must not be missed.
        let open: Vec<bool> = roles.iter().map(|role| role.has_changed().is_ok()).collect();
        let all = roles.iter_mut().map(|role| role.borrow_and_update().clone());
        let after = all.max_by_key(|role| match role {
            Role::Leader(_) => 3,
            Role::HandingOver { .. } => 2,
            Role::Starting => 1,
            Role::Follower { .. } => 0,
        });
        let after = after.unwrap_or(Role::Starting);
        if std::mem::discriminant(&after) != std::mem::discriminant(&before) {
            telemetry.role_changed(&before, &after, &ObservedLease::Unknown, now);
            telemetry.election(&ObservedLease::Unknown, &after, now);
            before = after;
        }
        let mut open = open.into_iter();
        roles.retain(|_| open.next() == Some(true));
        if roles.is_empty() {
            return Ok(());
        }
        any_changed(&mut roles).await;
    }
}

/// Wait for a change of any of at least one; false if its sender is gone.
async fn any_changed<T>(all: &mut [watch::Receiver<T>]) -> bool {
    let changes = all.iter_mut().map(|one| Box::pin(one.changed()));
    futures::future::select_all(changes).await.0.is_ok()
}

/// Where the control plane's addresses go.
struct Layout {
    group: LeaseName,
    /// Only addresses of this family.
    family: Option<Family>,
    interface: String,
    /// Routers are told of them.
    routed: bool,
    role: watch::Receiver<Role>,
    vips: watch::Receiver<BTreeSet<Vip>>,
    /// Addresses of Services that go with them.
    shared: watch::Receiver<BTreeSet<AddressSpec>>,
}

impl Layout {
    fn put_on(&self, board: &watch::Sender<Board>) {
        let place = |vip: &Vip| AddressSpec {
            address: vip.address,
            prefix: PrefixLength::Fixed(vip.prefix),
            interface: InterfaceSelector::Named(self.interface.clone()),
        };
        let mut places = self.shared.borrow().clone();
        places.extend(self.vips.borrow().iter().map(place));
        places.retain(|place| self.family.is_none_or(|family| family == Family::of(place.address)));
        let hosts = places.iter().filter(|_| self.routed).map(|place| Prefix::host(place.address));
        let routes = hosts.map(|prefix| (prefix, Arc::default())).collect();
        let group =
            Group { role: self.role.borrow().clone(), places, routes: Arc::new(routes), ..Group::default() };
        board.send_if_modified(|board| {
            board.groups.insert(self.group.clone(), group.clone()).as_ref() != Some(&group)
        });
    }

    /// Until the election ends.
    async fn keep_on(mut self, board: Arc<watch::Sender<Board>>) -> std::io::Result<()> {
        loop {
            self.role.borrow_and_update();
            self.vips.borrow_and_update();
            self.shared.borrow_and_update();
            self.put_on(&board);
            tokio::select! {
                changed = self.role.changed() => if changed.is_err() {
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

/// Tell the control plane's name in the local network while its addresses are here, for as long as there is an election.
async fn tell_name(
    name: String,
    port: u16,
    mut role: watch::Receiver<Role>,
    mut vips: watch::Receiver<BTreeSet<Vip>>,
    names: watch::Sender<mdns::driver::Names>,
) {
    loop {
        let here = role.borrow_and_update().claim(clock::now()).is_some();
        let addresses: BTreeSet<IpAddr> = vips.borrow_and_update().iter().map(|vip| vip.address).collect();
        let told = (here && !addresses.is_empty())
            .then(|| ("control plane".to_owned(), mdns::names::control_plane(name.clone(), addresses, port)));
        let told = told.into_iter().collect();
        watch_ext::set(&names, told);
        tokio::select! {
            changed = role.changed() => if changed.is_err() { return },
            Ok(()) = vips.changed() => {}
        }
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

/// Brings the API server's health and the interface's state together, for the election.
async fn judge(
    layer2: crate::config::Layer2,
    mut health: watch::Receiver<Report>,
    mut interface_down: watch::Receiver<Option<BootTime>>,
    combined: watch::Sender<Report>,
    commands: mpsc::Sender<Input>,
    (api, telemetry): (Arc<Api>, Arc<Telemetry>),
) {
    let mut given_up = false;
    loop {
        let report = *health.borrow_and_update();
        let down_for = (*interface_down.borrow_and_update()).map(|since| clock::now().since(since));
        let cut_off = !layer2.tolerate_down && down_for.is_some_and(|down| down >= LINK_PATIENCE);
        let local = if cut_off { Health::Failing } else { report.local };
        telemetry.health(local);
        api.prefer_peers(report.local == Health::Failing);
        // Whoever has no interface cannot ask the others; that they are better is a safe guess.
        let new = Report { local, peer_serving: report.peer_serving || cut_off };
        watch_ext::set(&combined, new);
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
            changed = interface_down.changed() => changed.is_ok(),
            () = tick => true,
        };
        if !alive {
            return;
        }
    }
}
