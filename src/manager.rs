//! The daemon: starts everything in order, and stops it in order.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::api::{Api, Environment};
use crate::config::{Config, Target};
use crate::health::driver::Report;
use crate::leader::driver::LeaseName;
use crate::leader::elector::{DrainReason, Input};
use crate::leader::{self, Health, Settings};
use crate::model::hash::fnv1a;
use crate::model::{BootTime, Link};
use crate::net::clock;
use crate::net::netlink::{Netlink, NetlinkError};
use crate::reconcile::driver::left_over;
use crate::telemetry::events::{Reporter, label_value};
use crate::telemetry::http::{ListenError, listen};
use crate::telemetry::{Telemetry, pages, status};
use crate::{api, health, reconcile, resolve};

/// How long the whole exit may take.
const EXIT_PATIENCE: Duration = Duration::from_millis(4500);
/// How long the last Events and labels may take.
const FAREWELL_PATIENCE: Duration = Duration::from_millis(800);
/// A link that is down for this long counts as a failure of this host.
const LINK_PATIENCE: Duration = Duration::from_secs(1);

/// Why the daemon cannot run, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// A port is taken.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The kernel refuses to talk.
    #[error("netlink: {0}")]
    Netlink(#[from] NetlinkError),
    /// The kernel refuses a timer, a socket or a signal handler.
    #[error("the kernel refuses a resource that kube-vip cannot do without: {0}")]
    Io(#[from] std::io::Error),
    /// There is no link to put the VIP on.
    #[error("there is no default route, so set `vip_interface` to the link for the VIP; this host has: {0}")]
    NoLink(String),
    /// The health check cannot be made.
    #[error(transparent)]
    Check(#[from] health::driver::CheckError),
    /// A part that all depend on ended.
    #[error("{0} ended: {1}")]
    Ended(&'static str, String),
}

/// Run until SIGTERM or SIGINT.
///
/// # Errors
/// If something that cannot be retried fails. What is held is then left to the kernel's lifetimes.
pub async fn run(config: Config) -> Result<(), ManagerError> {
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    let (netlink, changes) = Netlink::open()?;
    let link = choose_link(&config, &netlink).await?;
    let lease =
        LeaseName { namespace: config.election.namespace.clone(), name: config.election.name.clone() };
    let lease_text = format!("{}/{}", lease.namespace, lease.name);
    let (telemetry, notices) = Telemetry::new(&config.node_name, &lease_text, config.mode.name());
    tracing::info!(version = crate::VERSION, build = crate::BUILD, "kube-vip.io");
    tracing::info!(
        namespace = config.election.namespace,
        Mode = config.mode.name(),
        node = config.node_name,
        link = link.name,
        "starting"
    );
    if let Some(address) = &config.telemetry.metrics {
        let telemetry = telemetry.clone();
        listen("prometheus_server", address, move |path| pages::metrics(&telemetry, path)).await?;
    }
    if let Some(port) = config.telemetry.health_port {
        let telemetry = telemetry.clone();
        let address = format!("[::]:{port}");
        listen("health_check_port", &address, move |path| pages::health(&telemetry, path)).await?;
    }

    let vips = resolve::fixed(&config.targets, config.prefixes);
    let addresses = netlink.addresses().await?;
    let api = Api::new(config.api.clone(), environment(&config, &vips, &addresses));
    let settings = Settings {
        identity: config.node_name.clone(),
        lease_duration: config.election.lease_duration,
        renew_deadline: config.election.renew_deadline,
        retry_period: config.election.retry_period,
        annotations: config.election.annotations.clone(),
        provisional: true,
        resuming: left_over(&addresses, &vips),
        seed: fnv1a(config.node_name.as_bytes()),
    };
    let (health_in, health_out) = watch::channel(Report::default());
    let (combined_in, combined) = watch::channel(Report::default());
    let (vips_in, vips_out) = watch::channel(vips);
    let (link_in, link_down) = watch::channel(None);
    let (election, handles) =
        leader::driver::Driver::new(settings, lease, api.clone(), combined, telemetry.clone());
    let commands = handles.commands.clone();
    let channels = reconcile::driver::Channels {
        standing: handles.standing,
        vips: vips_out,
        asks: handles.asks,
        commands: handles.commands,
        link_down: link_in,
    };
    let reconciler = reconcile::driver::Driver::new(
        options(&config, &link),
        channels,
        telemetry.clone(),
        netlink,
        changes,
    );
    let prober = health::driver::Driver::new(&config.health, api.clone(), handles.probe_health, health_in)?;
    let reporter = reporter(&config, api.clone());

    let mut parts: JoinSet<(&'static str, std::io::Result<()>)> = JoinSet::new();
    let host = tokio::spawn(reconciler.run());
    parts.spawn(async move { ("the election", election.run().await) });
    parts.spawn(forever("the status socket", status::serve(telemetry.clone(), commands.clone())));
    tokio::spawn(prober.run());
    tokio::spawn(judge(
        config.layer2.clone(),
        health_out,
        link_down,
        combined_in,
        commands.clone(),
        telemetry.clone(),
    ));
    tokio::spawn(resolve::run(config.targets.clone(), config.prefixes, config.dns_mode, vips_in));
    tokio::spawn(api::peers::follow(api));
    let farewell = tokio::spawn(reporter.run(notices));

    let stopped = wait(&mut parts, &commands, &config, &telemetry).await;
    // The election has ended: the host is cleaned up, then the last Events go out.
    let cleaned = timeout(EXIT_PATIENCE, host).await;
    telemetry.close();
    parts.abort_all();
    drop(timeout(FAREWELL_PATIENCE, farewell).await);
    stopped?;
    match cleaned {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(error))) => Err(error.into()),
        Ok(Err(panic)) => Err(ManagerError::Ended("the main loop", panic.to_string())),
        Err(_) => Err(ManagerError::Ended("the main loop", "it did not finish in time".into())),
    }
}

async fn forever(
    what: &'static str,
    part: impl Future<Output = std::io::Result<()>>,
) -> (&'static str, std::io::Result<()>) {
    (what, part.await)
}

/// Until a signal asks for the end and the election has given up the Lease, or a part fails.
async fn wait(
    parts: &mut JoinSet<(&'static str, std::io::Result<()>)>,
    commands: &mpsc::Sender<Input>,
    config: &Config,
    telemetry: &Arc<Telemetry>,
) -> Result<(), ManagerError> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut dump = signal(SignalKind::user_defined1())?;
    let mut stopping = false;
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            _ = dump.recv() => {
                print!("{}", crate::dump::text(config, &telemetry.status(clock::now())));
                continue;
            }
            ended = parts.join_next() => {
                return match ended {
                    Some(Ok((_, Ok(())))) if stopping => Ok(()),
                    Some(Ok((what, Ok(())))) => Err(ManagerError::Ended(what, "nobody asked it to".into())),
                    Some(Ok((what, Err(error)))) => Err(ManagerError::Ended(what, error.to_string())),
                    Some(Err(panic)) => Err(ManagerError::Ended("a task", panic.to_string())),
                    None => Ok(()),
                };
            }
        }
        if !stopping {
            tracing::info!("asked to stop");
            stopping = true;
            // The queue is only closed when the election has ended.
            commands.send(Input::Stop).await.ok();
        }
    }
}

