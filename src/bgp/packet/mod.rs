//! BGP messages as bytes and back (RFC 4271 §4).
//!
//! Our own, since a speaker that announces needs little: two families, a dozen attributes. What comes in is read as
//! RFC 7606 asks: an attribute that is wrong costs its routes, seldom the session.

mod attribute;
mod cursor;
mod notification;
mod open;
#[cfg(test)]
mod tests;
mod update;

pub use attribute::{Attributes, LargeCommunity, Origin, Segment, WellKnown};
pub use notification::{Cease, Notification};
pub use open::{Capability, GracefulRestart, Open, RestartFamily};
pub use update::{NextHop, Reach, Received, Update};

use crate::model::Family;
use cursor::Cursor;

/// Length of the header: marker, length, type.
pub const HEADER: usize = 19;
/// The longest message (RFC 4271 §4.1).
pub const LONGEST: usize = 4096;
const MARKER: [u8; 16] = [0xff; 16];
/// The number for unicast routes (RFC 4760 §6).
const UNICAST: u8 = 1;

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Who we are and what we can do.
    Open(Open),
    /// Routes.
    Update(Box<Received>),
    /// The end, and why.
    Notification(Notification),
    /// Still there.
    Keepalive,
    /// Send everything again, or the marks around it (RFC 2918, RFC 7313).
    Refresh {
        /// Of which family; none if it is one that we do not speak.
        family: Option<Family>,
        /// 0 asks, 1 begins, 2 ends.
        kind: u8,
    },
}

/// What both sides have agreed on, as far as bytes depend on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Agreed {
    /// AS numbers have four octets in AS_PATH (RFC 6793).
    pub four_octets: bool,
    /// The peer is in our own AS: LOCAL_PREF means something.
    pub internal: bool,
}

/// The number of a family (IANA "Address Family Numbers").
pub(crate) fn number_of(family: Family) -> u16 {
    match family {
        Family::V4 => 1,
        Family::V6 => 2,
    }
}

/// The family with this number, for unicast routes.
pub(crate) fn family_of(number: u16, kind: u8) -> Option<Family> {
    match (number, kind) {
        (1, UNICAST) => Some(Family::V4),
        (2, UNICAST) => Some(Family::V6),
        _ => None,
    }
}

/// Take one message from the beginning of what has arrived. None if it is not all there yet; else the message and its
/// length.
///
/// # Errors
/// What to tell the peer before the connection is closed.
pub fn decode(bytes: &[u8], agreed: Agreed) -> Result<Option<(Message, usize)>, Notification> {
    let mut header = Cursor::new(bytes);
    let (Some(marker), Some(length), Some(kind)) = (header.take(16), header.u16(), header.u8()) else {
        // What cannot be a header is refused as soon as that shows.
        let wrong = bytes.iter().take(16).any(|byte| *byte != 0xff);
        return if wrong { Err(Notification::not_synchronized()) } else { Ok(None) };
    };
    if marker != MARKER {
        return Err(Notification::not_synchronized());
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
    if whole < shortest || whole > LONGEST || (exact && whole != shortest) {
        return Err(Notification::bad_length(length));
    }
    let Some(body) = bytes.get(HEADER..whole) else { return Ok(None) };
    let message = match kind {
        1 => Message::Open(Open::decode(body)?),
        2 => Message::Update(Box::new(update::decode(body, agreed)?)),
        3 => Message::Notification(Notification::decode(body)),
        4 => Message::Keepalive,
        _ => refresh(body),
    };
    Ok(Some((message, whole)))
}

fn refresh(body: &[u8]) -> Message {
    let mut body = Cursor::new(body);
    let (family, kind, unicast) = (body.u16(), body.u8(), body.u8());
    let family = family_of(family.unwrap_or(0), unicast.unwrap_or(0));
    Message::Refresh { family, kind: kind.unwrap_or(0) }
}

/// A message of a type with this body.
pub(crate) fn frame(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER + body.len());
    bytes.extend(MARKER);
    let length = u16::try_from(HEADER + body.len()).unwrap_or(u16::MAX);
    bytes.extend(length.to_be_bytes());
    bytes.push(kind);
    bytes.extend(body);
    bytes
}

/// A ROUTE-REFRESH: 0 asks for everything of a family, 1 and 2 stand before and after the answer (RFC 7313).
pub fn refresh_message(family: Family, kind: u8) -> Vec<u8> {
    let [high, low] = number_of(family).to_be_bytes();
    frame(5, &[high, low, kind, UNICAST])
}

/// A KEEPALIVE.
pub fn keepalive() -> Vec<u8> {
    frame(4, &[])
}
