//! The only writer of addresses in a cluster.
//!
//! ```text
//! cluster ─► feed ─► term (owns the planner) ─► write ─► cluster
//!                      └─► events
//! ```
//!
//! `run` elects, and holds a [`term`] whenever this process leads.

pub mod events;
pub mod feed;
pub mod term;

use std::sync::Arc;
use std::time::Duration;

use kube_vip::cluster::write::{Subresource, Writer};
use kube_vip::cluster::{Api, Environment};
use kube_vip::config::Election;
use kube_vip::election::Settings;
use kube_vip::election::driver::{Driver, channels};
use kube_vip::election::elections::Config;
use kube_vip::model::hash::fnv1a;
use kube_vip::model::{Candidacy, CandidacyKind, GroupId, GroupPlan, LeaseName, Roles, VipPlan};
use kube_vip::net::clock;
use kube_vip::net::netlink::Netlink;
use kube_vip::telemetry::http::{ListenError, Page, listen};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cli::Options;
use crate::telemetry::Telemetry;
use term::Term;

/// How long the last Events may take.
const FAREWELL_PATIENCE: Duration = Duration::from_millis(800);
/// How long giving up the Lease may take.
const RELEASE_PATIENCE: Duration = Duration::from_secs(4);

/// Why the provider cannot run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The port is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The kernel refuses a timer or a signal handler.
    #[error("the kernel refuses a resource that the provider cannot do without: {0}")]
    Io(#[from] std::io::Error),
    /// The kernel does not say which interfaces there are.
    #[error("netlink: {0}")]
    Netlink(#[from] kube_vip::net::netlink::NetlinkError),
    /// There is no interface to ask DHCP servers on.
    #[error(
        "--dhcp-interface: there is no interface `{0}` here; there are: {1} (a pod needs hostNetwork to see those of its host)"
    )]
    NoLink(String, String),
    /// The election ended by itself.
    #[error("the election ended: {0}")]
    Election(String),
}

/// The right to give addresses.
pub enum Claim {
    /// Nobody else is there.
    Always,
    /// By election.
    Elected(GroupId, watch::Receiver<Roles>),
}

impl Claim {
    /// Whether it is valid now: asked wherever it is acted on.
    pub fn is_valid(&self) -> bool {
        match self {
            Self::Always => true,
            Self::Elected(group, roles) => {
                roles.borrow().get(group).is_some_and(|role| role.claim(clock::now()).is_some())
            }
        }
    }

    /// Until it may have changed.
    pub async fn changed(&mut self) {
        let gone = match self {
            Self::Always => true,
            Self::Elected(_, roles) => roles.changed().await.is_err(),
        };
        if gone {
            std::future::pending().await
        }
    }
}

/// A client for the cluster of these options.
pub fn api(options: &Options) -> Arc<Api> {
    let settings = kube_vip::config::Api {
        kubeconfig: options.kubeconfig.clone().unwrap_or_default(),
        address: options.server.clone(),
        detect: false,
        port: 6443,
    };
    let environment = Environment {
        home: std::env::var_os("HOME").map(Into::into),
        in_cluster: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|host| !host.is_empty()),
        ..Environment::default()
    };
    Api::new(settings, environment)
}

