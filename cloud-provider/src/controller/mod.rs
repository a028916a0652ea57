//! The only writer of allocations in a cluster.
//!
//! ```text
//! cluster ─► watches ─► driver ─► writes, events ─► cluster
//!                       │    ▲
//!                       ▼    │
//!                    leader_session (pure; owns the planner)
//! ```
//!
//! [`run`] takes part in the election, and drives a [`leader_session`] whenever this process leads.

pub mod driver;
pub mod events;
pub mod leader_session;
pub mod watches;

use std::sync::Arc;
use std::time::Duration;

use kube_vip::cluster::write::{Subresource, Writer};
use kube_vip::cluster::{Api, Environment};
use kube_vip::config::Election;
use kube_vip::config::api::Names;
use kube_vip::election::channels::channels;
use kube_vip::election::driver as election_driver;
use kube_vip::election::elections::Config;
use kube_vip::election::{Candidate, Settings};
use kube_vip::host::{HostWatch, Observer};
use kube_vip::model::hash::fnv1a;
use kube_vip::model::{Candidacy, CandidacyKind, GroupId, GroupPlan, Roles, Tags, VipPlan};
use kube_vip::net::machine::host_id;
use kube_vip::net::{clock, thread};
use kube_vip::telemetry::endpoints::health;
use kube_vip::telemetry::http::{self, Page, PortProblems};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::cli::Options;
use crate::telemetry::Telemetry;
use driver::Driver;

/// The name in `managedFields`.
const MANAGER: &str = "kube-vip-cloud-provider";

/// For the last Events at shutdown.
const EVENTS_TIMEOUT: Duration = Duration::from_millis(800);
/// For the release of the Lease at shutdown.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(4);

#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// Of a timer or a signal handler.
    #[error("cannot create a required kernel resource: {0}")]
    Io(#[from] std::io::Error),
    #[error("netlink: {0}")]
    Netlink(#[from] kube_vip::net::netlink::NetlinkError),
    #[error(
        "--dhcp-interface: there is no interface `{0}` here; there are: {1} (a pod needs hostNetwork to use those of its host)"
    )]
    NoInterface(String, String),
    #[error("the election ended: {0}")]
    Election(String),
}

/// The right to allocate addresses.
pub enum Leadership {
    /// Without an election.
    Always,
    Elected(GroupId, watch::Receiver<Roles>),
}

impl Leadership {
    /// Whether it is valid now. Checked before every decision.
    pub fn is_valid(&self) -> bool {
        match self {
            Self::Always => true,
            Self::Elected(group, roles) => {
                roles.borrow().get(group).is_some_and(|role| role.claim(clock::now()).is_some())
            }
        }
    }

    /// Returns when it may have changed.
    pub async fn changed(&mut self) {
        let final_value = match self {
            Self::Always => true,
            Self::Elected(_, roles) => roles.changed().await.is_err(),
        };
        if final_value {
            std::future::pending().await
        }
    }
}

