//! /metrics, /healthz and /readyz.

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

use super::Telemetry;
use crate::net::clock;

/// A main loop that has made no round for this long is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// A port that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: cannot listen on {address}: {source}{hint}")]
pub struct ListenError {
    setting: &'static str,
    address: String,
    source: std::io::Error,
    hint: &'static str,
}

/// What a port serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Serve {
    /// /metrics and a page that links to it.
    Metrics,
    /// /healthz and /readyz.
    Health,
}

/// Listen, and answer until the process ends.
///
/// # Errors
/// If the port cannot be had.
pub async fn listen(serve: Serve, address: &str, telemetry: Arc<Telemetry>) -> Result<(), ListenError> {
    let setting = match serve {
        Serve::Metrics => "prometheus_server",
        Serve::Health => "health_check_port",
    };
    let listener = bind(address).await.map_err(|source| {
        let hint = match source.kind() {
            std::io::ErrorKind::AddrInUse => "; another kube-vip on this host? Give each its own port",
            _ => "",
        };
        ListenError { setting, address: address.to_owned(), source, hint }
    })?;
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of descriptors, for instance: let others finish first.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let telemetry = telemetry.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let response = answer(serve, request.uri().path(), &telemetry);
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

fn answer(serve: Serve, path: &str, telemetry: &Telemetry) -> Response<Full<Bytes>> {
    let now = clock::now();
    match (serve, path) {
        (Serve::Metrics, "/metrics") => {
            respond(StatusCode::OK, "text/plain; version=0.0.4", telemetry.metrics.encode(now))
        }
        (Serve::Metrics, "/") => {
            let page = "<html><head><title>kube-vip</title></head><body><h1>kube-vip</h1>\
                        <p><a href=\"/metrics\">Metrics</a></p></body></html>";
            respond(StatusCode::OK, "text/html", page.to_owned())
        }
        (Serve::Health, "/healthz") => {
            if telemetry.status(now).silent_for(now) < STUCK {
                respond(StatusCode::OK, "text/plain", "OK".to_owned())
            } else {
                respond(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "text/plain",
                    "the main loop is stuck\n".to_owned(),
                )
            }
        }
        (Serve::Health, "/readyz") => {
            let status = telemetry.status(now);
            if status.reconciled && status.standing != "starting" {
                respond(StatusCode::OK, "text/plain", "OK".to_owned())
            } else {
                respond(StatusCode::SERVICE_UNAVAILABLE, "text/plain", status.to_text())
            }
        }
        _ => respond(StatusCode::NOT_FOUND, "text/plain", "not found\n".to_owned()),
    }
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
