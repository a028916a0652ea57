//! DHCPv6 messages (RFC 8415 §8) with one address in one identity association, encoded and decoded with `dhcproto`.

use std::net::IpAddr;
use std::time::Duration;

use dhcproto::v6::{
    Decodable, DhcpOption, DhcpOptions, Encodable, IAAddr, IANA, Message as Bytes, MessageType, OptionCode,
    Status, UnknownOption,
};

use super::fsm::{LeaseTerms, Message, Reply, Server};
use super::identity::{Identity, to_wire};
use super::v4::usable;
use crate::model::text::excerpt;

/// RFC 8415 §7.7.
const INFINITE: u32 = u32::MAX;
/// The flag S: the server updates the DNS (RFC 4704 §4.1).
const FQDN_UPDATE: u8 = 0x01;

/// Encodes a message; none if its address is of the other family.
///
/// Extensions are requested by REBIND from the start: RENEW needs the server's permission for unicast, and a multicast one is
/// ignored by all other servers (§18.3.5).
pub fn to_bytes(identity: &Identity, xid: u32, elapsed: Duration, message: &Message) -> Option<Vec<u8>> {
    let (kind, address, server) = match message {
        Message::Discover(requested) => (MessageType::Solicit, requested.as_ref(), None),
        Message::Request(address, server) => (MessageType::Request, Some(address), Some(server)),
        Message::Rebind(address) => (MessageType::Rebind, Some(address), None),
        Message::Decline(address, server) => (MessageType::Decline, Some(address), Some(server)),
        Message::Release(address, server) => (MessageType::Release, Some(address), Some(server)),
    };
    let [_, a, b, c] = xid.to_be_bytes();
    // Decoding the header avoids `Message::new`, which reads a random number from a file.
    let mut bytes = Bytes::from_bytes(&[kind.into(), a, b, c]).ok()?;
    let options = bytes.opts_mut();
    options.insert(DhcpOption::ClientId(identity.duid()));
    if let Some(server) = server {
        let Server::Duid(duid) = server else { return None };
        options.insert(DhcpOption::ServerId(duid.clone()));
    }
    // In hundredths of a second (§21.9).
    let elapsed = u16::try_from(elapsed.as_millis() / 10).unwrap_or(u16::MAX);
    options.insert(DhcpOption::ElapsedTime(elapsed));
    let mut addresses = DhcpOptions::new();
    if let Some(address) = address {
        let IpAddr::V6(addr) = *address else { return None };
        addresses.insert(DhcpOption::IAAddr(IAAddr {
            addr,
            preferred_life: 0,
            valid_life: 0,
            opts: DhcpOptions::new(),
        }));
    }
    options.insert(DhcpOption::IANA(IANA { id: identity.iaid(), t1: 0, t2: 0, opts: addresses }));
    // DHCPv6 has no other option for a host name.
    if let Some(name) = &identity.hostname {
        let (flags, name) = match &name.domain {
            Some(domain) => (FQDN_UPDATE, domain),
            None => (0, &name.label),
        };
        let data = [&[flags], &to_wire(name)[..]].concat();
        options.insert(DhcpOption::Unknown(UnknownOption::new(OptionCode::ClientFqdn, data)));
    }
    bytes.to_vec().ok()
}

/// Decodes a reply: the client's DUID, transaction identifier and content. None for everything else.
pub fn from_bytes(bytes: &[u8]) -> Option<(Vec<u8>, u32, Reply)> {
    let (header, options) = bytes.split_at_checked(4)?;
    let bytes = Bytes::from_bytes(&[header, &known_options(options, 0)?].concat()).ok()?;
    let options = bytes.opts();
    let Some(DhcpOption::ClientId(client)) = options.get(OptionCode::ClientId) else { return None };
    let Some(DhcpOption::ServerId(server)) = options.get(OptionCode::ServerId) else { return None };
    let server = Server::Duid(server.clone());
    let association = match options.get(OptionCode::IANA) {
        Some(DhcpOption::IANA(association)) => Some(association),
        _ => None,
    };
    let refused = refusal(options).or_else(|| association.and_then(|found| refusal(&found.opts)));
    let reply = match (bytes.msg_type(), refused) {
        (MessageType::Advertise | MessageType::Reply, Some(reason)) => Reply::Nak(server, reason),
        (MessageType::Advertise, None) => Reply::Offer(terms(association?, server)?),
        // A reply without an address ends the lease.
        (MessageType::Reply, None) => {
            terms(association?, server.clone()).map_or_else(|| Reply::Nak(server, String::new()), Reply::Ack)
        }
        _ => return None,
    };
    Some((client.clone(), bytes.xid_num(), reply))
}

