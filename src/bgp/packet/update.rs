//! UPDATE (RFC 4271 §4.3, RFC 4760, RFC 7606, RFC 8950).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::attribute::{self, AS_PATH, Attributes, ErrorHandling, MP_REACH, MP_UNREACH, NEXT_HOP, ORIGIN};
use super::cursor::Cursor;
use super::{HEADER, MAX_LENGTH, Negotiated, Notification, UNICAST, family_of, number_of};
use crate::model::{Family, Prefix};

/// Routes with the same attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    pub next_hop: IpAddr,
    pub attributes: Attributes,
    /// All of one family.
    pub prefixes: Vec<Prefix>,
}

/// UPDATE to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// Advertisement.
    Reach(Reach),
    /// Withdrawal.
    Unreach(Family, Vec<Prefix>),
    /// RFC 4724 §2.
    EndOfRib(Family),
}

/// Decoded UPDATE.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReceivedUpdate {
    /// Advertised prefixes.
    pub reach: Vec<Prefix>,
    pub attributes: Attributes,
    pub next_hop: Option<IpAddr>,
    /// Withdrawn prefixes, including those withdrawn because of malformed attributes.
    pub unreach: Vec<Prefix>,
    /// RFC 4724 §2.
    pub end_of_rib: Option<Family>,
    /// Type codes of malformed attributes.
    pub malformed: Vec<u8>,
}

/// Octets of an UPDATE with MP_REACH_NLRI besides header, other attributes and prefixes: two lengths, the attribute's header,
/// AFI, SAFI, an IPv6 next hop and its length, a reserved octet.
const REACH_OVERHEAD: usize = 4 + 4 + 3 + 17 + 1;
/// Octets of the longest prefix.
const MAX_PREFIX: usize = 17;

impl Update {
    /// As many messages as the maximum length requires. None for attributes that leave no room for a prefix: such a route is
    /// not advertised (RFC 4271 §9.2). Those within [`MAX_COMMUNITIES`](crate::model::route::MAX_COMMUNITIES) do.
    pub fn encode(&self, negotiated: Negotiated) -> Vec<Vec<u8>> {
        match self {
            Self::EndOfRib(family) => vec![withdrawal(*family, &[])],
            Self::Unreach(family, prefixes) => {
                let parts = split(prefixes, MAX_LENGTH - HEADER - 16).into_iter();
                parts.map(|bytes| withdrawal(*family, &bytes)).collect()
            }
            Self::Reach(reach) => reach.encode(negotiated),
        }
    }
}

impl Reach {
    fn encode(&self, negotiated: Negotiated) -> Vec<Vec<u8>> {
        let Some(family) = self.prefixes.first().map(|prefix| Family::of(prefix.address)) else {
            return Vec::new();
        };
        let classic = match (family, self.next_hop) {
            (Family::V4, IpAddr::V4(next_hop)) => Some(next_hop),
            _ => None,
        };
        let attributes = self.attributes.encode(classic, negotiated);
        let room = MAX_LENGTH.saturating_sub(HEADER + REACH_OVERHEAD + attributes.len());
        if room < MAX_PREFIX {
            return Vec::new();
        }
        let parts = split(&self.prefixes, room).into_iter();
        parts
            .map(|prefixes| {
                if classic.is_some() {
                    return message(&[], &attributes, &prefixes);
                }
                // RFC 7606 §5.1: MP_REACH_NLRI must be the first attribute.
                let reach = [mp_reach(family, self.next_hop, &prefixes), attributes.clone()].concat();
                message(&[], &reach, &[])
            })
            .collect()
    }
}

fn message(withdrawn: &[u8], attributes: &[u8], prefixes: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
    let body = [&length(withdrawn), withdrawn, &length(attributes), attributes, prefixes].concat();
    super::frame(2, &body)
}

fn mp_reach(family: Family, next_hop: IpAddr, prefixes: &[u8]) -> Vec<u8> {
    let next_hop = octets(next_hop);
    let head = [UNICAST, next_hop.len() as u8];
    let value = [&number_of(family)[..], &head, &next_hop, &[0], prefixes].concat();
    attribute::frame(attribute::OPTIONAL, MP_REACH, &value)
}

fn withdrawal(family: Family, prefixes: &[u8]) -> Vec<u8> {
    match family {
        Family::V4 => message(prefixes, &[], &[]),
        Family::V6 => {
            let value = [&number_of(family)[..], &[UNICAST], prefixes].concat();
            message(&[], &attribute::frame(attribute::OPTIONAL, MP_UNREACH, &value), &[])
        }
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().into(),
        IpAddr::V6(address) => address.octets().into(),
    }
}

/// Encodes prefixes in chunks of at most `room` bytes.
fn split(prefixes: &[Prefix], room: usize) -> Vec<Vec<u8>> {
    let mut parts = Vec::new();
    let mut part: Vec<u8> = Vec::new();
    for prefix in prefixes {
        let bytes = encode_prefix(*prefix);
        if part.len() + bytes.len() > room {
            parts.push(std::mem::take(&mut part));
        }
        part.extend(bytes);
    }
    if !part.is_empty() {
        parts.push(part);
    }
    parts
}

