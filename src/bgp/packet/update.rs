//! UPDATE: routes that come and go (RFC 4271 §4.3, RFC 4760, RFC 7606, RFC 8950).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::attribute::{self, AS_PATH, Attributes, Fault, MP_REACH, MP_UNREACH, NEXT_HOP, ORIGIN};
use super::cursor::Cursor;
use super::{Agreed, HEADER, LONGEST, Notification, UNICAST, family_of, number_of};
use crate::model::{Family, Prefix};

/// Where packets go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextHop {
    /// The address.
    pub address: IpAddr,
    /// The same host's link-local address, for neighbours on the link (RFC 2545 §3).
    pub link_local: Option<Ipv6Addr>,
}

/// Routes with one next hop and the same attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Where their packets go.
    pub next_hop: NextHop,
    /// What else is known of them.
    pub attributes: Attributes,
    /// The prefixes, of one family.
    pub prefixes: Vec<Prefix>,
}

/// What is to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update {
    /// These routes come.
    Reach(Reach),
    /// These routes go; all of one family.
    Unreach(Family, Vec<Prefix>),
    /// All routes of a family were sent (RFC 4724 §2).
    EndOfRib(Family),
}

/// What was received.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Received {
    /// Routes that come.
    pub reach: Vec<Prefix>,
    /// Their attributes.
    pub attributes: Attributes,
    /// Their next hop.
    pub next_hop: Option<IpAddr>,
    /// Routes that go, those among them whose attributes were wrong.
    pub unreach: Vec<Prefix>,
    /// All routes of a family were sent.
    pub end_of_rib: Option<Family>,
    /// Attributes that were wrong, by their code.
    pub faults: Vec<u8>,
}

impl Update {
    /// As messages: as many as it takes, none longer than may be.
    pub fn encode(&self, agreed: Agreed) -> Vec<Vec<u8>> {
        match self {
            Self::EndOfRib(Family::V4) => vec![message(&[], &[], &[])],
            Self::EndOfRib(Family::V6) => vec![message(&[], &mp_unreach(Family::V6, &[]), &[])],
            Self::Unreach(family, prefixes) => split(prefixes, LONGEST - HEADER - 16)
                .into_iter()
                .map(|bytes| match family {
                    Family::V4 => message(&bytes, &[], &[]),
                    Family::V6 => message(&[], &mp_unreach(Family::V6, &bytes), &[]),
                })
                .collect(),
            Self::Reach(reach) => reach.encode(agreed),
        }
    }
}

