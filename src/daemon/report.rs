//! The reporters of all components, and what `kube-vip status` shows of them.

use std::sync::Arc;

use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::context::uncounted_leases;
use crate::bgp::status::{StatusPublisher, StatusRequests};
use crate::cluster::event::EventRecorder;
use crate::cluster::{Api, credentials};
use crate::config::Config;
use crate::model::Roles;
use crate::route_table::status::TableStatus;
use crate::status::{Sources, Status};
use crate::telemetry::http::PortProblems;
use crate::telemetry::registry;
use crate::telemetry::socket::{Responder, StatusRequest};
use crate::{bgp, dhcp, election, publish, reconcile, upnp};

/// The reporters of all components, and the answers to `kube-vip status`, `drain` and `undrain`.
#[derive(Clone)]
pub(super) struct Report {
    registry: Arc<Registry>,
    pub(super) election: Arc<election::reporter::Reporter>,
    pub(super) host: Arc<reconcile::reporter::Reporter>,
    pub(super) services: publish::report::Report,
    pub(super) dhcp_metrics: dhcp::metrics::Metrics,
    pub(super) upnp_metrics: upnp::metrics::Metrics,
    pub(super) sources: Sources,
    pub(super) table: watch::Sender<Option<TableStatus>>,
    pub(super) ports: PortProblems,
    pub(super) bgp: StatusPublisher,
    pub(super) bgp_requests: StatusRequests,
    /// An operator drains this node.
    pub(super) drained: Arc<watch::Sender<bool>>,
}

impl Report {
    pub(super) fn new(
        config: &Config,
        api: &Arc<Api>,
        events: &EventRecorder,
        roles: &watch::Sender<Roles>,
    ) -> Self {
        let (node, lease) = (&config.node_name, config.reported_lease().map(|lease| lease.to_string()));
        let mut registry = registry::new(node);
        let r = &mut registry;
        let election = election::metrics::Metrics::register(r, node, lease.clone(), roles.subscribe());
        let host = reconcile::metrics::Metrics::register(r);
        let services = publish::report::Report::register(r);
        let dhcp_metrics = dhcp::metrics::Metrics::register(r);
        let upnp_metrics = upnp::metrics::Metrics::register(r);
        let bgp = StatusPublisher::new(bgp::metrics::Metrics::register(r), events.clone());
        let vips = config.targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let lease = lease.filter(|_| config.elects()).unwrap_or_default();
        let election = election::reporter::Reporter::new(election, events.clone(), vips, node, &lease);
        let host = reconcile::reporter::Reporter::new(host, events.clone());
        let (ports, table) = (PortProblems::default(), watch::Sender::new(None));
        let sources = Sources {
            certificate: credentials::start(api.clone(), events.clone(), r),
            ports: ports.subscribe(),
            table: table.subscribe(),
            roles: roles.subscribe(),
            uncounted: uncounted_leases(config),
            mode: config.mode,
            election: election.status(),
            host: host.status(),
            services: services.status.subscribe(),
        };
        Self {
            registry: Arc::new(registry),
            election,
            host,
            services,
            dhcp_metrics,
            upnp_metrics,
            bgp,
            bgp_requests: StatusRequests::new(4),
            sources,
            table,
            ports,
            drained: Arc::new(watch::Sender::new(false)),
        }
    }

    /// The metrics in Prometheus' text format.
    pub(super) fn metrics(&self) -> String {
        registry::encode(&self.registry)
    }

    pub(super) fn status(&self) -> Status {
        let peers = self.bgp.subscribe().borrow().clone();
        self.sources.status(peers)
    }

    async fn respond(self, request: StatusRequest) -> String {
        match request {
            StatusRequest::Drain => drop(self.drained.send_replace(true)),
            StatusRequest::Undrain => drop(self.drained.send_replace(false)),
            StatusRequest::Status | StatusRequest::BgpRoutes => {}
        }
        let status = match request {
            StatusRequest::BgpRoutes => {
                self.sources.status(bgp::status::with_routes(&self.bgp_requests).await)
            }
            _ => self.status(),
        };
        serde_json::to_string(&status).unwrap_or_default()
    }

    pub(super) fn responder(&self) -> Responder {
        let report = self.clone();
        Arc::new(move |request| Box::pin(report.clone().respond(request)))
    }
}
