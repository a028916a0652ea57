//! DHCPv4 messages (RFC 2131 §2), encoded and decoded with `dhcproto`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use dhcproto::v4::{
    Decodable, DhcpOption, Encodable, Message as Bytes, MessageType, Opcode, OptionCode, UnknownOption,
};

use super::fsm::{LeaseTerms, Message, Reply, Server};
use super::identity::Identity;
use crate::model::text::excerpt;
use crate::model::validation::unusable;

/// Length up to the magic cookie.
const HEADER: usize = 236;
/// The magic cookie (RFC 2131 §3).
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// The BROADCAST flag (RFC 2131, figure 2).
const BROADCAST: u16 = 0x8000;
/// BOOTP's minimum size: some servers and relays drop shorter messages.
const MIN_LENGTH: usize = 300;
/// The vendor class identifier (RFC 2132 §9.13).
const VENDOR_CLASS: &[u8] = b"kube-vip";
/// RFC 2131 §3.3.
const INFINITE: u32 = u32::MAX;
/// Lifetime in seconds where the server sends none, as in the Go program.
const DEFAULT_LIFETIME: u32 = 3600;
/// The flags S, the server updates the DNS, and E, the name has DNS wire encoding (RFC 4702 §2.1).
const FQDN_FLAGS: u8 = 0x05;

/// Encodes a message; none if its address is of the other family.
pub fn to_bytes(identity: &Identity, xid: u32, elapsed: Duration, message: &Message) -> Option<Vec<u8>> {
    use DhcpOption as Option_;
    let zero = Ipv4Addr::UNSPECIFIED;
    // Kind, `ciaddr`, requested address and server (RFC 2131, table 5): only a release has its address in `ciaddr`. Extensions
    // are requested as in INIT-REBOOT: with `ciaddr` the reply would be sent to the host that has the address.
    let (kind, client, requested, server) = match message {
        Message::Discover(requested) => (MessageType::Discover, zero, requested.as_ref(), None),
        Message::Request(address, server) => (MessageType::Request, zero, Some(address), Some(server)),
        Message::Rebind(address) => (MessageType::Request, zero, Some(address), None),
        Message::Decline(address, server) => (MessageType::Decline, zero, Some(address), Some(server)),
        Message::Release(address, server) => (MessageType::Release, v4(address)?, None, Some(server)),
    };
    let awaits_reply = matches!(kind, MessageType::Discover | MessageType::Request);
    let flags: u16 = if identity.broadcast && awaits_reply { BROADCAST } else { 0 };
    let seconds = u16::try_from(elapsed.as_secs()).unwrap_or(u16::MAX);
    let mut header = [&[1, 1, 6, 0], &xid.to_be_bytes()[..]].concat();
    header.extend([seconds.to_be_bytes(), flags.to_be_bytes()].concat());
    header.extend([client, zero, zero, zero].iter().flat_map(|address| address.octets()));
    header.extend(identity.mac);
    header.resize(HEADER, 0);
    header.extend(MAGIC);
    // Decoding the header avoids `Message::new`, which reads a random number from a file.
    let mut bytes = Bytes::from_bytes(&header).ok()?;
    let options = bytes.opts_mut();
    options.insert(Option_::MessageType(kind));
    options.insert(Option_::ClientIdentifier(identity.client_id()));
    if let Some(address) = requested {
        options.insert(Option_::RequestedIpAddress(v4(address)?));
    }
    if let Some(server) = server {
        let Server::Address(server) = server else { return None };
        options.insert(Option_::ServerIdentifier(*server));
    }
    if awaits_reply {
        options.insert(Option_::ParameterRequestList(vec![
            OptionCode::SubnetMask,
            OptionCode::Router,
            OptionCode::AddressLeaseTime,
            OptionCode::Renewal,
            OptionCode::Rebinding,
        ]));
        options.insert(Option_::MaxMessageSize(1472));
        options.insert(Option_::ClassIdentifier(VENDOR_CLASS.to_vec()));
        if let Some(name) = &identity.hostname {
            options.insert(Option_::Hostname(name.label.clone()));
        }
        if let Some(name) = identity.fqdn_wire() {
            let data = [&[FQDN_FLAGS, 0, 0], &name[..]].concat();
            options.insert(Option_::Unknown(UnknownOption::new(OptionCode::ClientFQDN, data)));
        }
    }
    let mut encoded = bytes.to_vec().ok()?;
    encoded.resize(encoded.len().max(MIN_LENGTH), 0);
    Some(encoded)
}

fn v4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}

