//! Path attributes (RFC 4271 §4.3 and §5), and what each costs when it is wrong (RFC 7606 §7).

use std::net::Ipv4Addr;

use super::Agreed;
use super::cursor::Cursor;

/// Where a route comes from (RFC 4271 §5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// From within the AS.
    #[default]
    Igp,
    /// From EGP.
    Egp,
    /// From elsewhere.
    Incomplete,
}

/// A part of an AS path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its members are in order: AS_SEQUENCE, and not AS_SET.
    pub ordered: bool,
    /// The AS numbers.
    pub members: Vec<u32>,
}

/// A large community (RFC 8092).
pub type LargeCommunity = [u32; 3];

/// Communities with a meaning of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WellKnown {
    /// These routes are about to go (RFC 8326).
    GracefulShutdown,
    /// Not for peers of other ASes (RFC 1997).
    NoExport,
}

impl WellKnown {
    /// Its number.
    pub const fn number(self) -> u32 {
        match self {
            Self::GracefulShutdown => 0xffff_0000,
            Self::NoExport => 0xffff_ff01,
        }
    }
}

/// What is known of a route besides its prefix and next hop.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Where it comes from.
    pub origin: Origin,
    /// The ASes it came through, the last one first.
    pub as_path: Vec<Segment>,
    /// Which of several ways into an AS is liked best: the least.
    pub med: Option<u32>,
    /// Which of several ways out of an AS is liked best: the greatest.
    pub local_pref: Option<u32>,
    /// Communities (RFC 1997).
    pub communities: Vec<u32>,
    /// Large communities (RFC 8092).
    pub large_communities: Vec<LargeCommunity>,
}

/// What has to be done about an attribute that is wrong, the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// Go on without it.
    Discard,
    /// Take the routes of the UPDATE for withdrawn.
    Withdraw,
}

pub(super) const ORIGIN: u8 = 1;
pub(super) const AS_PATH: u8 = 2;
pub(super) const NEXT_HOP: u8 = 3;
const MED: u8 = 4;
const LOCAL_PREF: u8 = 5;
const ATOMIC_AGGREGATE: u8 = 6;
const AGGREGATOR: u8 = 7;
const COMMUNITIES: u8 = 8;
const ORIGINATOR: u8 = 9;
const CLUSTERS: u8 = 10;
pub(super) const MP_REACH: u8 = 14;
pub(super) const MP_UNREACH: u8 = 15;
const LARGE_COMMUNITIES: u8 = 32;

pub(super) const OPTIONAL: u8 = 0x80;
pub(super) const TRANSITIVE: u8 = 0x40;
const LONG: u8 = 0x10;

/// One attribute as bytes.
pub(super) fn frame(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    match u8::try_from(value.len()) {
        Ok(length) => [&[flags, code, length], value].concat(),
        Err(_) => {
            let [high, low] = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
            [&[flags | LONG, code, high, low], value].concat()
        }
    }
}

impl Attributes {
    /// All of them but the next hop, in the order of their codes. LOCAL_PREF stays within an AS.
    pub(super) fn encode(&self, agreed: Agreed) -> Vec<(u8, Vec<u8>)> {
        let mut all = vec![(ORIGIN, frame(TRANSITIVE, ORIGIN, &[self.origin as u8]))];
        let mut path = Vec::new();
        for segment in &self.as_path {
            // A segment holds at most 255 members.
            for members in segment.members.chunks(255) {
                path.extend([if segment.ordered { 2 } else { 1 }, members.len() as u8]);
                for member in members {
                    if agreed.four_octets {
                        path.extend(member.to_be_bytes());
                    } else {
                        path.extend(u16::try_from(*member).unwrap_or(23456).to_be_bytes());
                    }
                }
            }
        }
        all.push((AS_PATH, frame(TRANSITIVE, AS_PATH, &path)));
        all.extend(self.med.map(|med| (MED, frame(OPTIONAL, MED, &med.to_be_bytes()))));
        if agreed.internal {
            let preference = self.local_pref.unwrap_or(100);
            all.push((LOCAL_PREF, frame(TRANSITIVE, LOCAL_PREF, &preference.to_be_bytes())));
        }
        if !self.communities.is_empty() {
            let value: Vec<u8> =
                self.communities.iter().flat_map(|community| community.to_be_bytes()).collect();
            all.push((COMMUNITIES, frame(OPTIONAL | TRANSITIVE, COMMUNITIES, &value)));
        }
        if !self.large_communities.is_empty() {
            let parts = self.large_communities.iter().flatten();
            let value: Vec<u8> = parts.flat_map(|part| part.to_be_bytes()).collect();
            all.push((LARGE_COMMUNITIES, frame(OPTIONAL | TRANSITIVE, LARGE_COMMUNITIES, &value)));
        }
        all
    }

