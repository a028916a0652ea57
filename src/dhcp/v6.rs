//! The bytes of DHCP for IPv6 (RFC 8415 §8), by way of `dhcproto`: one address, in one identity association.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use dhcproto::v6::{
    Decodable, DhcpOption, DhcpOptions, Encodable, IAAddr, IANA, Message as Bytes, MessageType, OptionCode,
    Status, UnknownOption,
};

use super::fsm::{Answer, Grant, Message, Server};
use super::identity::Identity;
use super::v4::{usable, words};

/// For ever (RFC 8415 §7.7).
const FOR_EVER: u32 = u32::MAX;
/// "The server shall put the name into the DNS" (RFC 4704 §4.1).
const DNS_BY_SERVER: u8 = 0x01;

/// A message to servers; none where the message is about another family.
///
/// More time is asked of any server at once (REBIND): only with its own permission may a server be asked alone by
/// unicast, and the others pass over a RENEW that names it as they pass over what they know nothing of (§18.3.5).
pub fn to_bytes(
    identity: &Identity,
    transaction: u32,
    elapsed: Duration,
    message: &Message,
) -> Option<Vec<u8>> {
    let kind = match message {
        Message::Discover(_) => MessageType::Solicit,
        Message::Select(..) => MessageType::Request,
        Message::Confirm(_) => MessageType::Rebind,
        Message::Decline(..) => MessageType::Decline,
        Message::Release(..) => MessageType::Release,
    };
    let [_, a, b, c] = transaction.to_be_bytes();
    // A message that is made, and not read, draws a random number of its own, for which it opens a file.
    let mut bytes = Bytes::from_bytes(&[kind.into(), a, b, c]).ok()?;
    let options = bytes.opts_mut();
    options.insert(DhcpOption::ClientId(identity.duid()));
    let (address, server) = match message {
        Message::Discover(wanted) => (wanted.as_ref(), None),
        Message::Confirm(address) => (Some(address), None),
        Message::Select(address, server)
        | Message::Decline(address, server)
        | Message::Release(address, server) => (Some(address), Some(server)),
    };
    if let Some(server) = server {
        let Server::Duid(duid) = server else { return None };
        options.insert(DhcpOption::ServerId(duid.clone()));
    }
    // In hundredths of a second (§21.9).
    let elapsed = u16::try_from(elapsed.as_millis() / 10).unwrap_or(u16::MAX);
    options.insert(DhcpOption::ElapsedTime(elapsed));
    let mut within = DhcpOptions::new();
    if let Some(address) = address {
        let IpAddr::V6(addr) = *address else { return None };
        within.insert(DhcpOption::IAAddr(IAAddr {
            addr,
            preferred_life: 0,
            valid_life: 0,
            opts: DhcpOptions::new(),
        }));
    }
    options.insert(DhcpOption::IANA(IANA { id: identity.association(), t1: 0, t2: 0, opts: within }));
    if let Some(name) = identity.wire_name() {
        let data = [&[DNS_BY_SERVER], &name[..]].concat();
        options.insert(DhcpOption::Unknown(UnknownOption::new(OptionCode::ClientFqdn, data)));
    }
    bytes.to_vec().ok()
}

/// What a server says, the number of the transaction, and to which client; none if it says nothing that concerns one.
pub fn from_bytes(bytes: &[u8]) -> Option<(Vec<u8>, u32, Answer)> {
    let (header, options) = bytes.split_at_checked(4)?;
    let bytes = Bytes::from_bytes(&[header, &heeded(options, 0)?].concat()).ok()?;
    let options = bytes.opts();
    let Some(DhcpOption::ClientId(client)) = options.get(OptionCode::ClientId) else { return None };
    let Some(DhcpOption::ServerId(server)) = options.get(OptionCode::ServerId) else { return None };
    let server = Server::Duid(server.clone());
    let association = match options.get(OptionCode::IANA) {
        Some(DhcpOption::IANA(association)) => Some(association),
        _ => None,
    };
    let refused = refusal(options).or_else(|| association.and_then(|found| refusal(&found.opts)));
    let found = association.and_then(lease);
    let answer = match (bytes.msg_type(), refused, association.zip(found)) {
        (MessageType::Advertise | MessageType::Reply, Some(why), _) => Answer::Nak(server, why),
        (
            kind @ (MessageType::Advertise | MessageType::Reply),
            None,
            Some((association, (address, valid, preferred))),
        ) => {
            let duration = |seconds: u32| Duration::from_secs(seconds.into());
            // §14.2: where the server leaves it to us, half and eight tenths of the preferred lifetime.
            let or = |time: u32, tenths: u32| match (time, preferred) {
                (0, FOR_EVER) => None,
                (0, preferred) => Some(duration(preferred) * tenths / 10),
                (time, _) => Some(duration(time)),
            };
            let grant = Grant {
                address,
                server,
                time: (valid != FOR_EVER).then(|| duration(valid)),
                renew: or(association.t1, 5),
                rebind: or(association.t2, 8),
            };
            if kind == MessageType::Advertise { Answer::Offer(grant) } else { Answer::Ack(grant) }
        }
        // An answer without an address, for one that had one, takes it away.
        (MessageType::Reply, None, None) if association.is_some() => Answer::Nak(server, String::new()),
        _ => return None,
    };
    Some((client.clone(), bytes.xid_num(), answer))
}