/// Access to the cluster of these options.
pub fn api(options: &Options) -> Arc<Api> {
    let settings = kube_vip::config::Api {
        kubeconfig: options.kubeconfig.clone().unwrap_or_default(),
        address: options.server.clone(),
        detect: false,
        port: 6443,
        names: Names { kubeconfig: "--kubeconfig", address: "--master" },
    };
    let environment = Environment {
        home: std::env::var_os("HOME").map(Into::into),
        in_cluster: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|host| !host.is_empty()),
        ..Environment::default()
    };
    Api::new(settings, environment)
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// If something fails that cannot be retried.
pub async fn run(options: Options) -> Result<(), ControllerError> {
    let dhcp_host = match &options.dhcp_interface {
        Some(interface) => Some((interface.clone(), observe_host(interface).await?)),
        None => None,
    };
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
        let pages = move |path: &str| respond(&telemetry, path);
        tokio::spawn(http::serve("--http-port", address.clone(), PortProblems::default(), pages));
    }
    let api = api(&options);
    let (events, recorder) = events::start(api.clone(), &host);
    let recorder = tokio::spawn(recorder);
    let (stop, mut stopping) = watch::channel(false);
    let (mut leadership, election) = match &options.election {
        None => (Leadership::Always, None),
        Some(election) => {
            let (release, released) = watch::channel(false);
            let (group, roles, running) = elect(election, &host, &api, telemetry.clone(), released)?;
            (Leadership::Elected(group, roles), Some((running, release)))
        }
    };
    tokio::spawn(stop_on_signal(signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, stop));

    let writer = Arc::new(Writer::new(MANAGER, Subresource::Object));
    while !*stopping.borrow() {
        if leadership.is_valid() {
            tracing::info!("leading: allocating addresses");
            let driver =
                Driver::new(&options, api.clone(), writer.clone(), telemetry.clone(), events.clone());
            let driver = driver.with_dhcp(dhcp_host.clone());
            driver.run(&mut leadership, &mut stopping).await?;
            tracing::info!("not leading any more");
            continue;
        }
        tokio::select! {
            () = leadership.changed() => {}
            _ = stopping.changed() => {}
        }
    }
    drop(events);
    if let Some((running, release)) = election {
        // No write is in flight any more: another process may begin.
        release.send_replace(true);
        match timeout(RELEASE_TIMEOUT, running).await {
            Ok(Ok(ended)) => ended?,
            Ok(Err(panic)) => return Err(ControllerError::Election(panic.to_string())),
            Err(_elapsed) => tracing::warn!("the Lease could not be released in time"),
        }
    }
    drop(timeout(EVENTS_TIMEOUT, recorder).await);
    Ok(())
}

/// Observes the interfaces of the host. Fails at once if the one for DHCP is missing.
async fn observe_host(interface: &str) -> Result<HostWatch, ControllerError> {
    let observer = Observer::start(None, Tags::default()).await?;
    let host = observer.subscribe();
    if host.borrow().interface(interface).is_none() {
        let names = host.borrow().interface_names();
        return Err(ControllerError::NoInterface(interface.to_owned(), names));
    }
    tokio::spawn(observer.run());
    Ok(host)
}

/// The election runs on a thread of its own: the work for thousands of Services delays no renewal.
fn elect(
    election: &Election,
    host: &str,
    api: &Api,
    telemetry: Arc<Telemetry>,
    stopping: watch::Receiver<bool>,
) -> std::io::Result<(GroupId, watch::Receiver<Roles>, JoinHandle<std::io::Result<()>>)> {
    // As in the Go program, a restarted process is another candidate.
    let identity = format!("{host}_{}", unique());
    let settings = Settings {
        seed: fnv1a(identity.as_bytes()),
        candidate: Candidate { identity, host: host_id() },
        lease_duration: election.lease_duration,
        renew_deadline: election.renew_deadline,
        retry_period: election.retry_period,
        annotations: Default::default(),
        provisional: false,
        resuming: false,
    };
    let group = GroupId::from(election.lease.clone());
    let candidacy = Candidacy { eligible: true, kind: CandidacyKind::Controller, ..Candidacy::default() };
    let groups = [(group.clone(), GroupPlan { candidacy, ..GroupPlan::default() })].into();
    let (_, plan) = watch::channel(Arc::new(VipPlan { groups, ..VipPlan::default() }));
    let (_, drained) = watch::channel(false);
    let (channels, handles) = channels(plan, watch::Sender::default(), drained, stopping);
    let config =
        Config { settings, interface: Default::default(), hand_over_time: Duration::ZERO, scheme: None };
    let driver = election_driver::Driver::new(config, api.with_own_connections(), telemetry, channels);
    Ok((group, handles.roles, thread::start("elections")?.spawn(driver.run())))
}

/// A random UUID of the kernel; without one, process id and uptime.
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
    tracing::info!("received a signal to stop");
    stop.send_replace(true);
    // Keeps the sender: receivers see the value only while the channel is open.
    std::future::pending::<()>().await;
}

fn respond(telemetry: &Telemetry, path: &str) -> Page {
    match path {
        "/metrics" => Page::metrics(telemetry.metrics()),
        _ => health(path, || Ok(()), || telemetry.ready()),
    }
}
