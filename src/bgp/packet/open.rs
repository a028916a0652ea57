//! OPEN and its capabilities (RFC 4271 §4.2, RFC 5492, RFC 9072).
//!
//! ```text
//!  version | my AS | hold time | identifier | length | parameters
//!     1        2        2            4          1      type, length, capabilities …
//! ```

use std::net::Ipv4Addr;

use super::cursor::Cursor;
use super::{AS_TRANS, Notification, UNICAST, family_of, frame, number_of};
use crate::model::Family;

/// Optional parameter type (RFC 5492).
const CAPABILITIES: u8 = 2;
/// Non-Extended OP Length and Type: lengths have two octets (RFC 9072).
const EXTENDED: u8 = 255;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    pub asn: u32,
    /// Seconds; 0 for no limit.
    pub hold_time: u16,
    pub identifier: Ipv4Addr,
    pub capabilities: Vec<Capability>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capability {
    /// Multiprotocol extensions, unicast (RFC 4760).
    Family(Family),
    /// RFC 2918.
    Refresh,
    /// RFC 7313.
    EnhancedRefresh,
    /// IPv4 routes with an IPv6 next hop (RFC 8950).
    ExtendedNextHop,
    /// Four-octet AS number (RFC 6793).
    FourOctets(u32),
    /// RFC 4724.
    GracefulRestart(GracefulRestart),
    Other {
        code: u8,
        value: Vec<u8>,
    },
}

/// Graceful Restart capability (RFC 4724 §3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GracefulRestart {
    /// Restart State bit.
    pub restarting: bool,
    /// Restart time.
    pub seconds: u16,
    pub families: Vec<RestartFamily>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartFamily {
    pub family: Family,
    /// Forwarding State bit.
    pub forwarding: bool,
}

impl Open {
    /// IPv4 if the OPEN has no multiprotocol capability (RFC 4760 §8).
    pub fn families(&self) -> Vec<Family> {
        let named = |capability: &Capability| match capability {
            Capability::Family(family) => Some(*family),
            _ => None,
        };
        let families: Vec<Family> = self.capabilities.iter().filter_map(named).collect();
        if families.is_empty() { vec![Family::V4] } else { families }
    }

    pub fn encode(&self) -> Vec<u8> {
        let capabilities: Vec<u8> = self.capabilities.iter().flat_map(Capability::encode).collect();
        let mut body = vec![4];
        body.extend(u16::try_from(self.asn).unwrap_or(AS_TRANS).to_be_bytes());
        body.extend(self.hold_time.to_be_bytes());
        body.extend(self.identifier.octets());
        match u8::try_from(capabilities.len()).ok().filter(|length| *length <= 253) {
            None => {
                let length = u16::try_from(capabilities.len()).unwrap_or(u16::MAX);
                body.extend([EXTENDED, EXTENDED]);
                body.extend(length.saturating_add(3).to_be_bytes());
                body.push(CAPABILITIES);
                body.extend(length.to_be_bytes());
            }
            Some(0) => body.push(0),
            Some(length) => body.extend([length + 2, CAPABILITIES, length]),
        }
        body.extend(capabilities);
        frame(1, &body)
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, Notification> {
        const MALFORMED: Notification = Notification::MALFORMED_OPEN;
        let mut body = Cursor::new(body);
        if body.u8().ok_or(MALFORMED)? != 4 {
            return Err(Notification::bad_version());
        }
        let short_as = body.u16().ok_or(MALFORMED)?;
        let hold_time = body.u16().ok_or(MALFORMED)?;
        let identifier = Ipv4Addr::from(body.array().ok_or(MALFORMED)?);
        if matches!(hold_time, 1 | 2) {
            return Err(Notification::BAD_HOLD_TIME);
        }
        if identifier.is_unspecified() {
            return Err(Notification::BAD_IDENTIFIER);
        }
        let mut capabilities = Vec::new();
        let (mut parameters, extended) = parameters(&mut body).ok_or(MALFORMED)?;
        if !body.is_empty() {
            return Err(MALFORMED);
        }
        while !parameters.is_empty() {
            let kind = parameters.u8().ok_or(MALFORMED)?;
            let value = if extended { parameters.prefixed_u16() } else { parameters.prefixed_u8() };
            let mut value = value.ok_or(MALFORMED)?;
            if kind != CAPABILITIES {
                return Err(Notification::BAD_PARAMETER);
            }
            while !value.is_empty() {
                let code = value.u8().ok_or(MALFORMED)?;
                let value = value.prefixed_u8().ok_or(MALFORMED)?;
                capabilities.push(Capability::decode(code, value.rest()));
            }
        }
        let four = capabilities.iter().find_map(|capability| match capability {
            Capability::FourOctets(asn) => Some(*asn),
            _ => None,
        });
        let asn = four.unwrap_or(short_as.into());
        if asn == 0 {
            return Err(Notification::BAD_PEER_AS);
        }
        Ok(Self { asn, hold_time, identifier, capabilities })
    }
}

/// Optional parameters, and whether their lengths have two octets.
fn parameters<'a>(body: &mut Cursor<'a>) -> Option<(Cursor<'a>, bool)> {
    let before = *body;
    let length = body.u8()?;
    if length == EXTENDED && body.u8() == Some(EXTENDED) {
        return Some((body.prefixed_u16()?, true));
    }
    *body = before;
    Some((body.prefixed_u8()?, false))
}

