//! Tables and JSON.

use std::fmt::Write;

use kube_vip::conflict::FrameKind;
use kube_vip::model::BootTime;
use kube_vip_lab::Cluster;
use serde::Serialize;

use super::subject::Idle;
use crate::bench::{median, worst};

/// One run of one fault. Times are in seconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    pub(crate) outage_v4: f64,
    pub(crate) outage_v6: f64,
    /// More than one host had the address.
    pub(crate) two_holders: f64,
    /// Announcements of the VIPs on the segment, the kernels' own answers among them.
    pub(crate) announcements: usize,
    /// From the expiry of the Lease to the first announcement, where a Lease expired.
    pub(crate) reaction: Option<f64>,
}

impl Sample {
    /// What the observers saw since `start`.
    pub(crate) fn taken(cluster: &Cluster, start: BootTime) -> Self {
        let frames = cluster.recorder.since(start);
        Self {
            outage_v4: cluster.v4.outage(start).as_secs_f64(),
            outage_v6: cluster.v6.outage(start).as_secs_f64(),
            two_holders: cluster.sampler.overlap(start).as_secs_f64(),
            announcements: frames.iter().filter(|(_, frame)| frame.kind == FrameKind::Announcement).count(),
            reaction: None,
        }
    }

    fn outage(&self) -> f64 {
        self.outage_v4.max(self.outage_v6)
    }

    pub(crate) fn line(&self) -> String {
        let reaction = self.reaction.map(|reaction| format!(", announced {reaction:.3} s after expiry"));
        format!(
            "outage {:6.3} s (IPv4 {:.3}, IPv6 {:.3}), two holders {:.3} s, {} announcements{}",
            self.outage(),
            self.outage_v4,
            self.outage_v6,
            self.two_holders,
            self.announcements,
            reaction.unwrap_or_default()
        )
    }
}

/// All runs of one fault.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) subject: &'static str,
    pub(crate) fault: &'static str,
    #[serde(skip)]
    pub(crate) title: &'static str,
    pub(crate) samples: Vec<Sample>,
    /// Runs without recovery.
    pub(crate) lost: u32,
}

impl Row {
    fn sorted(&self, value: impl Fn(&Sample) -> Option<f64>) -> Vec<f64> {
        let mut values: Vec<f64> = self.samples.iter().filter_map(value).collect();
        values.sort_by(f64::total_cmp);
        values
    }
}

/// Everything measured.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) idle: Option<Idle>,
    pub(crate) binary_bytes: u64,
}

impl Report {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{:<10} {:<44} {:>4} {:>8} {:>8} {:>13} {:>13} {:>15}\n",
            "", "fault", "runs", "median s", "worst s", "two holders s", "announcements", "after expiry s"
        );
        for row in &self.rows {
            let outages = row.sorted(|sample| Some(sample.outage()));
            let overlaps = row.sorted(|sample| Some(sample.two_holders));
            let announcements = row.sorted(|sample| Some(sample.announcements as f64));
            let reactions = row.sorted(|sample| sample.reaction);
            let reaction = reactions.last().map(|worst| format!("{worst:.3}")).unwrap_or_default();
            let lost =
                if row.lost > 0 { format!("  ({} runs without recovery)", row.lost) } else { String::new() };
            let _infallible = writeln!(
                text,
                "{:<10} {:<44} {:>4} {:>8.3} {:>8.3} {:>13.3} {:>13.0} {:>15}{lost}",
                row.subject,
                row.title,
                row.samples.len(),
                median(&outages),
                worst(&outages),
                worst(&overlaps),
                median(&announcements),
                reaction,
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
        let _infallible = writeln!(text, "binary: {:.1} MB", self.binary_bytes as f64 / 1e6);
        text
    }
}
