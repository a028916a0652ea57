//! What another process has to know to go on with a lease, as a line of text in an annotation.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::fsm::{Lease, Server, Times};
use super::identity::Identity;
use crate::model::{BootTime, Family};

/// A lease, by the time of day.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The address.
    pub address: IpAddr,
    /// Who gave it.
    pub server: Server,
    /// When it was asked for.
    pub since: Timestamp,
    /// T1, T2 and the end after that; none where it is for ever.
    pub times: Option<[Duration; 3]>,
    /// The server knows the client by its hardware address, though it has a name.
    pub by_hardware: bool,
}

/// Why a text is no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it does not say what a lease is: `ADDRESS from SERVER at TIME`, `for SECONDS renew SECONDS rebind SECONDS`, and \
     `by hardware`"
)]
pub struct NoRecord;

impl Record {
    /// What is known of a client's lease at one moment on both clocks.
    pub fn of(lease: &Lease, identity: &Identity, now: BootTime, wall: Timestamp) -> Self {
        let age = SignedDuration::try_from(now.since(lease.asked)).unwrap_or_default();
        let since = wall.checked_sub(age).unwrap_or(wall);
        Self {
            address: lease.address,
            server: lease.server.clone(),
            // To the second: that is what is written.
            since: Timestamp::from_second(since.as_second()).unwrap_or(since),
            times: lease
                .times
                .map(|times| [times.renew, times.rebind, times.end].map(|time| time.since(lease.asked))),
            by_hardware: identity.hostname.is_some() && identity.by_hardware,
        }
    }

    /// The lease by this host's clock. A record from the future, by another host's clock, is as one from now.
    pub fn lease(&self, now: BootTime, wall: Timestamp) -> Lease {
        let age = Duration::try_from(wall.duration_since(self.since)).unwrap_or_default();
        let due = |[renew, rebind, end]: [Duration; 3]| {
            let left = |time: Duration| now + time.saturating_sub(age);
            Times { renew: left(renew), rebind: left(rebind), end: left(end) }
        };
        let times = self.times.map(due);
        Lease { address: self.address, server: self.server.clone(), asked: now - age, times }
    }

    /// Whether the lease, as it stands in this record, had not ended when it was asked for as in a later one.
    pub fn goes_on_as(&self, later: &Self) -> bool {
        let end = |[.., end]: [Duration; 3]| self.since.checked_add(SignedDuration::try_from(end).ok()?).ok();
        // What lasts longer than can be told is for ever.
        let end = self.times.and_then(end);
        self.address == later.address && end.is_none_or(|end| later.since <= end)
    }

    /// The record of a family among several in one text. What cannot be read is nothing.
    pub fn find(text: &str, family: Family) -> Option<Self> {
        let records = text.split(';').filter_map(|part| part.parse::<Self>().ok());
        records.into_iter().find(|record| Family::of(record.address) == family)
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {} at {}", self.address, self.server, self.since)?;
        if let Some([renew, rebind, end]) = self.times.map(|times| times.map(|time| time.as_secs())) {
            write!(f, " for {end} renew {renew} rebind {rebind}")?;
        }
        if self.by_hardware { f.write_str(" by hardware") } else { Ok(()) }
    }
}

impl FromStr for Record {
    type Err = NoRecord;

    fn from_str(text: &str) -> Result<Self, NoRecord> {
        let mut words = text.split_whitespace();
        let mut word = || words.next().ok_or(NoRecord);
        let address: IpAddr = word()?.parse().map_err(|_| NoRecord)?;
        if word()? != "from" {
            return Err(NoRecord);
        }
        let server = word()?;
        let server = match address {
            IpAddr::V4(_) => Server::Address(server.parse().map_err(|_| NoRecord)?),
            IpAddr::V6(_) => Server::Duid(duid(server).ok_or(NoRecord)?),
        };
        if word()? != "at" {
            return Err(NoRecord);
        }
        let since = word()?.parse().map_err(|_| NoRecord)?;
        let mut seconds = [None; 3];
        let mut by_hardware = false;
        while let Some(name) = words.next() {
            let value = words.next().ok_or(NoRecord)?;
            match ["renew", "rebind", "for"].iter().position(|known| *known == name) {
                Some(place) => {
                    let value = value.parse().map(Duration::from_secs).map_err(|_| NoRecord)?;
                    seconds.iter_mut().skip(place).take(1).for_each(|known| *known = Some(value));
                }
                // Whatever a later version has to say is passed over.
                None => by_hardware |= (name, value) == ("by", "hardware"),
            }
        }
        let times = match seconds {
            [None, None, None] => None,
            [Some(renew), Some(rebind), Some(end)] => Some([renew, rebind, end]),
            _ => return Err(NoRecord),
        };
        Ok(Self { address, server, since, times, by_hardware })
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
    fn what_is_written_is_read() {
        let apart = [V4, V6].map(|text| format!("{text} by hardware"));
        for text in [V4, V6, &apart[0], &apart[1]] {
            assert_eq!(text.parse::<Record>().unwrap().to_string(), text);
        }
        assert_eq!(format!("{V4} with care").parse::<Record>(), V4.parse());
        let both = format!("{V4}; {V6}");
        assert_eq!(Record::find(&both, Family::V6), V6.parse().ok());
        assert_eq!(Record::find(&both, Family::V4), V4.parse().ok());
        assert_eq!(Record::find(V4, Family::V6), None);
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
            assert_eq!(wrong.parse::<Record>(), Err(NoRecord), "{wrong}");
        }
    }

    #[test]
    fn a_lease_goes_on_by_another_clock() {
        let record: Record = V4.parse().unwrap();
        let wall: Timestamp = "2026-11-22T05:10:00Z".parse().unwrap();
        let lease = record.lease(at(50), wall);
        let times = lease.times.unwrap();
        assert_eq!([times.renew, times.rebind, times.end], [at(50 + 1200), at(50 + 2550), at(50 + 3000)]);
        assert!(record.lease(at(50), "2026-11-22T06:00:00Z".parse().unwrap()).is_over(at(50)));
        // A clock that is behind makes no lease longer than it was given for.
        let early = record.lease(at(50), "2026-11-21T05:00:00Z".parse().unwrap());
        assert_eq!(early.times.unwrap().end, at(50 + 3600));
        let asked = Lease {
            asked: at(1000),
            times: Some(Times { renew: at(1010), rebind: at(1020), end: at(1030) }),
            ..lease
        };
        let identity =
            Identity { hardware: [2, 0, 0, 0, 0, 1], hostname: None, by_hardware: false, broadcast: true };
        let again = Record::of(&asked, &identity, at(1005), wall);
        assert_eq!(again.since, "2026-11-22T05:09:55Z".parse().unwrap());
        assert_eq!(again.times.map(|times| times.map(|time| time.as_secs())), Some([10, 20, 30]));
    }
}
