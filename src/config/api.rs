//! How API servers are reached, and how the local one is checked.

use std::time::Duration;

use super::Values;

/// The kubeconfig that kubeadm writes and static pods mount.
pub const ADMIN_CONF: &str = "/etc/kubernetes/admin.conf";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Api {
    /// Path of the kubeconfig.
    pub kubeconfig: String,
    /// Address or URL to use instead of the kubeconfig's.
    pub address: Option<String>,
    /// Try this host's own addresses.
    pub detect: bool,
    pub port: u16,
    pub names: Names,
}

/// Names of settings, for messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    pub kubeconfig: &'static str,
    pub address: &'static str,
}

/// Those of kube-vip.
pub const AGENT: Names = Names { kubeconfig: "k8s_config_file", address: "kubernetes_addr" };

/// How the local API server is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// By its own /livez, every 250 ms; one second of failure counts as down.
    Local,
    /// By a URL; 200 means healthy.
    Url {
        url: String,
        /// Time between checks.
        period: Duration,
        /// Timeout of a check.
        timeout: Duration,
        /// Consecutive failures that count as down.
        threshold: u32,
        /// File with an additional CA.
        ca: Option<String>,
    },
}

pub(super) fn read(values: &Values) -> Api {
    Api {
        kubeconfig: values.kubeconfig.clone(),
        address: values.kubernetes_addr.clone(),
        detect: values.detect_control_plane,
        port: values.port,
        names: AGENT,
    }
}

pub(super) fn health(values: &Values) -> Health {
    match &values.health_address {
        None => Health::Local,
        Some(url) => Health::Url {
            url: url.clone(),
            period: Duration::from_secs(values.health_period.into()).max(Duration::from_millis(250)),
            timeout: Duration::from_secs(values.health_timeout.into()),
            threshold: values.health_threshold.into(),
            ca: values.health_ca.clone(),
        },
    }
}
