//! NOTIFICATION (RFC 4271 §4.5 and §6, RFC 4486, RFC 8538, RFC 9003).

use std::fmt;

use super::{Capability, frame};
use crate::model::Family;

/// Maximum length of a Shutdown Communication (RFC 9003 §2).
const MAX_COMMUNICATION: usize = 255;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    pub code: u8,
    pub subcode: u8,
    pub data: Vec<u8>,
}

const HEADER_ERROR: u8 = 1;
const OPEN_ERROR: u8 = 2;
const UPDATE_ERROR: u8 = 3;
const HOLD_TIMER_EXPIRED: u8 = 4;
const FSM_ERROR: u8 = 5;
const CEASE: u8 = 6;

impl Notification {
    pub const NOT_SYNCHRONIZED: Self = Self::new(HEADER_ERROR, 1);
    /// OPEN whose lengths are inconsistent.
    pub const MALFORMED_OPEN: Self = Self::new(OPEN_ERROR, 0);
    /// Not the configured AS, or AS 0.
    pub const BAD_PEER_AS: Self = Self::new(OPEN_ERROR, 2);
    /// Zero, or the local identifier.
    pub const BAD_IDENTIFIER: Self = Self::new(OPEN_ERROR, 3);
    /// Unsupported optional parameter.
    pub const BAD_PARAMETER: Self = Self::new(OPEN_ERROR, 4);
    pub const BAD_HOLD_TIME: Self = Self::new(OPEN_ERROR, 6);
    /// UPDATE whose lengths are inconsistent.
    pub const MALFORMED_ATTRIBUTES: Self = Self::new(UPDATE_ERROR, 1);
    pub const BAD_NETWORK_FIELD: Self = Self::new(UPDATE_ERROR, 10);
    pub const HOLD_TIMER_EXPIRED: Self = Self::new(HOLD_TIMER_EXPIRED, 0);
    /// Peer De-configured (RFC 4486).
    pub const DECONFIGURED: Self = Self::new(CEASE, 3);
    /// Other Configuration Change (RFC 4486).
    pub const CONFIGURATION_CHANGE: Self = Self::new(CEASE, 6);
    /// Connection Collision Resolution (RFC 4486).
    pub const COLLISION: Self = Self::new(CEASE, 7);
    /// RFC 9384.
    pub const BFD_DOWN: Self = Self::new(CEASE, 10);

    const fn new(code: u8, subcode: u8) -> Self {
        Self { code, subcode, data: Vec::new() }
    }

    pub fn bad_length(length: u16) -> Self {
        Self { data: length.to_be_bytes().into(), ..Self::new(HEADER_ERROR, 2) }
    }

    pub fn bad_type(kind: u8) -> Self {
        Self { data: vec![kind], ..Self::new(HEADER_ERROR, 3) }
    }

    /// The data is the supported version.
    pub fn bad_version() -> Self {
        Self { data: vec![0, 4], ..Self::new(OPEN_ERROR, 1) }
    }

    /// No common family; the data lists the supported ones (RFC 5492 §5).
    pub fn unsupported_capability(families: &[Family]) -> Self {
        let data = families.iter().flat_map(|family| Capability::Family(*family).encode()).collect();
        Self { data, ..Self::new(OPEN_ERROR, 7) }
    }

    /// FSM error (RFC 6608).
    pub const fn unexpected(subcode: u8) -> Self {
        Self::new(FSM_ERROR, subcode)
    }

    /// Administrative Shutdown; `reason` becomes its Shutdown Communication (RFC 9003).
    pub fn shutdown(reason: &str) -> Self {
        let text = reason.get(..reason.floor_char_boundary(MAX_COMMUNICATION)).unwrap_or_default();
        let length = u8::try_from(text.len()).unwrap_or(0);
        Self { data: [&[length], text.as_bytes()].concat(), ..Self::new(CEASE, 2) }
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
