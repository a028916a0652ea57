//! TCP connections with one peer: at most one in each direction.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::fsm::{Direction, Input};
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

    /// The next event of any connection; None: a send buffer fell below the low watermark, or is empty. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Input> {
        poll_fn(|context| self.poll(context)).await
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Input>> {
        for (direction, transport) in &mut self.open {
            if let Poll::Ready(event) = transport.poll(*direction, context) {
                if let Some(Input::Closed(direction, _)) = event {
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
        Poll::Ready(Some(match result {
            Ok(stream) => {
                self.insert(Direction::Outgoing, stream);
                Input::Connected(Direction::Outgoing)
            }
            Err(error) => Input::Failed(error.into()),
        }))
    }
}

impl Transport {
    fn poll(&mut self, direction: Direction, context: &mut Context<'_>) -> Poll<Option<Input>> {
        let mut space = [0; 16 * 1024];
        let mut buffer = ReadBuf::new(&mut space);
        if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(context, &mut buffer) {
            return Poll::Ready(Some(match (result, buffer.filled()) {
                (Err(error), _) => Input::Closed(direction, error.into()),
                (Ok(()), []) => Input::Closed(direction, "the peer closed the connection".into()),
                (Ok(()), bytes) => Input::Received(direction, bytes.to_vec()),
            }));
        }
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(context, &self.unsent)) {
                Err(error) => return Poll::Ready(Some(Input::Closed(direction, error.into()))),
                Ok(written) => {
                    let before = self.unsent.len();
                    self.unsent.drain(..written);
                    let below = before >= LOW_WATERMARK && self.unsent.len() < LOW_WATERMARK;
                    if below || self.unsent.is_empty() {
                        self.unsent.shrink_to(LOW_WATERMARK);
                        return Poll::Ready(None);
                    }
                }
            }
        }
        Poll::Pending
    }
}