impl Reach {
    fn encode(&self, agreed: Agreed) -> Vec<Vec<u8>> {
        let Some(family) = self.prefixes.first().map(|prefix| Family::of(prefix.address)) else {
            return Vec::new();
        };
        let mut attributes = self.attributes.encode(agreed);
        let plain = match (family, self.next_hop.address) {
            (Family::V4, IpAddr::V4(next_hop)) => {
                let bytes = attribute::frame(attribute::TRANSITIVE, NEXT_HOP, &next_hop.octets());
                attributes.push((NEXT_HOP, bytes));
                true
            }
            _ => false,
        };
        attributes.sort_by_key(|(code, _)| *code);
        let attributes: Vec<u8> = attributes.into_iter().flat_map(|(_, bytes)| bytes).collect();
        let room = LONGEST - HEADER - 16 - 48 - attributes.len().min(LONGEST / 2);
        let parts = split(&self.prefixes, room).into_iter();
        parts
            .map(|prefixes| {
                if plain {
                    return message(&[], &attributes, &prefixes);
                }
                // RFC 7606 §5.1: first of all.
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

fn mp_reach(family: Family, next_hop: NextHop, prefixes: &[u8]) -> Vec<u8> {
    let mut hop = match next_hop.address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    hop.extend(next_hop.link_local.iter().flat_map(Ipv6Addr::octets));
    let [high, low] = number_of(family).to_be_bytes();
    let length = u8::try_from(hop.len()).unwrap_or(u8::MAX);
    let value = [&[high, low, UNICAST, length], hop.as_slice(), &[0], prefixes].concat();
    attribute::frame(attribute::OPTIONAL, MP_REACH, &value)
}

fn mp_unreach(family: Family, prefixes: &[u8]) -> Vec<u8> {
    let [high, low] = number_of(family).to_be_bytes();
    let value = [&[high, low, UNICAST], prefixes].concat();
    attribute::frame(attribute::OPTIONAL, MP_UNREACH, &value)
}

/// Prefixes as bytes, in parts of at most so many.
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
    let octets = match prefix.address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let count = usize::from(prefix.length.div_ceil(8));
    [&[prefix.length], octets.get(..count).unwrap_or(&octets)].concat()
}

/// A prefix; bits beyond its length count as zero (RFC 4271 §4.3).
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

/// Read an UPDATE. What is wrong with an attribute costs its routes; what makes the message unreadable costs the session.
pub(super) fn decode(body: &[u8], agreed: Agreed) -> Result<Received, Notification> {
    let malformed = Notification::malformed_attributes;
    let mut body = Cursor::new(body);
    let withdrawn = body.long().ok_or_else(malformed)?;
    let mut attributes = body.long().ok_or_else(malformed)?;
    let field = Notification::bad_network_field;
    let mut received = Received {
        unreach: decode_prefixes(withdrawn, Family::V4).ok_or_else(field)?,
        reach: decode_prefixes(body, Family::V4).ok_or_else(field)?,
        ..Received::default()
    };
    if withdrawn.is_empty() && attributes.is_empty() && body.is_empty() {
        received.end_of_rib = Some(Family::V4);
        return Ok(received);
    }
    let plain = !received.reach.is_empty();
    let (mut seen, mut worst, mut ended) = (Vec::new(), None, None);
    while !attributes.is_empty() {
        let header = (attributes.u8(), attributes.u8());
        let (Some(flags), Some(code)) = header else {
            worst = Some(Fault::Withdraw);
            break;
        };
        let value = if flags & 0x10 != 0 { attributes.long() } else { attributes.short() };
        // The list of attributes ends in the middle of one (RFC 7606 §4).
        let Some(value) = value else {
            worst = Some(Fault::Withdraw);
            received.faults.push(code);
            break;
        };
        if seen.contains(&code) {
            // The first one counts; of these two there may be only one (RFC 7606 §3 g).
            if matches!(code, MP_REACH | MP_UNREACH) {
                return Err(malformed());
            }
            continue;
        }
        seen.push(code);
        let outcome = match code {
            MP_REACH => {
                reach(value, &mut received).ok_or_else(malformed)?;
                Ok(())
            }
            MP_UNREACH => {
                ended = unreach(value, &mut received).ok_or_else(malformed)?;
                Ok(())
            }
            NEXT_HOP => {
                if plain {
                    received.next_hop = attribute::next_hop(value.rest()).map(Into::into);
                }
                received.attributes.learn(flags, code, value.rest(), agreed)
            }
            _ => received.attributes.learn(flags, code, value.rest(), agreed),
        };
        if let Err(fault) = outcome {
            worst = worst.max(Some(fault));
            received.faults.push(code);
        }
    }
    let needed = |code: u8| seen.contains(&code);
    let complete = needed(ORIGIN) && needed(AS_PATH) && (needed(NEXT_HOP) || !plain);
    if worst == Some(Fault::Withdraw) || (!received.reach.is_empty() && !complete) {
        received.unreach.append(&mut received.reach);
    }
    if seen == [MP_UNREACH] && received.unreach.is_empty() && !plain {
        received.end_of_rib = ended;
    }
    Ok(received)
}

/// Routes of another family; those of a family that we do not speak are passed over.
fn reach(mut value: Cursor<'_>, received: &mut Received) -> Option<()> {
    let (number, kind) = (value.u16()?, value.u8()?);
    let hop = value.short()?;
    value.u8()?;
    let Some(family) = family_of(number, kind) else { return Some(()) };
    let mut hop = hop;
    received.next_hop = match hop.rest().len() {
        4 => hop.array::<4>().map(|octets| Ipv4Addr::from(octets).into()),
        16 | 32 => hop.array::<16>().map(|octets| Ipv6Addr::from(octets).into()),
        _ => return None,
    };
    received.reach.extend(decode_prefixes(value, family)?);
    Some(())
}

/// The family that it is about, if we speak it.
fn unreach(mut value: Cursor<'_>, received: &mut Received) -> Option<Option<Family>> {
    let (number, kind) = (value.u16()?, value.u8()?);
    let family = family_of(number, kind);
    if let Some(family) = family {
        received.unreach.extend(decode_prefixes(value, family)?);
    }
    Some(family)
}
