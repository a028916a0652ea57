//! The role in a group without election: every healthy node advertises it, and routers choose (anycast).
//!
//! ```text
//!   Starting ── API server healthy ──► Leader ── drain or stop ──► HandingOver ── drain time over ──► Follower
//!      └──── never healthy in 10 s, or failing ────► Follower ◄── API server fails ── Leader
//! ```

use std::time::Duration;

use crate::model::{BootTime, Claim, Health, Role};

/// Wait for an API server that has never answered: this host may have none.
const FIRST_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    Health(Health),
    Drain(bool),
    /// Withdraw and end.
    Stop,
}

/// Whether this node advertises a group without election.
#[derive(Debug)]
pub struct AnycastElector {
    /// None where the group does not depend on the API server.
    health: Option<Health>,
    drained: bool,
    stopping: bool,
    /// Routes are advertised as draining for this long before they are withdrawn, and addresses kept.
    hand_over_time: Duration,
    started: BootTime,
    role: Role,
    changed: bool,
}

impl AnycastElector {
    /// `health` is the initial health where the group depends on the local API server.
    pub fn new(health: Option<Health>, hand_over_time: Duration, now: BootTime) -> Self {
        let mut elector = Self {
            health,
            drained: false,
            stopping: false,
            hand_over_time,
            started: now,
            role: Role::Starting,
            changed: true,
        };
        elector.advance(now);
        elector
    }

    pub fn role(&self) -> &Role {
        &self.role
    }

    /// Whether a stop is complete: the group is withdrawn.
    pub fn is_stopped(&self) -> bool {
        self.stopping && !matches!(self.role, Role::HandingOver { .. })
    }

    pub fn handle_input(&mut self, now: BootTime, input: Input) {
        match input {
            Input::Health(health) => self.health = self.health.map(|_| health),
            Input::Drain(drained) => self.drained = drained,
            Input::Stop => self.stopping = true,
        }
        self.advance(now);
    }

    pub fn handle_timeout(&mut self, now: BootTime) {
        self.advance(now);
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        match self.role {
            Role::HandingOver { until } => Some(until),
            Role::Starting => Some(self.started + FIRST_ANSWER_TIMEOUT),
            Role::Leader(_) | Role::Follower { .. } => None,
        }
    }

    /// The role, if it has changed.
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Role> {
        std::mem::take(&mut self.changed).then(|| self.role.clone())
    }

    fn advance(&mut self, now: BootTime) {
        let role = self.next(now);
        self.changed |= role != self.role;
        self.role = role;
    }

    fn next(&self, now: BootTime) -> Role {
        if self.drained || self.stopping {
            return match self.role {
                Role::HandingOver { until } if now < until => self.role.clone(),
                Role::Leader(_) => Role::HandingOver { until: now + self.hand_over_time },
                _ => Role::FOLLOWER,
            };
        }
        match self.health {
            None | Some(Health::Serving | Health::Refusing) => match self.role {
                Role::Leader(_) => self.role.clone(),
                _ => Role::Leader(Claim::of_every_node(now)),
            },
            Some(Health::Unknown) if now < self.started + FIRST_ANSWER_TIMEOUT => Role::Starting,
            Some(Health::Unknown | Health::Failing) => Role::FOLLOWER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HAND_OVER: Duration = Duration::from_millis(700);

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    /// S, F, L, H: the role's first letter.
    fn letter(elector: &AnycastElector) -> char {
        match elector.role() {
            Role::Starting => 'S',
            Role::Follower { .. } => 'F',
            Role::Leader(_) => 'L',
            Role::HandingOver { .. } => 'H',
        }
    }

    fn run(health: Option<Health>, script: &[(u64, Option<Input>, char)]) {
        let mut elector = AnycastElector::new(health, HAND_OVER, at(0));
        for (millis, input, expected) in script {
            match input {
                Some(input) => elector.handle_input(at(*millis), *input),
                None => elector.handle_timeout(at(*millis)),
            }
            assert_eq!(letter(&elector), *expected, "at {millis} after {input:?}");
        }
    }

    #[test]
    fn roles_follow_health_drain_and_stop() {
        use Health::{Failing, Refusing, Serving, Unknown};
        run(
            Some(Unknown),
            &[
                (1, None, 'S'),
                (5, Some(Input::Health(Refusing)), 'L'),
                (10, Some(Input::Health(Failing)), 'F'),
                (20, Some(Input::Health(Serving)), 'L'),
                (30, Some(Input::Drain(true)), 'H'),
                (729, None, 'H'),
                (730, None, 'F'),
                (800, Some(Input::Drain(false)), 'L'),
                (900, Some(Input::Stop), 'H'),
                (1600, None, 'F'),
            ],
        );
        run(Some(Unknown), &[(9_999, None, 'S'), (10_000, None, 'F')]);
        run(None, &[(0, None, 'L'), (1, Some(Input::Health(Failing)), 'L'), (2, Some(Input::Stop), 'H')]);
        run(Some(Unknown), &[(1, Some(Input::Drain(true)), 'F'), (2, Some(Input::Drain(false)), 'S')]);
    }

    #[test]
    fn a_stop_is_complete_once_the_group_is_withdrawn() {
        let mut elector = AnycastElector::new(None, HAND_OVER, at(0));
        assert!(!elector.is_stopped());
        elector.handle_input(at(5), Input::Stop);
        assert!(!elector.is_stopped());
        assert_eq!(elector.poll_timeout(), Some(at(705)));
        elector.handle_timeout(at(705));
        assert!(elector.is_stopped());
    }

    #[test]
    fn each_change_is_output_once() {
        let mut elector = AnycastElector::new(Some(Health::Unknown), HAND_OVER, at(0));
        assert_eq!(elector.poll_output(), Some(Role::Starting));
        assert_eq!(elector.poll_output(), None);
        elector.handle_input(at(3), Input::Health(Health::Serving));
        assert_eq!(elector.poll_output(), Some(Role::Leader(Claim::of_every_node(at(3)))));
        elector.handle_input(at(4), Input::Health(Health::Serving));
        assert_eq!(elector.poll_output(), None);
    }
}
