//! A BFD control packet (RFC 5880 §4.1).
//!
//! ```text
//! |Vers | Diag    |Sta|P|F|C|A|D|M|  Detect Mult  |    Length     |
//! |                       My Discriminator                        |
//! |                      Your Discriminator                       |
//! |                    Desired Min TX Interval                    |      microseconds
//! |                   Required Min RX Interval                    |
//! |                 Required Min Echo RX Interval                 |
//! ```

use std::fmt;
use std::time::Duration;

/// Length without authentication.
pub const LENGTH: usize = 24;
const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const AUTHENTICATION: u8 = 0x04;
const MULTIPOINT: u8 = 0x01;

/// How far a session has got (RFC 5880 §6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// Switched off.
    AdminDown,
    /// Nothing is heard.
    Down,
    /// The other end is heard.
    Init,
    /// Both ends hear each other.
    Up,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Why a session went down last (RFC 5880 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Diagnostic {
    /// It did not.
    #[default]
    None,
    /// Nothing was heard for too long.
    DetectionTimeExpired,
    /// The other end says that it is down.
    NeighbourSignalledDown,
    /// Somebody switched it off.
    AdministrativelyDown,
    /// Another reason.
    Other(u8),
}

impl Diagnostic {
    fn number(self) -> u8 {
        match self {
            Self::None => 0,
            Self::DetectionTimeExpired => 1,
            Self::NeighbourSignalledDown => 3,
            Self::AdministrativelyDown => 7,
            Self::Other(number) => number & 0x1f,
        }
    }

    fn of(number: u8) -> Self {
        match number {
            0 => Self::None,
            1 => Self::DetectionTimeExpired,
            3 => Self::NeighbourSignalledDown,
            7 => Self::AdministrativelyDown,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("no diagnostic"),
            Self::DetectionTimeExpired => f.write_str("nothing was heard within the detection time"),
            Self::NeighbourSignalledDown => f.write_str("the other end says that the session is down"),
            Self::AdministrativelyDown => f.write_str("switched off by an operator"),
            Self::Other(number) => write!(f, "diagnostic {number}"),
        }
    }
}

/// What one end tells the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// Why it went down last.
    pub diagnostic: Diagnostic,
    /// Its state.
    pub state: State,
    /// It wants an answer at once.
    pub poll: bool,
    /// This is that answer.
    pub last: bool,
    /// So many packets may be lost.
    pub multiplier: u8,
    /// Its number for the session; never 0.
    pub mine: u32,
    /// The other end's number, as far as it is known; else 0.
    pub yours: u32,
    /// How often it wants to speak.
    pub transmit: Duration,
    /// How often it can hear; zero for not at all.
    pub receive: Duration,
}

/// Why bytes are no control packet for us. The reaction to each is to ignore them (RFC 5880 §6.8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Shorter than its own length says, or than a packet is.
    #[error("a BFD packet is cut short")]
    Short,
    /// Another version.
    #[error("a BFD packet of another version")]
    Version,
    /// A multiplier or a discriminator of zero, a point-to-multipoint session, or no session and a state that needs one.
    #[error("a BFD packet breaks RFC 5880, section 6.8.6")]
    Invalid,
    /// It is authenticated, and we have no key.
    #[error("a BFD packet is authenticated, which is not expected here")]
    Authenticated,
}

impl Packet {
    /// As bytes. Intervals are cut to 32 bits of microseconds.
    pub fn to_bytes(&self) -> [u8; LENGTH] {
        let micros =
            |interval: Duration| u32::try_from(interval.as_micros()).unwrap_or(u32::MAX).to_be_bytes();
        let flags =
            (self.state as u8) << 6 | if self.poll { POLL } else { 0 } | if self.last { FINAL } else { 0 };
        let mut bytes = [0; LENGTH];
        let parts: [&[u8]; 6] = [
            &[VERSION << 5 | self.diagnostic.number(), flags, self.multiplier, LENGTH as u8],
            &self.mine.to_be_bytes(),
            &self.yours.to_be_bytes(),
            &micros(self.transmit),
            &micros(self.receive),
            // No echo.
            &[0; 4],
        ];
        for (slot, byte) in bytes.iter_mut().zip(parts.concat()) {
            *slot = byte;
        }
        bytes
    }

