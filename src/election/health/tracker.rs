//! Evaluates single probes of the API server.

use std::time::Duration;

use crate::model::{BootTime, Health};

/// When failed probes count as a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Threshold {
    /// At least this many in a row,
    pub failures: u32,
    /// and no success for this long.
    pub silence: Duration,
}

/// The result of a probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeResult {
    Alive,
    /// 401 or 403.
    Refused,
    /// No response, or another status.
    Failed,
}

/// The health so far. A server that has never answered is not failing: this host may have none.
#[derive(Debug, Clone)]
pub struct HealthTracker {
    threshold: Threshold,
    health: Health,
    failures: u32,
    last_success: Option<BootTime>,
}

impl HealthTracker {
    pub fn new(threshold: Threshold) -> Self {
        Self { threshold, health: Health::Unknown, failures: 0, last_success: None }
    }

    /// A probe that started at `started` ended at `now`. Returns the health.
    pub fn handle_outcome(&mut self, started: BootTime, now: BootTime, outcome: ProbeResult) -> Health {
        match outcome {
            ProbeResult::Alive | ProbeResult::Refused => {
                self.failures = 0;
                self.last_success = Some(started);
                self.health = if outcome == ProbeResult::Alive { Health::Serving } else { Health::Refusing };
            }
            ProbeResult::Failed => {
                self.failures = self.failures.saturating_add(1);
                if let Some(last) = self.last_success
                    && self.failures >= self.threshold.failures
                    && now.since(last) >= self.threshold.silence
                {
                    self.health = Health::Failing;
                }
            }
        }
        self.health
    }

    /// Probing pauses: failures before and after are not in a row.
    pub fn pause(&mut self) {
        self.failures = 0;
    }

    pub fn health(&self) -> Health {
        self.health
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    fn tracker() -> HealthTracker {
        HealthTracker::new(Threshold { failures: 2, silence: Duration::from_secs(1) })
    }

    #[test]
    fn one_second_of_failure_counts_as_down_and_one_answer_as_up() {
        use ProbeResult::{Alive, Failed, Refused};
        let mut tracker = tracker();
        let story = [
            (0, 5, Alive, Health::Serving),
            (250, 255, Failed, Health::Serving),
            (500, 505, Failed, Health::Serving),
            (750, 755, Failed, Health::Serving),
            (1000, 1001, Failed, Health::Failing),
            (1250, 1255, Failed, Health::Failing),
            (1500, 1505, Refused, Health::Refusing),
            (1750, 1755, Alive, Health::Serving),
        ];
        for (started, now, outcome, expected) in story {
            assert_eq!(tracker.handle_outcome(at(started), at(now), outcome), expected, "at {now}");
        }
    }

    #[test]
    fn a_single_slow_answer_does_not_count() {
        let mut tracker = tracker();
        tracker.handle_outcome(at(0), at(5), ProbeResult::Alive);
        assert_eq!(tracker.handle_outcome(at(250), at(2000), ProbeResult::Failed), Health::Serving);
    }

    #[test]
    fn a_server_that_never_answered_is_not_failing() {
        let mut tracker = tracker();
        for time in 0..100 {
            assert_eq!(
                tracker.handle_outcome(at(time * 250), at(time * 250 + 1), ProbeResult::Failed),
                Health::Unknown
            );
        }
    }
}