/// Run until SIGTERM or SIGINT.
///
/// # Errors
/// If something that cannot be retried fails.
pub async fn run(options: Options) -> Result<(), ControllerError> {
    if let Some(interface) = &options.dhcp_interface {
        check_interface(interface).await?;
    }
    let telemetry = Arc::new(Telemetry::new());
    let host = nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    tracing::info!(
        version = kube_vip::VERSION,
        build = kube_vip::BUILD,
        config_map = format!("{}/{}", options.config_map.0, options.config_map.1),
        class = ?options.class,
        "kube-vip-cloud-provider"
    );
    if let Some(address) = &options.http {
        let telemetry = telemetry.clone();
        listen("--http-port", address, move |path| page(&telemetry, path)).await?;
    }
    let api = api(&options);
    let (teller, events) = events::start(api.clone(), host.clone());
    let farewell = tokio::spawn(events);
    let (stop, mut stopping) = watch::channel(false);
    let (mut claim, election) = match &options.election {
        None => (Claim::Always, None),
        Some(election) => {
            let (release, released) = watch::channel(false);
            let (group, roles, running) = elect(election, &host, api.clone(), telemetry.clone(), released);
            (Claim::Elected(group, roles), Some((running, release)))
        }
    };
    tokio::spawn(stop_on_signal(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, stop));

    let writer = Arc::new(Writer::new("kube-vip-cloud-provider", Subresource::Object));
    while !*stopping.borrow() {
        if claim.is_valid() {
            tracing::info!("giving addresses from now on");
            let term = Term::new(&options, api.clone(), writer.clone(), telemetry.clone(), teller.clone());
            term.run(&mut claim, &mut stopping).await;
            tracing::info!("giving no addresses any more");
            continue;
        }
        tokio::select! {
            () = claim.changed() => {}
            _ = stopping.changed() => {}
        }
    }
    drop(teller);
    if let Some((running, release)) = election {
        // No write is in flight any more: another process may begin.
        release.send_replace(true);
        match timeout(RELEASE_PATIENCE, running).await {
            Ok(Ok(ended)) => ended?,
            Ok(Err(panic)) => return Err(ControllerError::Election(panic.to_string())),
            Err(_elapsed) => tracing::warn!("the Lease could not be given up in time"),
        }
    }
    drop(timeout(FAREWELL_PATIENCE, farewell).await);
    Ok(())
}

/// A wrong name is told before anything waits for an answer.
async fn check_interface(name: &str) -> Result<(), ControllerError> {
    let interfaces = Netlink::connect()?.interfaces().await?;
    if interfaces.iter().any(|interface| interface.name == name) {
        return Ok(());
    }
    let names: Vec<&str> = interfaces.iter().map(|interface| interface.name.as_str()).collect();
    Err(ControllerError::NoLink(name.to_owned(), names.join(", ")))
}

/// Starts the election of the leader.
fn elect(
    election: &Election,
    host: &str,
    api: Arc<Api>,
    telemetry: Arc<Telemetry>,
    stopping: watch::Receiver<bool>,
) -> (GroupId, watch::Receiver<Roles>, JoinHandle<std::io::Result<()>>) {
    // As in the Go program: a restarted process is another candidate.
    let identity = format!("{host}_{}", unique());
    let settings = Settings {
        seed: fnv1a(identity.as_bytes()),
        identity,
        lease_duration: election.lease_duration,
        renew_deadline: election.renew_deadline,
        retry_period: election.retry_period,
        annotations: Default::default(),
        provisional: false,
        resuming: false,
    };
    let lease = LeaseName { namespace: election.namespace.clone(), name: election.name.clone() };
    let group = GroupId::from(lease);
    let candidacy = Candidacy { eligible: true, kind: CandidacyKind::Controller, ..Candidacy::default() };
    let groups = [(group.clone(), GroupPlan { candidacy, ..GroupPlan::default() })].into();
    let (_, plan) = watch::channel(Arc::new(VipPlan { groups, ..VipPlan::default() }));
    let (_, drained) = watch::channel(false);
    let (channels, handles) = channels(plan, drained, stopping);
    let config = Config { settings, interface: Default::default(), hand_over_time: Duration::ZERO };
    let (driver, events) = Driver::new(config, api, telemetry, channels);
    (group, handles.roles, tokio::spawn(driver.run(events)))
}

/// The kernel's random UUID; where there is none, what tells this process from others well enough.
fn unique() -> String {
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").map(|uuid| uuid.trim().to_owned());
    random.unwrap_or_else(|_| format!("{}-{}", std::process::id(), clock::now().since_boot().as_nanos()))
}

async fn stop_on_signal(
    mut terminate: tokio::signal::unix::Signal,
    mut interrupt: tokio::signal::unix::Signal,
    stop: watch::Sender<bool>,
) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("asked to stop");
    stop.send_replace(true);
    // Whoever listens learns of it even if this task is the last to know the channel.
    std::future::pending::<()>().await;
}

fn page(telemetry: &Telemetry, path: &str) -> Page {
    match path {
        "/metrics" => Page::metrics(telemetry.metrics()),
        "/healthz" => Page::found("text/plain", "OK".to_owned()),
        "/readyz" => Page::probe(telemetry.ready()),
        _ => Page::missing(),
    }
}
