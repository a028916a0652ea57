//! A client with one lease, of IPv4 (RFC 2131 §4.4) or IPv6 (RFC 8415 §18.2): the messages differ, the story is one.
//!
//! In the words of IPv4; those of IPv6 are SOLICIT, REQUEST, REPLY, RENEW, REBIND.
//!
//! ```text
//!            DISCOVER             REQUEST              ACK             nobody answers
//!   Init ───────────► Selecting ──────────► Requesting ───► Probing ─────────────────► Bound
//!    ▲  ▲                                   │               │ a station does: DECLINE   │ T1
//!    │  └──────────────────── NAK ──────────┴───────────────┘                           ▼
//!    │                                                               Rebinding ◄─── Renewing
//!    └──────────────────────── NAK, or the lease ends ──────────────────┘   T2
//!
//!   Rebooting: a lease from before is asked for again. It is ours until a server says otherwise, or it ends (§3.2).
//! ```

mod values;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

pub use values::{
    Answer, Grant, Input, Lease, Loss, Message, Output, Server, Settings, Stage, Times, Trouble,
};

use crate::model::BootTime;
use crate::model::hash::spread;

/// The first wait for an answer; doubled each time. RFC 2131 §4.1 has four seconds, for the networks of its day.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait within one round of attempts (§4.1).
const LONGEST_WAIT: Duration = Duration::from_secs(64);
/// Messages in one round of attempts.
const ROUND: u32 = 3;
/// The pause after a round without success; doubled each time.
const SHORTEST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// The pause after a refusal; doubled each time. A server that offers one address to two clients refuses one of them.
const REFUSED_PAUSE: Duration = Duration::from_millis(250);
/// The pause after as many rounds as the settings say.
const PATIENT_PAUSE: Duration = Duration::from_secs(300);
/// After a DECLINE nothing is asked for so long (§3.1.5).
const AFTER_DECLINE: Duration = Duration::from_secs(10);
/// How long an offer of another address than the one wanted waits for a better one.
const HESITATION: Duration = Duration::from_millis(500);
/// Between two requests for more time; less for leases that are short (§4.4.5).
const RENEWAL_WAIT: Duration = Duration::from_secs(60);

/// Where a client is (RFC 2131, figure 5, with a place for the probe of §2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    /// Nothing is wanted.
    Off,
    /// Nothing is asked until then.
    Pausing(BootTime),
    /// Waiting for offers; an offer of another address than the wanted one waits for a better one.
    Selecting(Option<(Grant, BootTime)>),
    /// An offer was taken.
    Requesting(Grant),
    /// A lease from before was asked for.
    Rebooting(Lease),
    /// The address is being probed.
    Probing(Lease),
    /// All is well.
    Bound(Lease),
    /// More time was asked for: of the server, or of any.
    Extending(Lease),
}

/// A client.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    state: State,
    transaction: u32,
    /// When the exchange began, and the last message of it was sent.
    begun: BootTime,
    asked: BootTime,
    /// When that is sent again.
    again: Option<BootTime>,
    /// Messages since the exchange began, and rounds without success.
    sent: u32,
    rounds: u32,
    /// Messages since a server was heard.
    unheard: u32,
    counter: u64,
    /// What it had last: servers remember, too.
    last: Option<IpAddr>,
    outputs: VecDeque<Output>,
}

