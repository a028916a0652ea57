//! A small HTTP server for metrics and probes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// A port that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: cannot listen on {address}: {source}{hint}")]
pub struct ListenError {
    setting: &'static str,
    address: String,
    source: std::io::Error,
    hint: &'static str,
}

/// What is answered to a GET.
#[derive(Debug)]
pub struct Page {
    /// The status.
    pub status: StatusCode,
    /// `Content-Type`.
    pub kind: &'static str,
    /// The body.
    pub body: String,
}

impl Page {
    /// A page with this content.
    pub fn found(kind: &'static str, body: String) -> Self {
        Self { status: StatusCode::OK, kind, body }
    }

    /// The answer of a probe: OK, or why not.
    pub fn probe(outcome: Result<(), String>) -> Self {
        match outcome {
            Ok(()) => Self::found("text/plain", "OK".to_owned()),
            Err(why) => Self { status: StatusCode::SERVICE_UNAVAILABLE, kind: "text/plain", body: why },
        }
    }

    /// Metrics in Prometheus' text format.
    pub fn metrics(text: String) -> Self {
        Self::found("text/plain; version=0.0.4", text)
    }

    /// There is no such page.
    pub fn missing() -> Self {
        Self { status: StatusCode::NOT_FOUND, kind: "text/plain", body: "not found\n".to_owned() }
    }
}

/// Listen on an address, and answer with what `pages` has at a path, until the process ends. `setting` is who asked
/// for the port, for the message.
///
/// # Errors
/// If the port cannot be had.
pub async fn listen(
    setting: &'static str,
    address: &str,
    pages: impl Fn(&str) -> Page + Send + Sync + 'static,
) -> Result<(), ListenError> {
    let listener = bind(address).await.map_err(|source| {
        let hint = match source.kind() {
            std::io::ErrorKind::AddrInUse => "; another kube-vip on this host? Give each its own port",
            _ => "",
        };
        ListenError { setting, address: address.to_owned(), source, hint }
    })?;
    let pages = Arc::new(pages);
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, for instance: let others finish first.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let pages = pages.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let response = respond(pages(request.uri().path()));
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    Ok(())
}

/// `[::]` means every address of both families; without IPv6 it is IPv4's.
async fn bind(address: &str) -> std::io::Result<TcpListener> {
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
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(page.kind));
    response
}
