//! Backends of Services: a "pod" on each host, and a real kube-proxy that forwards packets to it.
//!
//! ```text
//!   client ── segment ── host N (kube-proxy) ── pod N: 10.244.N.2, fd44:0:0:N::2, port 8080, TCP and UDP
//! ```
//!
//! A pod answers with its number and the client's address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube_vip::model::BootTime;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::lab::Lab;
use crate::process::Process;
use crate::{LabError, Namespace, Objects, Result, binaries, io, now};

/// Where the pods listen.
pub const PORT: u16 = 8080;
/// Time between two requests of a [`Caller`].
pub const INTERVAL: Duration = Duration::from_millis(20);
/// The same for an eager one.
const EAGER: Duration = Duration::from_millis(4);
const REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

/// A pod on each host, and the proxies.
#[derive(Debug)]
pub struct Workload {
    proxies: Vec<Process>,
    servers: Vec<JoinHandle<()>>,
    pods: Vec<Namespace>,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

fn pod_v4(host: usize) -> String {
    format!("10.244.{}.2", host + 1)
}

fn pod_v6(host: usize) -> String {
    format!("fd44:0:0:{}::2", host + 1)
}

impl Workload {
    /// Start pods and proxies.
    pub fn start(lab: &Lab) -> Result<Self> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let mut workload = Self { proxies: Vec::new(), servers: Vec::new(), pods: Vec::new() };
        for index in 0..lab.hosts.len() {
            let pod = Namespace::new(&format!("w{number}p{index}"))?;
            connect(lab, index, &pod)?;
            workload.servers.push(pod.spawn(serve_tcp(index + 1)));
            workload.servers.push(pod.spawn(serve_udp(index + 1)));
            workload.pods.push(pod);
        }
        for index in 0..lab.hosts.len() {
            workload.proxies.push(start_proxy(lab, index)?);
        }
        Ok(workload)
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

/// A pod behind a host, and the ways from every host to it.
fn connect(lab: &Lab, index: usize, pod: &Namespace) -> Result<()> {
    let host = &lab.host(index).namespace;
    for key in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        host.sysctl(key, "1")?;
    }
    for key in ["all", "default"] {
        pod.sysctl(&format!("net.ipv6.conf.{key}.accept_dad"), "0")?;
    }
    // The kernel removes an earlier pod's end with its namespace, after a moment.
    host.ip(&["link", "del", "pods"]).ok();
    host.ip(&["link", "add", "pods", "type", "veth", "peer", "name", "eth0", "netns", pod.name()])?;
    let (v4, v6) = (format!("10.244.{}", index + 1), format!("fd44:0:0:{}:", index + 1));
    host.ip(&["addr", "add", &format!("{v4}.1/24"), "dev", "pods"])?;
    host.ip(&["addr", "add", &format!("{v6}:1/64"), "dev", "pods", "nodad"])?;
    host.ip(&["link", "set", "pods", "up"])?;
    pod.ip(&["addr", "add", &format!("{v4}.2/24"), "dev", "eth0"])?;
    pod.ip(&["addr", "add", &format!("{v6}:2/64"), "dev", "eth0", "nodad"])?;
    pod.ip(&["link", "set", "eth0", "up"])?;
    pod.ip(&["route", "add", "default", "via", &format!("{v4}.1")])?;
    pod.ip(&["-6", "route", "add", "default", "via", &format!("{v6}:1")])?;
    let (via_v4, via_v6) = (lab.host(index).v4.to_string(), lab.host(index).v6.to_string());
    for (other, place) in lab.hosts.iter().enumerate() {
        if other != index {
            place.namespace.ip(&["route", "replace", &format!("{v4}.0/24"), "via", &via_v4])?;
            place.namespace.ip(&["-6", "route", "replace", &format!("{v6}:/64"), "via", &via_v6])?;
        }
    }
    Ok(())
}

fn start_proxy(lab: &Lab, index: usize) -> Result<Process> {
    let host = lab.host(index);
    let kubeconfig = host.folder.join("kube-proxy.conf");
    let text = lab.pki.kubeconfig("system:kube-proxy", "system:masters", "https://127.0.0.1:6443")?;
    std::fs::write(&kubeconfig, text).map_err(io("kube-proxy.conf"))?;
    let args = [
        binaries::find("kube-proxy")?,
        format!("--kubeconfig={}", kubeconfig.to_string_lossy()),
        "--proxy-mode=nftables".into(),
        format!("--hostname-override={}", host.name),
        "--cluster-cidr=10.244.0.0/16,fd44::/48".into(),
        "--nodeport-addresses=primary".into(),
        // The limits are the machine's, not a namespace's.
        "--conntrack-max-per-core=0".into(),
        "--conntrack-min=0".into(),
        "--conntrack-tcp-timeout-established=0s".into(),
        "--conntrack-tcp-timeout-close-wait=0s".into(),
        "--metrics-bind-address=127.0.0.1:10249".into(),
        "--healthz-bind-address=127.0.0.1:10256".into(),
        "--v=0".into(),
    ];
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    Process::start(&host.namespace, &args, &[], &host.folder.join("kube-proxy.log"))
}

async fn serve_tcp(pod: usize) {
    let Ok(listener) = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).await else { return };
    while let Ok((mut stream, from)) = listener.accept().await {
        tokio::spawn(timeout(REQUEST_TIMEOUT, async move {
            let mut request = [0; 1024];
            let Ok(1..) = stream.read(&mut request).await else { return };
            let body = format!("pod {pod} asked by {}", from.ip().to_canonical());
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(answer.as_bytes()).await.ok();
            stream.shutdown().await.ok();
        }));
    }
}

