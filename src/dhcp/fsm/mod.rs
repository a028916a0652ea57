//! The state machine of a client with one lease, for IPv4 (RFC 2131 §4.4) and IPv6 (RFC 8415 §18.2).
//!
//! Names are those of IPv4; IPv6 has SOLICIT, REQUEST, REPLY, RENEW and REBIND instead.
//!
//! ```text
//!            DISCOVER             REQUEST              ACK              no conflict
//!   Init ───────────► Selecting ──────────► Requesting ───► Probing ─────────────────► Bound
//!    ▲  ▲                                   │               │ conflict: DECLINE         │ T1
//!    │  └──────────────────── NAK ──────────┴───────────────┘                           ▼
//!    │                                                               Rebinding ◄─── Renewing
//!    └──────────────────────── NAK or expiry ───────────────────────────┘   T2
//!
//!   A round without a reply is followed by a pause and the next round of the same exchange (RFC 2131 §4.1): a late OFFER counts.
//!   Rebooting: a saved lease is confirmed. It may be used until a server refuses it or it expires (RFC 2131 §3.2).
//! ```

mod values;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

pub use values::{
    ClientConfig, ClientState, Envelope, FrameSource, Input, Lease, LeaseTerms, LossReason, Message, Output,
    Reply, Server, Timers,
};

use crate::conflict::{self, ConflictDetector, Preset};
use crate::model::hash::spread;
use crate::model::{Backoff, BootTime};

/// Retransmission within one round; doubled each time. RFC 2131 §4.1 starts with four seconds, for networks of its time.
const RETRANSMIT_MIN: Duration = Duration::from_secs(1);
const RETRANSMIT_MAX: Duration = Duration::from_secs(64);
/// Messages in one round.
const MESSAGES_PER_ROUND: u32 = 3;
/// Pauses between rounds. A router that reboots is away for minutes, and its users wait for its return.
const BACKOFF_MIN: Duration = Duration::from_secs(10);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// The first pause after a NAK. A server that offers one address to two clients refuses one of them.
const NAK_BACKOFF_MIN: Duration = Duration::from_millis(250);
/// From a DECLINE to the next DISCOVER (RFC 2131 §3.1.5).
const DECLINE_WAIT: Duration = Duration::from_secs(10);
/// How long an offer of another address than the requested one waits for a better one.
const OFFER_WAIT: Duration = Duration::from_millis(500);
/// Between two requests for an extension; less for short leases (RFC 2131 §4.4.5).
const RENEWAL_INTERVAL_MIN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
enum State {
    Stopped,
    BackingOff {
        until: BootTime,
    },
    /// With an offer of another address than the requested one, and when to accept it.
    Selecting(Option<(LeaseTerms, BootTime)>),
    Requesting(LeaseTerms),
    Rebooting(Lease),
    Probing(Lease, ConflictDetector),
    Bound(Lease),
    /// Renewing until T2, then rebinding.
    Renewing(Lease),
}

#[derive(Debug)]
pub struct Client {
    config: ClientConfig,
    state: State,
    xid: u32,
    /// When the exchange began.
    began: BootTime,
    /// The last message, for retransmission.
    message: Message,
    /// When it was first sent: a late reply may be to that.
    sent_at: BootTime,
    /// What it is sent from. It alternates until there is a reply.
    source: FrameSource,
    retransmit_at: Option<BootTime>,
    /// Messages in this round; 0 in the pause after it.
    sent: u32,
    /// Rounds without success.
    rounds: Backoff,
    /// Messages since the last reply.
    unanswered: u32,
    counter: u64,
    /// The last address: servers remember it, too.
    last: Option<IpAddr>,
    outputs: VecDeque<Output>,
}

impl Client {
    pub fn new(config: ClientConfig) -> Self {
        Self {
            config,
            state: State::Stopped,
            xid: 0,
            began: BootTime::default(),
            message: Message::Discover(None),
            sent_at: BootTime::default(),
            source: FrameSource::Client,
            retransmit_at: None,
            sent: 0,
            rounds: Backoff::new(BACKOFF_MIN, BACKOFF_MAX),
            unanswered: 0,
            counter: 0,
            last: None,
            outputs: VecDeque::new(),
        }
    }

