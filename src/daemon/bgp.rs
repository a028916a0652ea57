//! Starts and stops the BGP speaker.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::DaemonError;
use super::report::Report;
use crate::bgp::packet::Notification;
use crate::bgp::peers;
use crate::bgp::speaker::{Channels, ShutdownReason, Speaker};
use crate::cluster::Api;
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
    report: &Report,
) -> Result<Running, DaemonError> {
    let peers = peers::driver::start(bgp, &config.node_name, config.elects(), api, host)
        .map_err(DaemonError::Provider)?;
    let status_requests = report.bgp_requests.clone();
    let (shutdown, shutdown_out) = watch::channel(None);
    let channels = Channels { peers, announced, status_requests, shutdown: shutdown_out };
    let speaker = tokio::spawn(Speaker::new(channels, bgp.listen_port, report.bgp.clone()).run());
    Ok(Running { shutdown, speaker })
}
