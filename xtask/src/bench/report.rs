//! Tables and JSON.

use std::fmt::Write;
use std::time::Duration;

use super::subject::{Cost, Idle};

/// One run of one fault.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sample {
    pub(crate) outage_v4: Duration,
    pub(crate) outage_v6: Duration,
    /// More than one host had the address.
    pub(crate) overlap: Duration,
}

impl Sample {
    pub(crate) fn outage(&self) -> Duration {
        self.outage_v4.max(self.outage_v6)
    }

    pub(crate) fn line(&self) -> String {
        format!(
            "outage {:6.3} s (IPv4 {:.3}, IPv6 {:.3}), two holders {:.3} s",
            self.outage().as_secs_f64(),
            self.outage_v4.as_secs_f64(),
            self.outage_v6.as_secs_f64(),
            self.overlap.as_secs_f64()
        )
    }
}

/// All runs of one fault.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    subject: &'static str,
    fault: &'static str,
    title: &'static str,
    pub(crate) samples: Vec<Sample>,
    /// Runs without recovery.
    pub(crate) lost: u32,
}

impl Row {
    pub(crate) fn new(subject: &'static str, fault: &'static str, title: &'static str) -> Self {
        Self { subject, fault, title, samples: Vec::new(), lost: 0 }
    }

    fn sorted(&self, value: impl Fn(&Sample) -> Duration) -> Vec<f64> {
        let mut values: Vec<f64> = self.samples.iter().map(|sample| value(sample).as_secs_f64()).collect();
        values.sort_by(f64::total_cmp);
        values
    }
}

fn median(sorted: &[f64]) -> f64 {
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn worst(sorted: &[f64]) -> f64 {
    sorted.last().copied().unwrap_or(f64::NAN)
}

/// Everything measured.
#[derive(Debug, Clone, Default)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) idle: Option<Idle>,
    pub(crate) binary: u64,
}

impl Report {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:<10} {:<44} {:>5} {:>9} {:>9} {:>13}\n",
            "", "fault", "runs", "median s", "worst s", "two holders s"
        );
        for row in &self.rows {
            let outages = row.sorted(Sample::outage);
            let overlaps = row.sorted(|sample| sample.overlap);
            let lost =
                if row.lost > 0 { format!("  ({} runs without recovery)", row.lost) } else { String::new() };
            let _infallible = writeln!(
                text,
                "{:<10} {:<44} {:>5} {:>9.3} {:>9.3} {:>13.3}{lost}",
                row.subject,
                row.title,
                row.samples.len(),
                median(&outages),
                worst(&outages),
                worst(&overlaps)
            );
        }
        if let Some(idle) = &self.idle {
            for (name, cost) in [("holder", idle.holder), ("standby", idle.standby)] {
                let _infallible = writeln!(
                    text,
                    "idle {name}: {:.1} MB resident ({:.1} MB private), {:.2} CPU s/min, {:.0} Lease requests/min",
                    cost.rss_mb, cost.private_mb, cost.cpu_seconds_per_minute, cost.requests_per_minute
                );
            }
        }
        let _infallible = writeln!(text, "binary: {:.1} MB", self.binary as f64 / 1e6);
        text
    }

    /// For programs.
    pub(crate) fn json(&self) -> String {
        let rows: Vec<String> = self
            .rows
            .iter()
            .map(|row| {
                let list = |values: Vec<f64>| values.iter().map(|value| format!("{value:.4}")).collect::<Vec<_>>().join(",");
                format!(
                    "{{\"subject\":\"{}\",\"fault\":\"{}\",\"outage_v4\":[{}],\"outage_v6\":[{}],\"two_holders\":[{}],\"unrecovered\":{}}}",
                    row.subject,
                    row.fault,
                    list(row.sorted(|sample| sample.outage_v4)),
                    list(row.sorted(|sample| sample.outage_v6)),
                    list(row.sorted(|sample| sample.overlap)),
                    row.lost
                )
            })
            .collect();
        let cost = |cost: Cost| {
            format!(
                "{{\"rss_mb\":{:.2},\"private_mb\":{:.2},\"cpu_seconds_per_minute\":{:.3},\"requests_per_minute\":{:.1}}}",
                cost.rss_mb, cost.private_mb, cost.cpu_seconds_per_minute, cost.requests_per_minute
            )
        };
        let idle = self.idle.map_or("null".to_owned(), |idle| {
            format!("{{\"holder\":{},\"standby\":{}}}", cost(idle.holder), cost(idle.standby))
        });
        format!("{{\"rows\":[{}],\"idle\":{idle},\"binary_bytes\":{}}}\n", rows.join(","), self.binary)
    }
}