impl Client {
    /// One that has not begun.
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            state: State::Off,
            transaction: 0,
            begun: BootTime::default(),
            asked: BootTime::default(),
            again: None,
            sent: 0,
            rounds: 0,
            unheard: 0,
            counter: 0,
            last: None,
            outputs: VecDeque::new(),
        }
    }

    /// The lease, while it is good at `now`.
    pub fn lease(&self, now: BootTime) -> Option<&Lease> {
        match &self.state {
            State::Rebooting(lease) | State::Bound(lease) | State::Extending(lease) => {
                Some(lease).filter(|lease| !lease.is_over(now))
            }
            _ => None,
        }
    }

    /// How far it is, at `now`.
    pub fn stage(&self, now: BootTime) -> Stage {
        match &self.state {
            State::Off | State::Pausing(_) | State::Selecting(_) => Stage::Asking,
            State::Requesting(_) => Stage::Offered,
            State::Rebooting(_) => Stage::Confirming,
            State::Probing(_) => Stage::Probing,
            State::Bound(_) => Stage::Bound,
            State::Extending(lease) => match lease.times {
                Some(times) if now >= times.rebind => Stage::Rebinding,
                _ => Stage::Renewing,
            },
        }
    }

    /// Whether an answer may be on its way.
    pub fn awaits(&self) -> bool {
        self.again.is_some()
    }

    /// Take in what happened. Afterwards ask for outputs and for the next deadline.
    pub fn handle_input(&mut self, now: BootTime, input: Input) {
        match input {
            Input::Start(lease) if self.state == State::Off => self.start(now, lease),
            Input::Start(_) => {}
            Input::Answer(transaction, answer) if transaction == self.transaction => self.answer(now, answer),
            Input::Answer(..) => {}
            Input::Probed(taken) => self.probed(now, taken),
            Input::Conflict => {
                if let State::Rebooting(lease) | State::Bound(lease) | State::Extending(lease) =
                    self.state.clone()
                {
                    self.outputs.push_back(Output::Lost(Loss::Taken(lease.address)));
                    self.decline(now, &lease);
                }
            }
            Input::Stop => self.stop(now),
        }
    }

    /// Do what is due by now. Afterwards ask for outputs and for the next deadline.
    pub fn handle_timeout(&mut self, now: BootTime) {
        match self.state.clone() {
            State::Pausing(at) if now >= at => self.discover(now),
            State::Selecting(Some((grant, at))) if now >= at => self.select(now, grant),
            State::Rebooting(lease) | State::Bound(lease) | State::Extending(lease) if lease.is_over(now) => {
                self.outputs.push_back(Output::Lost(Loss::Expired));
                self.rounds = 0;
                self.discover(now);
            }
            State::Bound(lease) if lease.times.is_some_and(|times| now >= times.renew) => {
                self.begin(now);
                self.state = State::Extending(lease);
                self.extend(now);
            }
            _ if self.again.is_some_and(|again| now >= again) => self.repeat(now),
            _ => {}
        }
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let own = match &self.state {
            State::Pausing(at) | State::Selecting(Some((_, at))) => Some(*at),
            State::Bound(lease) => lease.times.map(|times| times.renew.min(times.end)),
            State::Extending(lease) | State::Rebooting(lease) => lease.times.map(|times| times.end),
            _ => None,
        };
        own.into_iter().chain(self.again).min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn start(&mut self, now: BootTime, lease: Option<Lease>) {
        self.rounds = 0;
        self.last = lease.as_ref().map(|lease| lease.address);
        let Some(lease) = lease.filter(|lease| !lease.is_over(now)) else { return self.discover(now) };
        self.begin(now);
        self.send(now, Message::Confirm(lease.address));
        self.state = State::Rebooting(lease);
    }

    fn wanted(&self) -> Option<IpAddr> {
        self.settings.wanted.or(self.last)
    }

    /// A new exchange.
    fn begin(&mut self, now: BootTime) {
        self.counter += 1;
        // It need only differ from the last one. IPv6 has room for 24 bits.
        self.transaction = (spread(self.settings.seed, self.counter) * f64::from(0xff_ffff)) as u32;
        self.begun = now;
        self.sent = 0;
        self.again = None;
    }

    fn discover(&mut self, now: BootTime) {
        self.begin(now);
        self.state = State::Selecting(None);
        self.send(now, Message::Discover(self.wanted()));
    }

    fn select(&mut self, now: BootTime, grant: Grant) {
        self.sent = 0;
        self.send(now, Message::Select(grant.address, grant.server.clone()));
        self.state = State::Requesting(grant);
    }

    /// A request for more time. Who may refuse it differs before and after T2; who may grant it does not.
    fn extend(&mut self, now: BootTime) {
        let State::Extending(lease) = &self.state else { return };
        let Some(times) = lease.times else { return };
        let until = if now < times.rebind { times.rebind } else { times.end };
        let message = Message::Confirm(lease.address);
        self.send(now, message);
        // Half of what is left, and not less than a minute, unless the lease is so short (§4.4.5).
        let left = until.since(now);
        let least = RENEWAL_WAIT.min(times.end.since(times.renew) / 8).max(FIRST_WAIT);
        self.again = Some(now + (left / 2).max(least).min(left.max(FIRST_WAIT)));
    }

    fn send(&mut self, now: BootTime, message: Message) {
        self.outputs.push_back(Output::Send(self.transaction, now.since(self.begun), message));
        self.asked = now;
        self.unheard += 1;
        let wait = (FIRST_WAIT * 2_u32.saturating_pow(self.sent)).min(LONGEST_WAIT);
        self.sent += 1;
        self.counter += 1;
        self.again = Some(now + wait.mul_f64(0.75 + spread(self.settings.seed, self.counter) / 2.0));
    }

    /// Nobody has answered the last message in time.
    fn repeat(&mut self, now: BootTime) {
        if matches!(self.state, State::Extending(_)) {
            return self.extend(now);
        }
        if self.sent < ROUND {
            let message = match &self.state {
                State::Selecting(_) => Message::Discover(self.wanted()),
                State::Requesting(grant) => Message::Select(grant.address, grant.server.clone()),
                State::Rebooting(lease) => Message::Confirm(lease.address),
                _ => return self.again = None,
            };
            return self.send(now, message);
        }
        // §3.2: a lease that lasts may be used though no server answers.
        if let State::Rebooting(lease) = self.state.clone() {
            return self.bind(lease);
        }
        self.rounds += 1;
        // Ever more seldom: nothing new is said.
        if self.rounds.is_power_of_two() {
            self.outputs.push_back(Output::Told(Trouble::Silence(self.unheard)));
        }
        self.pause(now);
    }

    fn pause(&mut self, now: BootTime) {
        let pause = match self.settings.rounds {
            1.. if self.rounds >= self.settings.rounds => PATIENT_PAUSE,
            _ => LONGEST_PAUSE.min(SHORTEST_PAUSE * 2_u32.saturating_pow(self.rounds.saturating_sub(1))),
        };
        self.pause_for(now, pause);
    }

    fn pause_for(&mut self, now: BootTime, pause: Duration) {
        self.counter += 1;
        let pause = pause.mul_f64(0.75 + spread(self.settings.seed, self.counter) / 4.0);
        self.state = State::Pausing(now + pause);
        self.again = None;
    }

    fn answer(&mut self, now: BootTime, answer: Answer) {
        self.unheard = 0;
        match (self.state.clone(), answer) {
            (State::Selecting(None), Answer::Offer(grant)) => {
                let wanted = self.wanted().is_none_or(|wanted| wanted == grant.address);
                match wanted {
                    true => self.select(now, grant),
                    false => self.state = State::Selecting(Some((grant, now + HESITATION))),
                }
            }
            (State::Selecting(Some(_)), Answer::Offer(grant)) if self.wanted() == Some(grant.address) => {
                self.select(now, grant);
            }
            (State::Requesting(offer), Answer::Ack(grant)) if offer.server == grant.server => {
                self.probe(Lease::new(&grant, self.asked));
            }
            (State::Requesting(offer), Answer::Nak(server, why)) if offer.server == server => {
                self.outputs.push_back(Output::Told(Trouble::Refused(server, why)));
                self.last = None;
                self.rounds += 1;
                let pause = REFUSED_PAUSE.saturating_mul(2_u32.saturating_pow(self.rounds - 1));
                self.pause_for(now, pause.min(LONGEST_PAUSE));
            }
            (State::Selecting(_), Answer::Nak(server, why)) => {
                self.outputs.push_back(Output::Told(Trouble::Refused(server, why)));
            }
            (State::Rebooting(lease) | State::Extending(lease), Answer::Ack(grant))
                if grant.address == lease.address =>
            {
                self.bind(Lease::new(&grant, self.asked));
            }
            // Until T2 the lease is a matter between us and its server: another one may know nothing of it.
            (State::Rebooting(lease) | State::Extending(lease), Answer::Nak(server, why))
                if server == lease.server || lease.times.is_some_and(|times| now >= times.rebind) =>
            {
                self.outputs.push_back(Output::Lost(Loss::Refused(server, why)));
                self.rounds = 0;
                self.last = None;
                self.discover(now);
            }
            _ => {}
        }
    }

    fn probe(&mut self, lease: Lease) {
        self.again = None;
        self.outputs.push_back(Output::Probe(lease.address));
        self.state = State::Probing(lease);
    }

    fn probed(&mut self, now: BootTime, taken: bool) {
        let State::Probing(lease) = self.state.clone() else { return };
        match taken {
            true => {
                self.outputs.push_back(Output::Told(Trouble::Taken(lease.address)));
                self.decline(now, &lease);
            }
            false => self.bind(lease),
        }
    }

    fn bind(&mut self, lease: Lease) {
        self.last = Some(lease.address);
        self.rounds = 0;
        self.again = None;
        self.outputs.push_back(Output::Bound(lease.clone()));
        self.state = State::Bound(lease);
    }

    /// A station has the address: the server is told, and asked for another one later.
    fn decline(&mut self, now: BootTime, lease: &Lease) {
        self.begin(now);
        self.last = None;
        self.send(now, Message::Decline(lease.address, lease.server.clone()));
        self.again = None;
        self.state = State::Pausing(now + AFTER_DECLINE);
    }

    fn stop(&mut self, now: BootTime) {
        let lease = match std::mem::replace(&mut self.state, State::Off) {
            State::Rebooting(lease) | State::Bound(lease) | State::Extending(lease) => Some((lease, true)),
            State::Probing(lease) => Some((lease, false)),
            _ => None,
        };
        if let Some((lease, known)) = lease {
            self.begin(now);
            self.send(now, Message::Release(lease.address, lease.server));
            if known {
                self.outputs.push_back(Output::Lost(Loss::Released));
            }
        }
        self.again = None;
    }
}

#[cfg(test)]
mod tests;
