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

#[derive(Debug, thiserror::Error)]
#[error("{setting}: cannot listen on {address}: {source}{hint}")]
pub struct ListenError {
    setting: &'static str,
    address: String,
    source: std::io::Error,
    hint: &'static str,
}

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
/// # Errors
/// If the port cannot be bound.
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
                // Out of file descriptors, for example: wait for connections to close.
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

/// Binds `[::]` to all addresses of both families, or of IPv4 on a host without IPv6.
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
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(page.content_type));
    response
}
