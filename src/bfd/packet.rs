//! BFD control packet (RFC 5880 §4.1).
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

/// Length without the authentication section.
pub const LENGTH: usize = 24;
const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const AUTHENTICATION: u8 = 0x04;
const MULTIPOINT: u8 = 0x01;

/// Session state (RFC 5880 §6.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    AdminDown,
    Down,
    Init,
    Up,
}

/// Reason of the last transition to Down, in 5 bits (RFC 5880 §4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Diagnostic(u8);

impl Diagnostic {
    pub const NONE: Self = Self(0);
    pub const DETECTION_TIME_EXPIRED: Self = Self(1);
    pub const NEIGHBOUR_SIGNALLED_DOWN: Self = Self(3);
    pub const ADMINISTRATIVELY_DOWN: Self = Self(7);
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NONE => f.write_str("no diagnostic"),
            Self::DETECTION_TIME_EXPIRED => f.write_str("no packet within the detection time"),
            Self::NEIGHBOUR_SIGNALLED_DOWN => f.write_str("the neighbour signalled session down"),
            Self::ADMINISTRATIVELY_DOWN => f.write_str("administratively down"),
            Self(number) => write!(f, "diagnostic {number}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    pub diagnostic: Diagnostic,
    pub state: State,
    /// Poll bit: requests a packet with the Final bit.
    pub poll: bool,
    /// Final bit: replies to the Poll bit.
    pub is_final: bool,
    /// Detect Mult.
    pub multiplier: u8,
    /// Never 0.
    pub my_discriminator: u32,
    /// 0 if unknown.
    pub your_discriminator: u32,
    /// Transmit interval of the sender.
    pub desired_min_tx: Duration,
    /// Lowest interval of received packets; zero: do not transmit.
    pub required_min_rx: Duration,
}

/// Why a packet is discarded (RFC 5880 §6.8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    #[error("BFD packet is truncated")]
    Truncated,
    #[error("BFD packet has an unknown version")]
    Version,
    /// Detect Mult or My Discriminator of zero, the Multipoint bit, or no Your Discriminator in Init or Up.
    #[error("BFD packet violates RFC 5880 section 6.8.6")]
    Invalid,
    /// Authentication is not supported.
    #[error("BFD packet is authenticated")]
    Authenticated,
}

impl Packet {
    /// Intervals are limited to 32 bits of microseconds.
    pub fn to_bytes(&self) -> Vec<u8> {
        let micros =
            |interval: Duration| u32::try_from(interval.as_micros()).unwrap_or(u32::MAX).to_be_bytes();
        let flags = (self.state as u8) << 6
            | if self.poll { POLL } else { 0 }
            | if self.is_final { FINAL } else { 0 };
        let parts: [&[u8]; 6] = [
            &[VERSION << 5 | self.diagnostic.0, flags, self.multiplier, LENGTH as u8],
            &self.my_discriminator.to_be_bytes(),
            &self.your_discriminator.to_be_bytes(),
            &micros(self.desired_min_tx),
            &micros(self.required_min_rx),
            // Required Min Echo RX Interval: no echo.
            &[0; 4],
        ];
        parts.concat()
    }

    /// Decodes the payload of a datagram.
    ///
    /// # Errors
    /// If the packet has to be discarded.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PacketError> {
        let (fixed, _) = bytes.split_first_chunk::<LENGTH>().ok_or(PacketError::Truncated)?;
        let [head, flags, multiplier, length, rest @ ..] = *fixed;
        if head >> 5 != VERSION {
            return Err(PacketError::Version);
        }
        if usize::from(length) < LENGTH || usize::from(length) > bytes.len() {
            return Err(PacketError::Truncated);
        }
        if flags & AUTHENTICATION != 0 {
            return Err(PacketError::Authenticated);
        }
        let mut words = rest.as_chunks().0.iter().map(|word| u32::from_be_bytes(*word));
        let mut word = || words.next().unwrap_or(0);
        let (my_discriminator, your_discriminator, desired_min_tx, required_min_rx) =
            (word(), word(), word(), word());
        let state = match flags >> 6 {
            0 => State::AdminDown,
            1 => State::Down,
            2 => State::Init,
            _ => State::Up,
        };
        let needs_session = matches!(state, State::Init | State::Up);
        if multiplier == 0
            || my_discriminator == 0
            || flags & MULTIPOINT != 0
            || (your_discriminator == 0 && needs_session)
        {
            return Err(PacketError::Invalid);
        }
        Ok(Self {
            diagnostic: Diagnostic(head & 0x1f),
            state,
            poll: flags & POLL != 0,
            is_final: flags & FINAL != 0,
            multiplier,
            my_discriminator,
            your_discriminator,
            desired_min_tx: Duration::from_micros(desired_min_tx.into()),
            required_min_rx: Duration::from_micros(required_min_rx.into()),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet() -> Packet {
        Packet {
            diagnostic: Diagnostic::DETECTION_TIME_EXPIRED,
            state: State::Up,
            poll: true,
            is_final: false,
            multiplier: 3,
            my_discriminator: 0x0102_0304,
            your_discriminator: 0x0506_0708,
            desired_min_tx: Duration::from_millis(300),
            required_min_rx: Duration::from_micros(50_000),
        }
    }

    const BYTES: [u8; LENGTH] = [
        0x21, 0xe0, 3, 24, 1, 2, 3, 4, 5, 6, 7, 8, 0x00, 0x04, 0x93, 0xe0, 0x00, 0x00, 0xc3, 0x50, 0, 0, 0, 0,
    ];

    #[test]
    fn a_packet_encodes_and_decodes() {
        assert_eq!(packet().to_bytes(), BYTES);
        assert_eq!(Packet::from_bytes(&BYTES), Ok(packet()));
        // Trailing bytes are ignored.
        assert_eq!(Packet::from_bytes(&[&BYTES[..], &[9; 7]].concat()), Ok(packet()));
    }

    #[test]
    fn invalid_packets_are_discarded() {
        let with = |at: usize, byte: u8| {
            let mut bytes = BYTES;
            bytes[at] = byte;
            Packet::from_bytes(&bytes).unwrap_err()
        };
        assert_eq!(Packet::from_bytes(&BYTES[..23]), Err(PacketError::Truncated));
        assert_eq!(with(0, 0x01), PacketError::Version);
        assert_eq!(with(1, 0xc4), PacketError::Authenticated);
        assert_eq!(with(1, 0xc1), PacketError::Invalid);
        assert_eq!(with(2, 0), PacketError::Invalid);
        assert_eq!(with(3, 23), PacketError::Truncated);
        assert_eq!(with(3, 25), PacketError::Truncated);
        let mut no_session = BYTES;
        no_session[8..12].fill(0);
        assert_eq!(Packet::from_bytes(&no_session), Err(PacketError::Invalid));
        no_session[1] = 0x40;
        assert!(Packet::from_bytes(&no_session).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn accepted_packets_round_trip(bytes in prop::collection::vec(any::<u8>(), 20..40)) {
            if let Ok(packet) = Packet::from_bytes(&bytes) {
                prop_assert_eq!(Packet::from_bytes(&packet.to_bytes()), Ok(packet));
            }
        }
    }
}
