//! A fake API server, for answers that a real one cannot be made to give.
//!
//! It keeps one Lease with optimistic locking, and Services with their EndpointSlices, and serves lists and watches of
//! them. Status writes are refused. It can serve one more page behind a token, as providers' APIs do. Everything else
//! is answered with 404.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use crate::lab::Lab;
use crate::{LabError, Namespace, Result, io};

/// How the server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// As a healthy API server.
    Healthy,
    /// Every request but the probes of health, watches included, gets this status.
    Status(u16),
    /// Watches end with an event that carries this status; all else works.
    WatchError(u16),
    /// /livez and /readyz fail; all else works.
    Unhealthy,
    /// Requests are accepted and never answered.
    Silent,
}

type Body = UnsyncBoxBody<Bytes, Infallible>;

const SERVICES: &str = "/api/v1/services";
const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const NODES: &str = "/api/v1/nodes";

#[derive(Debug)]
struct State {
    mode: Mode,
    lease: Option<Value>,
    version: u64,
    requests: Vec<String>,
    /// Everything but the Lease: the kind's path, and the object.
    objects: Vec<(&'static str, Value)>,
    page: Option<Page>,
}

/// A page behind a token.
#[derive(Debug, Clone)]
struct Page {
    path: String,
    token: String,
    content: Value,
}

/// The server; it ends when it is dropped.
#[derive(Debug)]
pub struct FakeApiServer {
    state: Arc<Mutex<State>>,
    changes: watch::Sender<u64>,
    task: JoinHandle<()>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl FakeApiServer {
    /// Listen on port 7443 of the client host.
    pub fn start(lab: &Lab, on: &Namespace) -> Result<Self> {
        let address = SocketAddr::from(([10, 42, 0, 101], 7443));
        let files = lab.pki.server("fake", &[address.ip()])?;
        let wrong = |error: &dyn std::fmt::Display| LabError::Certificate(error.to_string());
        let certificate = CertificateDer::from_pem_file(&files.certificate).map_err(|error| wrong(&error))?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&error))?;
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .map_err(|error| wrong(&error))?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = on.block_on(TcpListener::bind(address)).map_err(io("port 7443"))?;
        let state = State {
            mode: Mode::Healthy,
            lease: None,
            version: 1,
            requests: Vec::new(),
            objects: Vec::new(),
            page: None,
        };
        let state = Arc::new(Mutex::new(state));
        let (changes, _) = watch::channel(0);
        let shared = (state.clone(), changes.clone());
        let task = on.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shared) = (acceptor.clone(), shared.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let service = service_fn(|request| answer(request, shared.clone()));
                    let served = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service);
                    drop(served.await);
                });
            }
        });
        Ok(Self { state, changes, task, address })
    }

    /// Answer in this way from now on.
    pub fn set(&self, mode: Mode) {
        lock(&self.state).mode = mode;
        // Watches that are open end, so that what follows meets the new mode.
        self.changes.send_modify(|change| *change += 1);
    }

    /// Store a Lease of this holder, as if it had just been renewed.
    pub fn seed(&self, holder: &str) {
        lock(&self.state).lease = Some(json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": { "name": "plndr-cp-lock", "namespace": "kube-system", "resourceVersion": "1" },
            "spec": { "holderIdentity": holder, "leaseDurationSeconds": 5, "leaseTransitions": 0 },
        }));
        self.changes.send_modify(|change| *change += 1);
    }

    /// Store a Service of type LoadBalancer with this address, and a ready endpoint.
    pub fn serve(&self, name: &str, address: &str) {
        let service = json!({
            "metadata": { "annotations": { "kube-vip.io/loadbalancerIPs": address } },
            "spec": { "type": "LoadBalancer", "ports": [{ "port": 80, "protocol": "TCP" }] },
        });
        let (family, endpoint) =
            if address.contains(':') { ("IPv6", "fd00:10:244::2") } else { ("IPv4", "10.244.0.2") };
        let slice = json!({
            "metadata": { "labels": { "kubernetes.io/service-name": name } },
            "addressType": family,
            "endpoints": [{ "addresses": [endpoint], "conditions": { "ready": true } }],
        });
        let mut state = lock(&self.state);
        for (path, mut object) in [(SERVICES, service), (SLICES, slice)] {
            state.version += 1;
            let version = json!(state.version.to_string());
            if let Some(meta) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                meta.insert("name".into(), json!(name));
                meta.insert("namespace".into(), json!("default"));
                meta.insert("uid".into(), json!(format!("{name}-{version}")));
                meta.insert("resourceVersion".into(), version);
            }
            state.objects.push((path, object));
        }
        drop(state);
        self.changes.send_modify(|change| *change += 1);
    }

    /// Serve a page to requests with the token in their header `X-Auth-Token`.
    pub fn show(&self, path: &str, token: &str, content: Value) {
        lock(&self.state).page = Some(Page { path: path.to_owned(), token: token.to_owned(), content });
    }

    /// The holder that the Lease names.
    pub fn holder(&self) -> Option<String> {
        let state = lock(&self.state);
        let holder = state.lease.as_ref()?.pointer("/spec/holderIdentity")?.as_str()?;
        Some(holder.to_owned()).filter(|holder| !holder.is_empty())
    }

    /// Method and path of every request since the last call.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut lock(&self.state).requests)
    }
}

