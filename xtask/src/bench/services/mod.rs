//! `cargo xtask bench services`: how fast Services get their addresses, and what that costs.

mod agents;
mod allocation;
mod requests;

use serde::Serialize;

use super::{median, save, text, worst};
use crate::setup;
use crate::sh::{Outcome, built, run};

/// What to run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    only: Option<String>,
    json: Option<String>,
    /// Another cloud provider to measure.
    provider: Option<String>,
    /// Another agent to measure.
    agent: Option<String>,
}

impl Options {
    /// From the arguments of `bench services`.
    pub(crate) fn parse(arguments: &[&str]) -> Result<Self, String> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(word) = arguments.next() {
            let mut value =
                || arguments.next().map(|value| (*value).to_owned()).ok_or(format!("{word} wants a value"));
            match *word {
                "--only" => options.only = Some(value()?),
                "--json" => options.json = Some(value()?),
                "--agent" => options.agent = Some(value()?),
                "--provider" => options.provider = Some(value()?),
                _ => return Err(format!("this benchmark does not know {word}")),
            }
        }
        Ok(options)
    }

    /// Whether another agent was given.
    pub(super) fn has_agent(&self) -> bool {
        self.agent.is_some()
    }

    /// The file of the report, if any.
    pub(super) fn json(&self) -> Option<&str> {
        self.json.as_deref()
    }

    pub(super) fn wants(&self, key: &str) -> bool {
        self.only.as_deref().is_none_or(|only| key.starts_with(only))
    }
}

/// One measured figure.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub(crate) work: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// What was aimed at.
    pub(crate) mark: String,
}

/// Figures, printed as they come.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) figures: Vec<Figure>,
}

impl Report {
    pub(crate) fn add(
        &mut self,
        work: impl Into<String>,
        value: f64,
        unit: &'static str,
        mark: impl Into<String>,
    ) {
        let figure = Figure { work: work.into(), value, unit, mark: mark.into() };
        println!("{}", figure.line());
        self.figures.push(figure);
    }

    /// Several measurements of the same: the middle one and the worst.
    pub(crate) fn add_all(&mut self, work: &str, mut values: Vec<f64>, unit: &'static str, mark: &str) {
        values.sort_by(f64::total_cmp);
        self.add(format!("{work}, median of {}", values.len()), median(&values), unit, mark);
        self.add(format!("{work}, worst"), worst(&values), unit, "");
    }
}

impl Report {
    /// All figures, once more.
    pub(super) fn print(&self) {
        self.figures.iter().for_each(|figure| println!("{}", figure.line()));
    }
}

impl Figure {
    fn line(&self) -> String {
        let mark = if self.mark.is_empty() { String::new() } else { format!("   mark: {}", self.mark) };
        format!("{:<66} {:>10.3} {:<5}{mark}", self.work, self.value, self.unit)
    }
}

/// All of it.
pub(crate) fn run_all(options: &Options) -> Outcome {
    setup::all()?;
    if options.provider.is_none() || options.agent.is_none() {
        run("cargo", &["build", "--release", "--workspace", "--locked"], &[])?;
    }
    let mut report = Report::default();
    allocation::measure(options, &mut report).map_err(text)?;
    agents::measure(options, &mut report).map_err(text)?;
    requests::measure(options, &mut report).map_err(text)?;
    println!();
    report.print();
    save(&report, options.json.as_deref(), "target/bench-services.json")
}

/// The agent to measure: a given one, or ours.
pub(super) fn agent(options: &Options) -> Result<String, String> {
    options.agent.clone().map_or_else(|| built("release", "kube-vip"), Ok)
}

/// The provider to measure: a given one, or ours.
fn provider(options: &Options) -> Result<String, String> {
    options.provider.clone().map_or_else(|| built("release", "kube-vip-cloud-provider"), Ok)
}
