//! The alerting rules of monitoring/, by promtool, for metrics that were scraped from running programs.
//!
//! Alerts take minutes, and promtool invents the time: what was scraped first was there for a while before, and what was scraped
//! last stays. A counter that grew between the last two scrapes goes on like that with each scrape.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::{Lab, LabError, Provider, Result, binaries, io, wait_for};

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../monitoring/rules.yaml");
/// Between two scrapes in the time of promtool.
const INTERVAL: &str = "15s";
/// Scrapes like the first one before it: more than any rule looks back to find what is new.
const BEFORE: usize = 60;
/// Scrapes after the last one: more than any `for`.
const AFTER: usize = 180;
/// The end of the series, and how long before it alerts count: not while a counter of the first scrape is new.
const END: &str = "60m";
const COUNTED: &str = "45m";

/// What Prometheus scrapes.
#[derive(Debug, Clone)]
pub struct Target {
    job: &'static str,
    instance: String,
    /// None if it was not reachable.
    metrics: Option<String>,
}

impl Target {
    /// The same, by another name.
    #[must_use]
    pub fn named(self, instance: &str) -> Self {
        Self { instance: instance.to_owned(), ..self }
    }
}

/// The agents of a lab.
#[must_use]
pub fn agents(lab: &Lab) -> Vec<Target> {
    let scraped = |host: &crate::Host| Target {
        job: "kube-vip",
        instance: host.name.clone(),
        metrics: host.namespace.http_get(2112, "/metrics").ok(),
    };
    lab.hosts.iter().map(scraped).collect()
}

/// Providers on the first host of a lab, and an agent that is well.
#[must_use]
pub fn providers(lab: &Lab, providers: &[&Provider]) -> Vec<Target> {
    let agent = Target { job: "kube-vip", instance: "node-9".to_owned(), metrics: Some(String::new()) };
    let scraped = |provider: &&Provider| Target {
        job: "kube-vip-cloud-provider",
        instance: provider.port().to_string(),
        metrics: lab.hosts.first().and_then(|host| host.namespace.http_get(provider.port(), "/metrics").ok()),
    };
    providers.iter().map(scraped).chain([agent]).collect()
}

/// Fails unless exactly these alerts are raised while targets remain as they are.
pub fn expect(targets: Vec<Target>, alerts: &[&str]) -> Result<()> {
    let mut recording = Recording::default();
    recording.scrape(targets);
    recording.expect(alerts)
}

/// Samples by series, one for each scrape; none where a scrape does not have it.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    series: BTreeMap<String, Vec<Option<f64>>>,
    scrapes: usize,
    /// How much later than now the scrapes are.
    later: Duration,
}

impl Recording {
    /// The agents of a lab, once each of them is reachable.
    pub fn begin(lab: &Lab) -> Result<Self> {
        let all = || Some(agents(lab)).filter(|all| all.iter().all(|target| target.metrics.is_some()));
        let targets = wait_for("the metrics of every agent", 20, all)?;
        let mut recording = Self::default();
        recording.scrape(targets);
        Ok(recording)
    }

    pub fn scrape(&mut self, targets: Vec<Target>) {
        let now =
            k8s_openapi::jiff::Timestamp::now().as_millisecond() as f64 / 1000.0 + self.later.as_secs_f64();
        for Target { job, instance, metrics } in targets {
            let labels = format!("job=\"{job}\",instance=\"{instance}\"");
            self.add(format!("up{{{labels}}}"), f64::from(u8::from(metrics.is_some())));
            for line in metrics.iter().flat_map(|text| text.lines()) {
                let Some((series, value)) = line.rsplit_once(' ') else { continue };
                let Ok(value) = value.parse::<f64>() else { continue };
                let (name, own) = series.split_once('{').unwrap_or((series, "}"));
                let own = own.trim_end_matches('}');
                let separator = if own.is_empty() { "" } else { "," };
                // The time of promtool begins at zero.
                let origin = if name.ends_with("_timestamp_seconds") { now } else { 0.0 };
                if name.starts_with("kube_vip_") && value.is_finite() {
                    self.add(format!("{name}{{{own}{separator}{labels}}}"), value - origin);
                }
            }
        }
        self.scrapes += 1;
        for samples in self.series.values_mut() {
            samples.resize(self.scrapes, None);
        }
    }