    /// The lease, unless it has expired at `now`.
    pub fn lease(&self, now: BootTime) -> Option<&Lease> {
        self.used().filter(|lease| !lease.is_expired(now))
    }

    fn used(&self) -> Option<&Lease> {
        match &self.state {
            State::Rebooting(lease) | State::Bound(lease) | State::Renewing(lease) => Some(lease),
            _ => None,
        }
    }

    pub fn state(&self, now: BootTime) -> ClientState {
        match &self.state {
            State::Stopped | State::BackingOff { .. } | State::Selecting(_) => ClientState::Selecting,
            State::Requesting(_) => ClientState::Requesting,
            State::Rebooting(_) => ClientState::Rebooting,
            State::Probing(..) => ClientState::Probing,
            State::Bound(_) => ClientState::Bound,
            State::Renewing(lease) => match lease.timers {
                Some(timers) if now >= timers.t2 => ClientState::Rebinding,
                _ => ClientState::Renewing,
            },
        }
    }

    pub fn is_probing(&self) -> bool {
        matches!(self.state, State::Probing(..))
    }

    /// Whether a reply is outstanding that is not late.
    pub fn awaits_reply(&self) -> bool {
        self.retransmit_at.is_some() && self.sent > 0
    }

    pub fn handle_input(&mut self, now: BootTime, input: Input) {
        match input {
            Input::Start(lease) if matches!(self.state, State::Stopped) => self.start(now, lease),
            Input::Start(_) => {}
            Input::Reply(xid, reply) if xid == self.xid => self.handle_reply(now, reply),
            Input::Reply(..) => {}
            Input::Frame(frame) => {
                if let State::Probing(lease, detector) = &mut self.state
                    && lease.address == frame.address
                    // Some routers answer ARP requests by their leases: that is about this client.
                    && frame.mac != self.config.mac
                {
                    detector.handle_input(now, &frame);
                    self.poll_detector(now);
                }
            }
            Input::Conflict => {
                if let Some(lease) = self.used().cloned() {
                    self.outputs.push_back(Output::Lost(LossReason::Conflict(lease.address)));
                    self.decline(now, &lease);
                }
            }
            Input::Stop => self.stop(now),
        }
    }

    pub fn handle_timeout(&mut self, now: BootTime) {
        if self.used().is_some_and(|lease| lease.is_expired(now)) {
            return self.lose(now, LossReason::Expired);
        }
        if let State::Probing(_, detector) = &mut self.state {
            detector.handle_timeout(now);
            return self.poll_detector(now);
        }
        match self.state.clone() {
            State::BackingOff { until } if now >= until => self.discover(now),
            State::Selecting(Some((offer, at))) if now >= at => self.request(now, offer),
            State::Bound(lease) if lease.timers.is_some_and(|timers| now >= timers.t1) => {
                self.begin(now);
                self.state = State::Renewing(lease);
                self.extend(now);
            }
            _ if self.retransmit_at.is_some_and(|at| now >= at) => self.retransmit(now),
            _ => {}
        }
    }

    #[must_use]
    pub fn poll_timeout(&self) -> Option<BootTime> {
        let own = match &self.state {
            State::BackingOff { until: at } | State::Selecting(Some((_, at))) => Some(*at),
            State::Bound(lease) => lease.timers.map(|timers| timers.t1.min(timers.expiry)),
            State::Renewing(lease) | State::Rebooting(lease) => lease.timers.map(|timers| timers.expiry),
            State::Probing(_, detector) => detector.poll_timeout(),
            _ => None,
        };
        own.into_iter().chain(self.retransmit_at).min()
    }

    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn start(&mut self, now: BootTime, lease: Option<Lease>) {
        self.rounds.reset();
        self.last = lease.as_ref().map(|lease| lease.address);
        let Some(lease) = lease.filter(|lease| !lease.is_expired(now)) else { return self.discover(now) };
        self.begin(now);
        self.send(now, Message::Rebind(lease.address));
        self.state = State::Rebooting(lease);
    }

