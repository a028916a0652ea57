//! When the API servers are probed, and what the results mean: a state machine.

use std::time::Duration;

use super::Report;
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Whether the health matters now. A failed server is probed until it is back in any case.
    Active(bool),
    /// The local server's response.
    Local(ProbeResult),
    /// Whether a server of another host is ready.
    Peers(bool),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    ProbeLocal,
    /// The local server fails: probe those of other hosts.
    ProbePeers,
    Report(Report),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Until the next probe is due.
    Wait(BootTime),
    Send(Output),
    /// A probe without a result yet.
    Sent(Output),
}

/// A server that has never answered fails after this long, if that of another host is ready. This host may have none, or its
/// server may not start; in a new cluster no other one is ready.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The health so far.
#[derive(Debug, Clone)]
pub struct HealthTracker {
    threshold: Threshold,
    /// From one probe of the local server to the next.
    period: Duration,
    active: bool,
    report: Report,
    /// The last report with both parts: it follows the probe of other hosts' servers, where there is one.
    complete: Report,
    reported: Report,
    /// In a row, without a pause.
    failures: u32,
    last_success: Option<BootTime>,
    /// Start of the first probe of the local server.
    began: Option<BootTime>,
    /// Start of the last probe of the local server.
    started: BootTime,
    step: Step,
}

impl HealthTracker {
    pub fn new(threshold: Threshold, period: Duration) -> Self {
        Self {
            threshold,
            period,
            active: false,
            report: Report::default(),
            complete: Report::default(),
            reported: Report::default(),
            failures: 0,
            last_success: None,
            began: None,
            started: BootTime::default(),
            step: Step::Wait(BootTime::default()),
        }
    }

    pub fn handle_input(&mut self, now: BootTime, input: Input) {
        match (input, self.step) {
            (Input::Active(active), _) => self.active = active,
            (Input::Local(result), Step::Sent(Output::ProbeLocal)) => {
                self.began.get_or_insert(self.started);
                let failing = self.evaluate(now, result);
                self.report.peer_serving = false;
                if failing {
                    self.step = Step::Send(Output::ProbePeers);
                } else {
                    self.finish();
                }
            }
            (Input::Peers(serving), Step::Sent(Output::ProbePeers)) => {
                if serving || self.last_success.is_some() {
                    self.report.local = Health::Failing;
                }
                self.report.peer_serving = serving;
                self.finish();
            }
            _ => {}
        }
        if !self.is_probing() {
            self.failures = 0;
        }
        self.handle_timeout(now);
    }

