//! Combines the health of the local API server with the state of the main interface.

use std::collections::VecDeque;
use std::time::Duration;

use super::health::Report;
use crate::model::{BootTime, Health};

/// An interface that is down for this long counts as a failure of this host.
const INTERFACE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a failed main interface means for elections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct InterfacePolicy {
    /// A host without carrier stays as good a candidate as any.
    pub tolerate_down: bool,
    /// The control plane is handed over after this time (`vip_loseleadership_timeout_seconds`).
    pub give_up_after: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    ApiServer(Report),
    /// Since when the main interface is down.
    InterfaceDown(Option<BootTime>),
}

/// A change for the elections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Health of this host, for the control plane's election.
    Health(Report),
    /// Whether the control plane is handed over because the interface is down.
    DrainControlPlane(bool),
    /// Whether Services are handed over because the interface is down.
    DrainServices(bool),
}

#[derive(Debug, Default)]
pub struct HostHealth {
    policy: InterfacePolicy,
    api_server: Report,
    down_since: Option<BootTime>,
    health: Report,
    control_plane_drained: bool,
    services_drained: bool,
    outputs: VecDeque<Output>,
}

impl HostHealth {
    pub fn new(policy: InterfacePolicy) -> Self {
        Self { policy, ..Self::default() }
    }

    /// The health as the control plane's election sees it.
    pub fn health(&self) -> Health {
        self.health.local
    }

    pub fn services_drained(&self) -> bool {
        self.services_drained
    }

    pub fn handle_input(&mut self, now: BootTime, input: Input) {
        match input {
            Input::ApiServer(report) => self.api_server = report,
            Input::InterfaceDown(since) => self.down_since = since,
        }
        self.advance(now);
    }

    pub fn handle_timeout(&mut self, now: BootTime) {
        self.advance(now);
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let down_since = self.down_since?;
        let cut_off = (!self.policy.tolerate_down && !self.services_drained).then_some(INTERFACE_TIMEOUT);
        let give_up = self.policy.give_up_after.filter(|_| !self.control_plane_drained);
        cut_off.into_iter().chain(give_up).min().map(|after| down_since + after)
    }

    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn advance(&mut self, now: BootTime) {
        let down_for = self.down_since.map(|since| now.since(since));
        let longer_than = |limit: Duration| down_for.is_some_and(|down| down >= limit);
        let cut_off = !self.policy.tolerate_down && longer_than(INTERFACE_TIMEOUT);
        // Without carrier peers cannot be queried; assume that they are healthy.
        let health = Report {
            local: if cut_off { Health::Failing } else { self.api_server.local },
            peer_serving: self.api_server.peer_serving || cut_off,
        };
        if std::mem::replace(&mut self.health, health) != health {
            self.outputs.push_back(Output::Health(health));
        }
        let give_up = self.policy.give_up_after.is_some_and(longer_than);
        if std::mem::replace(&mut self.control_plane_drained, give_up) != give_up {
            self.outputs.push_back(Output::DrainControlPlane(give_up));
        }
        if std::mem::replace(&mut self.services_drained, cut_off) != cut_off {
            self.outputs.push_back(Output::DrainServices(cut_off));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::from_boot(Duration::from_millis(millis))
    }

    fn outputs(health: &mut HostHealth) -> Vec<Output> {
        std::iter::from_fn(|| health.poll_output()).collect()
    }

    const SERVING: Report = Report { local: Health::Serving, peer_serving: false };
    const CUT_OFF: Report = Report { local: Health::Failing, peer_serving: true };

    #[test]
    fn a_short_loss_of_carrier_changes_nothing() {
        let mut health = HostHealth::new(InterfacePolicy::default());
        health.handle_input(at(0), Input::ApiServer(SERVING));
        assert_eq!(outputs(&mut health), [Output::Health(SERVING)]);
        health.handle_input(at(10), Input::InterfaceDown(Some(at(10))));
        assert_eq!(health.poll_timeout(), Some(at(1010)));
        health.handle_timeout(at(1009));
        health.handle_input(at(1009), Input::InterfaceDown(None));
        assert_eq!((outputs(&mut health), health.poll_timeout()), (vec![], None));
    }

    #[test]
    fn a_lasting_loss_of_carrier_counts_as_a_failed_host_until_it_is_over() {
        let policy = InterfacePolicy { tolerate_down: false, give_up_after: Some(Duration::from_secs(3)) };
        let mut health = HostHealth::new(policy);
        health.handle_input(at(0), Input::ApiServer(SERVING));
        health.handle_input(at(0), Input::InterfaceDown(Some(at(0))));
        outputs(&mut health);
        health.handle_timeout(at(1000));
        assert_eq!(outputs(&mut health), [Output::Health(CUT_OFF), Output::DrainServices(true)]);
        assert_eq!(health.poll_timeout(), Some(at(3000)));
        health.handle_timeout(at(3000));
        assert_eq!(outputs(&mut health), [Output::DrainControlPlane(true)]);
        assert_eq!(health.poll_timeout(), None);
        health.handle_input(at(4000), Input::InterfaceDown(None));
        let back = [Output::Health(SERVING), Output::DrainControlPlane(false), Output::DrainServices(false)];
        assert_eq!(outputs(&mut health), back);
    }

    #[test]
    fn a_tolerated_loss_of_carrier_leaves_health_and_services_alone() {
        let policy = InterfacePolicy { tolerate_down: true, give_up_after: Some(Duration::from_secs(3)) };
        let mut health = HostHealth::new(policy);
        health.handle_input(at(0), Input::InterfaceDown(Some(at(0))));
        assert_eq!(health.poll_timeout(), Some(at(3000)));
        health.handle_timeout(at(3000));
        assert_eq!(outputs(&mut health), [Output::DrainControlPlane(true)]);
    }
}
