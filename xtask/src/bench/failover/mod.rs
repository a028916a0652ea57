//! `cargo xtask bench failover`: every fault, again and again, measured by a client.
//!
//! Numbers go into a table and a JSON file; nothing here fails because a machine is slow, but a second holder is
//! always an error.

mod fault;
mod report;
mod subject;

use std::time::Duration;

use kube_vip_lab::{Cluster, LabError};

use super::{save, text};
use crate::setup;
use crate::sh::{Outcome, built, run};
use fault::Fault;
use report::{Report, Row};
use subject::Subject;

/// What to run.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    runs: u32,
    only: Option<String>,
    subjects: Vec<Subject>,
    json: Option<String>,
}

impl Options {
    /// From the arguments of `bench failover`.
    pub(crate) fn parse(arguments: &[&str]) -> Result<Self, String> {
        let mut options = Self { runs: 10, only: None, subjects: Subject::ALL.into(), json: None };
        let mut arguments = arguments.iter();
        while let Some(word) = arguments.next() {
            let mut value = || arguments.next().ok_or_else(|| format!("{word} wants a value"));
            match *word {
                "--runs" => {
                    let text = value()?;
                    options.runs = text.parse().map_err(|_| format!("--runs: {text} is no number"))?;
                }
                "--only" => options.only = Some((*value()?).to_owned()),
                "--json" => options.json = Some((*value()?).to_owned()),
                "--subject" => {
                    let name = *value()?;
                    let named = Subject::ALL.into_iter().find(|subject| subject.name() == name);
                    options.subjects = vec![named.ok_or_else(|| format!("--subject: {name} is none"))?];
                }
                _ => return Err(format!("bench failover does not know {word}")),
            }
        }
        Ok(options)
    }
}

/// Run all faults for kube-vip, and those that make sense for keepalived.
pub(crate) fn run_all(options: &Options) -> Outcome {
    setup::all()?;
    run("cargo", &["build", "--release", "--locked"], &[])?;
    let program = built("release", "kube-vip")?;
    let binary_bytes = std::fs::metadata(&program).map(|meta| meta.len()).unwrap_or_default();
    let mut report = Report { binary_bytes, ..Report::default() };
    println!("\nbringing up three hosts …");
    let mut cluster = Cluster::start(&program).map_err(text)?;
    for subject in &options.subjects {
        measure(&mut cluster, *subject, options, &mut report).map_err(text)?;
    }
    println!("\n{}", report.table());
    save(&report, options.json.as_deref(), "target/bench-failover.json")
}

fn measure(
    cluster: &mut Cluster,
    subject: Subject,
    options: &Options,
    report: &mut Report,
) -> Result<(), LabError> {
    for fault in Fault::ALL {
        let wanted = options.only.as_deref().is_none_or(|only| fault.key() == only);
        if !wanted || (subject == Subject::Keepalived && !fault.concerns_keepalived()) {
            continue;
        }
        let mut row = Row {
            subject: subject.name(),
            fault: fault.key(),
            title: fault.title(),
            samples: Vec::new(),
            lost: 0,
        };
        let mut running = subject.start(cluster)?;
        for number in 0..options.runs {
            let played = running.heal(cluster).and_then(|()| {
                // Meet the renewals at every phase; only every second one extends the kernel's lifetimes.
                std::thread::sleep(Duration::from_millis(u64::from(number) * 337 % 2000));
                fault.play(cluster, &mut running)
            });
            match played {
                Ok(sample) => {
                    println!("{:<10} {:<44} {}", subject.name(), fault.title(), sample.line());
                    row.samples.push(sample);
                }
                Err(error) => {
                    println!("{:<10} {:<44} no recovery: {error}", subject.name(), fault.title());
                    row.lost += 1;
                }
            }
        }
        report.rows.push(row);
    }
    if subject == Subject::KubeVip {
        if options.only.as_deref().is_none_or(|only| only == "idle") {
            cluster.heal()?;
            report.idle = Some(subject::idle(cluster)?);
        }
        subject::stop_agents(cluster);
    }
    Ok(())
}
