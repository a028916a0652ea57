//! Labs that trials share: bringing one up takes longer than most trials.
//!
//! A lab belongs to one trial at a time. It is free for others when the trial has ended, not before: what the trial put
//! into it (routers, workloads) may outlive its guard. The lab of a trial that fails is not used again.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::ThreadId;

use crate::{Lab, Result, rights};

/// Labs of one kind.
#[derive(Debug)]
pub struct Pool<T>(Mutex<Vec<Slot<T>>>);

#[derive(Debug)]
struct Slot<T> {
    lab: T,
    /// Whose trial used it last, until that trial ends.
    owner: Option<ThreadId>,
}

trait EndTrial: Sync {
    fn end_trial(&self, passed: bool);
}

thread_local! {
    static USED: RefCell<Vec<&'static dyn EndTrial>> = const { RefCell::new(Vec::new()) };
}

/// The trial on this thread has ended: its labs are free.
pub(crate) fn end_trial(passed: bool) {
    USED.take().into_iter().for_each(|pool| pool.end_trial(passed));
}

impl<T: Send + AsRef<Lab>> Pool<T> {
    /// No labs yet.
    #[expect(clippy::new_without_default, reason = "it is made for statics")]
    pub const fn new() -> Self {
        Self(Mutex::new(Vec::new()))
    }

    /// A free lab, or a new one. `make` runs without a lock.
    pub fn take(&'static self, make: impl FnOnce() -> Result<T>) -> Result<Pooled<T>> {
        let me = std::thread::current().id();
        let free = {
            let mut slots = self.lock();
            let own = slots.iter().rposition(|slot| slot.owner == Some(me));
            own.or_else(|| slots.iter().rposition(|slot| slot.owner.is_none()))
                .map(|index| slots.remove(index))
        };
        let lab = match free {
            Some(slot) => slot.lab,
            None => make()?,
        };
        Ok(Pooled { pool: self, lab: Some(lab) })
    }

    /// End all labs that are free.
    pub fn clear(&self) {
        self.remove(|slot| slot.owner.is_none());
    }

    fn remove(&self, which: impl Fn(&Slot<T>) -> bool) {
        let removed: Vec<Slot<T>> = self.lock().extract_if(.., |slot| which(slot)).collect();
        // Outside the lock: a lab takes a moment to end.
        drop(removed);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slot<T>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + AsRef<Lab>> EndTrial for Pool<T> {
    fn end_trial(&self, passed: bool) {
        let me = Some(std::thread::current().id());
        if passed {
            let mut slots = self.lock();
            slots.iter_mut().filter(|slot| slot.owner == me).for_each(|slot| slot.owner = None);
        } else {
            self.remove(|slot| slot.owner == me);
        }
    }
}

/// A lab in use. It goes back when this is dropped.
#[derive(Debug)]
pub struct Pooled<T: Send + AsRef<Lab> + 'static> {
    pool: &'static Pool<T>,
    lab: Option<T>,
}

impl<T: Send + AsRef<Lab>> Deref for Pooled<T> {
    type Target = T;

    #[expect(clippy::expect_used, reason = "it is there until the drop")]
    fn deref(&self) -> &T {
        self.lab.as_ref().expect("a lab")
    }
}

impl<T: Send + AsRef<Lab>> DerefMut for Pooled<T> {
    #[expect(clippy::expect_used, reason = "it is there until the drop")]
    fn deref_mut(&mut self) -> &mut T {
        self.lab.as_mut().expect("a lab")
    }
}

impl<T: Send + AsRef<Lab>> Drop for Pooled<T> {
    fn drop(&mut self) {
        if let Some(lab) = self.lab.take() {
            rights::compare(lab.as_ref());
            self.pool.lock().push(Slot { lab, owner: Some(std::thread::current().id()) });
            USED.with_borrow_mut(|used| used.push(self.pool));
        }
    }
}
