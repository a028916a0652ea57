//! Path attributes (RFC 4271 §4.3 and §5) and their error handling (RFC 7606 §7).

use std::net::Ipv4Addr;

use super::cursor::Cursor;
use super::{AS_TRANS, Negotiated};

/// ORIGIN (RFC 4271 §5.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    #[default]
    Igp,
    Egp,
    Incomplete,
}

/// Path segment of AS_PATH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// AS_SEQUENCE; otherwise AS_SET.
    pub ordered: bool,
    pub members: Vec<u32>,
}

/// Well-known community (RFC 8326).
pub const GRACEFUL_SHUTDOWN: u32 = 0xffff_0000;
/// Default of LOCAL_PREF, as in common routers.
const DEFAULT_LOCAL_PREF: u32 = 100;

/// Path attributes except NEXT_HOP and MP_REACH_NLRI.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    pub origin: Origin,
    pub as_path: Vec<Segment>,
    /// MULTI_EXIT_DISC: lowest preferred.
    pub med: Option<u32>,
    /// LOCAL_PREF: highest preferred.
    pub local_pref: Option<u32>,
    pub communities: Vec<u32>,
    /// RFC 8092.
    pub large_communities: Vec<[u32; 3]>,
}

/// Error handling of a malformed attribute (RFC 7606 §2), the weakest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ErrorHandling {
    /// "Attribute discard".
    AttributeDiscard,
    /// "Treat-as-withdraw".
    TreatAsWithdraw,
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
const TRANSITIVE: u8 = 0x40;
const EXTENDED_LENGTH: u8 = 0x10;

pub(super) fn frame(flags: u8, code: u8, value: &[u8]) -> Vec<u8> {
    match u8::try_from(value.len()) {
        Ok(length) => [&[flags, code, length], value].concat(),
        Err(_) => {
            let [high, low] = u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes();
            [&[flags | EXTENDED_LENGTH, code, high, low], value].concat()
        }
    }
}

impl Attributes {
    /// Encoded attributes in the order of their type codes. LOCAL_PREF only for internal peers.
    pub(super) fn encode(&self, next_hop: Option<Ipv4Addr>, negotiated: Negotiated) -> Vec<u8> {
        let mut all = frame(TRANSITIVE, ORIGIN, &[self.origin as u8]);
        let mut path = Vec::new();
        for segment in &self.as_path {
            // The segment length field has one octet.
            for members in segment.members.chunks(255) {
                path.extend([if segment.ordered { 2 } else { 1 }, members.len() as u8]);
                for member in members {
                    if negotiated.four_octets {
                        path.extend(member.to_be_bytes());
                    } else {
                        path.extend(u16::try_from(*member).unwrap_or(AS_TRANS).to_be_bytes());
                    }
                }
            }
        }
        all.extend(frame(TRANSITIVE, AS_PATH, &path));
        if let Some(next_hop) = next_hop {
            all.extend(frame(TRANSITIVE, NEXT_HOP, &next_hop.octets()));
        }
        if let Some(med) = self.med {
            all.extend(frame(OPTIONAL, MED, &med.to_be_bytes()));
        }
        if negotiated.internal {
            let preference = self.local_pref.unwrap_or(DEFAULT_LOCAL_PREF);
            all.extend(frame(TRANSITIVE, LOCAL_PREF, &preference.to_be_bytes()));
        }
        for (code, numbers) in [
            (COMMUNITIES, self.communities.as_slice()),
            (LARGE_COMMUNITIES, self.large_communities.as_flattened()),
        ] {
            if !numbers.is_empty() {
                let value: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
                all.extend(frame(OPTIONAL | TRANSITIVE, code, &value));
            }
        }
        all
    }

    /// Decodes one attribute into its field.
    pub(super) fn decode(
        &mut self,
        flags: u8,
        code: u8,
        value: &[u8],
        negotiated: Negotiated,
    ) -> Result<(), ErrorHandling> {
        const WITHDRAW: ErrorHandling = ErrorHandling::TreatAsWithdraw;
        let mut cursor = Cursor::new(value);
        let well_known = flags & (OPTIONAL | TRANSITIVE) == TRANSITIVE;
        let four = || <[u8; 4]>::try_from(value).map(u32::from_be_bytes).map_err(|_| WITHDRAW);
        match code {
            ORIGIN if well_known => {
                self.origin = match value {
                    [0] => Origin::Igp,
                    [1] => Origin::Egp,
                    [2] => Origin::Incomplete,
                    _ => return Err(WITHDRAW),
                };
            }
            AS_PATH if well_known => self.as_path = path(&mut cursor, negotiated).ok_or(WITHDRAW)?,
            NEXT_HOP if well_known && value.len() == 4 => {}
            MED if flags & OPTIONAL != 0 => self.med = Some(four()?),
            // From an external neighbor: attribute discard (RFC 7606 §7.5).
            LOCAL_PREF if !negotiated.internal => return Err(ErrorHandling::AttributeDiscard),
            LOCAL_PREF if well_known => self.local_pref = Some(four()?),
            ATOMIC_AGGREGATE if value.is_empty() => {}
            AGGREGATOR if value.len() == if negotiated.four_octets { 8 } else { 6 } => {}
            ATOMIC_AGGREGATE | AGGREGATOR => return Err(ErrorHandling::AttributeDiscard),
            COMMUNITIES if flags & OPTIONAL != 0 && !value.is_empty() && value.len().is_multiple_of(4) => {
                self.communities.extend(std::iter::from_fn(|| cursor.u32()));
            }
            LARGE_COMMUNITIES if !value.is_empty() && value.len().is_multiple_of(12) => {
                while let (Some(a), Some(b), Some(c)) = (cursor.u32(), cursor.u32(), cursor.u32()) {
                    self.large_communities.push([a, b, c]);
                }
            }
            ORIGINATOR | CLUSTERS if !negotiated.internal => return Err(ErrorHandling::AttributeDiscard),
            ORIGINATOR if value.len() == 4 => {}
            CLUSTERS if !value.is_empty() && value.len().is_multiple_of(4) => {}
            ORIGIN | AS_PATH | NEXT_HOP | MED | LOCAL_PREF | COMMUNITIES | LARGE_COMMUNITIES | ORIGINATOR
            | CLUSTERS => return Err(WITHDRAW),
            // Unrecognized: optional attributes are ignored, a well-known one is an error.
            _ if flags & OPTIONAL != 0 => {}
            _ => return Err(WITHDRAW),
        }
        Ok(())
    }
}

fn path(value: &mut Cursor<'_>, negotiated: Negotiated) -> Option<Vec<Segment>> {
    let mut path = Vec::new();
    while !value.is_empty() {
        let (kind, count) = (value.u8()?, value.u8()?);
        // Confederation segments (3 and 4) are malformed outside of a confederation (RFC 5065).
        if !matches!(kind, 1 | 2) || count == 0 {
            return None;
        }
        let member = |value: &mut Cursor<'_>| match negotiated.four_octets {
            true => value.u32(),
            false => value.u16().map(u32::from),
        };
        let members = (0..count).map(|_| member(value)).collect::<Option<Vec<u32>>>()?;
        path.push(Segment { ordered: kind == 2, members });
    }
    Some(path)
}
