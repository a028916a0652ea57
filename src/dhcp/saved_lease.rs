//! A lease as one line of text in an annotation, from which another process continues it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::fsm::{Lease, Server, Timers};
use super::identity::Identity;
use crate::model::{BootTime, Family};

/// A lease with wall-clock times, which other hosts understand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedLease {
    pub address: IpAddr,
    pub server: Server,
    pub requested_at: Timestamp,
    /// T1, T2 and lifetime, from `requested_at`; none where the lease is infinite.
    pub times: Option<[Duration; 3]>,
    /// Servers identify the client by its hardware address although it has a name.
    pub by_mac: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid lease: expected `ADDRESS from SERVER at TIME`, then optionally `for SECONDS renew SECONDS rebind SECONDS` and \
     `by hardware`"
)]
pub struct InvalidLease;

impl SavedLease {
    /// `now` and `wall` are the same moment on both clocks.
    pub fn new(lease: &Lease, identity: &Identity, now: BootTime, wall: Timestamp) -> Self {
        let age = SignedDuration::try_from(now.since(lease.requested_at)).unwrap_or_default();
        let requested_at = wall.checked_sub(age).unwrap_or(wall);
        let since = |time: BootTime| time.since(lease.requested_at);
        Self {
            address: lease.address,
            server: lease.server.clone(),
            // The text has whole seconds.
            requested_at: Timestamp::from_second(requested_at.as_second()).unwrap_or(requested_at),
            times: lease.timers.map(|Timers { t1, t2, expiry }| [since(t1), since(t2), since(expiry)]),
            by_mac: identity.hostname.is_some() && identity.by_mac,
        }
    }

    /// The lease by this host's clocks. A time of request in the future, by another host's clock, counts as now.
    pub fn to_lease(&self, now: BootTime, wall: Timestamp) -> Lease {
        let age = Duration::try_from(wall.duration_since(self.requested_at)).unwrap_or_default();
        let due = |time: Duration| now + time.saturating_sub(age);
        let timers =
            self.times.map(|[t1, t2, lifetime]| Timers { t1: due(t1), t2: due(t2), expiry: due(lifetime) });
        Lease { address: self.address, server: self.server.clone(), requested_at: now - age, timers }
    }

    /// Whether `later` is the same lease, extended before it expired.
    pub fn continues_as(&self, later: &Self) -> bool {
        let expiry = |[.., lifetime]: [Duration; 3]| {
            self.requested_at.checked_add(SignedDuration::try_from(lifetime).ok()?).ok()
        };
        // A lifetime beyond the range of timestamps counts as infinite.
        let expiry = self.times.and_then(expiry);
        self.address == later.address && expiry.is_none_or(|expiry| later.requested_at <= expiry)
    }

    /// The lease of one family in the text of an annotation. Text that cannot be parsed is ignored.
    pub fn find(text: &str, family: Family) -> Option<Self> {
        let leases = text.split(';').filter_map(|part| part.parse::<Self>().ok());
        leases.into_iter().find(|lease| Family::of(lease.address) == family)
    }
}

impl fmt::Display for SavedLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {} at {}", self.address, self.server, self.requested_at)?;
        if let Some([t1, t2, lifetime]) = self.times.map(|times| times.map(|time| time.as_secs())) {
            write!(f, " for {lifetime} renew {t1} rebind {t2}")?;
        }
        if self.by_mac { f.write_str(" by hardware") } else { Ok(()) }
    }
}

impl FromStr for SavedLease {
    type Err = InvalidLease;

