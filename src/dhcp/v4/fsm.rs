//! A client with one lease (RFC 2131 §4.4).
//!
//! ```text
//!            DISCOVER             REQUEST              ACK             nobody answers
//!   Init ───────────► Selecting ──────────► Requesting ───► Probing ─────────────────► Bound
//!    ▲  ▲                                   │               │ a station does: DECLINE   │ T1
//!    │  └──────────────────── NAK ──────────┴───────────────┘                           ▼
//!    │                                                               Rebinding ◄─── Renewing
//!    └──────────────────────── NAK, or the lease ends ──────────────────┘   T2
//!
//!   Rebooting: a lease from before is asked for again, and kept if nobody answers while it lasts (§3.2).
//! ```

use std::collections::VecDeque;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

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
/// After a DECLINE nothing is asked for so long (§3.1.5).
const AFTER_DECLINE: Duration = Duration::from_secs(10);
/// How long an offer of another address than the one wanted waits for a better one.
const HESITATION: Duration = Duration::from_millis(500);
/// Between two requests for more time; less for leases that are short (§4.4.5).
const RENEWAL_WAIT: Duration = Duration::from_secs(60);

/// Who asks, and for what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// An address that is preferred, if the server has it.
    pub wanted: Option<Ipv4Addr>,
    /// Rounds of attempts before giving up; 0 for never.
    pub rounds: u32,
    /// Spreads waits and makes transaction identifiers.
    pub seed: u64,
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// DHCPOFFER.
    Offer(Grant),
    /// DHCPACK.
    Ack(Grant),
    /// DHCPNAK, with the server's reason.
    Nak(Ipv4Addr, String),
}

/// An address, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The address.
    pub address: Ipv4Addr,
    /// The server's identifier.
    pub server: Ipv4Addr,
    /// The prefix length of its subnet.
    pub prefix: Option<u8>,
    /// For how long; none is for ever.
    pub time: Option<Duration>,
    /// When to ask the server for more (T1), where it says so.
    pub renew: Option<Duration>,
    /// When to ask any server for more (T2), where it says so.
    pub rebind: Option<Duration>,
}

/// An address that is ours for a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// The prefix length of its subnet.
    pub prefix: Option<u8>,
    /// Who gave it.
    pub server: Ipv4Addr,
    /// T1, T2 and the end; none where it is for ever.
    pub times: Option<Times>,
}

/// When something is to be done about a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// T1: ask the server for more.
    pub renew: BootTime,
    /// T2: ask any server for more.
    pub rebind: BootTime,
    /// The end.
    pub end: BootTime,
}

impl Lease {
    /// A grant that was asked for at `asked`: its time counts from there (§4.4.1). T1 and T2 are the server's, where
    /// they are in order, else half and seven eighths of the time (§4.4.5).
    fn new(grant: &Grant, asked: BootTime) -> Self {
        let times = grant.time.map(|time| {
            let rebind = grant.rebind.filter(|rebind| *rebind <= time).unwrap_or(time * 7 / 8);
            let renew = grant.renew.filter(|renew| *renew <= rebind).unwrap_or(rebind.min(time / 2));
            Times { renew: asked + renew, rebind: asked + rebind, end: asked + time }
        });
        Self { address: grant.address, prefix: grant.prefix, server: grant.server, times }
    }

    fn is_over(&self, now: BootTime) -> bool {
        self.times.is_some_and(|times| now >= times.end)
    }
}

/// What happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Begin; with a lease from before, where one is known.
    Start(Option<Lease>),
    /// A server answered the transaction with this number.
    Answer(u32, Answer),
    /// Whether a station has the address that was to be probed.
    Probed(bool),
    /// A station has the address of the lease.
    Conflict,
    /// The address is not needed any more.
    Stop,
}

/// A message to servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// DHCPDISCOVER, with a preference.
    Discover(Option<Ipv4Addr>),
    /// DHCPREQUEST for an offer of this server.
    Select(Ipv4Addr, Ipv4Addr),
    /// DHCPREQUEST for an address from before.
    Reboot(Ipv4Addr),
    /// DHCPREQUEST for more time: from its server alone, or from any.
    Extend(Ipv4Addr, Option<Ipv4Addr>),
    /// DHCPDECLINE of an address that a station has.
    Decline(Ipv4Addr, Ipv4Addr),
    /// DHCPRELEASE.
    Release(Ipv4Addr, Ipv4Addr),
}

