//! TCP connections with one peer: at most one in each direction.

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

use super::fsm::{ConnectionError, Direction};
use crate::net::tcp::{self, Route};

/// UPDATEs are buffered only while fewer bytes than this are unsent.
const LOW_WATERMARK: usize = 64 * 1024;
/// Limit for flushing a connection that is being closed.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

type Dialling = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

#[derive(Default)]
pub(super) struct Transports {
    dialling: Option<Dialling>,
    open: BTreeMap<Direction, Transport>,
    closing: JoinSet<()>,
}

#[derive(Debug)]
struct Transport {
    stream: TcpStream,
    unsent: Vec<u8>,
}

#[derive(Debug)]
pub(super) enum Event {
    /// The outgoing connection is established.
    Connected,
    /// The outgoing connection attempt failed.
    Failed(ConnectionError),
    Received(Direction, Vec<u8>),
    Closed(Direction, ConnectionError),
    /// The send buffer fell below the low watermark, or is empty.
    Writable,
}

impl Transports {
    /// Connects to the peer; aborts an attempt in progress.
    pub(super) fn dial(&mut self, peer: SocketAddr, route: Route) {
        self.dialling = Some(Box::pin(async move { tcp::connect(peer, &route).await }));
    }

    pub(super) fn contains(&self, direction: Direction) -> bool {
        self.open.contains_key(&direction)
    }

    pub(super) fn insert(&mut self, direction: Direction, stream: TcpStream) {
        self.open.insert(direction, Transport { stream, unsent: Vec::new() });
    }

    /// Local and remote address.
    pub(super) fn addresses(&self, direction: Direction) -> Option<(SocketAddr, SocketAddr)> {
        let stream = &self.open.get(&direction)?.stream;
        Some((stream.local_addr().ok()?, stream.peer_addr().ok()?))
    }

    pub(super) fn send(&mut self, direction: Direction, bytes: &[u8]) {
        if let Some(transport) = self.open.get_mut(&direction) {
            transport.unsent.extend_from_slice(bytes);
        }
    }

    pub(super) fn has_room(&self, direction: Direction) -> bool {
        self.open.get(&direction).is_some_and(|transport| transport.unsent.len() < LOW_WATERMARK)
    }

    pub(super) fn is_flushed(&self) -> bool {
        self.open.values().all(|transport| transport.unsent.is_empty())
    }

    /// Closes a connection once its send buffer is flushed. Received bytes are discarded until the peer closes: closing
    /// a socket with unread data sends RST, which can overtake the NOTIFICATION.
    pub(super) fn close(&mut self, direction: Direction) {
        let Some(Transport { mut stream, unsent }) = self.open.remove(&direction) else { return };
        while self.closing.try_join_next().is_some() {}
        self.closing.spawn(async move {
            let flush = async {
                stream.write_all(&unsent).await?;
                stream.shutdown().await?;
                let mut discarded = [0; 4096];
                while stream.read(&mut discarded).await? > 0 {}
                io::Result::Ok(())
            };
            drop(timeout(FLUSH_TIMEOUT, flush).await);
        });
    }

    /// Waits for connections that are being closed.
    pub(super) async fn finish(mut self) {
        while self.closing.join_next().await.is_some() {}
    }

    /// The next event of any connection. Cancel safe.
    pub(super) async fn next(&mut self) -> Event {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        for (direction, transport) in &mut self.open {
            if let Poll::Ready(event) = transport.poll(*direction, context) {
                if let Event::Closed(direction, _) = event {
                    self.open.remove(&direction);
                }
                return Poll::Ready(event);
            }
        }
        let Some(Poll::Ready(result)) =
            self.dialling.as_mut().map(|dialling| dialling.as_mut().poll(context))
        else {
            return Poll::Pending;
        };
        self.dialling = None;
        Poll::Ready(match result {
            Ok(stream) => {
                self.insert(Direction::Outgoing, stream);
                Event::Connected
            }
            Err(error) => Event::Failed(error.into()),
        })
    }
}

impl Transport {
    fn poll(&mut self, direction: Direction, context: &mut Context<'_>) -> Poll<Event> {
        let mut space = [0; 16 * 1024];
        let mut buffer = ReadBuf::new(&mut space);
        match Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
            Poll::Ready(Err(error)) => return Poll::Ready(Event::Closed(direction, error.into())),
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => {
                return Poll::Ready(Event::Closed(direction, "the peer closed the connection".into()));
            }
            Poll::Ready(Ok(())) => {
                return Poll::Ready(Event::Received(direction, buffer.filled().to_vec()));
            }
            Poll::Pending => {}
        }
        while !self.unsent.is_empty() {
            match Pin::new(&mut self.stream).poll_write(context, &self.unsent) {
                Poll::Ready(Err(error)) => return Poll::Ready(Event::Closed(direction, error.into())),
                Poll::Ready(Ok(written)) => {
                    let before = self.unsent.len();
                    self.unsent.drain(..written);
                    let below = before >= LOW_WATERMARK && self.unsent.len() < LOW_WATERMARK;
                    if below || self.unsent.is_empty() {
                        self.unsent.shrink_to(LOW_WATERMARK);
                        return Poll::Ready(Event::Writable);
                    }
                }
                Poll::Pending => break,
            }
        }
        Poll::Pending
    }
}
