//! The program under test, and the labs that trials share.

use std::ops::{Deref, DerefMut};

use kube_vip::model::BootTime;
use kube_vip_lab::pool::{Pool, Pooled};
use kube_vip_lab::{Cluster, Result, ServiceLab, now};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_kube-vip");

static CLUSTERS: Pool<Cluster> = Pool::new();
static SERVICES: Pool<ServiceLab> = Pool::new();

/// A shared cluster, healthy.
pub(crate) fn cluster() -> Result<Pooled<Cluster>> {
    let mut cluster = CLUSTERS.take(|| Cluster::start(PROGRAM))?;
    cluster.heal()?;
    Ok(cluster)
}

pub(crate) fn end_clusters() {
    CLUSTERS.clear();
}

/// A shared lab for Services: no agents, no Services, no Leases of an earlier trial. Agents will have these variables.
pub(crate) fn services(env: &[(&str, &str)]) -> Result<ServicesGuard> {
    let mut lab = SERVICES.take(crate::services::fresh)?;
    lab.reset()?;
    let plain = lab.plain_options();
    lab.options = env.iter().fold(plain, |options, (name, value)| options.with(name, value));
    Ok(ServicesGuard { lab, started: now() })
}

pub(crate) fn end_services() {
    SERVICES.clear();
}

/// A shared lab for Services, in use.
pub(crate) struct ServicesGuard {
    lab: Pooled<ServiceLab>,
    started: BootTime,
}

impl ServicesGuard {
    /// When the lab was handed out.
    pub(crate) fn started(&self) -> BootTime {
        self.started
    }
}

impl Deref for ServicesGuard {
    type Target = ServiceLab;

    fn deref(&self) -> &ServiceLab {
        &self.lab
    }
}

impl DerefMut for ServicesGuard {
    fn deref_mut(&mut self) -> &mut ServiceLab {
        &mut self.lab
    }
}

impl Drop for ServicesGuard {
    fn drop(&mut self) {
        // A lab at rest costs no more than its servers do.
        self.lab.kill_agents();
    }
}