/// What has to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this as the transaction with this number, begun so many seconds ago.
    Send(u32, u16, Message),
    /// Find out whether a station has this address.
    Probe(Ipv4Addr),
    /// The lease is this now: new, or with more time.
    Bound(Lease),
    /// There is no lease any more.
    Lost(Loss),
    /// Something to tell that changes nothing.
    Told(Trouble),
}

/// Why a lease is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// A server said so.
    Refused(Ipv4Addr, String),
    /// Its time is over.
    Expired,
    /// A station has the address.
    Taken(Ipv4Addr),
    /// It was given back.
    Released,
}

/// What is in the way of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody answered in so many rounds.
    Silence(u32),
    /// Nobody answered, and nothing more is tried.
    GivenUp,
    /// A server refused a request.
    Refused(Ipv4Addr, String),
    /// A station has the address that was offered.
    Taken(Ipv4Addr),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence(rounds) => write!(f, "no DHCP server answered ({rounds} rounds); trying again"),
            Self::GivenUp => {
                f.write_str("no DHCP server answered, and no more is tried (dhcp_backoff_attempts)")
            }
            Self::Refused(server, why) if why.is_empty() => write!(f, "the DHCP server {server} refused"),
            Self::Refused(server, why) => write!(f, "the DHCP server {server} refused: {why}"),
            Self::Taken(address) => {
                write!(f, "a station on the link has {address}, which a DHCP server offered")
            }
        }
    }
}

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
    counter: u64,
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
            counter: 0,
            outputs: VecDeque::new(),
        }
    }

    /// The lease, while it is good at `now`.
    pub fn lease(&self, now: BootTime) -> Option<&Lease> {
        match &self.state {
            State::Bound(lease) | State::Extending(lease) => Some(lease).filter(|lease| !lease.is_over(now)),
            _ => None,
        }
    }

    /// Take in what happened. Afterwards ask for outputs and for the next deadline.
    pub fn handle_input(&mut self, now: BootTime, input: Input) {
        match input {
            Input::Start(lease) => {
                if self.state == State::Off {
                    self.start(now, lease.filter(|lease| !lease.is_over(now)));
                }
            }
            Input::Answer(transaction, answer) if transaction == self.transaction => self.answer(now, answer),
            Input::Answer(..) => {}
            Input::Probed(taken) => self.probed(now, taken),
            Input::Conflict => {
                if let State::Bound(lease) | State::Extending(lease) = self.state.clone() {
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
            State::Rebooting(lease) if lease.is_over(now) => self.discover(now),
            State::Bound(lease) | State::Extending(lease) if lease.is_over(now) => {
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
        let Some(lease) = lease else { return self.discover(now) };
        self.begin(now);
        self.send(now, Message::Reboot(lease.address));
        self.state = State::Rebooting(lease);
    }

    /// A new exchange.
    fn begin(&mut self, now: BootTime) {
        self.counter += 1;
        // No more than a number that differs from the last one is needed.
        self.transaction = (spread(self.settings.seed, self.counter) * f64::from(u32::MAX)) as u32;
        self.begun = now;
        self.sent = 0;
        self.again = None;
    }

    fn discover(&mut self, now: BootTime) {
        self.begin(now);
        self.state = State::Selecting(None);
        self.send(now, Message::Discover(self.settings.wanted));
    }

    fn select(&mut self, now: BootTime, grant: Grant) {
        self.sent = 0;
        self.send(now, Message::Select(grant.address, grant.server));
        self.state = State::Requesting(grant);
    }

    /// A request for more time: of the server until T2, of any after it.
    fn extend(&mut self, now: BootTime) {
        let State::Extending(lease) = &self.state else { return };
        let Some(times) = lease.times else { return };
        let (server, until) =
            if now < times.rebind { (Some(lease.server), times.rebind) } else { (None, times.end) };
        let message = Message::Extend(lease.address, server);
        self.send(now, message);
        // Half of what is left, and not less than a minute, unless the lease is so short (§4.4.5).
        let left = until.since(now);
        let least = RENEWAL_WAIT.min(times.end.since(times.renew) / 8).max(FIRST_WAIT);
        self.again = Some(now + (left / 2).max(least).min(left.max(FIRST_WAIT)));
    }

    fn send(&mut self, now: BootTime, message: Message) {
        let seconds = u16::try_from(now.since(self.begun).as_secs()).unwrap_or(u16::MAX);
        self.outputs.push_back(Output::Send(self.transaction, seconds, message));
        self.asked = now;
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
                State::Selecting(_) => Message::Discover(self.settings.wanted),
                State::Requesting(grant) => Message::Select(grant.address, grant.server),
                State::Rebooting(lease) => Message::Reboot(lease.address),
                _ => return self.again = None,
            };
            return self.send(now, message);
        }
        // §3.2: a lease that lasts may be used though no server answers.
        if let State::Rebooting(lease) = self.state.clone() {
            self.again = None;
            return self.probe(lease);
        }
        self.rounds += 1;
        if self.settings.rounds > 0 && self.rounds >= self.settings.rounds {
            self.outputs.push_back(Output::Told(Trouble::GivenUp));
            self.state = State::Off;
            self.again = None;
            return;
        }
        self.outputs.push_back(Output::Told(Trouble::Silence(self.rounds)));
        self.pause(now);
    }

    fn pause(&mut self, now: BootTime) {
        let pause = SHORTEST_PAUSE * 2_u32.saturating_pow(self.rounds.saturating_sub(1));
        self.counter += 1;
        let pause = pause.min(LONGEST_PAUSE).mul_f64(0.75 + spread(self.settings.seed, self.counter) / 4.0);
        self.state = State::Pausing(now + pause);
        self.again = None;
    }

    fn answer(&mut self, now: BootTime, answer: Answer) {
        match (self.state.clone(), answer) {
            (State::Selecting(None), Answer::Offer(grant)) => {
                let wanted = self.settings.wanted.is_none_or(|wanted| wanted == grant.address);
                match wanted {
                    true => self.select(now, grant),
                    false => self.state = State::Selecting(Some((grant, now + HESITATION))),
                }
            }
            (State::Selecting(Some(_)), Answer::Offer(grant))
                if self.settings.wanted == Some(grant.address) =>
            {
                self.select(now, grant);
            }
            (State::Requesting(offer), Answer::Ack(grant)) if offer.server == grant.server => {
                self.probe(Lease::new(&grant, self.asked));
            }
            (State::Requesting(offer), Answer::Nak(server, why)) if offer.server == server => {
                self.outputs.push_back(Output::Told(Trouble::Refused(server, why)));
                self.rounds += 1;
                self.pause(now);
            }
            (State::Rebooting(_), Answer::Ack(grant)) => self.probe(Lease::new(&grant, self.asked)),
            (State::Rebooting(_), Answer::Nak(server, why)) => {
                self.outputs.push_back(Output::Told(Trouble::Refused(server, why)));
                self.discover(now);
            }
            (State::Extending(lease), Answer::Ack(grant)) if grant.address == lease.address => {
                self.bind(Lease::new(&grant, self.asked));
            }
            (State::Extending(_), Answer::Nak(server, why)) => {
                self.outputs.push_back(Output::Lost(Loss::Refused(server, why)));
                self.rounds = 0;
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
        self.rounds = 0;
        self.again = None;
        self.outputs.push_back(Output::Bound(lease.clone()));
        self.state = State::Bound(lease);
    }

    /// A station has the address: the server is told, and asked for another one later.
    fn decline(&mut self, now: BootTime, lease: &Lease) {
        self.begin(now);
        self.send(now, Message::Decline(lease.address, lease.server));
        self.again = None;
        self.state = State::Pausing(now + AFTER_DECLINE);
    }

    fn stop(&mut self, now: BootTime) {
        if let State::Bound(lease) | State::Extending(lease) | State::Probing(lease) = self.state.clone() {
            self.begin(now);
            self.send(now, Message::Release(lease.address, lease.server));
            self.outputs.push_back(Output::Lost(Loss::Released));
        }
        self.state = State::Off;
        self.again = None;
    }
}

#[cfg(test)]
mod tests;