fn encode_prefix(prefix: Prefix) -> Vec<u8> {
    let octets = octets(prefix.address);
    let count = usize::from(prefix.length.div_ceil(8));
    [&[prefix.length], octets.get(..count).unwrap_or(&octets)].concat()
}

/// Bits beyond the prefix length are ignored (RFC 4271 §4.3).
fn decode_prefix(bytes: &mut Cursor<'_>, family: Family) -> Option<Prefix> {
    let length = bytes.u8().filter(|length| *length <= family.bits())?;
    let given = bytes.take(usize::from(length.div_ceil(8)))?;
    let mut octets = [0; 16];
    octets.get_mut(..given.len())?.copy_from_slice(given);
    let [a, b, c, d, ..] = octets;
    let address = match family {
        Family::V4 => Ipv4Addr::from([a, b, c, d]).into(),
        Family::V6 => Ipv6Addr::from(octets).into(),
    };
    Some(Prefix::new(address, length))
}

fn decode_prefixes(mut bytes: Cursor<'_>, family: Family) -> Option<Vec<Prefix>> {
    let mut prefixes = Vec::new();
    while !bytes.is_empty() {
        prefixes.push(decode_prefix(&mut bytes, family)?);
    }
    Some(prefixes)
}

/// Malformed attributes withdraw the routes of the message; inconsistent lengths and prefixes reset the session.
pub(super) fn decode(body: &[u8], negotiated: Negotiated) -> Result<ReceivedUpdate, Notification> {
    const MALFORMED: Notification = Notification::MALFORMED_ATTRIBUTES;
    const FIELD: Notification = Notification::BAD_NETWORK_FIELD;
    let mut body = Cursor::new(body);
    let withdrawn = body.prefixed_u16().ok_or(MALFORMED)?;
    let mut attributes = body.prefixed_u16().ok_or(MALFORMED)?;
    let mut received = ReceivedUpdate {
        unreach: decode_prefixes(withdrawn, Family::V4).ok_or(FIELD)?,
        reach: decode_prefixes(body, Family::V4).ok_or(FIELD)?,
        ..ReceivedUpdate::default()
    };
    if withdrawn.is_empty() && attributes.is_empty() && body.is_empty() {
        received.end_of_rib = Some(Family::V4);
        return Ok(received);
    }
    let classic = !received.reach.is_empty();
    let (mut seen, mut worst, mut ended) = (Vec::new(), None, None);
    while !attributes.is_empty() {
        let (Some(flags), Some(code)) = (attributes.u8(), attributes.u8()) else {
            worst = Some(ErrorHandling::TreatAsWithdraw);
            break;
        };
        let value = if flags & 0x10 != 0 { attributes.prefixed_u16() } else { attributes.prefixed_u8() };
        // The attribute list ends within an attribute (RFC 7606 §4).
        let Some(value) = value else {
            worst = Some(ErrorHandling::TreatAsWithdraw);
            received.malformed.push(code);
            break;
        };
        if seen.contains(&code) {
            // RFC 7606 §3 (g): the first occurrence counts; a second MP attribute resets the session.
            if matches!(code, MP_REACH | MP_UNREACH) {
                return Err(MALFORMED);
            }
            continue;
        }
        seen.push(code);
        let result = match code {
            MP_REACH => reach(value, &mut received).map(Ok).ok_or(MALFORMED)?,
            MP_UNREACH => {
                ended = unreach(value, &mut received).ok_or(MALFORMED)?;
                Ok(())
            }
            _ => received.attributes.decode(flags, code, value.rest(), negotiated),
        };
        if code == NEXT_HOP && classic {
            received.next_hop = <[u8; 4]>::try_from(value.rest()).ok().map(IpAddr::from);
        }
        if let Err(handling) = result {
            worst = worst.max(Some(handling));
            received.malformed.push(code);
        }
    }
    let present = |code: u8| seen.contains(&code);
    let complete = present(ORIGIN) && present(AS_PATH) && (present(NEXT_HOP) || !classic);
    if worst == Some(ErrorHandling::TreatAsWithdraw) || (!received.reach.is_empty() && !complete) {
        received.unreach.append(&mut received.reach);
    }
    if seen == [MP_UNREACH] && received.unreach.is_empty() && !classic {
        received.end_of_rib = ended;
    }
    Ok(received)
}

/// MP_REACH_NLRI; an unsupported family is ignored.
fn reach(mut value: Cursor<'_>, received: &mut ReceivedUpdate) -> Option<()> {
    let family = family_of(value.array()?, value.u8()?);
    let mut hop = value.prefixed_u8()?;
    value.u8()?;
    let Some(family) = family else { return Some(()) };
    received.next_hop = match hop.rest().len() {
        4 => hop.array::<4>().map(IpAddr::from),
        // The second address is link-local (RFC 2545 §3).
        16 | 32 => hop.array::<16>().map(IpAddr::from),
        _ => return None,
    };
    received.reach.extend(decode_prefixes(value, family)?);
    Some(())
}

/// MP_UNREACH_NLRI. Returns its family, if supported.
fn unreach(mut value: Cursor<'_>, received: &mut ReceivedUpdate) -> Option<Option<Family>> {
    let family = family_of(value.array()?, value.u8()?);
    if let Some(family) = family {
        received.unreach.extend(decode_prefixes(value, family)?);
    }
    Some(family)
}
