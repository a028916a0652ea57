//! Two nftables rules, by netlink: a leaving holder does not answer ARP or neighbour solicitations for its addresses.
//!
//! A set for each family, whose members expire. Messages are written by hand: the `nft` program would have to be in
//! the image, and the image holds one file.

use std::net::IpAddr;
use std::os::fd::AsRawFd;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket,
};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = (SUBSYSTEM << 8) | 2;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) | 3;
const NEW_RULE: u16 = (SUBSYSTEM << 8) | 6;
const NEW_SET: u16 = (SUBSYSTEM << 8) | 9;
const NEW_ELEMENTS: u16 = (SUBSYSTEM << 8) | 12;
const DELETE_ELEMENTS: u16 = (SUBSYSTEM << 8) | 14;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const EXCLUSIVE: u16 = 0x200;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
const ARP: u8 = 3;
const IPV6: u8 = 10;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
/// `NFT_SET_TIMEOUT`.
const WITH_TIMEOUT: u32 = 0x10;
const TABLE: &str = "kube-vip-silent";
const SET: &str = "addresses";
const CHAIN: &str = "answers";
/// Longer than any hand-over; the default lease with `vip_preserve_on_leadership_loss` fits in.
const TIMEOUT_MILLIS: u64 = 60_000;
/// Addresses in one message: they have to fit into 64 KiB.
const CHUNK: usize = 500;

/// Keep the kernel from answering for these addresses, for a while: whoever is killed meanwhile leaves nothing behind
/// that lasts.
///
/// # Errors
/// What the kernel says, for instance that it has no nftables for a family.
pub fn silence(addresses: &[IpAddr]) -> std::io::Result<()> {
    for (family, members) in by_family(addresses) {
        match transact(&scaffold(family)) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            result => result?,
        }
        for chunk in members.chunks(CHUNK) {
            transact(&[message(NEW_ELEMENTS, CREATE, family.number, &elements(chunk, true))])?;
        }
    }
    Ok(())
}

/// Let the kernel answer for these addresses again. That they were not silenced counts as success.
///
/// # Errors
/// What the kernel says.
pub fn unsilence(addresses: &[IpAddr]) -> std::io::Result<()> {
    for (family, members) in by_family(addresses) {
        for chunk in members.chunks(CHUNK) {
            let delete = |chunk: &[IpAddr]| match transact(&[message(
                DELETE_ELEMENTS,
                0,
                family.number,
                &elements(chunk, false),
            )]) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
                result => result.map(|()| true),
            };
            // One that is missing keeps the others from going.
            if !delete(chunk)? {
                chunk.iter().try_for_each(|address| delete(&[*address]).map(drop))?;
            }
        }
    }
    Ok(())
}

/// Remove what an earlier process left, whatever it was. That there is nothing counts as success.
///
/// # Errors
/// What the kernel says.
pub fn clear() -> std::io::Result<()> {
    for family in [V4, V6] {
        match transact(&[message(DELETE_TABLE, 0, family.number, &text(1, TABLE))]) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            result => result?,
        }
    }
    Ok(())
}

/// What differs between the families.
#[derive(Debug, Clone, Copy)]
struct Family {
    /// Protocol family.
    number: u8,
    /// The number of its output hook.
    hook: u32,
    /// The type of an address, as `nft` shows it, and its length.
    key: (u32, u32),
}

const V4: Family = Family { number: ARP, hook: 1, key: (7, 4) };
const V6: Family = Family { number: IPV6, hook: 3, key: (8, 16) };

fn by_family(addresses: &[IpAddr]) -> Vec<(Family, Vec<IpAddr>)> {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv4());
    [(V4, v4), (V6, v6)].into_iter().filter(|(_, members)| !members.is_empty()).collect()
}

