//! The socket that `kube-vip status`, `drain` and `undrain` talk to.
//!
//! A Unix socket in the abstract namespace: it belongs to the network namespace, needs no file system and vanishes
//! with the process. A request is one line. Only root may send one, and only a process with
//! CAP_NET_ADMIN one that changes something: abstract names have no file permissions, and containers of root without that
//! capability share the namespace.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::connections::Connections;
use super::peer::{is_root, may_control};
use crate::model::text::printable;
use crate::model::{Backoff, LogOnChange};

/// Names of sockets: this and the process id.
const PREFIX: &str = "kube-vip/";
/// A request has at most this many bytes.
const REQUEST_MAX: u64 = 64;
/// A reply has at most this many bytes: any process can open a socket of such a name.
const REPLY_MAX: u64 = 16 << 20;
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

    /// Whether it changes what the process does.
    fn controls(self) -> bool {
        matches!(self, Self::Drain | Self::Undrain)
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|request| request.name() == name)
    }
}

/// The response to a request that was not carried out.
#[derive(Debug, Serialize, Deserialize)]
struct Refusal {
    refused: String,
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
            let control = may_control(&stream);
            let response = timeout(REQUEST_TIMEOUT, respond(stream, control, responder.clone()));
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

/// Responds to a peer. `control` is why it may not change anything.
async fn respond(stream: UnixStream, control: Result<(), &'static str>, responder: Responder) {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    // A client that disconnects early needs no response.
    let Ok(_) = BufReader::new(read.take(REQUEST_MAX)).read_line(&mut line).await else { return };
    let Some(request) = StatusRequest::from_name(line.trim()) else { return };
    let response = match control {
        Err(why) if request.controls() => {
            tracing::warn!("refused `kube-vip {}`: {why}", request.name());
            serde_json::to_string(&Refusal { refused: why.to_owned() }).unwrap_or_default()
        }
        _ => responder(request).await,
    };
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
    read(stream).await.map(Some)
}

async fn read(stream: impl AsyncRead + Unpin) -> io::Result<String> {
    let mut response = String::new();
    match stream.take(REPLY_MAX + 1).read_to_string(&mut response).await? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        length if u64::try_from(length).is_ok_and(|length| length <= REPLY_MAX) => Ok(response),
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

/// The value in a reply. Its texts can be printed on a terminal.
///
/// # Errors
/// Why the request was refused, or what is wrong with the reply.
pub fn parse<T: DeserializeOwned>(reply: &str) -> Result<T, String> {
    let mut value: Value = serde_json::from_str(reply).map_err(|error| error.to_string())?;
    make_printable(&mut value);
    if let Ok(Refusal { refused }) = Refusal::deserialize(&value) {
        return Err(refused);
    }
    serde_json::from_value(value).map_err(|error| error.to_string())
}

fn make_printable(value: &mut Value) {
    match value {
        Value::String(text) => *text = printable(text).into_owned(),
        Value::Array(items) => items.iter_mut().for_each(make_printable),
        Value::Object(fields) => {
            let printed = std::mem::take(fields).into_iter().map(|(name, mut value)| {
                make_printable(&mut value);
                (printable(&name).into_owned(), value)
            });
            *fields = printed.collect();
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
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
    async fn a_peer_without_the_capability_reads_and_changes_nothing() {
        for (request, control, expected) in [
            ("drain", Ok(()), Ok("Drain")),
            ("undrain", Ok(()), Ok("Undrain")),
            ("drain", Err("no"), Err("no")),
            ("undrain", Err("no"), Err("no")),
            ("status", Err("no"), Ok("Status")),
            ("bgp-routes", Err("no"), Ok("BgpRoutes")),
        ] {
            let responder: Responder =
                Arc::new(|request| Box::pin(async move { format!("\"{request:?}\"") }));
            let (mut client, server) = UnixStream::pair().unwrap();
            client.write_all(format!("{request}\n").as_bytes()).await.unwrap();
            respond(server, control, responder).await;
            let reply = parse::<String>(&read(client).await.unwrap());
            assert_eq!(reply, expected.map(str::to_owned).map_err(str::to_owned), "{request}");
        }
    }

    #[tokio::test]
    async fn a_reply_is_limited() {
        let endless = tokio::io::repeat(b'x');
        assert_eq!(read(endless).await.unwrap_err().kind(), ErrorKind::InvalidData);
        let limit = usize::try_from(REPLY_MAX).unwrap();
        let longest = tokio::io::repeat(b'x').take(REPLY_MAX);
        assert_eq!(read(longest).await.unwrap().len(), limit);
    }

    #[test]
    fn text_of_a_reply_does_not_steer_the_terminal() {
        let reply = r#"{ "a\u001b[2J": ["b\nrole leader", { "c": "\u009b31m" }], "d": 1 }"#;
        let value: Value = parse(reply).unwrap();
        assert_eq!(value, serde_json::json!({ "a [2J": ["b role leader", { "c": " 31m" }], "d": 1 }));
        assert!(parse::<Value>("\u{1b}[2J").is_err_and(|error| !error.contains('\u{1b}')));
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