/// Decodes a reply: `chaddr`, transaction identifier and content. None for everything else.
pub fn from_bytes(bytes: &[u8]) -> Option<(Vec<u8>, u32, Reply)> {
    let (header, options) = bytes.split_at_checked(HEADER + MAGIC.len())?;
    let bytes = Bytes::from_bytes(&[header, &known_options(options)?].concat()).ok()?;
    if bytes.opcode() != Opcode::BootReply || bytes.hlen() != 6 {
        return None;
    }
    let options = bytes.opts();
    // RFC 2131, table 3: every reply has a server identifier.
    let server = match options.get(OptionCode::ServerIdentifier)? {
        DhcpOption::ServerIdentifier(server) => Server::Address(*server),
        _ => return None,
    };
    let reply = match options.msg_type()? {
        MessageType::Nak => {
            let reason = match options.get(OptionCode::Message) {
                Some(DhcpOption::Message(text)) => excerpt(text),
                _ => String::new(),
            };
            Reply::Nak(server, reason)
        }
        kind @ (MessageType::Offer | MessageType::Ack) => {
            let seconds = |code| match options.get(code) {
                Some(
                    DhcpOption::AddressLeaseTime(seconds)
                    | DhcpOption::Renewal(seconds)
                    | DhcpOption::Rebinding(seconds),
                ) => Some(*seconds),
                _ => None,
            };
            let duration = |seconds: u32| Duration::from_secs(seconds.into());
            let lifetime = seconds(OptionCode::AddressLeaseTime).unwrap_or(DEFAULT_LIFETIME);
            let terms = LeaseTerms {
                address: usable(bytes.yiaddr().into())?,
                server,
                lifetime: (lifetime != INFINITE).then(|| duration(lifetime)),
                t1: seconds(OptionCode::Renewal).map(duration),
                t2: seconds(OptionCode::Rebinding).map(duration),
            };
            if kind == MessageType::Offer { Reply::Offer(terms) } else { Reply::Ack(terms) }
        }
        _ => return None,
    };
    Some((bytes.chaddr().to_vec(), bytes.xid(), reply))
}

/// The options that are evaluated; none if one is truncated. `dhcproto` trusts the lengths of some others.
fn known_options(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut kept = Vec::new();
    loop {
        match rest {
            // Pad and End (RFC 2132 §3.1, §3.2).
            [0, next @ ..] => rest = next,
            [] | [255, ..] => break,
            [code, length, follows @ ..] => {
                let (value, next) = follows.split_at_checked((*length).into())?;
                rest = next;
                let known = matches!(
                    OptionCode::from(*code),
                    OptionCode::MessageType
                        | OptionCode::ServerIdentifier
                        | OptionCode::Message
                        | OptionCode::AddressLeaseTime
                        | OptionCode::Renewal
                        | OptionCode::Rebinding
                );
                if known {
                    kept.extend([*code, *length]);
                    kept.extend(value);
                }
            }
            [_] => return None,
        }
    }
    kept.push(255);
    Some(kept)
}

