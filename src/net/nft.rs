//! Two nftables rules, by netlink: a leaving holder does not answer ARP or neighbour solicitations for its address.
//!
//! One table per address, so that removing the table removes the rule, whichever process made it. Messages are
//! written by hand: the `nft` program would have to be in the image, and the image holds one file.

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
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;
const ARP: u8 = 3;
const IPV6: u8 = 10;
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

/// Keep the kernel from answering for `address`.
///
/// # Errors
/// What the kernel says, for instance that it has no nftables for this family.
pub fn silence(address: IpAddr) -> std::io::Result<()> {
    let (family, hook) = family(address);
    let name = table(address);
    let mut rule = match address {
        // Operation 2 is a reply; the sender's address follows 8 bytes of header and 6 of hardware address.
        IpAddr::V4(address) => {
            [matches(NETWORK_HEADER, 6, &[0, 2]), matches(NETWORK_HEADER, 14, &address.octets())].concat()
        }
        // ICMPv6, type 136 (advertisement), target behind 8 bytes.
        IpAddr::V6(address) => [
            matches(NETWORK_HEADER, 6, &[58]),
            matches(TRANSPORT_HEADER, 0, &[136]),
            matches(TRANSPORT_HEADER, 8, &address.octets()),
        ]
        .concat(),
    };
    rule.extend(drop_verdict());
    let hook = nested(4, &[number(1, hook), number(2, 0)].concat());
    let chain = [text(1, &name), text(3, "answers"), hook, text(7, "filter")].concat();
    let rule = [text(1, &name), text(2, "answers"), nested(4, &rule)].concat();
    transact(&[
        message(NEW_TABLE, CREATE, family, &text(1, &name)),
        // A table left by an earlier process may hold the rule already: start from an empty one.
        message(DELETE_TABLE, 0, family, &text(1, &name)),
        message(NEW_TABLE, CREATE, family, &text(1, &name)),
        message(NEW_CHAIN, CREATE, family, &chain),
        message(NEW_RULE, CREATE | APPEND, family, &rule),
    ])
}

/// Let the kernel answer for `address` again. That it was not silenced counts as success.
///
/// # Errors
/// What the kernel says.
pub fn unsilence(address: IpAddr) -> std::io::Result<()> {
    let (family, _) = family(address);
    match transact(&[message(DELETE_TABLE, 0, family, &text(1, &table(address)))]) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}

/// Protocol family, and the number of its output hook.
fn family(address: IpAddr) -> (u8, u32) {
    match address {
        IpAddr::V4(_) => (ARP, 1),
        IpAddr::V6(_) => (IPV6, 3),
    }
}

fn table(address: IpAddr) -> String {
    format!("kube-vip-silent-{address}")
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

/// Load bytes of a header into register 1 and go on only if they are these.
fn matches(header: u32, offset: u32, value: &[u8]) -> Vec<u8> {
    let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let load = [number(1, 1), number(2, header), number(3, offset), number(4, length)].concat();
    let compare = [number(1, 1), number(2, 0), nested(3, &attribute(1, value))].concat();
    [expression("payload", &load), expression("cmp", &compare)].concat()
}

fn drop_verdict() -> Vec<u8> {
    let verdict = nested(2, &nested(2, &number(1, 0)));
    expression("immediate", &[number(1, 0), verdict].concat())
}