/// The options that are evaluated, in a message (depth 0), an association (1) and an address (2); none if one is truncated.
/// `dhcproto` trusts the lengths of some others, and of a status code (§21.13).
fn known_options(mut rest: &[u8], depth: u8) -> Option<Vec<u8>> {
    let mut kept = Vec::new();
    while let [high, low, more, less, follows @ ..] = rest {
        let (code, length) = (u16::from_be_bytes([*high, *low]), u16::from_be_bytes([*more, *less]));
        let (value, next) = follows.split_at_checked(length.into())?;
        rest = next;
        // Length before the options inside this one (§21.4, §21.6).
        let fixed = match (OptionCode::from(code), depth) {
            (OptionCode::ClientId | OptionCode::ServerId, 0) => value.len(),
            (OptionCode::StatusCode, _) if value.len() >= 2 => value.len(),
            (OptionCode::IANA, 0) => 12,
            (OptionCode::IAAddr, 1) => 24,
            _ => continue,
        };
        let (value, inside) = value.split_at_checked(fixed)?;
        let value = [value, &known_options(inside, depth + 1)?].concat();
        kept.extend(code.to_be_bytes());
        kept.extend(u16::try_from(value.len()).ok()?.to_be_bytes());
        kept.extend(value);
    }
    rest.is_empty().then_some(kept)
}

/// The first address with a lifetime, and its times; none if no host can have it.
fn terms(association: &IANA, server: Server) -> Option<LeaseTerms> {
    let address = association.opts.iter().find_map(|option| match option {
        DhcpOption::IAAddr(address) if address.valid_life > 0 && refusal(&address.opts).is_none() => {
            Some(address)
        }
        _ => None,
    })?;
    let duration = |seconds: u32| Duration::from_secs(seconds.into());
    let preferred = address.preferred_life.min(address.valid_life);
    // §14.2: where the server leaves T1 and T2 to the client, half and eight tenths of the preferred lifetime.
    let or = |time: u32, tenths: u32| match (time, preferred) {
        (0, INFINITE) => None,
        (0, preferred) => Some(duration(preferred) * tenths / 10),
        (time, _) => Some(duration(time)),
    };
    Some(LeaseTerms {
        address: usable(address.addr.into())?,
        server,
        lifetime: (address.valid_life != INFINITE).then(|| duration(address.valid_life)),
        t1: or(association.t1, 5),
        t2: or(association.t2, 8),
    })
}