    fn from_str(text: &str) -> Result<Self, InvalidLease> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let [address, "from", server, "at", requested_at, ref options @ ..] = words[..] else {
            return Err(InvalidLease);
        };
        let address: IpAddr = address.parse().map_err(|_| InvalidLease)?;
        let server = match address {
            IpAddr::V4(_) => Server::Address(server.parse().map_err(|_| InvalidLease)?),
            IpAddr::V6(_) => Server::Duid(duid(server).ok_or(InvalidLease)?),
        };
        let requested_at = requested_at.parse().map_err(|_| InvalidLease)?;
        let seconds = |text: &str| text.parse().map(Duration::from_secs).map_err(|_| InvalidLease);
        let (mut t1, mut t2, mut lifetime, mut by_mac) = (None, None, None, false);
        for option in options.chunks(2) {
            match option {
                ["renew", value] => t1 = Some(seconds(value)?),
                ["rebind", value] => t2 = Some(seconds(value)?),
                ["for", value] => lifetime = Some(seconds(value)?),
                ["by", "hardware"] => by_mac = true,
                // Words of later versions are ignored.
                [_, _] => {}
                _ => return Err(InvalidLease),
            }
        }
        let times = match (t1, t2, lifetime) {
            (None, None, None) => None,
            (Some(t1), Some(t2), Some(lifetime)) => Some([t1, t2, lifetime]),
            _ => return Err(InvalidLease),
        };
        Ok(Self { address, server, requested_at, times, by_mac })
    }
}

fn duid(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> BootTime {
        BootTime::from_boot(Duration::from_secs(seconds))
    }

    const V4: &str = "192.0.2.9 from 192.0.2.1 at 2026-11-22T05:00:00Z for 3600 renew 1800 rebind 3150";
    const V6: &str = "fd00::9 from 00030001aabb at 2026-11-22T05:00:00Z";

    #[test]
    fn text_is_parsed_back() {
        let by_mac = [V4, V6].map(|text| format!("{text} by hardware"));
        for text in [V4, V6, &by_mac[0], &by_mac[1]] {
            assert_eq!(text.parse::<SavedLease>().unwrap().to_string(), text);
        }
        assert_eq!(format!("{V4} with care").parse::<SavedLease>(), V4.parse());
        let both = format!("{V4}; {V6}");
        assert_eq!(SavedLease::find(&both, Family::V6), V6.parse().ok());
        assert_eq!(SavedLease::find(&both, Family::V4), V4.parse().ok());
        assert_eq!(SavedLease::find(V4, Family::V6), None);
        for wrong in [
            "",
            "192.0.2.9",
            "192.0.2.9 from fd00::1 at 2026-11-22T05:00:00Z",
            "192.0.2.9 from 192.0.2.1 at noon",
            "192.0.2.9 from 192.0.2.1 at 2026-11-22T05:00:00Z for 3600",
            "192.0.2.9 from 192.0.2.1 at 2026-11-22T05:00:00Z for",
            "192.0.2.9 from 192.0.2.1 at 2026-11-22T05:00:00Z for ever renew 1800 rebind 3150",
            "fd00::9 from 0x at 2026-11-22T05:00:00Z",
        ] {
            assert_eq!(wrong.parse::<SavedLease>(), Err(InvalidLease), "{wrong}");
        }
    }

    #[test]
    fn times_are_converted_between_clocks() {
        let saved: SavedLease = V4.parse().unwrap();
        let wall: Timestamp = "2026-11-22T05:10:00Z".parse().unwrap();
        let lease = saved.to_lease(at(50), wall);
        let timers = lease.timers.unwrap();
        assert_eq!([timers.t1, timers.t2, timers.expiry], [at(50 + 1200), at(50 + 2550), at(50 + 3000)]);
        assert!(saved.to_lease(at(50), "2026-11-22T06:00:00Z".parse().unwrap()).is_expired(at(50)));
        // A clock that is behind does not extend the lease beyond its lifetime.
        let early = saved.to_lease(at(50), "2026-11-21T05:00:00Z".parse().unwrap());
        assert_eq!(early.timers.unwrap().expiry, at(50 + 3600));
        let lease = Lease {
            requested_at: at(1000),
            timers: Some(Timers { t1: at(1010), t2: at(1020), expiry: at(1030) }),
            ..lease
        };
        let identity = Identity { mac: [2, 0, 0, 0, 0, 1], hostname: None, by_mac: false, broadcast: true };
        let again = SavedLease::new(&lease, &identity, at(1005), wall);
        assert_eq!(again.requested_at, "2026-11-22T05:09:55Z".parse().unwrap());
        assert_eq!(again.times.map(|times| times.map(|time| time.as_secs())), Some([10, 20, 30]));
    }
}
