//! `kube-vip status`: who holds what, since when, until when, and why not here.
//!
//! The running process answers on a socket in the abstract namespace. Such a name belongs to the network
//! namespace, needs no file system, and goes with the process; only root may ask.

use std::collections::BTreeMap;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener as StdListener, UnixStream as StdStream};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

use super::Telemetry;
use super::bgp;
use crate::bgp::status::PeerStatus;
use crate::dhcp::status::LeaseStatus;
use crate::model::BootTime;
use crate::model::{ClaimSource, Role};
use crate::net::clock;

/// The names of the sockets begin with this; the process id follows.
const PREFIX: &str = "kube-vip/";
const PATIENCE: Duration = Duration::from_secs(2);

/// What a process knows of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// Version of the process.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Its node.
    pub node: String,
    /// How it announces.
    pub mode: String,
    /// Namespace and name of the Lease; empty where nobody is elected.
    pub lease: String,
    /// Whom the Lease names.
    pub holder: Option<String>,
    /// How often it changed hands.
    pub transitions: i32,
    /// `starting`, `following`, `holding`, `holding provisionally`, `leaving`.
    pub role: String,
    /// For how many seconds that has been so.
    pub for_seconds: f64,
    /// For how many seconds the claim is still good.
    pub claim_remaining_seconds: Option<f64>,
    /// What is held and announced here.
    pub addresses: Vec<Held>,
    /// Services that are looked after.
    #[serde(default)]
    pub services: usize,
    /// DHCP leases of Services and of the control plane.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leases: Vec<LeaseStatus>,
    /// Gateways of the network and their ports, each in a line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    /// Names that this node tells by mDNS, each in a line.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// BGP peers, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub peers: BTreeMap<String, PeerStatus>,
    /// The local API server: `unknown`, `serving`, `refusing`, `failing`.
    pub api_server: String,
    /// What is wrong with the API server at the moment.
    pub trouble: Option<String>,
    /// What keeps this host from holding the VIP.
    pub obstacle: Option<String>,
    /// The host was made as desired at least once.
    pub reconciled: bool,
    #[serde(skip)]
    pub(super) heartbeat: BootTime,
    #[serde(skip)]
    since: BootTime,
    #[serde(skip)]
    valid_until: Option<BootTime>,
}

/// An address that this host holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// With its prefix length.
    pub address: String,
    /// The interface it is on.
    pub interface: String,
    /// Whether it is announced.
    pub announced: bool,
}

impl Status {
    pub(super) fn new(node: &str, lease: &str, mode: &str) -> Self {
        Self {
            version: crate::VERSION.to_owned(),
            pid: std::process::id(),
            node: node.to_owned(),
            mode: mode.to_owned(),
            lease: lease.to_owned(),
            holder: None,
            transitions: 0,
            role: "starting".to_owned(),
            for_seconds: 0.0,
            claim_remaining_seconds: None,
            addresses: Vec::new(),
            services: 0,
            leases: Vec::new(),
            gateways: Vec::new(),
            names: Vec::new(),
            peers: BTreeMap::new(),
            api_server: "unknown".to_owned(),
            trouble: None,
            obstacle: None,
            reconciled: false,
            heartbeat: clock::now(),
            since: clock::now(),
            valid_until: None,
        }
    }

    pub(super) fn set_role(&mut self, role: &Role, now: BootTime) {
        let word = match role {
            Role::Starting => "starting",
            Role::Follower { .. } => "following",
            Role::Leader(claim) if claim.source == ClaimSource::Provisional => "holding provisionally",
            Role::Leader(_) => "holding",
            Role::HandingOver { .. } => "leaving",
        };
        if self.role != word {
            self.role = word.to_owned();
            self.since = now;
        }
        self.valid_until = role.claim(now).map(|claim| claim.valid_until);
    }

    /// Fill in what depends on the moment of asking.
    pub(super) fn measure(&mut self, now: BootTime) {
        self.for_seconds = now.since(self.since).as_secs_f64();
        self.peers.values_mut().for_each(|peer| peer.update_duration(now));
        self.claim_remaining_seconds = self.valid_until.map(|until| until.since(now).as_secs_f64());
    }

    /// For how long the main loop has made no round.
    pub fn silent_for(&self, now: BootTime) -> Duration {
        now.since(self.heartbeat)
    }