impl Capability {
    pub(super) fn encode(&self) -> Vec<u8> {
        let (code, value): (u8, Vec<u8>) = match self {
            Self::Family(family) => (1, [number_of(*family), [0, UNICAST]].concat()),
            Self::Refresh => (2, Vec::new()),
            // IPv4 unicast with IPv6 next hops; the SAFI has two octets here (RFC 8950 §4).
            Self::ExtendedNextHop => (5, vec![0, 1, 0, UNICAST, 0, 2]),
            Self::GracefulRestart(restart) => {
                let flags = u16::from(restart.restarting) << 15;
                let mut value = (flags | (restart.seconds & 0x0fff)).to_be_bytes().to_vec();
                for RestartFamily { family, forwarding } in &restart.families {
                    value.extend(number_of(*family));
                    value.extend([UNICAST, u8::from(*forwarding) << 7]);
                }
                (64, value)
            }
            Self::FourOctets(asn) => (65, asn.to_be_bytes().into()),
            Self::EnhancedRefresh => (70, Vec::new()),
            Self::Other { code, value } => (*code, value.clone()),
        };
        let length = u8::try_from(value.len()).unwrap_or(u8::MAX);
        [&[code, length], value.as_slice()].concat()
    }

    /// A capability with a malformed value becomes [`Self::Other`] and is ignored (RFC 5492 §3).
    fn decode(code: u8, bytes: &[u8]) -> Self {
        let mut value = Cursor::new(bytes);
        let known = match code {
            1 => {
                value.array().and_then(|[high, low, _, kind]| family_of([high, low], kind)).map(Self::Family)
            }
            2 => Some(Self::Refresh),
            5 => {
                let mut any = false;
                while let Some(entry) = value.array::<6>() {
                    any |= entry == [0, 1, 0, UNICAST, 0, 2];
                }
                any.then_some(Self::ExtendedNextHop)
            }
            64 => value.u16().map(|flags| {
                let mut families = Vec::new();
                while let Some([high, low, kind, flags]) = value.array::<4>() {
                    let family = family_of([high, low], kind);
                    families
                        .extend(family.map(|family| RestartFamily { family, forwarding: flags & 0x80 != 0 }));
                }
                Self::GracefulRestart(GracefulRestart {
                    restarting: flags & 0x8000 != 0,
                    seconds: flags & 0x0fff,
                    families,
                })
            }),
            65 => value.u32().filter(|_| value.is_empty()).map(Self::FourOctets),
            70 => Some(Self::EnhancedRefresh),
            _ => None,
        };
        known.unwrap_or_else(|| Self::Other { code, value: bytes.to_vec() })
    }
}