/// An address that may be assigned to a host.
pub(super) fn usable(address: IpAddr) -> Option<IpAddr> {
    (!address.is_unspecified() && unusable(address).is_none()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::identity::Name;
    use crate::testing::hex;

    fn identity() -> Identity {
        Identity {
            mac: [2, 1, 2, 3, 4, 5],
            hostname: Name::new("web.example.com", true),
            by_mac: false,
            broadcast: true,
        }
    }

    /// The options of a message without the padding.
    fn options(message: &Message, identity: &Identity) -> Vec<u8> {
        let bytes = to_bytes(identity, 7, Duration::from_secs(3), message).unwrap();
        assert_eq!(bytes.len(), 300);
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[240..=end].to_vec()
    }

    #[test]
    fn messages_are_encoded() {
        let (address, server) = ("192.0.2.9".parse().unwrap(), Server::Address("192.0.2.1".parse().unwrap()));
        let named = identity();
        let plain = Identity { hostname: None, broadcast: false, ..identity() };
        let requests = "37 05 01 03 33 3a 3b  39 02 05c0  3c 08 6b7562652d766970";
        let id = "3d 07 01020102030405";
        let table = [
            (Message::Discover(None), &plain, format!("35 01 01 {requests} {id} ff")),
            (Message::Discover(Some(address)), &plain, format!("32 04 c0000209 35 01 01 {requests} {id} ff")),
            (
                Message::Request(address, server.clone()),
                &plain,
                format!("32 04 c0000209 35 01 03 36 04 c0000201 {requests} {id} ff"),
            ),
            (Message::Rebind(address), &plain, format!("32 04 c0000209 35 01 03 {requests} {id} ff")),
            (
                Message::Decline(address, server.clone()),
                &plain,
                format!("32 04 c0000209 35 01 04 36 04 c0000201 {id} ff"),
            ),
            (Message::Release(address, server), &plain, format!("35 01 07 36 04 c0000201 {id} ff")),
            (
                Message::Discover(None),
                &named,
                format!(
                    "0c 03 776562 35 01 01 {requests} 3d 03 776562  51 14 05 00 00 03776562 076578616d706c65 03636f6d 00 ff"
                ),
            ),
        ];
        for (message, identity, expected) in table {
            let mut encoded = options(&message, identity);
            let mut expected = hex(&expected);
            // The order of options has no meaning.
            encoded.sort_unstable();
            expected.sort_unstable();
            assert_eq!(encoded, expected, "{message:?}");
        }
    }

    #[test]
    fn the_header_identifies_the_client() {
        let bytes =
            to_bytes(&identity(), 0x0a0b_0c0d, Duration::from_secs(3), &Message::Discover(None)).unwrap();
        assert_eq!(bytes[..12], hex("01 01 06 00 0a0b0c0d 0003 8000"));
        assert_eq!(bytes[12..28], [0; 16]);
        assert_eq!(bytes[28..34], [2, 1, 2, 3, 4, 5]);
        let server = Server::Address("192.0.2.1".parse().unwrap());
        let release = Message::Release("192.0.2.9".parse().unwrap(), server);
        let bytes = to_bytes(&identity(), 1, Duration::ZERO, &release).unwrap();
        assert_eq!((&bytes[10..12], &bytes[12..16]), (&[0, 0][..], &[192, 0, 2, 9][..]));
        assert_eq!(
            to_bytes(&identity(), 1, Duration::ZERO, &Message::Rebind("fd00::1".parse().unwrap())),
            None
        );
    }

    /// A reply with these options.
    fn decode(yours: [u8; 4], options: &str) -> Option<(Vec<u8>, u32, Reply)> {
        let mut bytes = hex("02 01 06 00 0a0b0c0d 0000 0000 00000000");
        bytes.extend(yours);
        bytes.extend([0; 8]);
        bytes.extend([2, 1, 2, 3, 4, 5]);
        bytes.resize(236, 0);
        bytes.extend(hex("63825363"));
        bytes.extend(hex(options));
        from_bytes(&bytes)
    }

    #[test]
    fn replies_are_decoded() {
        let terms = |lifetime, t1, t2| LeaseTerms {
            address: "192.0.2.9".parse().unwrap(),
            server: Server::Address("192.0.2.1".parse().unwrap()),
            lifetime,
            t1,
            t2,
        };
        let yours = [192, 0, 2, 9];
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let reply = |reply| Some((vec![2, 1, 2, 3, 4, 5], 0x0a0b_0c0d, reply));
        let full = "35 01 02 36 04 c0000201 33 04 00000e10 3a 04 00000708 3b 04 00000c4e ff";
        assert_eq!(
            decode(yours, full),
            reply(Reply::Offer(terms(seconds(3600), seconds(1800), seconds(3150))))
        );
        // An FQDN option without flags and a status code without a code are skipped, padding as well.
        let odd = "35 01 02 51 00 97 00 00 36 04 c0000201 ff";
        assert_eq!(decode(yours, odd), reply(Reply::Offer(terms(seconds(3600), None, None))));
        let bare = "35 01 05 36 04 c0000201 ff";
        assert_eq!(decode(yours, bare), reply(Reply::Ack(terms(seconds(3600), None, None))));
        let infinite = "35 01 05 36 04 c0000201 33 04 ffffffff ff";
        assert_eq!(decode(yours, infinite), reply(Reply::Ack(terms(None, None, None))));
        let server = Server::Address("192.0.2.1".parse().unwrap());
        let nak = "35 01 06 36 04 c0000201 38 05 6e6f0a6e6f ff";
        assert_eq!(decode([0; 4], nak), reply(Reply::Nak(server, "no no".into())));
        // No server, no address, unusable addresses, a client's message, truncated options.
        assert_eq!(decode(yours, "35 01 05 ff"), None);
        assert_eq!(decode([0; 4], bare), None);
        assert_eq!(decode([127, 0, 0, 1], bare), None);
        assert_eq!(decode([255; 4], bare), None);
        assert_eq!(decode(yours, "35 01 01 36 04 c0000201 ff"), None);
        assert_eq!(decode(yours, "35 01 05 36 04 c000"), None);
    }
}
