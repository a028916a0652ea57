//! Router Solicitation and Advertisement (RFC 4861 §4.1, §4.2), by which the peers of an unnumbered BGP session find each
//! other.
//!
//! ```text
//! |     Type      |     Code      |          Checksum             |
//! | Cur Hop Limit |M|O|  Reserved |       Router Lifetime         |      (advertisement; four reserved bytes in a solicitation)
//! |                         Reachable Time                        |
//! |                          Retrans Timer                        |
//! |  option type  |  length / 8   |  link-layer address …         |      1 source
//! ```

use std::net::Ipv6Addr;

use super::packet::{ALL_NODES, Malformed, datagram, link_layer_option, read_datagram};

/// All routers on the link.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouterMessage {
    /// From this router.
    Advertisement(Ipv6Addr),
    Solicitation,
}

/// An advertisement with router lifetime zero, so that no host uses this one as its default router.
pub fn advertisement(source: Ipv6Addr, hardware: &[u8; 6]) -> Vec<u8> {
    let head = [ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    datagram(source, ALL_NODES, [&head[..], hardware].concat())
}

pub fn solicitation(source: Ipv6Addr, hardware: &[u8; 6]) -> Vec<u8> {
    let head = [SOLICITATION, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    datagram(source, ALL_ROUTERS, [&head[..], hardware].concat())
}

/// Decodes an IPv6 packet without link-layer header.
///
/// # Errors
/// If it is neither, or invalid (RFC 4861 §6.1.1, §6.1.2).
pub fn from_bytes(bytes: &[u8]) -> Result<RouterMessage, Malformed> {
    let (source, body) = read_datagram(bytes, &[SOLICITATION, ADVERTISEMENT])?;
    let advertisement = body.first() == Some(&ADVERTISEMENT);
    let options = body.get(if advertisement { 16 } else { 8 }..).ok_or(Malformed::Short)?;
    // Checks the options: one of length zero invalidates the packet.
    link_layer_option(options, 1)?;
    match advertisement {
        true if !source.is_unicast_link_local() => Err(Malformed::Invalid),
        true => Ok(RouterMessage::Advertisement(source)),
        false => Ok(RouterMessage::Solicitation),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0x0a];

    fn source() -> Ipv6Addr {
        "fe80::a".parse().unwrap()
    }

    #[test]
    fn encoded_messages_decode_to_their_values() {
        let ours = advertisement(source(), &MAC);
        assert_eq!(from_bytes(&ours), Ok(RouterMessage::Advertisement(source())));
        assert_eq!(from_bytes(&solicitation(source(), &MAC)), Ok(RouterMessage::Solicitation));
        // No default router.
        assert_eq!(ours[46..48], [0, 0]);
    }

    #[test]
    fn forwarded_corrupted_and_global_messages_are_rejected() {
        let global = advertisement("2001:db8::1".parse().unwrap(), &MAC);
        assert_eq!(from_bytes(&global), Err(Malformed::Invalid));
        let ours = advertisement(source(), &MAC);
        for length in 0..ours.len() {
            assert_eq!(from_bytes(&ours[..length]), Err(Malformed::Short), "{length}");
        }
        let changed = |at: usize, value: u8| {
            let mut bytes = ours.clone();
            bytes[at] = value;
            from_bytes(&bytes)
        };
        assert_eq!(changed(7, 64), Err(Malformed::OffLink));
        assert_eq!(changed(50, 1), Err(Malformed::Checksum));
        assert_eq!(changed(40, 135), Err(Malformed::Other));
    }
}