/// The text of a status code other than Success.
fn refusal(options: &DhcpOptions) -> Option<String> {
    match options.get(OptionCode::StatusCode)? {
        DhcpOption::StatusCode(status) if status.status != Status::Success => {
            let text = excerpt(&status.msg);
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
        Identity { mac: [2, 1, 2, 3, 4, 5], hostname: None, by_mac: false, broadcast: true }
    }

    const CLIENT: &str = "0001 000a 0003 0001 020102030405";
    const SERVER: &str = "0002 0004 00030001";
    const ADDRESS: &str = "fd00 0000 0000 0000 0000 0000 0000 0009";

    #[test]
    fn messages_are_encoded() {
        let address = "fd00::9".parse().unwrap();
        let server = Server::Duid(vec![0, 3, 0, 1]);
        let empty = "0003 000c 02030405 00000000 00000000";
        let one = format!("0003 0028 02030405 00000000 00000000 0005 0018 {ADDRESS} 00000000 00000000");
        let table = [
            (Message::Discover(None), format!("01 0b0c0d {CLIENT} {empty} 0008 0002 0064")),
            (Message::Discover(Some(address)), format!("01 0b0c0d {CLIENT} {one} 0008 0002 0064")),
            (
                Message::Request(address, server.clone()),
                format!("03 0b0c0d {CLIENT} {SERVER} {one} 0008 0002 0064"),
            ),
            (Message::Rebind(address), format!("06 0b0c0d {CLIENT} {one} 0008 0002 0064")),
            (
                Message::Release(address, server.clone()),
                format!("08 0b0c0d {CLIENT} {SERVER} {one} 0008 0002 0064"),
            ),
            (Message::Decline(address, server), format!("09 0b0c0d {CLIENT} {SERVER} {one} 0008 0002 0064")),
        ];
        for (message, expected) in table {
            let encoded = to_bytes(&identity(), 0x000b_0c0d, Duration::from_secs(1), &message).unwrap();
            assert_eq!(encoded, hex(&expected), "{message:?}");
        }
        // With and without an update of the DNS.
        for (dns, option) in [(true, "0027 0005 01 03776562"), (false, "0027 0005 00 03776562")] {
            let named = Identity { hostname: Name::new("web", dns), ..identity() };
            let encoded = to_bytes(&named, 0, Duration::ZERO, &Message::Discover(None)).unwrap();
            assert!(encoded.ends_with(&hex(option)), "{encoded:02x?}");
        }
        assert_eq!(to_bytes(&identity(), 0, Duration::ZERO, &Message::Rebind([192, 0, 2, 9].into())), None);
    }

    #[test]
    fn replies_are_decoded() {
        let duid = identity().duid();
        let terms = |lifetime, t1, t2| LeaseTerms {
            address: "fd00::9".parse().unwrap(),
            server: Server::Duid(vec![0, 3, 0, 1]),
            lifetime,
            t1,
            t2,
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let reply = |reply| Some((duid.clone(), 0x000b_0c0d, reply));
        let decode = |text: &str| from_bytes(&hex(text));
        let with =
            |times: &str, lives: &str| format!("0003 0028 02030405 {times} 0005 0018 {ADDRESS} {lives}");
        let lives = "00000064 000000c8";
        let own = with("00000000 00000000", lives);
        assert_eq!(
            decode(&format!("02 0b0c0d {CLIENT} {SERVER} {own}")),
            reply(Reply::Offer(terms(seconds(200), seconds(50), seconds(80))))
        );
        let given = with("0000000a 00000014", lives);
        assert_eq!(
            decode(&format!("07 0b0c0d {CLIENT} {SERVER} {given}")),
            reply(Reply::Ack(terms(seconds(200), seconds(10), seconds(20))))
        );
        let infinite = with("00000000 00000000", "ffffffff ffffffff");
        assert_eq!(
            decode(&format!("07 0b0c0d {CLIENT} {SERVER} {infinite}")),
            reply(Reply::Ack(terms(None, None, None)))
        );
        // A status code without a code, and truncated vendor options, are skipped.
        let own = with("0000000a 00000014", lives);
        assert_eq!(
            decode(&format!("07 0b0c0d {CLIENT} 000d 0000 0010 0001 00 0011 0000 {SERVER} {own}")),
            reply(Reply::Ack(terms(seconds(200), seconds(10), seconds(20))))
        );
        assert_eq!(from_bytes(&[0, 0, 0, 0, 0, 13, 0, 0, 0x7e, 0x7e]), None);
        // NoAddrsAvail in the message and in the association; a lifetime of zero; an empty association.
        let server = || Server::Duid(vec![0, 3, 0, 1]);
        let none = "000d 0006 0002 66756c6c";
        for text in [
            format!("02 0b0c0d {CLIENT} {SERVER} {none}"),
            format!("02 0b0c0d {CLIENT} {SERVER} 0003 0016 02030405 00000000 00000000 {none}"),
        ] {
            assert_eq!(decode(&text), reply(Reply::Nak(server(), "full".into())));
        }
        let zero = with("00000000 00000000", "00000000 00000000");
        assert_eq!(
            decode(&format!("07 0b0c0d {CLIENT} {SERVER} {zero}")),
            reply(Reply::Nak(server(), String::new()))
        );
        // The reply to a release, replies without server or client identifier, a truncated one.
        assert_eq!(decode(&format!("07 0b0c0d {CLIENT} {SERVER}")), None);
        assert_eq!(decode(&format!("07 0b0c0d {CLIENT} {own}")), None);
        assert_eq!(decode(&format!("07 0b0c0d {SERVER} {own}")), None);
        assert_eq!(decode(&format!("07 0b0c0d {CLIENT} {SERVER} 0003 0028 0203")), None);
    }
}
