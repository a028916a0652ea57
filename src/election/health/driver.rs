//! Probes the API server on this host and, while it fails, those of other hosts.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::Report;
use super::tracker::{HealthTracker, Input, Output, ProbeResult, Threshold};
use crate::cluster::{Api, ApiClient};
use crate::election::elections;
use crate::model::{Family, Health};
use crate::net::clock::{self, Timer};
use crate::net::https::{ClientError, client};

/// Interval of probes of /livez.
const INTERVAL: Duration = Duration::from_millis(250);
const TIMEOUT: Duration = Duration::from_millis(500);
const THRESHOLD: Threshold = Threshold { failures: 2, silence: Duration::from_millis(900) };

/// The task.
pub struct Driver {
    api: Arc<Api>,
    active: watch::Receiver<bool>,
    inputs: mpsc::Sender<elections::Input>,
    probe: Probe,
    timeout: Duration,
    timer: Timer,
    tracker: HealthTracker,
}

#[derive(Debug)]
enum Probe {
    /// /livez, by an address of this family if given.
    Livez(Option<Family>),
    Url {
        url: String,
        client: reqwest::Client,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("control_plane_health_check_ca_path: {0}")]
    Client(#[from] ClientError),
    #[error("cannot create a timer for health checks: {0}")]
    Timer(#[from] std::io::Error),
}

impl Driver {
    /// A driver for the configured check; without a URL the server is probed by an address of `family`.
    ///
    /// # Errors
    /// If the CA file cannot be used.
    pub fn new(
        config: &crate::config::Health,
        family: Option<Family>,
        api: Arc<Api>,
        active: watch::Receiver<bool>,
        inputs: mpsc::Sender<elections::Input>,
    ) -> Result<Self, CheckError> {
        let (probe, period, timeout, threshold) = match config {
            crate::config::Health::Local => (Probe::Livez(family), INTERVAL, TIMEOUT, THRESHOLD),
            crate::config::Health::Url { url, period, timeout, threshold, ca } => {
                let probe = Probe::Url { url: url.clone(), client: client(ca.as_deref())? };
                let threshold = Threshold { failures: *threshold, silence: Duration::ZERO };
                (probe, *period, *timeout, threshold)
            }
        };
        let tracker = HealthTracker::new(threshold, period);
        Ok(Self { api, active, inputs, probe, timeout, timer: Timer::new()?, tracker })
    }

    /// Runs until the receiver of its reports is gone.
    pub async fn run(mut self) {
        let mut local = Health::default();
        // Probes that time out may follow each other without a pause.
        while !self.inputs.is_closed() {
            let active = *self.active.borrow_and_update();
            self.tracker.handle_input(clock::now(), Input::Active(active));
            let result = match self.tracker.poll_output() {
                Some(Output::ProbeLocal) => {
                    let result = timeout(self.timeout, self.probe()).await;
                    Input::Local(result.unwrap_or(ProbeResult::Failed))
                }
                Some(Output::ProbePeers) => Input::Peers(self.probe_peers().await),
                Some(Output::Report(report)) => {
                    let before = std::mem::replace(&mut local, report.local);
                    self.report(before, report).await;
                    continue;
                }
                None => {
                    tokio::select! {
                        changed = self.active.changed() => if changed.is_err() { break },
                        () = self.inputs.closed() => break,
                        () = self.timer.until(self.tracker.poll_timeout()) => {}
                    }
                    continue;
                }
            };
            self.tracker.handle_input(clock::now(), result);
        }
    }

    async fn report(&self, before: Health, report: Report) {
        let family = self.family();
        if before != report.local {
            let family = family.map(tracing::field::display);
            tracing::info!(from = ?before, to = ?report.local, family, "the health of the local API server changed");
        }
        self.inputs.send(elections::Input::Health(family, report)).await.ok();
    }

    fn family(&self) -> Option<Family> {
        match self.probe {
            Probe::Livez(family) => family,
            Probe::Url { .. } => None,
        }
    }

    async fn probe(&self) -> ProbeResult {
        match &self.probe {
            Probe::Livez(family) => match self.api.local_client(*family).await {
                Ok(local) => get(&local, "/livez").await,
                Err(_) => ProbeResult::Failed,
            },
            Probe::Url { url, client } => match client.get(url).send().await {
                Ok(response) if response.status() == reqwest::StatusCode::OK => ProbeResult::Alive,
                _ => ProbeResult::Failed,
            },
        }
    }

    /// Whether any other server is ready.
    async fn probe_peers(&self) -> bool {
        let peers = self.api.peers();
        let probes: FuturesUnordered<_> = peers
            .iter()
            .map(|peer| async { timeout(TIMEOUT, get(peer, "/readyz")).await == Ok(ProbeResult::Alive) })
            .collect();
        probes.any(|ready| async move { ready }).await
    }
}

async fn get(server: &ApiClient, path: &str) -> ProbeResult {
    let Ok(request) = http::Request::get(path).body(Vec::new()) else { return ProbeResult::Failed };
    match server.client.request_text(request).await {
        Ok(_) => ProbeResult::Alive,
        Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => ProbeResult::Refused,
        Err(_) => ProbeResult::Failed,
    }
}
