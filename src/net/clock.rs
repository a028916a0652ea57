//! CLOCK_BOOTTIME, the only clock of this program.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::io::unix::AsyncFd;

use super::sys::register;
use crate::model::BootTime;

pub fn now() -> BootTime {
    // Fails only for an unknown clock; Linux has had this one since 2.6.39.
    let elapsed =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    BootTime::from_boot(elapsed)
}

/// Work that repeats may use at most 1/MAX_CPU_FRACTION of wall time.
const MAX_CPU_FRACTION: u32 = 5;

/// The pause after work that began at `began`.
///
/// It is at most `max`: the work may have waited for the kernel, another process or the end of a suspension, and what must
/// be done next does not wait for that once more.
pub fn pause_after(began: BootTime, max: Duration) -> Duration {
    pause(now().since(began), max)
}

fn pause(took: Duration, max: Duration) -> Duration {
    took.saturating_mul(MAX_CPU_FRACTION - 1).min(max)
}

/// A timer on CLOCK_BOOTTIME. It fires at once when the host resumes after the deadline; tokio's timers do not advance
/// while the host is suspended.
#[derive(Debug)]
pub struct Timer {
    timer: TimerFd,
    /// A second descriptor of the same timer, for waiting.
    ready: AsyncFd<OwnedFd>,
}

impl Timer {
    /// A timer that is not armed.
    pub fn new() -> std::io::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_BOOTTIME, flags)?;
        let ready = register(timer.as_fd().try_clone_to_owned()?)?;
        Ok(Self { timer, ready })
    }

    /// Waits until `at`; without one it never resolves.
    pub async fn until(&mut self, at: Option<BootTime>) {
        let Some(at) = at else { return std::future::pending().await };
        if at <= now() {
            return;
        }
        let expiration = Expiration::OneShot(TimeSpec::from_duration(at.since_boot()));
        let set = self.timer.set(expiration, TimerSetTimeFlags::TFD_TIMER_ABSTIME);
        if set.is_err() {
            // Return early rather than never: the caller checks its deadlines again.
            return tokio::time::sleep(Duration::from_millis(50)).await;
        }
        while now() < at {
            let Ok(mut ready) = self.ready.readable().await else { return };
            ready.clear_ready();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_was_held_up_does_not_postpone_what_follows() {
        let milliseconds = Duration::from_millis;
        assert_eq!(pause(milliseconds(5), milliseconds(100)), milliseconds(20));
        assert_eq!(pause(milliseconds(700), milliseconds(100)), milliseconds(100));
        assert_eq!(pause(Duration::MAX, milliseconds(100)), milliseconds(100));
    }
}
