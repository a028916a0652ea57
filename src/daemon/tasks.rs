//! The tasks of the process, and its end: a signal, or a task that the others depend on.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::DaemonError;
use super::report::Report;
use crate::config::Config;
use crate::telemetry::output::STDOUT;

/// Limit for the last packets, Events and labels.
pub(super) const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(800);

/// The task that ends once every Lease is released.
pub(super) const ELECTIONS: &str = "the elections task";

/// Tasks that run until the end.
#[derive(Default)]
pub(super) struct TaskSet {
    tasks: JoinSet<(&'static str, std::io::Result<()>)>,
    /// Tasks that end by themselves once all others have ended.
    last: Vec<JoinHandle<()>>,
}

impl TaskSet {
    /// A task on its thread. None but the elections ends by itself.
    pub(super) fn spawn(
        &mut self,
        thread: &Handle,
        name: &'static str,
        run: impl Future<Output = std::io::Result<()>> + Send + 'static,
    ) {
        self.tasks.spawn_on(async move { (name, run.await) }, thread);
    }

    /// A task that ends when those it serves have ended.
    pub(super) fn spawn_last(&mut self, run: impl Future<Output = ()> + Send + 'static) {
        self.last.push(tokio::spawn(run));
    }

    /// Waits for a signal and the release of all Leases, or for the failure of a task.
    pub(super) async fn wait(
        &mut self,
        stop: &watch::Sender<bool>,
        config: &Config,
        report: &Report,
    ) -> Result<(), DaemonError> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut dump = signal(SignalKind::user_defined1())?;
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
                _ = dump.recv() => {
                    STDOUT.push(crate::dump::text(config, &report.status()).as_bytes());
                    continue;
                }
                ended = self.tasks.join_next() => return match ended {
                    Some(Ok((ELECTIONS, Ok(())))) if *stop.borrow() => Ok(()),
                    Some(Ok((task, Ok(())))) => Err(DaemonError::Ended(task, "unexpectedly".into())),
                    Some(Ok((task, Err(error)))) => Err(DaemonError::Ended(task, error.to_string())),
                    Some(Err(panic)) => Err(DaemonError::Ended("a task", panic.to_string())),
                    None => Ok(()),
                },
            }
            if !stop.send_replace(true) {
                tracing::info!("stopping");
            }
        }
    }

    /// Ends all tasks, the last ones within [`SHUTDOWN_TIMEOUT`].
    pub(super) async fn shut_down(mut self) {
        self.tasks.shutdown().await;
        drop(timeout(SHUTDOWN_TIMEOUT, futures::future::join_all(self.last)).await);
    }
}