async fn serve_udp(pod: usize) {
    let Ok(socket) = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, PORT)).await else { return };
    let mut buffer = [0; 1024];
    while let Ok((_, from)) = socket.recv_from(&mut buffer).await {
        let body = format!("pod {pod} asked by {}", from.ip().to_canonical());
        socket.send_to(body.as_bytes(), from).await.ok();
    }
}

/// Slices for a Service with pods on these hosts, in both families.
pub fn set_pods(objects: Objects<'_>, service: &str, hosts: &[usize]) -> Result<()> {
    for (family, suffix) in [("IPv4", "a"), ("IPv6", "b")] {
        let endpoint = |host: &usize| {
            let address = if family == "IPv4" { pod_v4(*host) } else { pod_v6(*host) };
            json!({
                "addresses": [address],
                "conditions": { "ready": true, "serving": true, "terminating": false },
                "nodeName": format!("node-{}", host + 1),
            })
        };
        let endpoints: Vec<Value> = hosts.iter().map(endpoint).collect();
        let port = |(name, protocol)| json!({ "name": name, "port": PORT, "protocol": protocol });
        let ports: Vec<Value> = [("tcp", "TCP"), ("udp", "UDP"), ("http", "TCP")].map(port).to_vec();
        let name = format!("{service}-{suffix}");
        let object = json!({
            "metadata": { "labels": { "kubernetes.io/service-name": service } },
            "addressType": family,
            "endpoints": endpoints,
            "ports": ports,
        });
        objects.create::<EndpointSlice>(&name, object)?;
        objects.patch::<EndpointSlice>(&name, json!({ "endpoints": endpoints, "ports": ports }))?;
    }
    Ok(())
}

/// The answer to a GET from the client host.
pub fn get(lab: &Lab, address: IpAddr, port: u16) -> Result<String> {
    get_from(&lab.client_host, address, port)
}

/// The answer to a GET from any machine.
pub fn get_from(machine: &Namespace, address: IpAddr, port: u16) -> Result<String> {
    limited(machine, address, request(address, port))
}

/// Send a datagram from the client host, and return the answer.
pub fn get_udp(lab: &Lab, address: IpAddr, port: u16) -> Result<String> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    limited(&lab.client_host, address, async move {
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect((address, port)).await?;
        socket.send(b"hello").await?;
        let mut buffer = [0; 1024];
        let length = socket.recv(&mut buffer).await?;
        Ok(String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned())
    })
}

/// An exchange with `address` on a machine, within the time of a request.
fn limited(
    machine: &Namespace,
    address: IpAddr,
    exchange: impl Future<Output = std::io::Result<String>> + Send + 'static,
) -> Result<String> {
    match machine.block_on(async move { timeout(REQUEST_TIMEOUT, exchange).await }) {
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => Err(LabError::Api(format!("{address}: {error}"))),
        Err(_) => Err(LabError::Timeout {
            what: format!("an answer from {address}"),
            seconds: REQUEST_TIMEOUT.as_secs(),
        }),
    }
}

async fn request(address: IpAddr, port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(SocketAddr::new(address, port)).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    text.rsplit("\r\n\r\n")
        .next()
        .filter(|body| body.starts_with("pod "))
        .map(str::to_owned)
        .ok_or_else(|| std::io::Error::other("not a pod's answer"))
}

/// One request of a [`Caller`].
#[derive(Debug, Clone)]
pub struct Request {
    /// When it was begun.
    pub begun: BootTime,
    /// When it came to its end.
    pub done: BootTime,
    /// Whether a pod answered.
    pub answered: bool,
}

/// Sends requests to an address until it is dropped.
#[derive(Debug)]
pub struct Caller {
    asked: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Caller {
    /// From the client host.
    pub fn start(lab: &Lab, address: IpAddr, port: u16) -> Self {
        Self::of(&lab.client_host, address, port)
    }

    /// From any machine.
    pub fn of(machine: &Namespace, address: IpAddr, port: u16) -> Self {
        Self::every(INTERVAL, machine, address, port)
    }

    /// From the client host, more often.
    pub fn eager(lab: &Lab, address: IpAddr, port: u16) -> Self {
        Self::every(EAGER, &lab.client_host, address, port)
    }

    fn every(interval: Duration, machine: &Namespace, address: IpAddr, port: u16) -> Self {
        let asked = Arc::new(Mutex::new(Vec::new()));
        let sink = asked.clone();
        let task = machine.spawn(async move {
            let mut tick = tokio::time::interval(interval);
            tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
            loop {
                tick.tick().await;
                let sink = sink.clone();
                tokio::spawn(async move {
                    let begun = now();
                    let answered =
                        matches!(timeout(REQUEST_TIMEOUT, request(address, port)).await, Ok(Ok(_)));
                    let request = Request { begun, done: now(), answered };
                    sink.lock().unwrap_or_else(PoisonError::into_inner).push(request);
                });
            }
        });
        Self { asked, task }
    }

    /// Requests begun since `start`, oldest first.
    pub fn since(&self, start: BootTime) -> Vec<Request> {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        asked.retain(|one| one.begun >= start);
        asked.sort_by_key(|one| one.begun);
        asked
    }

    /// The longest time without an answer since `start`, less the time between two requests.
    pub fn outage(&self, start: BootTime) -> Duration {
        let mut last = start;
        let mut longest = Duration::ZERO;
        let all = self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut done: Vec<BootTime> =
            all.iter().filter(|one| one.answered && one.done >= start).map(|one| one.done).collect();
        done.sort();
        for at in done {
            longest = longest.max(at.since(last));
            last = at;
        }
        longest.max(now().since(last)).saturating_sub(INTERVAL)
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.task.abort();
    }
}