    fn lose(&mut self, now: BootTime, reason: LossReason) {
        self.outputs.push_back(Output::Lost(reason));
        self.rounds.reset();
        self.discover(now);
    }

    fn requested(&self) -> Option<IpAddr> {
        self.config.requested.or(self.last)
    }

    /// From 0 to 1.
    fn random(&mut self) -> f64 {
        self.counter += 1;
        spread(self.config.seed, self.counter)
    }

    /// Begins a new exchange.
    fn begin(&mut self, now: BootTime) {
        // It has to differ from the last one only. IPv6 has room for 24 bits.
        self.xid = (self.random() * f64::from(0xff_ffff)) as u32;
        self.began = now;
        self.sent = 0;
        self.retransmit_at = None;
    }

    fn discover(&mut self, now: BootTime) {
        self.begin(now);
        self.state = State::Selecting(None);
        self.send(now, Message::Discover(self.requested()));
    }

    fn request(&mut self, now: BootTime, offer: LeaseTerms) {
        self.sent = 0;
        self.send(now, Message::Request(offer.address, offer.server.clone()));
        self.state = State::Requesting(offer);
    }

    /// Requests an extension. Which server may refuse it differs before and after T2; which may grant it does not.
    fn extend(&mut self, now: BootTime) {
        let State::Renewing(lease) = &self.state else { return };
        let Some(timers) = lease.timers else { return };
        let until = if now < timers.t2 { timers.t2 } else { timers.expiry };
        self.send(now, Message::Rebind(lease.address));
        // Half of the remaining time, but at least a minute unless the lease is short (RFC 2131 §4.4.5).
        let left = until.since(now);
        let shortest = RENEWAL_INTERVAL_MIN.min(timers.expiry.since(timers.t1) / 8).max(RETRANSMIT_MIN);
        self.retransmit_at = Some(now + (left / 2).max(shortest).min(left.max(RETRANSMIT_MIN)));
    }

    fn send(&mut self, now: BootTime, message: Message) {
        self.message = message;
        self.sent_at = now;
        self.transmit(now);
    }

    fn transmit(&mut self, now: BootTime) {
        let envelope = Envelope { xid: self.xid, elapsed: now.since(self.began), source: self.source };
        self.outputs.push_back(Output::Send(envelope, self.message.clone()));
        self.unanswered += 1;
        let wait = (RETRANSMIT_MIN * 2_u32.saturating_pow(self.sent)).min(RETRANSMIT_MAX);
        self.sent += 1;
        self.retransmit_at = Some(now + wait.mul_f64(0.75 + self.random() / 2.0));
    }

    /// The last message got no reply in time.
    fn retransmit(&mut self, now: BootTime) {
        self.source = self.source.other();
        match self.state.clone() {
            State::Renewing(_) => self.extend(now),
            // After the pause. The server may not remember its offer any more.
            State::Requesting(_) if self.sent == 0 => self.discover(now),
            _ if self.sent < MESSAGES_PER_ROUND => self.transmit(now),
            // RFC 2131 §3.2: a lease that has not expired may be used though no server replies.
            State::Rebooting(lease) => self.bind(lease),
            _ => self.end_round(now),
        }
    }

    fn end_round(&mut self, now: BootTime) {
        let pause = self.rounds.next_pause();
        let rounds = self.rounds.attempts();
        if rounds.is_power_of_two() {
            self.outputs.push_back(Output::NoReply(self.unanswered));
        }
        let longest = self.config.max_rounds > 0 && rounds >= self.config.max_rounds;
        self.sent = 0;
        self.retransmit_at = Some(self.end_of(now, if longest { BACKOFF_MAX } else { pause }));
    }

    /// The end of a pause, with jitter.
    fn end_of(&mut self, now: BootTime, pause: Duration) -> BootTime {
        now + pause.mul_f64(0.75 + self.random() / 4.0)
    }

    fn back_off(&mut self, now: BootTime, pause: Duration) {
        self.state = State::BackingOff { until: self.end_of(now, pause) };
        self.retransmit_at = None;
    }

