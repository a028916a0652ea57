//! Logs, metrics, the health port and node labels.

use std::net::SocketAddr;

use super::{Key, LogFormat, Problem, Values};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Telemetry {
    /// As in Go's slog: -4 debug, 0 info, 4 warnings, 8 errors.
    pub level: i64,
    pub format: LogFormat,
    /// The address that serves metrics.
    pub metrics: Option<String>,
    /// Port of /healthz and /readyz.
    pub health_port: Option<u16>,
    /// Label the node that holds the VIP.
    pub label_node: bool,
}

pub(super) fn read(values: &Values, problems: &mut Vec<Problem>, notes: &mut Vec<String>) -> Telemetry {
    let allowed = "an address to listen on, such as `:2112` or `127.0.0.1:2112`";
    let telemetry = Telemetry {
        level: values.log_level,
        format: values.log_format,
        metrics: values.raw.accept(Key::MetricsAddress, allowed, problems, listen_address),
        health_port: Some(values.health_port).filter(|port| *port != 0),
        label_node: values.node_labeling,
    };
    let metrics_port =
        telemetry.metrics.as_ref().and_then(|it| it.parse().ok()).map(|it: SocketAddr| it.port());
    if let Some(port) = telemetry.health_port.filter(|port| Some(*port) == metrics_port) {
        let [metrics, health] = [Key::MetricsAddress, Key::HealthPort].map(|key| values.raw.describe(key));
        notes.push(format!(
            "port {port} is that of {metrics} and of {health}: only one of them is served; change one"
        ));
    }
    telemetry
}

/// `:2112`, `2112`, `0.0.0.0:2112` or `[::]:2112`; without a host it listens on all addresses.
fn listen_address(text: &str) -> Option<String> {
    let full = match text.strip_prefix(':') {
        Some(port) => format!("[::]:{port}"),
        None if text.parse::<u16>().is_ok() => format!("[::]:{text}"),
        None => text.to_owned(),
    };
    full.parse::<SocketAddr>().is_ok().then_some(full)
}
