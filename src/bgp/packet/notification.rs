//! NOTIFICATION (RFC 4271 §4.5 and §6, RFC 4486, RFC 8538, RFC 9003).

use std::fmt;

use super::{frame, number_of};
use crate::model::Family;

/// Maximum length of a Shutdown Communication (RFC 9003 §2).
const MAX_COMMUNICATION: usize = 255;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    pub code: u8,
    pub subcode: u8,
    pub data: Vec<u8>,
}

/// Subcode of Cease (RFC 4486).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cease {
    /// Administrative Shutdown, with a Shutdown Communication (RFC 9003).
    Shutdown,
    /// Peer De-configured.
    Deconfigured,
    /// Other Configuration Change.
    ConfigurationChange,
    /// Connection Collision Resolution.
    Collision,
}

const HEADER_ERROR: u8 = 1;
const OPEN_ERROR: u8 = 2;
const UPDATE_ERROR: u8 = 3;
const HOLD_TIMER_EXPIRED: u8 = 4;
const FSM_ERROR: u8 = 5;
const CEASE: u8 = 6;

impl Notification {
    fn new(code: u8, subcode: u8, data: &[u8]) -> Self {
        Self { code, subcode, data: data.to_vec() }
    }

    pub fn not_synchronized() -> Self {
        Self::new(HEADER_ERROR, 1, &[])
    }

    pub fn bad_length(length: u16) -> Self {
        Self::new(HEADER_ERROR, 2, &length.to_be_bytes())
    }

    pub fn bad_type(kind: u8) -> Self {
        Self::new(HEADER_ERROR, 3, &[kind])
    }

    /// OPEN whose lengths are inconsistent.
    pub fn malformed_open() -> Self {
        Self::new(OPEN_ERROR, 0, &[])
    }

    pub fn bad_version() -> Self {
        Self::new(OPEN_ERROR, 1, &4_u16.to_be_bytes())
    }

    /// Not the configured AS, or AS 0.
    pub fn bad_peer_as() -> Self {
        Self::new(OPEN_ERROR, 2, &[])
    }

    /// Zero, or the local identifier.
    pub fn bad_identifier() -> Self {
        Self::new(OPEN_ERROR, 3, &[])
    }

    /// Unsupported optional parameter.
    pub fn bad_parameter() -> Self {
        Self::new(OPEN_ERROR, 4, &[])
    }

    /// No common family; the data lists the supported ones (RFC 5492 §5).
    pub fn unsupported_capability(families: &[Family]) -> Self {
        let capability = |family: &Family| {
            let [high, low] = number_of(*family).to_be_bytes();
            [1, 4, high, low, 0, 1]
        };
        let data: Vec<u8> = families.iter().flat_map(capability).collect();
        Self::new(OPEN_ERROR, 7, &data)
    }

    pub fn bad_hold_time() -> Self {
        Self::new(OPEN_ERROR, 6, &[])
    }

    /// UPDATE whose lengths are inconsistent.
    pub fn malformed_attributes() -> Self {
        Self::new(UPDATE_ERROR, 1, &[])
    }

    pub fn bad_network_field() -> Self {
        Self::new(UPDATE_ERROR, 10, &[])
    }

    pub fn hold_timer_expired() -> Self {
        Self::new(HOLD_TIMER_EXPIRED, 0, &[])
    }

    /// FSM error (RFC 6608).
    pub fn unexpected(subcode: u8) -> Self {
        Self::new(FSM_ERROR, subcode, &[])
    }

    /// Cease; `reason` becomes the Shutdown Communication of an Administrative Shutdown.
    pub fn cease(why: Cease, reason: &str) -> Self {
        let subcode = match why {
            Cease::Shutdown => 2,
            Cease::Deconfigured => 3,
            Cease::ConfigurationChange => 6,
            Cease::Collision => 7,
        };
        let mut data = Vec::new();
        if why == Cease::Shutdown {
            let mut end = reason.len().min(MAX_COMMUNICATION);
            while !reason.is_char_boundary(end) {
                end -= 1;
            }
            let text = reason.get(..end).unwrap_or_default();
            data.push(u8::try_from(text.len()).unwrap_or(0));
            data.extend(text.as_bytes());
        }
        Self { code: CEASE, subcode, data }
    }

