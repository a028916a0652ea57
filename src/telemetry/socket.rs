//! The socket that `kube-vip status`, `drain` and `undrain` talk to.
//!
//! A Unix socket in the abstract namespace: it belongs to the network namespace, needs no file system and vanishes
//! with the process. A request is one line; only root may send one.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::connections::Connections;
use crate::model::{Backoff, LogOnChange};

/// Names of sockets: this and the process id.
const PREFIX: &str = "kube-vip/";
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_CONNECTIONS: usize = 8;
/// Processes of the same id in one network namespace.
const MAX_AGENTS: u32 = 16;
/// Pauses before the socket is opened again.
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A request to a running process. Each is answered with the status as JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusRequest {
    Status,
    /// With the routes of all BGP peers.
    BgpRoutes,
    /// Hand over, and take part in no election until [`StatusRequest::Undrain`].
    Drain,
    Undrain,
}

impl StatusRequest {
    const ALL: [Self; 4] = [Self::Status, Self::BgpRoutes, Self::Drain, Self::Undrain];

    fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::BgpRoutes => "bgp-routes",
            Self::Drain => "drain",
            Self::Undrain => "undrain",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|request| request.name() == name)
    }
}

/// Computes the response to a request.
pub type Responder = Arc<dyn Fn(StatusRequest) -> BoxFuture<'static, String> + Send + Sync>;

/// Serves requests until the process ends. Addresses do not depend on it: it is opened again until that succeeds.
pub async fn serve(responder: Responder) {
    let (mut problem, mut backoff) = (LogOnChange::default(), Backoff::new(BACKOFF_MIN, BACKOFF_MAX));
    let listener = loop {
        match bind() {
            Ok(listener) => break listener,
            Err(error) => {
                if problem.set(error.to_string().as_str()) {
                    tracing::error!("cannot open the socket of `kube-vip status`: {error}; trying again");
                }
                tokio::time::sleep(backoff.next_pause()).await;
            }
        }
    };
    let mut connections = Connections::new(MAX_CONNECTIONS);
    loop {
        let (stream, _) = connections.accept("the socket of `kube-vip status`", || listener.accept()).await;
        if is_root(&stream) {
            let response = timeout(REQUEST_TIMEOUT, respond(stream, responder.clone()));
            connections.serve((), response.map(drop)).await;
        }
    }
}

/// Two agents in containers of one host have a network namespace in common, and may have the same process id.
fn bind() -> io::Result<UnixListener> {
    let id = std::process::id();
    let mut names = (1..=MAX_AGENTS).map(|number| match number {
        1 => format!("{PREFIX}{id}"),
        _ => format!("{PREFIX}{id}.{number}"),
    });
    let bound = names.find_map(|name| {
        match SocketAddr::from_abstract_name(name).and_then(|name| StdListener::bind_addr(&name)) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => None,
            bound => Some(bound),
        }
    });
    let listener = bound.unwrap_or_else(|| Err(ErrorKind::AddrInUse.into()))?;
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

fn is_root(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == 0)
}

async fn respond(stream: UnixStream, responder: Responder) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    // A client that disconnects early needs no response.
    let Ok(_) = BufReader::new(read).read_line(&mut line).await else { return };
    let Some(request) = StatusRequest::from_name(line.trim()) else { return };
    let response = responder(request).await;
    write.write_all(response.as_bytes()).await.ok();
}

/// Sends a request to every kube-vip process in this network namespace; returns what they respond, none for one that does
/// not. Any user can open a socket of such a name: root's alone are asked.
///
/// # Errors
/// If /proc/net/unix cannot be read.
pub async fn request(request: StatusRequest) -> io::Result<Vec<Option<String>>> {
    let table = std::fs::read_to_string("/proc/net/unix")?;
    let names: BTreeSet<String> = table
        .lines()
        .filter_map(|line| line.split_whitespace().last()?.strip_prefix('@'))
        .filter(|name| name.starts_with(PREFIX))
        .map(str::to_owned)
        .collect();
    let exchanges = names.into_iter().map(|name| timeout(REQUEST_TIMEOUT, exchange(name, request)));
    let replies: Vec<_> = stream::iter(exchanges).buffered(MAX_AGENTS as usize).collect().await;
    let reply = |result: Result<io::Result<Option<String>>, Elapsed>| match result {
        Ok(Ok(response)) => response.map(Some),
        Ok(Err(_)) | Err(_) => Some(None),
    };
    Ok(replies.into_iter().filter_map(reply).collect())
}

/// None where another user has the socket, or its process has ended.
async fn exchange(name: String, request: StatusRequest) -> io::Result<Option<String>> {
    let mut stream = match UnixStream::connect(format!("\0{name}")).await {
        Ok(stream) if is_root(&stream) => stream,
        Ok(_) => return Ok(None),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(None),
        Err(error) => return Err(error),
    };
    stream.write_all(format!("{}\n", request.name()).as_bytes()).await?;
    let mut response = String::new();
    match stream.read_to_string(&mut response).await? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        _ => Ok(Some(response)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_distinct_names() {
        for request in StatusRequest::ALL {
            assert_eq!(StatusRequest::from_name(request.name()), Some(request));
        }
        assert_eq!(StatusRequest::from_name("reboot"), None);
    }

    #[tokio::test]
    async fn a_process_that_has_ended_is_no_agent_and_one_without_a_response_is() {
        let name = format!("kube-vip-test/{}", std::process::id());
        let ask = || exchange(name.clone(), StatusRequest::Status);
        assert_eq!(ask().await.unwrap(), None);
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = StdListener::bind_addr(&address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = UnixListener::from_std(listener).unwrap();
        let closes = async { drop(listener.accept().await.unwrap()) };
        let (reply, ()) = tokio::join!(ask(), closes);
        // Another user's than root's is none.
        assert_eq!(reply.is_err(), nix::unistd::geteuid().is_root(), "{reply:?}");
    }
}
