//! Router Advertisement and Solicitation (RFC 4861 §4.1, §4.2): how the two ends of an unnumbered BGP session find each
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

use super::packet::{ALL_NODES, Malformed, datagram, interface_layer_option, read_datagram};

/// All routers of the interface.
pub const ALL_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);

const SOLICITATION: u8 = 133;
const ADVERTISEMENT: u8 = 134;

/// What was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heard {
    /// A router advertises itself.
    Advertisement(Ipv6Addr),
    /// Somebody asks for routers.
    Solicitation,
}

/// An advertisement of ourselves that makes nobody send packets to us: its lifetime as a default router is zero.
pub fn advertisement(source: Ipv6Addr, hardware: &[u8; 6]) -> Vec<u8> {
    let head = [ADVERTISEMENT, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    datagram(source, ALL_NODES, [&head[..], hardware].concat())
}

/// A question for routers.
pub fn solicitation(source: Ipv6Addr, hardware: &[u8; 6]) -> Vec<u8> {
    let head = [SOLICITATION, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    datagram(source, ALL_ROUTERS, [&head[..], hardware].concat())
}

/// From an IPv6 packet, without the interface's own header.
///
/// # Errors
/// If it is neither, or one that RFC 4861 (§6.1.1, §6.1.2) has ignored.
pub fn from_bytes(bytes: &[u8]) -> Result<Heard, Malformed> {
    let (source, body) = read_datagram(bytes, &[SOLICITATION, ADVERTISEMENT])?;
    let advertisement = body.first() == Some(&ADVERTISEMENT);
    let options = body.get(if advertisement { 16 } else { 8 }..).ok_or(Malformed::Short)?;
    // An option without length ends the world.
    interface_layer_option(options, 1)?;
    match advertisement {
        true if !source.is_unicast_link_local() => Err(Malformed::Invalid),
        true => Ok(Heard::Advertisement(source)),
        false => Ok(Heard::Solicitation),
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
    fn what_is_built_is_read_back() {
        let ours = advertisement(source(), &MAC);
        assert_eq!(from_bytes(&ours), Ok(Heard::Advertisement(source())));
        assert_eq!(from_bytes(&solicitation(source(), &MAC)), Ok(Heard::Solicitation));
        // No default router.
        assert_eq!(ours[46..48], [0, 0]);
    }

    #[test]
    fn what_is_ignored() {
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
