//! Where nobody is elected: every node may announce, and routers choose.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::Common;
use crate::election::health::driver::Report;
use crate::election::{Claim, Health, Role};
use crate::model::{BootTime, LeaseName};
use crate::net::clock;
use crate::reconcile::desired::{Board, LINGER};

/// How long routes that are about to go say so before they go, where there are peers to hear it.
const DRAIN: Duration = Duration::from_millis(500);
/// How long an API server that has never answered is waited for: there may be none on this host.
const PATIENCE: Duration = Duration::from_secs(10);

/// The group of what every node has, besides the control plane's.
pub(super) fn group() -> LeaseName {
    LeaseName::of_no_lease("every-node")
}

/// Finds out whether this node may announce.
pub(super) struct Judge {
    /// How the API server does, where that matters.
    health: Option<watch::Receiver<Report>>,
    drained: watch::Receiver<bool>,
    stopping: watch::Receiver<bool>,
    drain: Duration,
    role: watch::Sender<Role>,
    began: BootTime,
}

impl Common {
    /// Where this node stands; the judge ends when it has withdrawn.
    pub(super) fn judge(&self, health: Option<watch::Receiver<Report>>) -> (Judge, watch::Receiver<Role>) {
        let (role, out) = watch::channel(Role::Starting);
        let (drained, stopping) = (self.drained.clone(), self.stopping.clone());
        let drain = if self.config.bgp.is_some() { DRAIN } else { Duration::ZERO };
        (Judge { health, drained, stopping, drain, role, began: clock::now() }, out)
    }
}

impl Judge {
    pub(super) async fn run(mut self) -> std::io::Result<()> {
        loop {
            let now = clock::now();
            let stopping = *self.stopping.borrow_and_update();
            let away = stopping || *self.drained.borrow_and_update();
            let health = self.health.as_mut().map(|health| health.borrow_and_update().local);
            let before = self.role.borrow().clone();
            let after = self.next(&before, health, away, now);
            if after != before {
                self.role.send_replace(after.clone());
            }
            if stopping && !matches!(after, Role::HandingOver { .. }) {
                return Ok(());
            }
            let due = async {
                match (&after, health) {
                    (Role::HandingOver { until }, _) => tokio::time::sleep(until.since(now)).await,
                    (Role::Starting, _) => {
                        tokio::time::sleep((self.began + PATIENCE).since(now)).await;
                    }
                    _ => std::future::pending().await,
                }
            };
            let changed = async {
                match &mut self.health {
                    Some(health) => health.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                alive = changed => if !alive { self.health = None },
                Ok(()) = self.drained.changed() => {}
                Ok(()) = self.stopping.changed() => {}
                () = due => {}
            }
        }
    }

    /// Where this node stands next.
    fn next(&self, before: &Role, health: Option<Health>, away: bool, now: BootTime) -> Role {
        let nobody = Role::Follower { holder: None, fence_until: None };
        match before {
            Role::HandingOver { until } if away && now < *until => before.clone(),
            Role::Leader(_) if away => Role::HandingOver { until: now + self.drain + LINGER },
            _ if away => nobody,
            _ => match health {
                None | Some(Health::Serving | Health::Refusing) if matches!(before, Role::Leader(_)) => {
                    before.clone()
                }
                None | Some(Health::Serving | Health::Refusing) => Role::Leader(Claim::of_every_node(now)),
                Some(Health::Unknown) if now < self.began + PATIENCE => Role::Starting,
                Some(Health::Unknown | Health::Failing) => nobody,
            },
        }
    }
}

/// Keep a group's role on the board, until its judge ends.
pub(super) async fn keep(
    group: LeaseName,
    mut role: watch::Receiver<Role>,
    board: Arc<watch::Sender<Board>>,
) -> std::io::Result<()> {
    loop {
        let now = role.borrow_and_update().clone();
        board.send_modify(|board| board.groups.entry(group.clone()).or_default().role = now);
        if role.changed().await.is_err() {
            return Ok(());
        }
    }
}
