//! The connections with one peer: at most one that we made and one that the peer made.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::fsm::Side;

/// More routes are put into a connection's buffer while it holds less than so much.
const LOW: usize = 64 * 1024;
/// How long a connection may take for its last bytes.
const PATIENCE: Duration = Duration::from_secs(1);

/// Both connections.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<Side, Link>,
    /// Connections that are being closed.
    closing: JoinSet<()>,
}

#[derive(Debug)]
struct Link {
    stream: TcpStream,
    /// To be written.
    out: Vec<u8>,
}

/// What a connection has to say.
#[derive(Debug)]
pub(super) enum Event {
    /// Bytes came.
    Received(Side, Vec<u8>),
    /// It is gone.
    Closed(Side, String),
    /// There is room for more.
    Room,
}

impl Links {
    pub(super) fn has(&self, side: Side) -> bool {
        self.links.contains_key(&side)
    }

    pub(super) fn add(&mut self, side: Side, stream: TcpStream) {
        self.links.insert(side, Link { stream, out: Vec::new() });
    }

    /// Our address and the peer's.
    pub(super) fn ends(&self, side: Side) -> Option<(SocketAddr, SocketAddr)> {
        let stream = &self.links.get(&side)?.stream;
        Some((stream.local_addr().ok()?, stream.peer_addr().ok()?))
    }

    pub(super) fn send(&mut self, side: Side, bytes: &[u8]) {
        if let Some(link) = self.links.get_mut(&side) {
            link.out.extend_from_slice(bytes);
        }
    }

    /// Whether there is room for more.
    pub(super) fn has_room(&self, side: Side) -> bool {
        self.links.get(&side).is_some_and(|link| link.out.len() < LOW)
    }

    /// Whether everything has been handed to the kernel.
    pub(super) fn is_flushed(&self) -> bool {
        self.links.values().all(|link| link.out.is_empty())
    }

    /// Close a connection once its last bytes are out. What still comes from the peer is read and dropped: a socket
    /// that is closed with something left to read answers with a reset, which overtakes those last bytes.
    pub(super) fn hang_up(&mut self, side: Side) {
        let Some(Link { mut stream, out }) = self.links.remove(&side) else { return };
        while self.closing.try_join_next().is_some() {}
        self.closing.spawn(async move {
            let farewell = async {
                stream.write_all(&out).await?;
                stream.shutdown().await?;
                let mut rest = [0; 4096];
                while stream.read(&mut rest).await? > 0 {}
                io::Result::Ok(())
            };
            drop(timeout(PATIENCE, farewell).await);
        });
    }

    /// Until all connections are closed.
    pub(super) async fn finish(mut self) {
        while self.closing.join_next().await.is_some() {}
    }

    /// The next thing that happens to a connection. Can be cancelled.
    pub(super) async fn next(&mut self) -> Event {
        let (side, event) = poll_fn(|context| {
            for (side, link) in &mut self.links {
                if let Poll::Ready(event) = link.poll(*side, context) {
                    return Poll::Ready((*side, event));
                }
            }
            Poll::Pending
        })
        .await;
        if matches!(event, Event::Closed(..)) {
            self.links.remove(&side);
        }
        event
    }
}

impl Link {
    fn poll(&mut self, side: Side, context: &mut Context<'_>) -> Poll<Event> {
        let closed = |error: &io::Error| Event::Closed(side, error.to_string());
        let mut space = [0; 16 * 1024];
        let mut buffer = ReadBuf::new(&mut space);
        match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
            Poll::Ready(Err(error)) => return Poll::Ready(closed(&error)),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                return Poll::Ready(Event::Closed(side, "the peer closed the connection".into()));
            }
            Poll::Ready(Ok(())) => return Poll::Ready(Event::Received(side, buffer.filled().to_vec())),
            Poll::Pending => {}
        }
        while !self.out.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.out) {
                Poll::Ready(Err(error)) => return Poll::Ready(closed(&error)),
                Poll::Ready(Ok(written)) => {
                    let before = self.out.len();
                    self.out.drain(..written);
                    if (before >= LOW && self.out.len() < LOW) || self.out.is_empty() {
                        self.out.shrink_to(LOW);
                        return Poll::Ready(Event::Room);
                    }
                }
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }
}