/// The table with its set, chain and rule. Fails as a whole where it is there already.
fn scaffold(family: Family) -> [Vec<u8>; 4] {
    let mut rule = if family.number == ARP {
        // Operation 2 is a reply; the sender's address follows 8 bytes of header and 6 of hardware address.
        [matches(NETWORK_HEADER, 6, &[0, 2]), load(NETWORK_HEADER, 14, 4)].concat()
    } else {
        // ICMPv6, type 136 (advertisement), target behind 8 bytes.
        [
            matches(NETWORK_HEADER, 6, &[58]),
            matches(TRANSPORT_HEADER, 0, &[136]),
            load(TRANSPORT_HEADER, 8, 16),
        ]
        .concat()
    };
    rule.extend(expression("lookup", &[text(1, SET), number(2, 1)].concat()));
    rule.extend(drop_verdict());
    let hook = nested(4, &[number(1, family.hook), number(2, 0)].concat());
    let (kind, length) = family.key;
    let set = [
        text(1, TABLE),
        text(2, SET),
        number(3, WITH_TIMEOUT),
        number(4, kind),
        number(5, length),
        number(10, 1),
    ];
    let chain = [text(1, TABLE), text(3, CHAIN), hook, text(7, "filter")].concat();
    let rule = [text(1, TABLE), text(2, CHAIN), nested(4, &rule)].concat();
    [
        message(NEW_TABLE, CREATE | EXCLUSIVE, family.number, &text(1, TABLE)),
        message(NEW_SET, CREATE, family.number, &set.concat()),
        message(NEW_CHAIN, CREATE, family.number, &chain),
        message(NEW_RULE, CREATE | APPEND, family.number, &rule),
    ]
}

fn elements(addresses: &[IpAddr], with_timeout: bool) -> Vec<u8> {
    let element = |address: &IpAddr| {
        let bytes = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let timeout = if with_timeout { attribute(4, &TIMEOUT_MILLIS.to_be_bytes()) } else { Vec::new() };
        nested(1, &[nested(1, &attribute(1, &bytes)), timeout].concat())
    };
    let list: Vec<u8> = addresses.iter().flat_map(element).collect();
    [text(1, TABLE), text(2, SET), nested(3, &list)].concat()
}

/// Send a batch, and wait for the kernel's word on each message.
fn transact(messages: &[Vec<u8>]) -> std::io::Result<()> {
    let kernel = NetlinkAddr::new(0, 0);
    let socket = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkNetFilter,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    let mut bytes = batch(BATCH_BEGIN);
    messages.iter().for_each(|message| bytes.extend(message));
    bytes.extend(batch(BATCH_END));
    sendto(socket.as_raw_fd(), &bytes, &kernel, MsgFlags::empty())?;
    let mut outcome = Ok(());
    for _ in messages {
        let mut answer = [0; 4096];
        recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        // An error message: a header of 16 bytes, then the error number, negative, in the host's byte order.
        let code = answer
            .get(16..20)
            .and_then(|bytes| <[u8; 4]>::try_from(bytes).ok())
            .map_or(0, i32::from_ne_bytes);
        if code != 0 {
            // The first error ends the batch: nothing was done, and nothing more is reported.
            outcome = Err(std::io::Error::from_raw_os_error(-code));
            break;
        }
    }
    outcome
}

fn batch(kind: u16) -> Vec<u8> {
    header(kind, 0, 0, SUBSYSTEM, &[])
}

fn message(kind: u16, flags: u16, family: u8, attributes: &[u8]) -> Vec<u8> {
    header(kind, flags | ACK, family, 0, attributes)
}

/// `struct nlmsghdr` and `struct nfgenmsg`.
fn header(kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend((REQUEST | flags).to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
    bytes
}

/// `struct nlattr`, padded to 4 bytes.
fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

fn nested(kind: u16, attributes: &[u8]) -> Vec<u8> {
    attribute(kind | NESTED, attributes)
}

fn text(kind: u16, value: &str) -> Vec<u8> {
    attribute(kind, &[value.as_bytes(), &[0]].concat())
}

fn number(kind: u16, value: u32) -> Vec<u8> {
    attribute(kind, &value.to_be_bytes())
}

fn expression(name: &str, data: &[u8]) -> Vec<u8> {
    nested(1, &[text(1, name), nested(2, data)].concat())
}

/// Load bytes of a header into register 1.
fn load(header: u32, offset: u32, length: u32) -> Vec<u8> {
    expression("payload", &[number(1, 1), number(2, header), number(3, offset), number(4, length)].concat())
}

/// Load bytes of a header and go on only if they are these.
fn matches(header: u32, offset: u32, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let compare = [number(1, 1), number(2, 0), nested(3, &attribute(1, value))].concat();
    [load(header, offset, length), expression("cmp", &compare)].concat()
}

fn drop_verdict() -> Vec<u8> {
    let verdict = nested(2, &nested(2, &number(1, 0)));
    expression("immediate", &[number(1, 0), verdict].concat())
}
