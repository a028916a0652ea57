//! The open connections of a server.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::model::LogOnChange;

/// Pause after a connection could not be accepted: descriptors are short until others are closed.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Connections that are open, at most `max`. A new one closes the oldest: idle clients cannot exclude others.
#[derive(Debug)]
pub(super) struct Connections {
    open: VecDeque<AbortHandle>,
    max: usize,
    problem: LogOnChange,
}

impl Connections {
    pub(super) fn new(max: usize) -> Self {
        Self { open: VecDeque::new(), max, problem: LogOnChange::default() }
    }

    /// Serves a connection that was accepted.
    pub(super) fn serve(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        self.problem.clear();
        self.open.retain(|open| !open.is_finished());
        if self.open.len() >= self.max
            && let Some(oldest) = self.open.pop_front()
        {
            oldest.abort();
        }
        self.open.push_back(tokio::spawn(connection).abort_handle());
    }

    /// The next connection of the server.
    pub(super) async fn accept<T, F>(&mut self, server: &'static str, accept: impl Fn() -> F) -> T
    where
        F: Future<Output = io::Result<T>>,
    {
        loop {
            let error = match accept().await {
                Ok(connection) => return connection,
                Err(error) => error,
            };
            if self.problem.set(error.to_string().as_str()) {
                tracing::error!("{server}: cannot accept a connection: {error}; trying again");
            }
            tokio::time::sleep(RETRY_INTERVAL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Notify;

    use super::*;

    struct Counted(Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_new_connection_closes_the_oldest() {
        let (open, served) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let mut connections = Connections::new(3);
        for _ in 0..20 {
            open.fetch_add(1, Ordering::Relaxed);
            let guard = Counted(open.clone());
            let begun = served.clone();
            connections.serve(async move {
                let _open = guard;
                begun.notify_one();
                std::future::pending().await
            });
            served.notified().await;
        }
        assert_eq!((connections.open.len(), open.load(Ordering::Relaxed)), (3, 3));
    }
}
