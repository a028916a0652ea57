//! The bytes of DHCP for IPv4 (RFC 2131 §2), by way of `dhcproto`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use dhcproto::v4::{
    Decodable, DhcpOption, Encodable, Message as Bytes, MessageType, Opcode, OptionCode, UnknownOption,
};

use super::fsm::{Answer, Grant, Message, Server};
use super::identity::Identity;
use crate::model::validation::unusable;

/// All before the magic number and the options.
const HEADER: usize = 236;
/// What tells DHCP's options from BOOTP's (RFC 2131 §3).
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// "Answer to everybody" (RFC 2131, figure 2).
const BROADCAST: u16 = 0x8000;
/// BOOTP's size, below which some servers and relays drop a message.
const LEAST: usize = 300;
/// What servers know us by besides who we are (option 60).
const VENDOR: &[u8] = b"kube-vip";
/// For ever (RFC 2131 §3.3).
const FOR_EVER: u32 = u32::MAX;
/// The lease of a server that names no time. As in the Go program.
const DEFAULT_LEASE: u32 = 3600;
/// "The server shall put the name into the DNS", and "the name is written as in DNS messages" (RFC 4702 §2.1).
const DNS_BY_SERVER: u8 = 0x05;

/// A message to servers; none where the message is about another family.
pub fn to_bytes(
    identity: &Identity,
    transaction: u32,
    elapsed: Duration,
    message: &Message,
) -> Option<Vec<u8>> {
    use DhcpOption as Option_;
    let zero = Ipv4Addr::UNSPECIFIED;
    // RFC 2131, table 5: a release is the one message here that says by its header which address it is about. More
    // time is asked for as after a restart: the answer then goes to everybody, and not to the host that has the address.
    let client = match message {
        Message::Release(address, _) => v4(address)?,
        _ => zero,
    };
    let answered = !matches!(message, Message::Decline(..) | Message::Release(..));
    let flags: u16 = if identity.broadcast && answered { BROADCAST } else { 0 };
    let seconds = u16::try_from(elapsed.as_secs()).unwrap_or(u16::MAX);
    let mut header = [&[1, 1, 6, 0], &transaction.to_be_bytes()[..]].concat();
    header.extend([seconds.to_be_bytes(), flags.to_be_bytes()].concat());
    header.extend([client, zero, zero, zero].iter().flat_map(|address| address.octets()));
    header.extend(identity.hardware);
    header.resize(HEADER, 0);
    header.extend(MAGIC);
    // A message that is made, and not read, draws a random number of its own, for which it opens a file.
    let mut bytes = Bytes::from_bytes(&header).ok()?;
    let options = bytes.opts_mut();
    let kind = match message {
        Message::Discover(_) => MessageType::Discover,
        Message::Select(..) | Message::Confirm(_) => MessageType::Request,
        Message::Decline(..) => MessageType::Decline,
        Message::Release(..) => MessageType::Release,
    };
    options.insert(Option_::MessageType(kind));
    options.insert(Option_::ClientIdentifier(identity.client_id()));
    let (requested, server) = match message {
        Message::Discover(wanted) => (*wanted, None),
        Message::Select(address, server) | Message::Decline(address, server) => {
            (Some(*address), Some(server))
        }
        Message::Confirm(address) => (Some(*address), None),
        Message::Release(_, server) => (None, Some(server)),
    };
    if let Some(address) = requested {
        options.insert(Option_::RequestedIpAddress(v4(&address)?));
    }
    if let Some(server) = server {
        let Server::Address(server) = server else { return None };
        options.insert(Option_::ServerIdentifier(*server));
    }
    if answered {
        options.insert(Option_::ParameterRequestList(vec![
            OptionCode::SubnetMask,
            OptionCode::Router,
            OptionCode::AddressLeaseTime,
            OptionCode::Renewal,
            OptionCode::Rebinding,
        ]));
        options.insert(Option_::MaxMessageSize(1472));
        options.insert(Option_::ClassIdentifier(VENDOR.to_vec()));
        if let Some(name) = &identity.hostname {
            options.insert(Option_::Hostname(name.label.clone()));
        }
        if let Some(name) = identity.wire_name() {
            let data = [&[DNS_BY_SERVER, 0, 0], &name[..]].concat();
            options.insert(Option_::Unknown(UnknownOption::new(OptionCode::ClientFQDN, data)));
        }
    }
    let mut written = bytes.to_vec().ok()?;
    written.resize(written.len().max(LEAST), 0);
    Some(written)
}

fn v4(address: &IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    }
}

/// What a server says, the number of the transaction, and to which hardware address; none if it says nothing that
/// concerns a client.
pub fn from_bytes(bytes: &[u8]) -> Option<([u8; 6], u32, Answer)> {
    let (header, options) = bytes.split_at_checked(HEADER + MAGIC.len())?;
    let bytes = Bytes::from_bytes(&[header, &heeded(options)?].concat()).ok()?;
    if bytes.opcode() != Opcode::BootReply || bytes.hlen() != 6 {
        return None;
    }
    let hardware: [u8; 6] = bytes.chaddr().try_into().ok()?;
    let options = bytes.opts();
    // RFC 2131, table 3: every answer names its server.
    let server = match options.get(OptionCode::ServerIdentifier)? {
        DhcpOption::ServerIdentifier(server) => Server::Address(*server),
        _ => return None,
    };
    let answer = match options.msg_type()? {
        MessageType::Nak => Answer::Nak(server, reason(options.get(OptionCode::Message))),
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
            let time = seconds(OptionCode::AddressLeaseTime).unwrap_or(DEFAULT_LEASE);
            let grant = Grant {
                address: usable(bytes.yiaddr().into())?,
                server,
                time: (time != FOR_EVER).then(|| duration(time)),
                renew: seconds(OptionCode::Renewal).map(duration),
                rebind: seconds(OptionCode::Rebinding).map(duration),
            };
            if kind == MessageType::Offer { Answer::Offer(grant) } else { Answer::Ack(grant) }
        }
        _ => return None,
    };
    Some((hardware, bytes.xid(), answer))
}