impl Drop for FakeApiServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lock(state: &Mutex<State>) -> std::sync::MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

type Shared = (Arc<Mutex<State>>, watch::Sender<u64>);

async fn answer(
    request: Request<Incoming>,
    (state, changes): Shared,
) -> std::result::Result<Response<Body>, Infallible> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let mode = {
        let mut state = lock(&state);
        let watching =
            if parts.uri.query().is_some_and(|query| query.contains("watch")) { " (watch)" } else { "" };
        state.requests.push(format!("{} {path}{watching}", parts.method));
        state.mode
    };
    if mode == Mode::Silent {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    if path == "/livez" || path == "/readyz" {
        let code = if mode == Mode::Unhealthy { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::OK };
        return Ok(text(code, "as configured"));
    }
    let page = lock(&state).page.clone();
    if let Some(page) = page.filter(|page| page.path == path) {
        let token = parts.headers.get("x-auth-token").and_then(|token| token.to_str().ok());
        return Ok(match mode {
            Mode::Status(code) => status(code, "as configured"),
            _ if token != Some(&page.token) => status(401, "no token"),
            _ => object(StatusCode::OK, &page.content),
        });
    }
    let listed = [SERVICES, SLICES, NODES].into_iter().find(|listed| *listed == path);
    let written = parts.method == Method::PATCH && path.ends_with("/status");
    if !path.contains("/leases") && listed.is_none() && !written {
        return Ok(status(404, "not here"));
    }
    if let Mode::Status(code) = mode {
        return Ok(status(code, "as configured"));
    }
    if let Some(listed) = listed {
        return Ok(objects(listed, state, &changes, mode, parts.uri.query().unwrap_or_default()));
    }
    if written {
        return Ok(status(403, "this server keeps no status"));
    }
    if parts.uri.query().is_some_and(|query| query.contains("watch=true")) {
        return Ok(watch_lease(state, &changes, mode));
    }
    let sent = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let sent: Value = serde_json::from_slice(&sent).unwrap_or(Value::Null);
    let response = serve(&mut lock(&state), &parts.method, sent);
    changes.send_modify(|change| *change += 1);
    Ok(response)
}

/// Create, read and replace, as the API server does it.
fn serve(state: &mut State, method: &Method, sent: Value) -> Response<Body> {
    match (method, &state.lease) {
        (&Method::GET, Some(lease)) => object(StatusCode::OK, lease),
        (&Method::GET | &Method::PUT, None) => status(404, "leases.coordination.k8s.io not found"),
        (&Method::POST, Some(_)) => status(409, "AlreadyExists"),
        (&Method::PUT, Some(lease))
            if lease.pointer("/metadata/resourceVersion") != sent.pointer("/metadata/resourceVersion") =>
        {
            status(409, "Conflict")
        }
        _ => {
            state.version += 1;
            let mut lease = sent;
            let version = json!(state.version.to_string());
            if let Some(meta) = lease.get_mut("metadata").and_then(Value::as_object_mut) {
                meta.insert("resourceVersion".into(), version);
                meta.insert("namespace".into(), json!("kube-system"));
            }
            let response = object(StatusCode::OK, &lease);
            state.lease = Some(lease);
            response
        }
    }
}