    fn add(&mut self, series: String, value: f64) {
        let samples = self.series.entry(series).or_default();
        samples.resize(self.scrapes, None);
        samples.push(Some(value));
    }

    /// What is scraped from now on is scraped so much later.
    #[must_use]
    pub fn later(mut self, time: Duration) -> Self {
        self.later = time;
        self
    }

    /// The last value of the first series of a metric.
    #[must_use]
    pub fn last(&self, metric: &str) -> Option<f64> {
        let (_, samples) =
            self.series.iter().find(|(series, _)| series.starts_with(&format!("{metric}{{")))?;
        *samples.last()?
    }

    /// Fails unless exactly these alerts are raised at some time.
    pub fn expect(&self, alerts: &[&str]) -> Result<()> {
        self.query("", alerts)
    }

    /// Fails unless these alerts are raised at some time, or if one of two holders is. Others are permitted: a fault has consequences,
    /// and what happened once between the last two scrapes is taken to go on.
    pub fn expect_at_least(&self, alerts: &[&str]) -> Result<()> {
        self.query(&format!(",alertname=~\"{}|.*TwoHolders\"", alerts.join("|")), alerts)
    }

    /// Those of a selector that are raised have to be these.
    fn query(&self, selector: &str, alerts: &[&str]) -> Result<()> {
        let series: Vec<Value> = self
            .series
            .iter()
            .map(|(name, samples)| json!({ "series": name, "values": values(name, samples) }))
            .collect();
        let expected: Vec<Value> = alerts
            .iter()
            .map(|alert| json!({ "labels": format!("{{alertname=\"{alert}\"}}"), "value": 1 }))
            .collect();
        let raised = format!(
            "group by (alertname) (last_over_time(ALERTS{{alertstate=\"firing\"{selector}}}[{COUNTED}]))"
        );
        let test = json!({
            "rule_files": [RULES],
            "evaluation_interval": INTERVAL,
            "tests": [{
                "interval": INTERVAL,
                "input_series": series,
                "promql_expr_test": [{ "expr": raised, "eval_time": END, "exp_samples": expected }],
            }],
        });
        promtool(&test.to_string())
    }
}

/// Runs a test of rules.
fn promtool(test: &str) -> Result<()> {
    let mut command = Command::new(binaries::find("promtool")?);
    command.args(["test", "rules", "/dev/stdin"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(io("promtool"))?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(test.as_bytes()).map_err(io("promtool"))?;
    }
    let output = child.wait_with_output().map_err(io("promtool"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(LabError::Command {
        command: "promtool".to_owned(),
        output: String::from_utf8_lossy(&text).into_owned(),
    })
}

/// In the notation of promtool.
fn values(name: &str, samples: &[Option<f64>]) -> String {
    let text = |sample: &Option<f64>| sample.map_or_else(|| "_".to_owned(), |value| value.to_string());
    let before = samples.first().map(|first| vec![text(first); BEFORE]).unwrap_or_default();
    let scraped = samples.iter().map(text);
    let after = match samples {
        [.., None] => "stale".to_owned(),
        [.., Some(before), Some(last)] if name.contains("_total{") && last > before => {
            let growth = last - before;
            format!("{}+{growth}x{AFTER}", last + growth)
        }
        [.., Some(last)] => format!("{last}x{AFTER}"),
        [] => String::new(),
    };
    before.into_iter().chain(scraped).chain([after]).collect::<Vec<_>>().join(" ")
}