    /// For people.
    pub fn to_text(&self) -> String {
        use std::fmt::Write;
        let mut text = String::new();
        let holder = self.holder.as_deref().unwrap_or("nobody");
        let mut line = |name: &str, value: String| {
            let _infallible = writeln!(text, "{name:<12} {value}");
        };
        line("process", format!("kube-vip {}, pid {}, mode {}", self.version, self.pid, self.mode));
        line("node", self.node.clone());
        if self.is_elected() {
            line("role", format!("{} for {:.1} s", self.role, self.for_seconds));
            line("lease", format!("{}: held by {holder}, {} transitions", self.lease, self.transitions));
        } else {
            line("election", "none: every node announces what it can serve".to_owned());
        }
        if let Some(remaining) = self.claim_remaining_seconds {
            line("claim", format!("good for {remaining:.1} s without another renewal"));
        }
        for held in &self.addresses {
            let announced = if held.announced { "announced" } else { "silent" };
            line("address", format!("{} on {}, {announced}", held.address, held.interface));
        }
        if self.services > 0 {
            line("Services", self.services.to_string());
        }
        for lease in &self.leases {
            line("DHCP", lease.line());
        }
        for gateway in &self.gateways {
            line("gateway", gateway.clone());
        }
        for name in &self.names {
            line("name", name.clone());
        }
        for peer in self.peers.values() {
            line("BGP peer", bgp::text(peer));
        }
        line("API server", self.api_server.clone());
        if let Some(trouble) = &self.trouble {
            line("trouble", trouble.clone());
        }
        if let Some(why) = self.why_not_here() {
            line("why not here", why);
        }
        text
    }

    /// Whether there is a Lease that says who announces.
    fn is_elected(&self) -> bool {
        !self.lease.is_empty()
    }

    fn why_not_here(&self) -> Option<String> {
        if let Some(obstacle) = &self.obstacle {
            return Some(obstacle.clone());
        }
        match self.role.as_str() {
            "following" if !self.is_elected() => {
                Some("the API server on this host does not answer, or the host is drained".to_owned())
            }
            _ if !self.is_elected() => None,
            "following" => Some(match &self.holder {
                Some(holder) if *holder == self.node => "the claim ran out; waiting for a renewal".to_owned(),
                Some(holder) => format!("{holder} holds it"),
                None => "nobody holds it; waiting for the API server".to_owned(),
            }),
            "starting" => Some("the Lease could not be read yet".to_owned()),
            _ => None,
        }
    }
}

/// Answers questions until the process ends: `status`, `drain`, `undrain`, each a line.
pub async fn serve(telemetry: Arc<Telemetry>, drained: Arc<watch::Sender<bool>>) -> std::io::Result<()> {
    let name = format!("{PREFIX}{}", std::process::id());
    let listener = StdListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
    listener.set_nonblocking(true)?;
    let listener = UnixListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let (telemetry, drained) = (telemetry.clone(), drained.clone());
        tokio::spawn(tokio::time::timeout(PATIENCE, answer(stream, telemetry, drained)));
    }
}

async fn answer(stream: UnixStream, telemetry: Arc<Telemetry>, drained: Arc<watch::Sender<bool>>) {
    let privileged = stream.peer_cred().is_ok_and(|peer| peer.uid() == 0);
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    // Whoever goes away before the answer does not want it.
    let Ok(_) = BufReader::new(read).read_line(&mut line).await else { return };
    match line.trim() {
        _ if !privileged => return,
        "drain" => drop(drained.send_replace(true)),
        "undrain" => drop(drained.send_replace(false)),
        _ => {}
    }
    let mut status = telemetry.status(clock::now());
    if line.trim() == "bgp-routes" {
        for mut peer in telemetry.peers_with_routes().await {
            peer.update_duration(clock::now());
            status.peers.insert(peer.peer.clone(), peer);
        }
    }
    if let Ok(json) = serde_json::to_string(&status) {
        write.write_all(json.as_bytes()).await.ok();
    }
}

/// Ask every kube-vip process of this host (network namespace).
///
/// # Errors
/// If /proc/net/unix cannot be read.
pub fn ask(question: &str) -> std::io::Result<Vec<Status>> {
    use std::io::{Read, Write};
    let table = std::fs::read_to_string("/proc/net/unix")?;
    let names: std::collections::BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.split_whitespace().last()?.strip_prefix('@'))
        .filter(|name| name.starts_with(PREFIX))
        .collect();
    let ask_one = |name: &str| -> std::io::Result<Status> {
        let mut stream = StdStream::connect_addr(&SocketAddr::from_abstract_name(name)?)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(format!("{question}\n").as_bytes())?;
        let mut json = String::new();
        stream.read_to_string(&mut json)?;
        serde_json::from_str(&json).map_err(std::io::Error::other)
    };
    Ok(names.into_iter().filter_map(|name| ask_one(name).ok()).collect())
}