/// The options that are looked at, in a message (depth 0), an association (1) and an address (2); none if they are cut
/// short. The library takes the lengths of others on trust, and that of a status (§21.13).
fn heeded(mut rest: &[u8], depth: u8) -> Option<Vec<u8>> {
    let mut kept = Vec::new();
    while let [high, low, more, less, follows @ ..] = rest {
        let (code, length) = (u16::from_be_bytes([*high, *low]), u16::from_be_bytes([*more, *less]));
        let (value, next) = follows.split_at_checked(length.into())?;
        rest = next;
        // Behind so many bytes other options follow (§21.4, §21.6).
        let fixed = match (OptionCode::from(code), depth) {
            (OptionCode::ClientId | OptionCode::ServerId, 0) => value.len(),
            (OptionCode::StatusCode, _) if value.len() >= 2 => value.len(),
            (OptionCode::IANA, 0) => 12,
            (OptionCode::IAAddr, 1) => 24,
            _ => continue,
        };
        let (value, inside) = value.split_at_checked(fixed)?;
        let value = [value, &heeded(inside, depth + 1)?].concat();
        kept.extend(code.to_be_bytes());
        kept.extend(u16::try_from(value.len()).ok()?.to_be_bytes());
        kept.extend(value);
    }
    rest.is_empty().then_some(kept)
}

/// The address, and its valid and preferred lifetimes in seconds.
fn lease(association: &IANA) -> Option<(IpAddr, u32, u32)> {
    let address = association.opts.iter().find_map(|option| match option {
        DhcpOption::IAAddr(address) if address.valid_life > 0 && refusal(&address.opts).is_none() => {
            Some(address)
        }
        _ => None,
    })?;
    let usable = usable(Ipv6Addr::into(address.addr))?;
    Some((usable, address.valid_life, address.preferred_life.min(address.valid_life)))
}

