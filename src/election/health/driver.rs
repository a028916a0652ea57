//! Probes the API server on this host and, while it fails, those of other hosts.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::Report;
use super::tracker::{HealthTracker, ProbeResult, Threshold};
use crate::cluster::{Api, ApiClient};
use crate::election::elections::Input;
use crate::model::{Family, Health};
use crate::net::clock;
use crate::net::https::{ClientError, client};

/// Interval of probes of /livez.
const INTERVAL: Duration = Duration::from_millis(250);
const TIMEOUT: Duration = Duration::from_millis(500);
const THRESHOLD: Threshold = Threshold { failures: 2, silence: Duration::from_millis(900) };

/// Probes while `active`.
pub struct Driver {
    api: Arc<Api>,
    active: watch::Receiver<bool>,
    inputs: mpsc::Sender<Input>,
    reported: Report,
    probe: Probe,
    period: Duration,
    patience: Duration,
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

/// Why the configured health check cannot run.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("control_plane_health_check_ca_path: {0}")]
    Client(#[from] ClientError),
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
        inputs: mpsc::Sender<Input>,
    ) -> Result<Self, CheckError> {
        let (probe, period, patience, threshold) = match config {
            crate::config::Health::Local => (Probe::Livez(family), INTERVAL, TIMEOUT, THRESHOLD),
            crate::config::Health::Url { url, period, timeout, threshold, ca } => {
                let probe = Probe::Url { url: url.clone(), client: client(ca.as_deref())? };
                let threshold = Threshold { failures: *threshold, silence: Duration::ZERO };
                (probe, *period, *timeout, threshold)
            }
        };
        Ok(Self {
            api,
            active,
            inputs,
            reported: Report::default(),
            probe,
            period,
            patience,
            tracker: HealthTracker::new(threshold),
        })
    }

    /// Runs until the receiver of its reports is gone.
    pub async fn run(mut self) {
        loop {
            // A failed server is probed until it is back, whichever host holds the VIP by then.
            if !*self.active.borrow_and_update() && self.tracker.health() != Health::Failing {
                self.tracker.pause();
                if self.active.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let started = clock::now();
            let next = tokio::time::Instant::now() + self.period;
            let outcome = timeout(self.patience, self.probe()).await.unwrap_or(ProbeResult::Failed);
            let before = self.tracker.health();
            let local = self.tracker.handle_outcome(started, clock::now(), outcome);
            if before != local {
                let family = self.family().map(tracing::field::display);
                tracing::info!(from = ?before, to = ?local, family, "the health of the local API server changed");
            }
            let peer_serving = local == Health::Failing && self.probe_peers().await;
            let report = Report { local, peer_serving };
            let changed = std::mem::replace(&mut self.reported, report) != report;
            if changed && self.inputs.send(Input::Health(self.family(), report)).await.is_err() {
                return;
            }
            if self.inputs.is_closed() {
                return;
            }
            tokio::time::sleep_until(next).await;
        }
    }

    fn family(&self) -> Option<Family> {
        match self.probe {
            Probe::Livez(family) => family,
            Probe::Url { .. } => None,
        }
    }

    async fn probe(&self) -> ProbeResult {
        match &self.probe {
            Probe::Livez(family) => {
                let client = match family {
                    Some(family) => self.api.local_client_by(*family).await,
                    None => self.api.local_client().await,
                };
                match client {
                    Ok(local) => get(&local, "/livez").await,
                    Err(_) => ProbeResult::Failed,
                }
            }
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
