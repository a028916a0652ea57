//! Starts and stops the BGP speaker.

use std::sync::Arc;

use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;

use super::DaemonError;
use super::report::Report;
use crate::bgp::packet::Notification;
use crate::bgp::peers;
use crate::bgp::speaker::{Channels, ShutdownReason, Speaker};
use crate::bgp::status::StatusPublisher;
use crate::cluster::Api;
use crate::cluster::event::EventRecorder;
use crate::config::{Bgp, Config};
use crate::host::HostWatch;
use crate::model::AdvertisedRoutes;

pub(super) struct Running {
    shutdown: watch::Sender<ShutdownReason>,
    speaker: JoinHandle<()>,
}

impl Running {
    /// Closes all sessions.
    pub(super) async fn stop(self) {
        self.shutdown.send_replace(Some(Notification::shutdown("kube-vip stops")));
        drop(self.speaker.await);
    }
}

pub(super) fn start(
    config: &Config,
    bgp: &Bgp,
    api: &Arc<Api>,
    announced: watch::Receiver<AdvertisedRoutes>,
    host: HostWatch,
    (report, events): (&Report, EventRecorder),
) -> Result<Running, DaemonError> {
    let peers = peers::driver::start(bgp, &config.node_name, config.elects(), api, host)
        .map_err(DaemonError::Provider)?;
    let status_requests = broadcast::Sender::new(4);
    let (shutdown, shutdown_out) = watch::channel(None);
    let publisher = StatusPublisher::new(report.bgp_metrics.clone(), events);
    report.set_bgp(publisher.subscribe(), status_requests.clone());
    let channels = Channels { peers, announced, status_requests, shutdown: shutdown_out };
    let speaker = tokio::spawn(Speaker::new(channels, bgp.listen_port, publisher).run());
    Ok(Running { shutdown, speaker })
}
