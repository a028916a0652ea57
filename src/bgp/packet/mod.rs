//! BGP message codec (RFC 4271 §4): two unicast families, the attributes that an advertising speaker needs.
//!
//! Errors in UPDATE messages are handled as RFC 7606 requires: malformed attributes withdraw their routes and seldom
//! reset the session.

mod attribute;
mod cursor;
mod notification;
mod open;
#[cfg(test)]
mod tests;
mod update;

pub use attribute::{Attributes, GRACEFUL_SHUTDOWN, Origin, Segment};
pub use notification::Notification;
pub use open::{Capability, GracefulRestart, Open, RestartFamily};
pub use update::{Reach, ReceivedUpdate, Update};

use crate::model::Family;
use cursor::Cursor;

/// Header length: marker, length, type.
pub const HEADER: usize = 19;
/// Maximum message length (RFC 4271 §4.1).
pub const MAX_LENGTH: usize = 4096;
const MARKER: [u8; 16] = [0xff; 16];
/// In the two-octet field of a four-octet AS (RFC 6793).
const AS_TRANS: u16 = 23456;
/// SAFI (RFC 4760 §6).
const UNICAST: u8 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Open(Open),
    Update(Box<ReceivedUpdate>),
    Notification(Notification),
    Keepalive,
    /// ROUTE-REFRESH (RFC 2918, RFC 7313).
    Refresh {
        /// None: an unsupported family.
        family: Option<Family>,
        /// 0: request, 1: beginning of the refresh, 2: end of the refresh.
        kind: u8,
    },
}

/// Negotiated parameters that the encoding depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Negotiated {
    /// Four-octet AS numbers in AS_PATH (RFC 6793).
    pub four_octets: bool,
    /// The peer is in the same AS: LOCAL_PREF is sent and accepted.
    pub internal: bool,
}

/// AFI (IANA "Address Family Numbers").
fn number_of(family: Family) -> [u8; 2] {
    match family {
        Family::V4 => [0, 1],
        Family::V6 => [0, 2],
    }
}

/// The family of an AFI and SAFI.
fn family_of(number: [u8; 2], kind: u8) -> Option<Family> {
    Family::BOTH.into_iter().find(|family| (number_of(*family), UNICAST) == (number, kind))
}

/// Decodes the first message of a receive buffer: the message and its length, or None while it is incomplete.
///
/// # Errors
/// The NOTIFICATION to send before closing the connection.
pub fn decode(bytes: &[u8], negotiated: Negotiated) -> Result<Option<(Message, usize)>, Notification> {
    let mut header = Cursor::new(bytes);
    let (Some(marker), Some(length), Some(kind)) = (header.take(16), header.u16(), header.u8()) else {
        // An incomplete header with a wrong marker is rejected at once.
        let wrong = bytes.iter().take(16).any(|byte| *byte != 0xff);
        return if wrong { Err(Notification::NOT_SYNCHRONIZED) } else { Ok(None) };
    };
    if marker != MARKER {
        return Err(Notification::NOT_SYNCHRONIZED);
    }
    let whole = usize::from(length);
    let shortest = match kind {
        1 => 29,
        2 => 23,
        3 => 21,
        4 => HEADER,
        5 => 23,
        _ => return Err(Notification::bad_type(kind)),
    };
    let exact = matches!(kind, 4 | 5);
    if whole < shortest || whole > MAX_LENGTH || (exact && whole != shortest) {
        return Err(Notification::bad_length(length));
    }
    let Some(body) = bytes.get(HEADER..whole) else { return Ok(None) };
    let message = match kind {
        1 => Message::Open(Open::decode(body)?),
        2 => Message::Update(Box::new(update::decode(body, negotiated)?)),
        3 => Message::Notification(Notification::decode(body)),
        4 => Message::Keepalive,
        // The length was checked.
        _ => match *body {
            [high, low, kind, unicast] => Message::Refresh { family: family_of([high, low], unicast), kind },
            _ => return Err(Notification::bad_length(length)),
        },
    };
    Ok(Some((message, whole)))
}

pub(super) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(MARKER);
    let length = u16::try_from(HEADER + body.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// ROUTE-REFRESH; `kind` as in [`Message::Refresh`].
pub fn refresh_message(family: Family, kind: u8) -> Vec<u8> {
    let [high, low] = number_of(family);
    frame(5, &[high, low, kind, UNICAST])
}

pub fn keepalive() -> Vec<u8> {
    frame(4, &[])
}