/// An event of a watch, as a line.
fn event(kind: &str, object: &Value) -> std::result::Result<Frame<Bytes>, Infallible> {
    let line = format!("{}\n", json!({ "type": kind, "object": object }));
    Ok(Frame::data(Bytes::from(line)))
}

/// A watch that ends at once.
fn watch_error(code: u16) -> Response<Body> {
    let error = event("ERROR", &failure(code, "as configured"));
    let once = futures::stream::once(std::future::ready(error));
    Response::new(BodyExt::boxed_unsync(StreamBody::new(once)))
}

fn watch_lease(state: Arc<Mutex<State>>, changes: &watch::Sender<u64>, mode: Mode) -> Response<Body> {
    if let Mode::WatchError(code) = mode {
        return watch_error(code);
    }
    let begin = (changes.subscribe(), None::<String>, mode);
    let stream = futures::stream::unfold(begin, move |(mut changes, mut known, mode)| {
        let state = state.clone();
        async move {
            loop {
                let (now, lease) = {
                    let state = lock(&state);
                    (state.mode, state.lease.clone())
                };
                if now != mode {
                    return None;
                }
                let version = lease.as_ref().and_then(|lease| {
                    lease.pointer("/metadata/resourceVersion")?.as_str().map(str::to_owned)
                });
                if let Some(lease) = lease.filter(|_| version != known) {
                    let kind = if known.is_none() { "ADDED" } else { "MODIFIED" };
                    known = version;
                    return Some((event(kind, &lease), (changes, known, mode)));
                }
                changes.changed().await.ok()?;
            }
        }
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(stream.boxed())))
}

/// A list of objects, or a watch from a resource version on.
fn objects(
    path: &'static str,
    state: Arc<Mutex<State>>,
    changes: &watch::Sender<u64>,
    mode: Mode,
    query: &str,
) -> Response<Body> {
    let version_of = |object: &Value| -> u64 {
        let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
        version.and_then(|version| version.parse().ok()).unwrap_or(0)
    };
    let of_path = move |state: &State, after: u64| -> Vec<Value> {
        let here = state.objects.iter().filter(|(found, _)| *found == path);
        here.map(|(_, object)| object.clone()).filter(|object| version_of(object) > after).collect()
    };
    if !query.contains("watch=true") {
        let state = lock(&state);
        let list = json!({
            "kind": "List",
            "apiVersion": "v1",
            "metadata": { "resourceVersion": state.version.to_string() },
            "items": of_path(&state, 0),
        });
        return object(StatusCode::OK, &list);
    }
    if let Mode::WatchError(code) = mode {
        return watch_error(code);
    }
    let from = query.split('&').find_map(|part| part.strip_prefix("resourceVersion="));
    let known: u64 = from.and_then(|version| version.parse().ok()).unwrap_or(0);
    let begin = (changes.subscribe(), known);
    let stream = futures::stream::unfold(begin, move |(mut changes, known)| {
        let state = state.clone();
        async move {
            loop {
                let (now, next) = {
                    let state = lock(&state);
                    (state.mode, of_path(&state, known).into_iter().min_by_key(version_of))
                };
                if now != mode {
                    return None;
                }
                if let Some(next) = next {
                    let known = version_of(&next);
                    return Some((event("ADDED", &next), (changes, known)));
                }
                changes.changed().await.ok()?;
            }
        }
    });
    Response::new(BodyExt::boxed_unsync(StreamBody::new(stream.boxed())))
}

fn failure(code: u16, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": "", "code": code,
    })
}

fn status(code: u16, message: &str) -> Response<Body> {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    object(code, &failure(code.as_u16(), message))
}

fn object(code: StatusCode, value: &Value) -> Response<Body> {
    text(code, &value.to_string())
}

fn text(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(BodyExt::boxed_unsync(Full::new(Bytes::from(text.to_owned()))));
    *response.status_mut() = code;
    response
}
