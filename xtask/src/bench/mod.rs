//! Benchmarks: tables for people, JSON for machines. Nothing here fails because a machine is slow.

pub(crate) mod bgp;
pub(crate) mod dhcp;
pub(crate) mod failover;
pub(crate) mod plan;
pub(crate) mod services;

use kube_vip_lab::LabError;
use serde::Serialize;

use crate::sh::{Outcome, root};

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: LabError) -> String {
    error.to_string()
}

/// Write a report as JSON, to `path` or the usual place.
fn save(report: &impl Serialize, path: Option<&str>, usual: &str) -> Outcome {
    let path = path.unwrap_or(usual);
    let json = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
    std::fs::write(root().join(path), json).map_err(|error| format!("{path}: {error}"))?;
    println!("as JSON in {path}");
    Ok(())
}

/// The middle one of sorted values.
fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The last one of sorted values.
fn worst(sorted: &[f64]) -> f64 {
    sorted.last().copied().unwrap_or(f64::NAN)
}
