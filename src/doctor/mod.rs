//! `kube-vip doctor`: what is wrong with a host, its API server or its network, before kube-vip runs there or while it does.
//!
//! `driver` reads, and changes nothing; `rights` asks for permissions, `probes` examines peers, and `services` the servers that the settings need; `host` and `api`
//! judge what was found; `manifest` reads the settings of a manifest. A finding is one sentence with its remedy. A healthy host has none.

mod api;
pub mod driver;
mod host;
pub mod manifest;
mod probes;
mod rights;
mod services;

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::Serialize;

pub use api::ApiFacts;
pub use host::{ChainRules, Firewall, HostReadings};

use crate::config::Config;
use crate::model::Family;
use crate::model::text::printable;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    Ok,
    /// Could not be examined; the text has the reason.
    Skipped,
    /// kube-vip runs, but not everything works.
    Warning,
    /// kube-vip does not work.
    Error,
}

impl Severity {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One thing that was examined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// In lower case with hyphens; the same in each version.
    pub name: &'static str,
    pub severity: Severity,
    pub text: String,
}

impl Check {
    fn new(name: &'static str, severity: Severity, text: impl Into<String>) -> Self {
        Self { name, severity, text: text.into() }
    }
}

/// All checks, in the order in which they were made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    pub checks: Vec<Check>,
}

impl Report {
    /// Settings that `manager` refuses. Nothing else is examined with them. `unknown`: what the manifest lacks, which may be the
    /// reason.
    pub fn of_problems<T: std::fmt::Display>(problems: &[T], unknown: &[String]) -> Self {
        let check = |problem: &T| match unknown {
            [] => Check::new("settings", Severity::Error, problem.to_string()),
            notes => {
                let text =
                    format!("{problem}. But {}: flags in the command line take precedence", notes.join(", "));
                Check::new("settings", Severity::Warning, text)
            }
        };
        Self { checks: problems.iter().map(check).collect() }
    }

    /// With settings that `manager` accepts.
    pub fn of(config: &Config, host: &HostReadings, api: &ApiFacts, peers: Vec<Check>) -> Self {
        let mut checks: Vec<Check> =
            config.notes.iter().map(|note| Check::new("settings", Severity::Warning, note)).collect();
        if checks.is_empty() {
            checks.push(Check::new("settings", Severity::Ok, "the settings are valid"));
        }
        checks.extend(host::checks(config, host, &families(config, host, api), api.responds()));
        checks.extend(api::checks(config, host, api));
        checks.extend(api::owners(config, host, api));
        checks.extend(peers);
        Self { checks }
    }

    /// 0: nothing is wrong. 1: there are warnings. 2: kube-vip will not work.
    pub fn exit_code(&self) -> u8 {
        match self.checks.iter().map(|check| check.severity).max() {
            None | Some(Severity::Ok | Severity::Skipped) => 0,
            Some(Severity::Warning) => 1,
            Some(Severity::Error) => 2,
        }
    }

    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for Check { name, severity, text: sentence } in &self.checks {
            writeln!(text, "{:<8} {name}: {}", severity.word(), printable(sentence)).ok();
        }
        let count = |wanted| self.checks.iter().filter(|check| check.severity == wanted).count();
        let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
        let skipped = count(Severity::Skipped);
        let all = self.checks.len();
        writeln!(text, "checks: {all}, errors: {errors}, warnings: {warnings}, skipped: {skipped}").ok();
        text
    }
}

/// The address families of the pods; while they are unknown, those of the VIPs, or IPv4.
fn families(config: &Config, host: &HostReadings, api: &ApiFacts) -> BTreeSet<Family> {
    let known = [api.families(config, host), config.control_plane_families(), [Family::V4].into()];
    known.into_iter().find(|families| !families.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod testing {
    use crate::config::{Config, Raw, Sources, check};

    /// A control plane and Services by ARP on node-1, with more settings.
    pub(super) fn config(extra: &[(&str, &str)]) -> Config {
        let base = [
            ("vip_arp", "true"),
            ("cp_enable", "true"),
            ("svc_enable", "true"),
            ("address", "192.0.2.9"),
            ("vip_leaderelection", "true"),
            ("vip_nodename", "node-1"),
        ];
        let pairs = base.iter().chain(extra);
        let env = pairs.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (raw, problems, _) = Raw::collect(&Sources { env, ..Sources::default() });
        assert_eq!(problems, []);
        check(raw, None).unwrap()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_a_manifest_lacks_are_a_warning() {
        let table: [(&[String], u8); 2] =
            [(&[], 2), (&["the value of bgp_peers is not in the manifest".to_owned()], 1)];
        for (unknown, expected) in table {
            let report = Report::of_problems(&["BGP needs a peer"], unknown);
            assert_eq!(report.exit_code(), expected, "{report:?}");
        }
    }

    #[test]
    fn the_worst_finding_makes_the_exit_code() {
        use Severity::{Error, Ok, Skipped, Warning};
        let table: [(&[Severity], u8); 5] = [
            (&[], 0),
            (&[Ok, Skipped], 0),
            (&[Warning, Ok], 1),
            (&[Error, Warning], 2),
            (&[Ok, Error, Ok], 2),
        ];
        for (outcomes, expected) in table {
            let checks = outcomes.iter().map(|severity| Check::new("x", *severity, "y")).collect();
            assert_eq!(Report { checks }.exit_code(), expected, "{outcomes:?}");
        }
    }
}