    /// RFC 9384.
    pub fn bfd_down() -> Self {
        Self::new(CEASE, 10, &[])
    }

    pub fn is_collision(&self) -> bool {
        (self.code, self.subcode) == (CEASE, 7)
    }

    /// The peer may accept an OPEN without capabilities (RFC 5492 §3).
    pub fn is_about_capabilities(&self) -> bool {
        self.code == OPEN_ERROR && matches!(self.subcode, 4 | 7)
    }

    /// Never fails: a truncated NOTIFICATION closes the session, too.
    pub(super) fn decode(body: &[u8]) -> Self {
        let (code, subcode) = (body.first().copied().unwrap_or(0), body.get(1).copied().unwrap_or(0));
        Self { code, subcode, data: body.get(2..).unwrap_or_default().to_vec() }
    }

    pub fn encode(&self) -> Vec<u8> {
        frame(3, &[&[self.code, self.subcode], self.data.as_slice()].concat())
    }

    /// The Shutdown Communication (RFC 9003), without control characters.
    pub fn communication(&self) -> Option<String> {
        if self.code != CEASE || !matches!(self.subcode, 2 | 4) {
            return None;
        }
        let (length, text) = self.data.split_first()?;
        let text = String::from_utf8_lossy(text.get(..usize::from(*length))?);
        let text: String = text.chars().filter(|letter| !letter.is_control()).collect();
        (!text.is_empty()).then_some(text)
    }

    fn description(&self) -> &'static str {
        match (self.code, self.subcode) {
            (HEADER_ERROR, 1) => "connection not synchronized",
            (HEADER_ERROR, 2) => "bad message length",
            (HEADER_ERROR, 3) => "bad message type",
            (HEADER_ERROR, _) => "message header error",
            (OPEN_ERROR, 1) => "unsupported version number",
            (OPEN_ERROR, 2) => "bad peer AS",
            (OPEN_ERROR, 3) => "bad BGP identifier",
            (OPEN_ERROR, 4) => "unsupported optional parameter",
            (OPEN_ERROR, 6) => "unacceptable hold time",
            (OPEN_ERROR, 7) => "unsupported capability",
            (OPEN_ERROR, 11) => "role mismatch",
            (OPEN_ERROR, _) => "OPEN message error",
            (UPDATE_ERROR, 1) => "malformed attribute list",
            (UPDATE_ERROR, 2) => "unrecognized well-known attribute",
            (UPDATE_ERROR, 3) => "missing well-known attribute",
            (UPDATE_ERROR, 4) => "attribute flags error",
            (UPDATE_ERROR, 5) => "attribute length error",
            (UPDATE_ERROR, 6) => "invalid ORIGIN attribute",
            (UPDATE_ERROR, 8) => "invalid NEXT_HOP attribute",
            (UPDATE_ERROR, 9) => "optional attribute error",
            (UPDATE_ERROR, 10) => "invalid network field",
            (UPDATE_ERROR, 11) => "malformed AS_PATH",
            (UPDATE_ERROR, _) => "UPDATE message error",
            (HOLD_TIMER_EXPIRED, _) => "hold timer expired",
            (FSM_ERROR, 1) => "unexpected message in OpenSent",
            (FSM_ERROR, 2) => "unexpected message in OpenConfirm",
            (FSM_ERROR, 3) => "unexpected message in Established",
            (FSM_ERROR, _) => "finite state machine error",
            (CEASE, 1) => "maximum number of prefixes reached",
            (CEASE, 2) => "administrative shutdown",
            (CEASE, 3) => "peer deconfigured",
            (CEASE, 4) => "administrative reset",
            (CEASE, 5) => "connection rejected",
            (CEASE, 6) => "other configuration change",
            (CEASE, 7) => "connection collision resolution",
            (CEASE, 8) => "out of resources",
            (CEASE, 9) => "hard reset",
            (CEASE, 10) => "BFD down",
            (CEASE, _) => "cease",
            (7, _) => "ROUTE-REFRESH message error",
            _ => "unknown error",
        }
    }
}

/// For log lines: `administrative shutdown (6/2): maintenance`.
impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}/{})", self.description(), self.code, self.subcode)?;
        match self.communication() {
            Some(text) => write!(f, ": {text}"),
            None => Ok(()),
        }
    }
}