    fn handle_reply(&mut self, now: BootTime, reply: Reply) {
        self.unanswered = 0;
        match (self.state.clone(), reply) {
            (State::Selecting(waiting), Reply::Offer(offer)) => {
                if self.requested().is_none_or(|requested| requested == offer.address) {
                    self.request(now, offer);
                } else if waiting.is_none() {
                    self.state = State::Selecting(Some((offer, now + OFFER_WAIT)));
                }
            }
            (State::Requesting(offer), Reply::Ack(terms)) if offer.server == terms.server => {
                self.probe(now, Lease::new(&terms, self.sent_at));
            }
            (State::Requesting(offer), Reply::Nak(server, reason)) if offer.server == server => {
                self.outputs.push_back(Output::NotGranted(LossReason::Nak(server, reason)));
                self.last = None;
                // Counts as a round, with a shorter pause.
                let _pause = self.rounds.next_pause();
                let doubled = 2_u32.saturating_pow(self.rounds.attempts() - 1);
                self.back_off(now, NAK_BACKOFF_MIN.saturating_mul(doubled).min(BACKOFF_MAX));
            }
            (State::Selecting(_), Reply::Nak(server, reason)) => {
                self.outputs.push_back(Output::NotGranted(LossReason::Nak(server, reason)));
            }
            (State::Rebooting(lease) | State::Renewing(lease), Reply::Ack(terms))
                if terms.address == lease.address =>
            {
                self.bind(Lease::new(&terms, self.sent_at));
            }
            // Until T2 only the lease's own server may refuse: others need not know the lease.
            (State::Rebooting(lease) | State::Renewing(lease), Reply::Nak(server, reason))
                if server == lease.server || lease.timers.is_some_and(|timers| now >= timers.t2) =>
            {
                self.last = None;
                self.lose(now, LossReason::Nak(server, reason));
            }
            _ => {}
        }
    }

    fn probe(&mut self, now: BootTime, lease: Lease) {
        if self.config.skip_probes {
            return self.bind(lease);
        }
        self.retransmit_at = None;
        // The hardware address is of no account with this preset.
        self.state = State::Probing(lease, ConflictDetector::new(Preset::DHCP, &[], now));
        self.handle_timeout(now);
    }

    fn poll_detector(&mut self, now: BootTime) {
        let State::Probing(lease, detector) = &mut self.state else { return };
        let (lease, output) = (lease.clone(), detector.poll_output());
        match output {
            Some(conflict::Output::SendProbe) => self.outputs.push_back(Output::SendProbe(lease.address)),
            Some(conflict::Output::Usable) => self.bind(lease),
            Some(conflict::Output::Conflict) => {
                self.outputs.push_back(Output::NotGranted(LossReason::Conflict(lease.address)));
                self.decline(now, &lease);
            }
            Some(conflict::Output::Defend) | None => {}
        }
    }

    fn bind(&mut self, lease: Lease) {
        self.last = Some(lease.address);
        self.rounds.reset();
        self.retransmit_at = None;
        self.outputs.push_back(Output::Bound(lease.clone()));
        self.state = State::Bound(lease);
    }

    fn decline(&mut self, now: BootTime, lease: &Lease) {
        self.begin(now);
        self.last = None;
        self.send(now, Message::Decline(lease.address, lease.server.clone()));
        self.retransmit_at = None;
        self.state = State::BackingOff { until: now + DECLINE_WAIT };
    }

    fn stop(&mut self, now: BootTime) {
        let in_use = self.used().is_some();
        if let State::Probing(lease, _)
        | State::Rebooting(lease)
        | State::Bound(lease)
        | State::Renewing(lease) = std::mem::replace(&mut self.state, State::Stopped)
        {
            self.begin(now);
            self.send(now, Message::Release(lease.address, lease.server));
        }
        if in_use {
            self.outputs.push_back(Output::Lost(LossReason::Released));
        }
        self.retransmit_at = None;
    }
}

#[cfg(test)]
mod tests;
