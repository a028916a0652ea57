//! The open connections of a server.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use tokio::task::AbortHandle;

use crate::model::LogOnChange;

/// Pause after a connection could not be accepted: descriptors are short until others are closed.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Connections that are open, at most `max`. A new one closes the oldest of the client with most of them: clients that keep
/// connections open, or open many, exclude no other.
#[derive(Debug)]
pub(super) struct Connections<C> {
    open: VecDeque<(C, AbortHandle)>,
    max: usize,
    problem: LogOnChange,
}

impl<C: PartialEq> Connections<C> {
    pub(super) fn new(max: usize) -> Self {
        Self { open: VecDeque::new(), max, problem: LogOnChange::default() }
    }

    /// Serves a connection that was accepted, until it first waits, and then beside others.
    pub(super) async fn serve(&mut self, client: C, connection: impl Future<Output = ()> + Send + 'static) {
        self.problem.clear();
        self.open.retain(|(_, open)| !open.is_finished());
        if self.open.len() >= self.max {
            self.close_one();
        }
        self.open.push_back((client, tokio::spawn(connection).abort_handle()));
        // More connections may be there already, and close this one.
        tokio::task::yield_now().await;
    }

    fn close_one(&mut self) {
        let connections = |client: &C| self.open.iter().filter(|(other, _)| other == client).count();
        let most = self.open.iter().map(|(client, _)| connections(client)).max();
        let oldest = self.open.iter().position(|(client, _)| Some(connections(client)) == most);
        if let Some((_, connection)) = oldest.and_then(|index| self.open.remove(index)) {
            connection.abort();
        }
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

    use super::*;

    struct Counted(Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn a_new_connection_closes_the_oldest_of_the_client_with_most() {
        let (begun, of_others) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(1)));
        let mut connections = Connections::new(3);
        let other = Counted(of_others.clone());
        let open = async move {
            let _open = other;
            std::future::pending().await
        };
        connections.serve("probe", open).await;
        let open = Arc::new(AtomicUsize::new(0));
        for _ in 0..20 {
            open.fetch_add(1, Ordering::Relaxed);
            let (guard, begun) = (Counted(open.clone()), begun.clone());
            let connection = async move {
                let _open = guard;
                begun.fetch_add(1, Ordering::Relaxed);
                std::future::pending().await
            };
            connections.serve("many", connection).await;
        }
        let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        assert_eq!((connections.open.len(), count(&open), count(&of_others)), (3, 2, 1));
        assert_eq!(count(&begun), 20, "each was served before it was closed");
    }
}