/// The options that are looked at; none if one of them is cut short. The library takes the lengths of others on trust.
fn heeded(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut kept = Vec::new();
    loop {
        match rest {
            // Padding, and the end (RFC 2132 §3.1, §3.2).
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

/// An address that a host can have.
pub(super) fn usable(address: IpAddr) -> Option<IpAddr> {
    (!address.is_unspecified() && unusable(address).is_none()).then_some(address)
}

/// A server's words, as they may stand in a log line.
pub(super) fn words(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(200).collect()
}

fn reason(option: Option<&DhcpOption>) -> String {
    match option {
        Some(DhcpOption::Message(text)) => words(text),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::identity::Name;
    use crate::testing::hex;

    fn identity() -> Identity {
        Identity {
            hardware: [2, 1, 2, 3, 4, 5],
            hostname: Name::new("web.example.com", true),
            by_hardware: false,
            broadcast: true,
        }
    }

    /// The options of a message, after the header and the magic number, without the padding.
    fn options(message: &Message, identity: &Identity) -> Vec<u8> {
        let bytes = to_bytes(identity, 7, Duration::from_secs(3), message).unwrap();
        assert_eq!(bytes.len(), 300);
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
        bytes[240..=end].to_vec()
    }

    #[test]
    fn what_is_asked_in_bytes() {
        let (address, server) = ("192.0.2.9".parse().unwrap(), Server::Address("192.0.2.1".parse().unwrap()));
        let named = identity();
        let plain = Identity { hostname: None, broadcast: false, ..identity() };
        let asks = "37 05 01 03 33 3a 3b  39 02 05c0  3c 08 6b7562652d766970";
        let id = "3d 07 01020102030405";
        let table = [
            (Message::Discover(None), &plain, format!("35 01 01 {asks} {id} ff")),
            (Message::Discover(Some(address)), &plain, format!("32 04 c0000209 35 01 01 {asks} {id} ff")),
            (
                Message::Select(address, server.clone()),
                &plain,
                format!("32 04 c0000209 35 01 03 36 04 c0000201 {asks} {id} ff"),
            ),
            (Message::Confirm(address), &plain, format!("32 04 c0000209 35 01 03 {asks} {id} ff")),
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
                    "0c 03 776562 35 01 01 {asks} 3d 03 776562  51 14 05 00 00 03776562 076578616d706c65 03636f6d 00 ff"
                ),
            ),
        ];
        for (message, identity, expected) in table {
            let mut written = options(&message, identity);
            let mut expected = hex(&expected);
            // The order of options means nothing.
            written.sort_unstable();
            expected.sort_unstable();
            assert_eq!(written, expected, "{message:?}");
        }
    }

    #[test]
    fn the_header_says_who_asks() {
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
            to_bytes(&identity(), 1, Duration::ZERO, &Message::Confirm("fd00::1".parse().unwrap())),
            None
        );
    }

    /// An answer with these options.
    fn answer(yours: [u8; 4], options: &str) -> Option<([u8; 6], u32, Answer)> {
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
    fn what_servers_say_in_bytes() {
        let grant = |time, renew, rebind| Grant {
            address: "192.0.2.9".parse().unwrap(),
            server: Server::Address("192.0.2.1".parse().unwrap()),
            time,
            renew,
            rebind,
        };
        let yours = [192, 0, 2, 9];
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let heard = |answer| Some(([2, 1, 2, 3, 4, 5], 0x0a0b_0c0d, answer));
        let full = "35 01 02 36 04 c0000201 33 04 00000e10 3a 04 00000708 3b 04 00000c4e ff";
        assert_eq!(
            answer(yours, full),
            heard(Answer::Offer(grant(seconds(3600), seconds(1800), seconds(3150))))
        );
        // A name without flags and a status without a code are passed over; padding is none.
        let odd = "35 01 02 51 00 97 00 00 36 04 c0000201 ff";
        assert_eq!(answer(yours, odd), heard(Answer::Offer(grant(seconds(3600), None, None))));
        let bare = "35 01 05 36 04 c0000201 ff";
        assert_eq!(answer(yours, bare), heard(Answer::Ack(grant(seconds(3600), None, None))));
        let for_ever = "35 01 05 36 04 c0000201 33 04 ffffffff ff";
        assert_eq!(answer(yours, for_ever), heard(Answer::Ack(grant(None, None, None))));
        let server = Server::Address("192.0.2.1".parse().unwrap());
        let nak = "35 01 06 36 04 c0000201 38 05 6e6f0a6e6f ff";
        assert_eq!(answer([0; 4], nak), heard(Answer::Nak(server, "nono".into())));
        // No server, no address, an address of nobody, a client's message, options cut short.
        assert_eq!(answer(yours, "35 01 05 ff"), None);
        assert_eq!(answer([0; 4], bare), None);
        assert_eq!(answer([127, 0, 0, 1], bare), None);
        assert_eq!(answer([255; 4], bare), None);
        assert_eq!(answer(yours, "35 01 01 36 04 c0000201 ff"), None);
        assert_eq!(answer(yours, "35 01 05 36 04 c000"), None);
    }
}
