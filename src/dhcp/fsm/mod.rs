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

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
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
    pub wanted: Option<IpAddr>,
    /// Spreads waits and makes transaction identifiers.
    pub seed: u64,
}

/// A server, as it calls itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    /// By one of its addresses (RFC 2132 §9.7).
    Address(Ipv4Addr),
    /// By its DUID (RFC 8415 §11).
    Duid(Vec<u8>),
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Duid(duid) => duid.iter().try_for_each(|byte| write!(f, "{byte:02x}")),
        }
    }
}

/// What a server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// DHCPOFFER, or ADVERTISE with an address.
    Offer(Grant),
    /// DHCPACK, or REPLY with an address.
    Ack(Grant),
    /// DHCPNAK, or ADVERTISE or REPLY without an address, with the server's reason.
    Nak(Server, String),
}

/// An address, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The address.
    pub address: IpAddr,
    /// Who gives it.
    pub server: Server,
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
    pub address: IpAddr,
    /// Who gave it.
    pub server: Server,
    /// When it was asked for: its time counts from there.
    pub asked: BootTime,
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
        Self { address: grant.address, server: grant.server.clone(), asked, times }
    }

    /// Whether its time is over.
    pub fn is_over(&self, now: BootTime) -> bool {
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
    /// DHCPDISCOVER or SOLICIT, with a preference.
    Discover(Option<IpAddr>),
    /// DHCPREQUEST or REQUEST for an offer of this server.
    Select(IpAddr, Server),
    /// DHCPREQUEST or REBIND for an address that we have: from before, or for more time.
    Confirm(IpAddr),
    /// DHCPDECLINE or DECLINE of an address that a station has.
    Decline(IpAddr, Server),
    /// DHCPRELEASE or RELEASE.
    Release(IpAddr, Server),
}

/// What has to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this as the transaction with this number, begun so long ago.
    Send(u32, Duration, Message),
    /// Find out whether a station has this address.
    Probe(IpAddr),
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
    Refused(Server, String),
    /// Its time is over.
    Expired,
    /// A station has the address.
    Taken(IpAddr),
    /// It was given back.
    Released,
}

/// What is in the way of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// Nobody answered in so many rounds.
    Silence(u32),
    /// A server refused a request.
    Refused(Server, String),
    /// A station has the address that was offered.
    Taken(IpAddr),
}

/// A server's refusal, in words.
fn refusal(f: &mut fmt::Formatter<'_>, server: &Server, why: &str) -> fmt::Result {
    match why {
        "" => write!(f, "the DHCP server {server} refuses"),
        why => write!(f, "the DHCP server {server} refuses: {why}"),
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silence(_) => f.write_str("no DHCP server answers"),
            Self::Refused(server, why) => refusal(f, server, why),
            Self::Taken(address) => {
                write!(f, "a station on the link has {address}, which a DHCP server offered")
            }
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(server, why) => refusal(f, server, why),
            Self::Expired => f.write_str("the lease is over, and no DHCP server gave it more time"),
            Self::Taken(address) => write!(f, "a station on the link has {address}, too"),
            Self::Released => f.write_str("it was given back"),
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

/// How far a client is, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Another host has the lease.
    Standby,
    /// No server has offered anything yet.
    Asking,
    /// An offer was taken; the server has not confirmed it yet.
    Offered,
    /// A lease from before was asked for.
    Confirming,
    /// Whether a station has the address is being found out.
    Probing,
    /// All is well.
    Bound,
    /// More time was asked for.
    Renewing,
    /// More time was asked for again, because the server does not answer.
    Rebinding,
}

impl Stage {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Standby,
        Self::Asking,
        Self::Offered,
        Self::Confirming,
        Self::Probing,
        Self::Bound,
        Self::Renewing,
        Self::Rebinding,
    ];
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Standby => "standby",
            Self::Asking => "asking",
            Self::Offered => "offered",
            Self::Confirming => "confirming",
            Self::Probing => "probing",
            Self::Bound => "bound",
            Self::Renewing => "renewing",
            Self::Rebinding => "rebinding",
        })
    }
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
            State::Rebooting(lease) | State::Bound(lease) | State::Extending(lease)
                if lease.is_over(now) =>
            {
                self.outputs.push_back(Output::Lost(Loss::Expired));
                self.rounds = 0;
                self.discover(now);
            }
            State::Bound(lease) if lease.times.is_some_and(|times| now >= times.renew) => {
                self.begin(now);
                self.last = Some(lease.address);
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
                let wanted = self.wanted().is_none_or(|wanted| wanted == grant.address);
                match wanted {
                    true => self.select(now, grant),
                    false => self.state = State::Selecting(Some((grant, now + HESITATION))),
                }
            }
            (State::Selecting(Some(_)), Answer::Offer(grant))
                if self.wanted() == Some(grant.address) =>
            {
                self.select(now, grant);
            }
            (State::Requesting(offer), Answer::Ack(grant)) if offer.server == grant.server => {
                self.probe(Lease::new(&grant, self.asked));
            }
            (State::Requesting(offer), Answer::Nak(server, why)) if offer.server == server => {
                self.outputs.push_back(Output::Told(Trouble::Refused(server, why)));
                self.last = None;
                self.rounds += 1;
                self.pause(now);
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
