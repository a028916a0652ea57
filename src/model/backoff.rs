//! Exponential back-off between attempts, as a value without a clock.

use std::time::Duration;

use super::hash::spread;

/// Doubles the pause after each attempt, from `min` up to `max`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    attempts: u32,
}

impl Backoff {
    /// The first pause is `min`, the longest `max`.
    pub const fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, attempts: 0 }
    }

    /// The pause after one more failed attempt.
    #[must_use]
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.min.saturating_mul(1 << self.attempts.min(16)).min(self.max);
        self.attempts = self.attempts.saturating_add(1);
        pause
    }

    /// The same with jitter: between half of the pause and all of it. Hosts with different seeds retry apart.
    #[must_use]
    pub fn next_pause_with_jitter(&mut self, seed: u64) -> Duration {
        let pause = self.next_pause();
        pause.mul_f64(1.0 - spread(seed, self.attempts.into()) / 2.0)
    }

    /// Attempts since the last success.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// An attempt succeeded: the next pause is the shortest again.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_start_over_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
        let pauses: Vec<u128> = (0..6).map(|_| backoff.next_pause().as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 500, 500]);
        assert_eq!(backoff.attempts(), 6);
        backoff.reset();
        assert_eq!(backoff.next_pause(), Duration::from_millis(50));
    }

    #[test]
    fn jitter_takes_away_at_most_a_half() {
        for seed in 0..1000 {
            let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
            let pause = backoff.next_pause_with_jitter(seed);
            assert!((Duration::from_millis(50)..=Duration::from_millis(100)).contains(&pause), "{pause:?}");
        }
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        let last = (0..1000).map(|_| backoff.next_pause()).last();
        assert_eq!(last, Some(Duration::from_secs(30)));
    }
}
