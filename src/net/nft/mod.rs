//! Suppresses the kernel's replies to ARP requests and neighbour solicitations for addresses that are being handed over
//! (docs/decisions/0014-nftables.md).
//!
//! One table for each family, with a set of addresses and rules that drop replies about them:
//!
//! ```text
//! table arp kube-vip-silent {                    table ip6 kube-vip-silent {
//!   set addresses {                                set addresses {
//!     type ipv4_addr                                 type ipv6_addr
//!     flags timeout                                  flags timeout
//!   }                                              }
//!   chain answers {                                chain answers {
//!     type filter hook output priority filter;       type filter hook output priority filter;
//!     arp hlen 6 arp plen 4 arp operation reply      ip6 nexthdr icmpv6 icmpv6 type nd-neighbor-advert
//!       @nh,112,32 @addresses drop                     @th,64,128 @addresses drop
//!     arp hlen 20 arp plen 4 arp operation reply     }
//!       @nh,224,32 @addresses drop                 }
//!   }
//! }
//! ```

pub mod rules;
mod wire;

use std::net::IpAddr;

use nix::sys::socket::SockProtocol;

use self::wire::*;
use super::kernel_socket::KernelSocket;

const TABLE: &str = "kube-vip-silent";
const SET: &str = "addresses";
const CHAIN: &str = "answers";
/// Elements expire, so that a killed process leaves nothing behind for longer. Longer than any hand-over.
const TIMEOUT_MILLIS: u64 = 60_000;
/// Addresses in one message, which has to stay below 64 KiB.
const CHUNK: usize = 500;

/// Suppresses replies about these addresses for a minute. Returns the addresses for which that fails, for instance because the
/// kernel lacks nf_tables for their family.
pub fn suppress_replies(addresses: &[IpAddr]) -> Vec<(std::io::Error, Vec<IpAddr>)> {
    suppress(addresses, transact)
}

fn suppress(
    addresses: &[IpAddr],
    transact: impl Fn(&[Vec<u8>]) -> std::io::Result<()>,
) -> Vec<(std::io::Error, Vec<IpAddr>)> {
    let mut failures = Vec::new();
    for (family, members) in by_family(addresses) {
        match transact(&create(family)) {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                failures.push((error, members));
                continue;
            }
            _ => {}
        }
        for chunk in members.chunks(CHUNK) {
            if let Err(error) = transact(&[add_elements(family, chunk)]) {
                failures.push((error, chunk.to_vec()));
            }
        }
    }
    failures
}

/// Permits replies about these addresses again. An address that was not suppressed counts as success.
pub fn restore_replies(addresses: &[IpAddr]) -> std::io::Result<()> {
    for (family, members) in by_family(addresses) {
        for chunk in members.chunks(CHUNK) {
            let delete = |chunk: &[IpAddr]| match transact(&[delete_elements(family, chunk)]) {
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
                result => result.map(|()| true),
            };
            // One missing element fails the whole transaction.
            if !delete(chunk)? {
                chunk.iter().try_for_each(|address| delete(&[*address]).map(drop))?;
            }
        }
    }
    Ok(())
}

/// Removes both tables, which an earlier process may have left. Missing tables count as success.
pub fn clear() -> std::io::Result<()> {
    for family in [V4, V6] {
        match transact(&[delete_table(family)]) {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            result => result?,
        }
    }
    Ok(())
}

/// The families that this module needs and the kernel lacks. Nothing is changed: the second message of the transaction fails.
pub fn missing_families() -> Vec<(&'static str, std::io::Error)> {
    let test = |(name, family): (&'static str, Family)| {
        let table = |name| [text(NFTA_TABLE_NAME, name)];
        let messages = [
            message(NFT_MSG_NEWTABLE, NLM_F_CREATE, family.number, &table("kube-vip-test")),
            message(NFT_MSG_DELTABLE, 0, family.number, &table("kube-vip-test-absent")),
        ];
        let error = transact(&messages).err()?;
        (error.raw_os_error() != Some(libc::ENOENT)).then_some((name, error))
    };
    [("arp", V4), ("ip6", V6)].into_iter().filter_map(test).collect()
}

/// What differs between the families.
#[derive(Debug, Clone, Copy)]
struct Family {
    number: u8,
    output_hook: u32,
    key_type: u32,
    key_length: u32,
}

const V4: Family =
    Family { number: NFPROTO_ARP, output_hook: NF_ARP_OUT, key_type: TYPE_IPADDR, key_length: 4 };
const V6: Family =
    Family { number: NFPROTO_IPV6, output_hook: NF_INET_LOCAL_OUT, key_type: TYPE_IP6ADDR, key_length: 16 };

fn by_family(addresses: &[IpAddr]) -> Vec<(Family, Vec<IpAddr>)> {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv4());
    [(V4, v4), (V6, v6)].into_iter().filter(|(_, members)| !members.is_empty()).collect()
}