    /// From the payload of a datagram.
    ///
    /// # Errors
    /// If it is not a packet that a session could use.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let (fixed, _) = bytes.split_first_chunk::<LENGTH>().ok_or(Malformed::Short)?;
        let [head, flags, multiplier, length, rest @ ..] = *fixed;
        if head >> 5 != VERSION {
            return Err(Malformed::Version);
        }
        if usize::from(length) < LENGTH || usize::from(length) > bytes.len() {
            return Err(Malformed::Short);
        }
        if flags & AUTHENTICATION != 0 {
            return Err(Malformed::Authenticated);
        }
        let mut words = rest.chunks_exact(4).map(|word| match word {
            [a, b, c, d] => u32::from_be_bytes([*a, *b, *c, *d]),
            _ => 0,
        });
        let mut word = || words.next().unwrap_or(0);
        let (mine, yours, transmit, receive) = (word(), word(), word(), word());
        let state = match flags >> 6 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        };
        let needs_session = matches!(state, State::Init | State::Up);
        if multiplier == 0 || mine == 0 || flags & MULTIPOINT != 0 || (yours == 0 && needs_session) {
            return Err(Malformed::Invalid);
        }
        Ok(Self {
            diagnostic: Diagnostic::of(head & 0x1f),
            state,
            poll: flags & POLL != 0,
            last: flags & FINAL != 0,
            multiplier,
            mine,
            yours,
            transmit: Duration::from_micros(transmit.into()),
            receive: Duration::from_micros(receive.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet() -> Packet {
        Packet {
            diagnostic: Diagnostic::DetectionTimeExpired,
            state: State::Up,
            poll: true,
            last: false,
            multiplier: 3,
            mine: 0x0102_0304,
            yours: 0x0506_0708,
            transmit: Duration::from_millis(300),
            receive: Duration::from_micros(50_000),
        }
    }

    const BYTES: [u8; LENGTH] = [
        0x21, 0xe0, 3, 24, 1, 2, 3, 4, 5, 6, 7, 8, 0x00, 0x04, 0x93, 0xe0, 0x00, 0x00, 0xc3, 0x50, 0, 0, 0, 0,
    ];

    #[test]
    fn bytes_and_what_they_mean() {
        assert_eq!(packet().to_bytes(), BYTES);
        assert_eq!(Packet::from_bytes(&BYTES), Ok(packet()));
        // What stands behind the packet does not matter.
        assert_eq!(Packet::from_bytes(&[&BYTES[..], &[9; 7]].concat()), Ok(packet()));
    }

    #[test]
    fn what_is_ignored() {
        let with = |at: usize, byte: u8| {
            let mut bytes = BYTES;
            bytes[at] = byte;
            Packet::from_bytes(&bytes).unwrap_err()
        };
        assert_eq!(Packet::from_bytes(&BYTES[..23]), Err(Malformed::Short));
        assert_eq!(with(0, 0x01), Malformed::Version);
        assert_eq!(with(1, 0xc4), Malformed::Authenticated);
        assert_eq!(with(1, 0xc1), Malformed::Invalid);
        assert_eq!(with(2, 0), Malformed::Invalid);
        assert_eq!(with(3, 23), Malformed::Short);
        assert_eq!(with(3, 25), Malformed::Short);
        let mut nobody = BYTES;
        nobody[8..12].fill(0);
        assert_eq!(Packet::from_bytes(&nobody), Err(Malformed::Invalid));
        nobody[1] = 0x40;
        assert!(Packet::from_bytes(&nobody).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_accepted_is_written_back(bytes in prop::collection::vec(any::<u8>(), 20..40)) {
            if let Ok(packet) = Packet::from_bytes(&bytes) {
                prop_assert_eq!(Packet::from_bytes(&packet.to_bytes()), Ok(packet));
            }
        }
    }
}