/// Why there is nothing, where a server says so.
fn refusal(options: &DhcpOptions) -> Option<String> {
    match options.get(OptionCode::StatusCode)? {
        DhcpOption::StatusCode(status) if status.status != Status::Success => {
            let text = words(&status.msg);
            Some(if text.is_empty() { format!("{:?}", status.status) } else { text })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dhcp::identity::Name;
    use crate::testing::hex;

    fn identity() -> Identity {
        Identity { hardware: [2, 1, 2, 3, 4, 5], hostname: None, by_hardware: false, broadcast: true }
    }

    const CLIENT: &str = "0001 000a 0003 0001 020102030405";
    const SERVER: &str = "0002 0004 00030001";
    const ADDRESS: &str = "fd00 0000 0000 0000 0000 0000 0000 0009";

    #[test]
    fn what_is_asked_in_bytes() {
        let address = "fd00::9".parse().unwrap();
        let server = Server::Duid(vec![0, 3, 0, 1]);
        let empty = "0003 000c 02030405 00000000 00000000";
        let one = format!("0003 0028 02030405 00000000 00000000 0005 0018 {ADDRESS} 00000000 00000000");
        let table = [
            (Message::Discover(None), format!("01 0b0c0d {CLIENT} {empty} 0008 0002 0064")),
            (Message::Discover(Some(address)), format!("01 0b0c0d {CLIENT} {one} 0008 0002 0064")),
            (
                Message::Select(address, server.clone()),
                format!("03 0b0c0d {CLIENT} {SERVER} {one} 0008 0002 0064"),
            ),
            (Message::Confirm(address), format!("06 0b0c0d {CLIENT} {one} 0008 0002 0064")),
            (
                Message::Release(address, server.clone()),
                format!("08 0b0c0d {CLIENT} {SERVER} {one} 0008 0002 0064"),
            ),
            (Message::Decline(address, server), format!("09 0b0c0d {CLIENT} {SERVER} {one} 0008 0002 0064")),
        ];
        for (message, expected) in table {
            let written = to_bytes(&identity(), 0x000b_0c0d, Duration::from_secs(1), &message).unwrap();
            assert_eq!(written, hex(&expected), "{message:?}");
        }
        let named = Identity { hostname: Name::new("web", true), ..identity() };
        let written = to_bytes(&named, 0, Duration::ZERO, &Message::Discover(None)).unwrap();
        assert!(written.ends_with(&hex("0027 0005 01 03776562")), "{written:02x?}");
        assert_eq!(to_bytes(&identity(), 0, Duration::ZERO, &Message::Confirm([192, 0, 2, 9].into())), None);
    }

    #[test]
    fn what_servers_say_in_bytes() {
        let duid = identity().duid();
        let grant = |time, renew, rebind| Grant {
            address: "fd00::9".parse().unwrap(),
            server: Server::Duid(vec![0, 3, 0, 1]),
            time,
            renew,
            rebind,
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let heard = |answer| Some((duid.clone(), 0x000b_0c0d, answer));
        let says = |text: &str| from_bytes(&hex(text));
        let with =
            |times: &str, lives: &str| format!("0003 0028 02030405 {times} 0005 0018 {ADDRESS} {lives}");
        let lives = "00000064 000000c8";
        let own = with("00000000 00000000", lives);
        assert_eq!(
            says(&format!("02 0b0c0d {CLIENT} {SERVER} {own}")),
            heard(Answer::Offer(grant(seconds(200), seconds(50), seconds(80))))
        );
        let told = with("0000000a 00000014", lives);
        assert_eq!(
            says(&format!("07 0b0c0d {CLIENT} {SERVER} {told}")),
            heard(Answer::Ack(grant(seconds(200), seconds(10), seconds(20))))
        );
        let for_ever = with("00000000 00000000", "ffffffff ffffffff");
        assert_eq!(
            says(&format!("07 0b0c0d {CLIENT} {SERVER} {for_ever}")),
            heard(Answer::Ack(grant(None, None, None)))
        );
        // A status without a code, and a vendor's class and options that are cut short, are passed over.
        let own = with("0000000a 00000014", lives);
        assert_eq!(
            says(&format!("07 0b0c0d {CLIENT} 000d 0000 0010 0001 00 0011 0000 {SERVER} {own}")),
            heard(Answer::Ack(grant(seconds(200), seconds(10), seconds(20))))
        );
        assert_eq!(from_bytes(&[0, 0, 0, 0, 0, 13, 0, 0, 0x7e, 0x7e]), None);
        // No addresses (status 2), at both places; a lifetime of nothing; an association that is empty.
        let server = || Server::Duid(vec![0, 3, 0, 1]);
        let none = "000d 0006 0002 66756c6c";
        for text in [
            format!("02 0b0c0d {CLIENT} {SERVER} {none}"),
            format!("02 0b0c0d {CLIENT} {SERVER} 0003 0016 02030405 00000000 00000000 {none}"),
        ] {
            assert_eq!(says(&text), heard(Answer::Nak(server(), "full".into())));
        }
        let over = with("00000000 00000000", "00000000 00000000");
        assert_eq!(
            says(&format!("07 0b0c0d {CLIENT} {SERVER} {over}")),
            heard(Answer::Nak(server(), String::new()))
        );
        // The answer to a release, an answer of nobody or to nobody, one that is cut short.
        assert_eq!(says(&format!("07 0b0c0d {CLIENT} {SERVER}")), None);
        assert_eq!(says(&format!("07 0b0c0d {CLIENT} {own}")), None);
        assert_eq!(says(&format!("07 0b0c0d {SERVER} {own}")), None);
        assert_eq!(says(&format!("07 0b0c0d {CLIENT} {SERVER} 0003 0028 0203")), None);
    }
}
