//! The program under test, and a cluster that the tests share which need no other.

use std::sync::{Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::coordination::v1::Lease;
use kube_vip::model::BootTime;
use kube_vip_lab::{Cluster, Result, ServiceLab};

/// The program under test.
pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_kube-vip");

static SHARED: Mutex<Option<Cluster>> = Mutex::new(None);

/// The shared cluster, healthy.
pub(crate) fn cluster() -> Result<Guard> {
    let mut guard = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if guard.is_none() {
        *guard = Some(Cluster::start(PROGRAM)?);
    }
    let mut guard = Guard(guard);
    guard.heal()?;
    Ok(guard)
}

/// End the shared clusters: what a static holds is never dropped by itself.
pub(crate) fn tear_down() {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner).take();
    SERVICES.lock().unwrap_or_else(PoisonError::into_inner).take();
}

static SERVICES: Mutex<Option<(ServiceLab, BootTime)>> = Mutex::new(None);

/// The shared cluster for Services: no agents, no Services, no Leases of an earlier test; agents will have these
/// variables.
pub(crate) fn services(env: &[(&str, &str)]) -> Result<ServicesGuard> {
    let mut guard = SERVICES.lock().unwrap_or_else(PoisonError::into_inner);
    if guard.is_none() {
        *guard = Some((crate::services::fresh()?, kube_vip_lab::now()));
    }
    let mut guard = ServicesGuard(guard);
    guard.agents.iter_mut().for_each(|slot| *slot = None);
    for service in guard.objects().services("default")? {
        let name = service.metadata.name.unwrap_or_default();
        if name != "kubernetes" {
            guard.delete(&name)?;
        }
    }
    for lease in guard.objects().leases()? {
        guard.objects().delete::<Lease>(&lease)?;
    }
    // What killed agents held goes by itself.
    for address in crate::services::watched() {
        guard.wait_until_nobody_has(&address.to_string())?;
    }
    let plain = guard.plain_options();
    guard.options = env.iter().fold(plain, |options, (name, value)| options.with(name, value));
    if let Some((_, started)) = guard.0.as_mut() {
        *started = kube_vip_lab::now();
    }
    Ok(guard)
}

pub(crate) struct ServicesGuard(MutexGuard<'static, Option<(ServiceLab, BootTime)>>);

impl ServicesGuard {
    /// When the test began.
    pub(crate) fn started(&self) -> BootTime {
        self.0.as_ref().unwrap().1
    }
}

impl std::ops::Deref for ServicesGuard {
    type Target = ServiceLab;
    fn deref(&self) -> &ServiceLab {
        &self.0.as_ref().unwrap().0
    }
}

impl std::ops::DerefMut for ServicesGuard {
    fn deref_mut(&mut self) -> &mut ServiceLab {
        &mut self.0.as_mut().unwrap().0
    }
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