/// The table with its set, chain and rules. Fails as a whole with EEXIST where the table exists.
fn create(family: Family) -> Vec<Vec<u8>> {
    let set = [
        text(NFTA_SET_TABLE, TABLE),
        text(NFTA_SET_NAME, SET),
        number(NFTA_SET_FLAGS, NFT_SET_TIMEOUT),
        number(NFTA_SET_KEY_TYPE, family.key_type),
        number(NFTA_SET_KEY_LEN, family.key_length),
        number(NFTA_SET_ID, 1),
    ];
    let hook = [number(NFTA_HOOK_HOOKNUM, family.output_hook), number(NFTA_HOOK_PRIORITY, PRIORITY_FILTER)];
    let chain = [
        text(NFTA_CHAIN_TABLE, TABLE),
        text(NFTA_CHAIN_NAME, CHAIN),
        nested(NFTA_CHAIN_HOOK, &hook),
        text(NFTA_CHAIN_TYPE, "filter"),
    ];
    let rule = |replies: Vec<Vec<u8>>| {
        let expressions = [replies, vec![require_member(SET), drop_packet()]].concat();
        let rule = [
            text(NFTA_RULE_TABLE, TABLE),
            text(NFTA_RULE_CHAIN, CHAIN),
            nested(NFTA_RULE_EXPRESSIONS, &expressions),
        ];
        message(NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND, family.number, &rule)
    };
    let table = vec![
        message(NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, family.number, &[text(NFTA_TABLE_NAME, TABLE)]),
        message(NFT_MSG_NEWSET, NLM_F_CREATE, family.number, &set),
        message(NFT_MSG_NEWCHAIN, NLM_F_CREATE, family.number, &chain),
    ];
    table.into_iter().chain(replies(family).into_iter().map(rule)).collect()
}

/// Expressions that match a reply and load its address.
fn replies(family: Family) -> Vec<Vec<Vec<u8>>> {
    if family.number == NFPROTO_ARP {
        // Lengths of hardware and protocol addresses and operation 2 (reply) from offset 4; the sender's protocol address
        // behind 8 bytes and its hardware address, of Ethernet or InfiniBand.
        let of_length = |length: u8| {
            vec![
                load(NFT_PAYLOAD_NETWORK_HEADER, 4, 4),
                require(&[length, 4, 0, 2]),
                load(NFT_PAYLOAD_NETWORK_HEADER, 8 + u32::from(length), 4),
            ]
        };
        [6, 20].map(of_length).into()
    } else {
        // Next header 58 (ICMPv6), type 136 (Neighbor Advertisement), the target behind 8 bytes.
        vec![vec![
            load(NFT_PAYLOAD_NETWORK_HEADER, 6, 1),
            require(&[58]),
            load(NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1),
            require(&[136]),
            load(NFT_PAYLOAD_TRANSPORT_HEADER, 8, 16),
        ]]
    }
}

fn add_elements(family: Family, addresses: &[IpAddr]) -> Vec<u8> {
    let timeout = attribute(NFTA_SET_ELEM_TIMEOUT, &TIMEOUT_MILLIS.to_be_bytes());
    message(NFT_MSG_NEWSETELEM, NLM_F_CREATE, family.number, &elements(addresses, &timeout))
}

fn delete_elements(family: Family, addresses: &[IpAddr]) -> Vec<u8> {
    message(NFT_MSG_DELSETELEM, 0, family.number, &elements(addresses, &[]))
}

fn delete_table(family: Family) -> Vec<u8> {
    message(NFT_MSG_DELTABLE, 0, family.number, &[text(NFTA_TABLE_NAME, TABLE)])
}

/// Elements of the set, each with these attributes besides its key.
fn elements(addresses: &[IpAddr], attributes: &[u8]) -> [Vec<u8>; 3] {
    let element = |address: &IpAddr| {
        let value = match address {
            IpAddr::V4(v4) => attribute(NFTA_DATA_VALUE, &v4.octets()),
            IpAddr::V6(v6) => attribute(NFTA_DATA_VALUE, &v6.octets()),
        };
        nested(NFTA_LIST_ELEM, &[nested(NFTA_SET_ELEM_KEY, &[value]), attributes.to_vec()])
    };
    let list: Vec<Vec<u8>> = addresses.iter().map(element).collect();
    [
        text(NFTA_SET_ELEM_LIST_TABLE, TABLE),
        text(NFTA_SET_ELEM_LIST_SET, SET),
        nested(NFTA_SET_ELEM_LIST_ELEMENTS, &list),
    ]
}

/// Sends a batch, and reads the first error or the acknowledgement. A late one is lost with the socket.
fn transact(messages: &[Vec<u8>]) -> std::io::Result<()> {
    let socket = KernelSocket::open(SockProtocol::NetlinkNetFilter)?;
    socket.send(&batch(messages))?;
    let mut buffer = [0; 4096];
    let answer = socket.receive(&mut buffer)?;
    // NLMSG_ERROR: a header of 16 bytes, then the negated error number.
    let code = answer.get(16..20).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
    match code.map_or(0, i32::from_ne_bytes) {
        0 => Ok(()),
        // The transaction has ended, and nothing was done.
        code => Err(std::io::Error::from_raw_os_error(-code)),
    }
}

#[cfg(test)]
mod tests;
