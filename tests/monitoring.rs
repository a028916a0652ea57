//! Alerting rules by promtool, and that the metrics of rules and dashboard exist.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn each_alert_fires_where_it_should_and_only_there() {
    let program = kube_vip_lab::binaries::find("promtool").unwrap();
    for args in [["check", "rules", "rules.yaml"], ["test", "rules", "rules_test.yaml"]] {
        let output =
            Command::new(&program).args(args).current_dir(root().join("monitoring")).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&text));
    }
}

/// Names of metrics in a text, as Prometheus has them.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|character: char| !(character.is_ascii_alphanumeric() || character == '_'));
    words.filter(|word| word.starts_with("kube_vip_")).map(str::to_owned).collect()
}

/// The sources of both programs.
fn sources(folder: &Path) -> String {
    let mut text = String::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            text.push_str(&sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(path).unwrap());
        }
    }
    text
}

#[test]
fn the_metrics_of_rules_and_dashboard_exist() {
    let agent = sources(&root().join("src"));
    // The DHCP client of both is one.
    let provider = agent.clone() + &sources(&root().join("cloud-provider/src"));
    let exists = |metric: &str| {
        let name = metric.strip_prefix("kube_vip_").unwrap();
        let (code, name) = match name.strip_prefix("cloud_provider_") {
            Some(name) => (&provider, name),
            None => (&agent, name),
        };
        let suffixes = ["", "_total", "_bucket", "_count", "_sum"];
        let mut bases = suffixes.iter().filter_map(|suffix| name.strip_suffix(suffix));
        bases.any(|base| code.contains(&format!("\"{base}\"")))
    };
    for file in ["rules.yaml", "dashboard.json", "README.md"] {
        let found = metrics(&std::fs::read_to_string(root().join("monitoring").join(file)).unwrap());
        let missing: Vec<&String> = found.iter().filter(|metric| !exists(metric)).collect();
        assert!(missing.is_empty(), "{file}: {missing:?}");
    }
    assert!(!exists("kube_vip_is_followed") && exists("kube_vip_is_leader"));
}

/// Each rule has a test, a row in the table, and a trial that raises it.
#[test]
fn each_alert_has_tests_and_is_described() {
    let trials = sources(&root().join("tests/e2e")) + &sources(&root().join("cloud-provider/tests/e2e"));
    let read = |name: &str| std::fs::read_to_string(root().join("monitoring").join(name)).unwrap();
    let (rules, tests, page) = (read("rules.yaml"), read("rules_test.yaml"), read("README.md"));
    let alerts: Vec<&str> = rules
        .lines()
        .filter_map(|line| line.trim_start_matches([' ', '-']).strip_prefix("alert: "))
        .collect();
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in alerts {
        assert!(
            tests.contains(&format!("alertname: {alert}"))
                || tests.contains(&format!("alertname=\"{alert}\"")),
            "{alert}"
        );
        assert!(page.contains(&format!("| {alert} |")), "{alert}");
        assert!(trials.contains(&format!("\"{alert}\"")), "{alert} is raised by no trial");
    }
}
