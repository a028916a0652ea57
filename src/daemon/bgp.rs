//! Starts and stops the BGP speaker.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::DaemonError;
use crate::bgp::packet::Cease;
use crate::bgp::peers;
use crate::bgp::speaker::{Channels, ShutdownReason, Speaker};
use crate::bgp::status::StatusPublisher;
use crate::cluster::Api;
use crate::config::{Bgp, Config};
use crate::model::AdvertisedRoutes;
use crate::net::netlink::Netlink;
use crate::telemetry::Telemetry;

/// Limit for passing on the last session Events.
const EVENTS_TIMEOUT: Duration = Duration::from_millis(200);

pub(super) struct Running {
    shutdown: watch::Sender<ShutdownReason>,
    speaker: JoinHandle<()>,
    events: JoinHandle<()>,
}

impl Running {
    /// Closes all sessions.
    pub(super) async fn stop(self) {
        self.shutdown.send_replace(Some((Cease::Shutdown, "kube-vip stops".to_owned())));
        drop(self.speaker.await);
        drop(timeout(EVENTS_TIMEOUT, self.events).await);
    }
}

pub(super) fn start(
    config: &Config,
    bgp: &Bgp,
    api: &Arc<Api>,
    announced: watch::Receiver<AdvertisedRoutes>,
    telemetry: &Arc<Telemetry>,
) -> Result<Running, DaemonError> {
    // A connection of its own: netlink handles one request at a time.
    let netlink = Netlink::open()?;
    let peers = peers::driver::start(bgp, &config.node_name, config.elects(), api, netlink)
        .map_err(DaemonError::Provider)?;
    let (requests, status_requests) = mpsc::channel(4);
    let (events_in, events) = mpsc::channel(64);
    let (shutdown, shutdown_out) = watch::channel(None);
    let publisher = StatusPublisher::new(telemetry.metrics.bgp.clone(), events_in);
    telemetry.set_bgp(publisher.subscribe(), requests);
    let channels = Channels { peers, announced, status_requests, shutdown: shutdown_out };
    let speaker = tokio::spawn(Speaker::new(channels, bgp.listen_port, publisher).run());
    let events = tokio::spawn(telemetry.clone().report_bgp_sessions(events));
    Ok(Running { shutdown, speaker, events })
}
