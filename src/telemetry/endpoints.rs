//! /metrics, /healthz and /readyz of the daemon.

use std::time::Duration;

use super::Telemetry;
use super::http::Page;
use crate::net::clock;

/// A main loop that has made no round for this long is stuck.
const STUCK: Duration = Duration::from_secs(60);

/// What the metrics port serves.
pub fn metrics(telemetry: &Telemetry, path: &str) -> Page {
    match path {
        "/metrics" => Page::metrics(telemetry.metrics.encode(clock::now())),
        "/" => {
            let page = "<html><head><title>kube-vip</title></head><body><h1>kube-vip</h1>\
                        <p><a href=\"/metrics\">Metrics</a></p></body></html>";
            Page::found("text/html", page.to_owned())
        }
        _ => Page::missing(),
    }
}

/// What the health port serves.
pub fn health(telemetry: &Telemetry, path: &str) -> Page {
    let now = clock::now();
    let status = telemetry.status(now);
    match path {
        "/healthz" if status.silent_for(now) < STUCK => Page::probe(Ok(())),
        "/healthz" => Page::probe(Err("the main loop is stuck\n".to_owned())),
        "/readyz" if status.reconciled && status.role != "starting" => Page::probe(Ok(())),
        "/readyz" => Page::probe(Err(status.to_text())),
        _ => Page::missing(),
    }
}