/// The link for the VIP: the configured one, else the default route's.
async fn choose_link(config: &Config, netlink: &Netlink) -> Result<Link, ManagerError> {
    let links = netlink.links().await?;
    let found = match &config.interface {
        Some(name) => links.iter().find(|link| link.name == *name),
        None => {
            let index = netlink.default_route_link().await?;
            links.iter().find(|link| Some(link.index) == index)
        }
    };
    let names = || links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>().join(", ");
    found.cloned().ok_or_else(|| ManagerError::NoLink(names()))
}

fn environment(
    config: &Config,
    vips: &BTreeSet<crate::model::Vip>,
    addresses: &[reconcile::diff::ActualAddress],
) -> Environment {
    Environment {
        home: std::env::var_os("HOME").map(Into::into),
        in_cluster: std::env::var_os("KUBERNETES_SERVICE_HOST").is_some_and(|host| !host.is_empty()),
        control_plane: !config.targets.is_empty(),
        vips: vips.iter().map(|vip| vip.address).collect(),
        own: addresses.iter().map(|address| address.vip.address).collect(),
    }
}

fn options(config: &Config, link: &Link) -> reconcile::driver::Options {
    reconcile::driver::Options {
        link: link.name.clone(),
        preserve: config.layer2.preserve,
        skip_dad: config.layer2.skip_dad,
        lo_global: config.layer2.lo_global,
        refresh: config.layer2.announce_every.unwrap_or(crate::announce::schedule::REFRESH),
    }
}

fn reporter(config: &Config, api: Arc<Api>) -> Reporter {
    let shown = |target: &Target| match target {
        Target::Ip(address) => address.to_string(),
        Target::Name(name) => name.clone(),
    };
    let addresses: Vec<IpAddr> =
        resolve::fixed(&config.targets, config.prefixes).iter().map(|vip| vip.address).collect();
    Reporter {
        api,
        node: config.node_name.clone(),
        vips: config.targets.iter().map(shown).collect::<Vec<_>>().join(", "),
        label: config.telemetry.label_node.then(|| label_value(&addresses)),
    }
}

/// Brings the API server's health and the link's state together, for the election.
async fn judge(
    layer2: crate::config::Layer2,
    mut health: watch::Receiver<Report>,
    mut link_down: watch::Receiver<Option<BootTime>>,
    combined: watch::Sender<Report>,
    commands: mpsc::Sender<Input>,
    telemetry: Arc<Telemetry>,
) {
    let mut given_up = false;
    loop {
        let report = *health.borrow_and_update();
        let down_for = (*link_down.borrow_and_update()).map(|since| clock::now().since(since));
        let cut_off = !layer2.tolerate_down && down_for.is_some_and(|down| down >= LINK_PATIENCE);
        let local = if cut_off { Health::Failing } else { report.local };
        telemetry.health(local);
        // Whoever has no link cannot ask the others; that they are better is a safe guess.
        let new = Report { local, peer_serving: report.peer_serving || cut_off };
        combined.send_if_modified(|before| std::mem::replace(before, new) != new);
        let give_up = layer2
            .give_up_when_down_for
            .is_some_and(|patience| down_for.is_some_and(|down| down >= patience));
        if give_up != given_up {
            given_up = give_up;
            let command = if give_up {
                Input::Drain(DrainReason::LinkDown)
            } else {
                Input::Undrain(DrainReason::LinkDown)
            };
            if commands.send(command).await.is_err() {
                return;
            }
        }
        let tick = async {
            match down_for {
                Some(_) => tokio::time::sleep(Duration::from_millis(250)).await,
                None => std::future::pending().await,
            }
        };
        let alive = tokio::select! {
            changed = health.changed() => changed.is_ok(),
            changed = link_down.changed() => changed.is_ok(),
            () = tick => true,
        };
        if !alive {
            return;
        }
    }
}