    pub fn handle_timeout(&mut self, now: BootTime) {
        if self.poll_timeout().is_some_and(|at| now >= at) {
            self.started = now;
            self.step = Step::Send(Output::ProbeLocal);
        }
    }

    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.reported != self.complete {
            self.reported = self.complete;
            return Some(Output::Report(self.reported));
        }
        let Step::Send(probe) = self.step else { return None };
        self.step = Step::Sent(probe);
        Some(probe)
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        match self.step {
            Step::Wait(until) => Some(until).filter(|_| self.is_probing()),
            Step::Send(_) | Step::Sent(_) => None,
        }
    }

    fn finish(&mut self) {
        self.complete = self.report;
        self.step = Step::Wait(self.started + self.period);
    }

    fn is_probing(&self) -> bool {
        self.active || matches!(self.report.local, Health::Failing | Health::Unknown)
    }

    /// Returns whether the server fails, if it has answered before, or that of another host is ready.
    fn evaluate(&mut self, now: BootTime, result: ProbeResult) -> bool {
        match result {
            ProbeResult::Alive | ProbeResult::Refused => {
                self.failures = 0;
                self.last_success = Some(self.started);
                let alive = result == ProbeResult::Alive;
                self.report.local = if alive { Health::Serving } else { Health::Refusing };
                false
            }
            ProbeResult::Failed => {
                self.failures = self.failures.saturating_add(1);
                let (since, silence) = match self.last_success {
                    Some(last) => (Some(last), self.threshold.silence),
                    None => (self.began, FIRST_ANSWER_TIMEOUT),
                };
                let silent = since.is_some_and(|since| now.since(since) >= silence);
                self.failures >= self.threshold.failures && silent || self.report.local == Health::Failing
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ProbeResult::{Alive, Failed, Refused};
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    fn tracker() -> HealthTracker {
        let threshold = Threshold { failures: 2, silence: Duration::from_secs(1) };
        let mut tracker = HealthTracker::new(threshold, Duration::from_millis(250));
        tracker.handle_input(at(0), Input::Active(true));
        tracker
    }

    fn outputs(tracker: &mut HealthTracker) -> Vec<Output> {
        std::iter::from_fn(|| tracker.poll_output()).collect()
    }

    /// One probe of the local server. Returns what follows from its result, which arrives at `ended`.
    fn probe(tracker: &mut HealthTracker, started: u64, ended: u64, result: ProbeResult) -> Vec<Output> {
        tracker.handle_timeout(at(started));
        assert_eq!(outputs(tracker), [Output::ProbeLocal], "at {started}");
        tracker.handle_input(at(ended), Input::Local(result));
        outputs(tracker)
    }

    fn report(local: Health, peer_serving: bool) -> Output {
        Output::Report(Report { local, peer_serving })
    }

    #[test]
    fn one_second_of_failure_counts_as_down_and_one_answer_as_up() {
        let mut tracker = tracker();
        assert_eq!(probe(&mut tracker, 0, 5, Alive), [report(Health::Serving, false)]);
        for started in [250, 500, 750] {
            assert_eq!(probe(&mut tracker, started, started + 5, Failed), []);
        }
        assert_eq!(probe(&mut tracker, 1000, 1001, Failed), [Output::ProbePeers]);
        tracker.handle_input(at(1100), Input::Peers(true));
        assert_eq!(outputs(&mut tracker), [report(Health::Failing, true)]);
        assert_eq!(probe(&mut tracker, 1250, 1255, Refused), [report(Health::Refusing, false)]);
        assert_eq!(probe(&mut tracker, 1500, 1505, Alive), [report(Health::Serving, false)]);
    }

    #[test]
    fn a_single_slow_answer_does_not_count() {
        let mut tracker = tracker();
        assert_eq!(probe(&mut tracker, 0, 5, Alive).len(), 1);
        assert_eq!(probe(&mut tracker, 250, 2000, Failed), [Output::ProbeLocal]);
    }

    #[test]
    fn a_server_that_never_answered_fails_once_that_of_another_host_is_ready() {
        let mut tracker = tracker();
        // It matters at the next election, whether this host is a candidate now or not.
        tracker.handle_input(at(0), Input::Active(false));
        for round in 0..40 {
            assert_eq!(probe(&mut tracker, round * 250, round * 250 + 1, Failed), []);
        }
        for round in 40..80 {
            assert_eq!(probe(&mut tracker, round * 250, round * 250 + 1, Failed), [Output::ProbePeers]);
            tracker.handle_input(at(round * 250 + 2), Input::Peers(false));
            assert_eq!(outputs(&mut tracker), [], "this may be the first host of its cluster");
        }
        assert_eq!(probe(&mut tracker, 20_000, 20_001, Failed), [Output::ProbePeers]);
        tracker.handle_input(at(20_002), Input::Peers(true));
        assert_eq!(outputs(&mut tracker), [report(Health::Failing, true)]);
        assert_eq!(probe(&mut tracker, 20_250, 20_251, Failed), [Output::ProbePeers]);
        tracker.handle_input(at(20_252), Input::Peers(false));
        assert_eq!(outputs(&mut tracker), [report(Health::Failing, false)]);
        assert_eq!(probe(&mut tracker, 20_500, 20_501, Alive), [report(Health::Serving, false)]);
    }

    #[test]
    fn probes_pause_while_the_health_does_not_matter_but_not_while_the_server_fails() {
        let mut tracker = tracker();
        assert_eq!(probe(&mut tracker, 0, 5, Alive).len(), 1);
        assert_eq!(probe(&mut tracker, 250, 255, Failed), []);
        tracker.handle_input(at(300), Input::Active(false));
        assert_eq!((tracker.poll_timeout(), outputs(&mut tracker)), (None, vec![]));
        // The failure before the pause is not in a row with those after it.
        tracker.handle_input(at(5000), Input::Active(true));
        assert_eq!(outputs(&mut tracker), [Output::ProbeLocal]);
        tracker.handle_input(at(5001), Input::Local(Failed));
        assert_eq!(outputs(&mut tracker), []);
        assert_eq!(probe(&mut tracker, 5250, 5251, Failed), [Output::ProbePeers]);
        tracker.handle_input(at(5260), Input::Peers(false));
        assert_eq!(outputs(&mut tracker), [report(Health::Failing, false)]);
        tracker.handle_input(at(5300), Input::Active(false));
        assert_eq!(tracker.poll_timeout(), Some(at(5500)));
    }

    #[test]
    fn a_change_is_reported_although_every_probe_takes_longer_than_the_period() {
        let mut tracker = tracker();
        assert_eq!(probe(&mut tracker, 0, 300, Alive), [report(Health::Serving, false), Output::ProbeLocal]);
        for ended in [800, 1300] {
            tracker.handle_input(at(ended), Input::Local(Failed));
            assert_eq!(outputs(&mut tracker).len(), 1);
        }
        tracker.handle_input(at(1800), Input::Peers(true));
        assert_eq!(outputs(&mut tracker), [report(Health::Failing, true), Output::ProbeLocal]);
    }

    #[test]
    fn early_timeouts_and_stray_results_change_nothing() {
        let mut tracker = tracker();
        assert_eq!(probe(&mut tracker, 0, 5, Alive).len(), 1);
        for input in [Input::Local(Failed), Input::Peers(true)] {
            tracker.handle_input(at(100), input);
            tracker.handle_timeout(at(249));
            assert_eq!((tracker.poll_timeout(), outputs(&mut tracker)), (Some(at(250)), vec![]));
        }
    }
}