    /// Take in one attribute.
    pub(super) fn learn(&mut self, flags: u8, code: u8, value: &[u8], agreed: Agreed) -> Result<(), Fault> {
        let mut cursor = Cursor::new(value);
        let well_known = flags & (OPTIONAL | TRANSITIVE) == TRANSITIVE;
        let four = |value: &[u8]| <[u8; 4]>::try_from(value).map(u32::from_be_bytes);
        match code {
            ORIGIN if well_known => {
                self.origin = match value {
                    [0] => Origin::Igp,
                    [1] => Origin::Egp,
                    [2] => Origin::Incomplete,
                    _ => return Err(Fault::Withdraw),
                };
            }
            AS_PATH if well_known => self.as_path = path(&mut cursor, agreed).ok_or(Fault::Withdraw)?,
            NEXT_HOP if well_known && value.len() == 4 => {}
            MED if flags & OPTIONAL != 0 => self.med = Some(four(value).map_err(|_| Fault::Withdraw)?),
            // From another AS it means nothing (RFC 7606 §7.5).
            LOCAL_PREF if !agreed.internal => return Err(Fault::Discard),
            LOCAL_PREF if well_known => {
                self.local_pref = Some(four(value).map_err(|_| Fault::Withdraw)?);
            }
            ATOMIC_AGGREGATE if value.is_empty() => {}
            AGGREGATOR if value.len() == if agreed.four_octets { 8 } else { 6 } => {}
            ATOMIC_AGGREGATE | AGGREGATOR => return Err(Fault::Discard),
            COMMUNITIES if flags & OPTIONAL != 0 && !value.is_empty() && value.len().is_multiple_of(4) => {
                while let Some(community) = cursor.u32() {
                    self.communities.push(community);
                }
            }
            LARGE_COMMUNITIES if !value.is_empty() && value.len().is_multiple_of(12) => {
                while let (Some(a), Some(b), Some(c)) = (cursor.u32(), cursor.u32(), cursor.u32()) {
                    self.large_communities.push([a, b, c]);
                }
            }
            ORIGINATOR | CLUSTERS if !agreed.internal => return Err(Fault::Discard),
            ORIGINATOR if value.len() == 4 => {}
            CLUSTERS if !value.is_empty() && value.len().is_multiple_of(4) => {}
            ORIGIN | AS_PATH | NEXT_HOP | MED | LOCAL_PREF | COMMUNITIES | LARGE_COMMUNITIES | ORIGINATOR
            | CLUSTERS => return Err(Fault::Withdraw),
            // What is not known: optional ones are passed over, a well-known one cannot be.
            _ if flags & OPTIONAL != 0 => {}
            _ => return Err(Fault::Withdraw),
        }
        Ok(())
    }
}

fn path(value: &mut Cursor<'_>, agreed: Agreed) -> Option<Vec<Segment>> {
    let mut path = Vec::new();
    while !value.is_empty() {
        let (kind, count) = (value.u8()?, value.u8()?);
        // Confederations (3 and 4) are not for us.
        if !matches!(kind, 1 | 2) || count == 0 {
            return None;
        }
        let member = |value: &mut Cursor<'_>| match agreed.four_octets {
            true => value.u32(),
            false => value.u16().map(u32::from),
        };
        let members = (0..count).map(|_| member(value)).collect::<Option<Vec<u32>>>()?;
        path.push(Segment { ordered: kind == 2, members });
    }
    Some(path)
}

/// The next hop of an IPv4 route in the attribute of its own.
pub(super) fn next_hop(value: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from)
}
