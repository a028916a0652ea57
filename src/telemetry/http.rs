//! A small HTTP server for metrics and probes.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::connections::Connections;
use crate::model::{Backoff, LogOnChange};

const MAX_CONNECTIONS: usize = 32;
/// Pauses before a port that could not be bound is tried again.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// What is wrong with the ports of a process, by the setting of each.
pub type PortProblems = Arc<watch::Sender<BTreeMap<&'static str, String>>>;

/// The response to a GET.
#[derive(Debug)]
pub struct Page {
    status: StatusCode,
    content_type: &'static str,
    body: String,
}

impl Page {
    pub fn found(content_type: &'static str, body: String) -> Self {
        Self { status: StatusCode::OK, content_type, body }
    }

    /// The response to a probe: 200, or 503 with what is wrong.
    pub fn probe(result: Result<(), String>) -> Self {
        match result {
            Ok(()) => Self::found("text/plain", "OK".to_owned()),
            Err(body) => Self { status: StatusCode::SERVICE_UNAVAILABLE, content_type: "text/plain", body },
        }
    }

    /// Metrics in Prometheus' text format.
    pub fn metrics(text: String) -> Self {
        Self::found("text/plain; version=0.0.4", text)
    }

    pub fn missing() -> Self {
        Self { status: StatusCode::NOT_FOUND, content_type: "text/plain", body: "not found\n".to_owned() }
    }
}

/// Serves `pages`, by path, until the process ends. `setting` configures the port, for messages.
///
/// Nothing else of the process depends on it: a port that cannot be bound is tried again.
pub async fn serve(
    setting: &'static str,
    address: String,
    problems: PortProblems,
    pages: impl Fn(&str) -> Page + Send + Sync + 'static,
) {
    let listener = bind_until_success(setting, &address, &problems).await;
    let (pages, mut connections) = (Arc::new(pages), Connections::new(MAX_CONNECTIONS));
    loop {
        let (stream, client) = connections.accept(setting, || listener.accept()).await;
        let pages = pages.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let response = respond(pages(request.uri().path()));
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_secs(5))
            .serve_connection(TokioIo::new(stream), service);
        // A client that disconnects early needs no response.
        connections.serve(client.ip(), connection.map(drop)).await;
    }
}

async fn bind_until_success(setting: &'static str, address: &str, problems: &PortProblems) -> TcpListener {
    let (mut problem, mut backoff) = (LogOnChange::default(), Backoff::new(BACKOFF_MIN, BACKOFF_MAX));
    loop {
        let error = match bind(address).await {
            Ok(listener) => {
                problems.send_if_modified(|problems| problems.remove(setting).is_some());
                if problem.clear() {
                    tracing::info!("{setting}: listening on {address}");
                }
                return listener;
            }
            Err(error) => error,
        };
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => "; another kube-vip on this host? Give each its own port",
            _ => "",
        };
        let text = format!("{setting}: cannot listen on {address}: {error}{hint}");
        if problem.set(text.as_str()) {
            tracing::error!("{text}; trying again");
        }
        problems.send_modify(|problems| drop(problems.insert(setting, text)));
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

/// Binds `[::]` to all addresses of both families, or of IPv4 on a host without IPv6.
pub(crate) async fn bind(address: &str) -> std::io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => Err(error),
        Err(error) => match address.parse::<SocketAddr>() {
            Ok(parsed) if parsed.is_ipv6() && parsed.ip().is_unspecified() => {
                TcpListener::bind(("0.0.0.0", parsed.port())).await
            }
            _ => Err(error),
        },
        bound => bound,
    }
}

fn respond(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() = page.status;
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(page.content_type));
    response
}
