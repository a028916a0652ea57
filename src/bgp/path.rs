//! BFD state of the path to a peer (RFC 5882).

use std::time::Duration;

use tokio::sync::watch;

use crate::bfd::driver::Bfd;
use crate::bfd::path::{PathState, SessionSpec};
use crate::model::BootTime;
use crate::net::clock;

/// A restarted peer signals the end of its former BFD session within this time: sessions that are not up transmit once
/// per second (RFC 5880 §6.8.3).
const RESTART_TIME: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct PathMonitor {
    states: watch::Receiver<PathState>,
    /// Local detection time before negotiation.
    detection_time: Duration,
    up_since: BootTime,
}

impl PathMonitor {
    pub(super) fn new(bfd: &Bfd, session: SessionSpec) -> Self {
        let detection_time = session.settings.receive * u32::from(session.settings.multiplier);
        Self { states: bfd.monitor(session), detection_time, up_since: BootTime::default() }
    }

    /// The next change. Never returns once the BFD thread ended. Cancel safe.
    pub(super) async fn changed(&mut self) -> PathState {
        if self.states.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let state = *self.states.borrow_and_update();
        if state == PathState::Up {
            self.up_since = clock::now();
        }
        state
    }

    /// Whether this state closes the BGP session. A path that was never up has no effect: the peer may not run BFD
    /// (RFC 5882 §4.3). A restarted peer can establish a new BGP session, at `established`, before its former BFD session
    /// is detected as down: that BFD session says nothing about the new BGP session.
    pub(super) fn closes_session(
        &self,
        state: PathState,
        established: Option<BootTime>,
        now: BootTime,
    ) -> bool {
        let predates = established.is_some_and(|established| {
            self.up_since < established && now.since(established) < self.detection_time + RESTART_TIME
        });
        matches!(state, PathState::Down(_)) && !predates
    }
}
