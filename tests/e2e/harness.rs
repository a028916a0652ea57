//! The program under test, and a cluster that the tests share which need no other.

use std::sync::{Mutex, MutexGuard, PoisonError};

use kube_vip_lab::{Cluster, Result};

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

/// End the shared cluster: what a static holds is never dropped by itself.
pub(crate) fn tear_down() {
    SHARED.lock().unwrap_or_else(PoisonError::into_inner).take();
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
