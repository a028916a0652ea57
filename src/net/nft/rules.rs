//! Reads the rules of nf_tables, and deletes some of them.

use std::fmt;

use nix::sys::socket::SockProtocol;

use super::super::kernel_socket::KernelSocket;
use super::transact;
use super::wire::*;
pub(crate) use super::wire::{NFPROTO_IPV4, NFPROTO_IPV6};

/// Of one dump, which the kernel sends in parts of at most this size.
const BUFFER: usize = 64 * 1024;

/// Attempts to read a list that changes meanwhile.
const DUMPS: u32 = 10;
/// From a kernel without nf_tables.
const UNAVAILABLE: [i32; 3] = [libc::EPROTONOSUPPORT, libc::EOPNOTSUPP, libc::EINVAL];
/// Deletions in one transaction, which has to fit into the socket's buffer.
const CHUNK: usize = 500;

/// A table, by its family and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table {
    /// NFPROTO_*.
    pub family: u8,
    pub name: String,
}

/// A chain or a set in a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    pub table: Table,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    pub chain: Member,
    /// The kernel's number of the rule in its table.
    pub handle: u64,
    /// Of `nft` or of iptables' module `comment`; empty without one.
    pub comment: String,
    /// The chain that it jumps to.
    pub target: Option<String>,
    /// It accepts the packets that match, or looks the verdict up in a map, which may.
    pub accepts: bool,
}

/// All tables, chains, sets and rules of the network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ruleset {
    pub tables: Vec<Table>,
    pub chains: Vec<Member>,
    /// Base chains for forwarded packets that drop those that no rule accepts.
    pub dropping: Vec<Member>,
    pub sets: Vec<Member>,
    pub rules: Vec<Rule>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Deletion {
    Table(Table),
    Chain(Member),
    Set(Member),
    Rule(Rule),
}

impl Ruleset {
    /// Empty where the kernel has no nf_tables.
    pub fn read() -> std::io::Result<Self> {
        let tables = match dump(NFT_MSG_GETTABLE) {
            Err(error) if error.raw_os_error().is_some_and(|code| UNAVAILABLE.contains(&code)) => {
                return Ok(Self::default());
            }
            result => result?,
        };
        let tables: Vec<Table> = tables.iter().filter_map(|part| table(part, NFTA_TABLE_NAME)).collect();
        let chains = dump(NFT_MSG_GETCHAIN)?;
        let chain = |part: &Part| member(part, NFTA_CHAIN_TABLE, NFTA_CHAIN_NAME);
        let dropping = chains.iter().filter(|part| drops_forwarded(part)).filter_map(chain).collect();
        let chains = chains.iter().filter_map(chain).collect();
        let mut sets = Vec::new();
        // The kernel lists the sets of one table only.
        for Table { family, name } in &tables {
            let of_table = match dump_of(NFT_MSG_GETSET, *family, &text(NFTA_SET_TABLE, name)) {
                // The table has gone meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => continue,
                result => result?,
            };
            sets.extend(of_table.iter().filter_map(|part| member(part, NFTA_SET_TABLE, NFTA_SET_NAME)));
        }
        let rules = dump(NFT_MSG_GETRULE)?.iter().filter_map(rule).collect();
        Ok(Self { tables, chains, dropping, sets, rules })
    }
}

/// Deletes these, in this order. Returns those that the kernel refuses, for instance because rules of others refer to them.
pub fn delete(deletions: &[Deletion]) -> Vec<(Deletion, std::io::Error)> {
    let send = |some: &[Deletion]| transact(&some.iter().map(deletion).collect::<Vec<_>>());
    let mut refused = Vec::new();
    for chunk in deletions.chunks(CHUNK) {
        // A transaction is done as a whole or not at all.
        let alone = if send(chunk).is_ok() { &[] } else { chunk };
        refused.extend(alone.iter().filter_map(|one| {
            let error = send(std::slice::from_ref(one)).err()?;
            // It has gone meanwhile.
            (error.raw_os_error() != Some(libc::ENOENT)).then(|| (one.clone(), error))
        }));
    }
    refused
}

fn deletion(deletion: &Deletion) -> Vec<u8> {
    match deletion {
        Deletion::Table(Table { family, name }) => {
            message(NFT_MSG_DELTABLE, 0, *family, &[text(NFTA_TABLE_NAME, name)])
        }
        Deletion::Chain(Member { table, name }) => {
            let attributes = [text(NFTA_CHAIN_TABLE, &table.name), text(NFTA_CHAIN_NAME, name)];
            message(NFT_MSG_DELCHAIN, 0, table.family, &attributes)
        }
        Deletion::Set(Member { table, name }) => {
            let attributes = [text(NFTA_SET_TABLE, &table.name), text(NFTA_SET_NAME, name)];
            message(NFT_MSG_DELSET, 0, table.family, &attributes)
        }
        Deletion::Rule(Rule { chain: Member { table, name }, handle, .. }) => {
            let attributes = [
                text(NFTA_RULE_TABLE, &table.name),
                text(NFTA_RULE_CHAIN, name),
                attribute(NFTA_RULE_HANDLE, &handle.to_be_bytes()),
            ];
            message(NFT_MSG_DELRULE, 0, table.family, &attributes)
        }
    }
}

/// Each object of a kind, as family and attributes.
type Part = (u8, Vec<u8>);

fn dump(kind: u16) -> std::io::Result<Vec<Part>> {
    dump_of(kind, NFPROTO_UNSPEC, &[])
}

fn dump_of(kind: u16, family: u8, attributes: &[u8]) -> std::io::Result<Vec<Part>> {
    for _ in 0..DUMPS {
        if let Some(parts) = dump_once(kind, family, attributes)? {
            return Ok(parts);
        }
    }
    Err(std::io::Error::other("the rules change while they are read: try again"))
}

/// None if the list changed while it was read.
fn dump_once(kind: u16, family: u8, attributes: &[u8]) -> std::io::Result<Option<Vec<Part>>> {
    let socket = KernelSocket::open(SockProtocol::NetlinkNetFilter)?;
    socket.send(&request(kind, NLM_F_DUMP, family, attributes))?;
    let (mut parts, mut buffer) = (Vec::new(), vec![0; BUFFER]);
    loop {
        for (kind, flags, payload) in messages(socket.receive(&mut buffer)?) {
            if flags & NLM_F_DUMP_INTR != 0 {
                return Ok(None);
            }
            match kind {
                NLMSG_DONE => return Ok(Some(parts)),
                NLMSG_ERROR => {
                    let code = payload.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return Err(std::io::Error::from_raw_os_error(-code));
                }
                // `struct nfgenmsg`: the family is its first byte.
                _ => {
                    if let Some((header, attributes)) = payload.split_first_chunk::<4>() {
                        parts.push((header[0], attributes.to_vec()));
                    }
                }
            }
        }
    }
}

fn table((family, bytes): &Part, name: u16) -> Option<Table> {
    Some(Table { family: *family, name: string(find(bytes, name)?) })
}

fn member(part: &Part, of: u16, name: u16) -> Option<Member> {
    Some(Member { table: table(part, of)?, name: string(find(&part.1, name)?) })
}

fn drops_forwarded((family, bytes): &Part) -> bool {
    let number = |bytes: &[u8]| bytes.first_chunk().copied().map(u32::from_be_bytes);
    let hook = find(bytes, NFTA_CHAIN_HOOK).and_then(|hook| find(hook, NFTA_HOOK_HOOKNUM)).and_then(number);
    let policy = find(bytes, NFTA_CHAIN_POLICY).and_then(number);
    [NFPROTO_INET, NFPROTO_IPV4, NFPROTO_IPV6].contains(family)
        && (hook, policy) == (Some(NF_INET_FORWARD), Some(NF_DROP))
}

fn rule(part: &Part) -> Option<Rule> {
    let chain = member(part, NFTA_RULE_TABLE, NFTA_RULE_CHAIN)?;
    let handle = u64::from_be_bytes(*find(&part.1, NFTA_RULE_HANDLE)?.first_chunk()?);
    let of_nft = find(&part.1, NFTA_RULE_USERDATA).and_then(user_comment);
    let expressions = find(&part.1, NFTA_RULE_EXPRESSIONS).unwrap_or_default();
    let named = |name: &str| {
        let name = name.to_owned();
        let is_named = move |(_, bytes): &(u16, &[u8])| {
            find(bytes, NFTA_EXPR_NAME).is_some_and(|found| string(found) == name)
        };
        attributes(expressions).filter(is_named).filter_map(|(_, bytes)| find(bytes, NFTA_EXPR_DATA))
    };
    let of_iptables = named("match").find_map(|data| {
        let is_comment = find(data, NFTA_MATCH_NAME).is_some_and(|name| string(name) == "comment");
        find(data, NFTA_MATCH_INFO).filter(|_| is_comment).map(string)
    });
    let target = named("immediate").find_map(|data| {
        let verdict = find(find(data, NFTA_IMMEDIATE_DATA)?, NFTA_DATA_VERDICT)?;
        find(verdict, NFTA_VERDICT_CHAIN).map(string)
    });
    let code = named("immediate").find_map(|data| {
        let verdict = find(find(data, NFTA_IMMEDIATE_DATA)?, NFTA_DATA_VERDICT)?;
        find(verdict, NFTA_VERDICT_CODE)?.first_chunk().copied().map(u32::from_be_bytes)
    });
    let by_map = named("lookup").any(|data| find(data, NFTA_LOOKUP_DREG).is_some());
    let accepts = code == Some(NF_ACCEPT) || by_map;
    let comment = of_nft.or(of_iptables).unwrap_or_default();
    Some(Rule { chain, handle, comment, target, accepts })
}

/// What nft writes with a rule: type, length and value of each item.
fn user_comment(mut bytes: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = bytes {
        let (value, rest) = rest.split_at_checked(usize::from(*length))?;
        if *kind == NFTNL_UDATA_RULE_COMMENT {
            return Some(string(value));
        }
        bytes = rest;
    }
    None
}

/// Up to its NUL.
fn string(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            NFPROTO_INET => "inet",
            NFPROTO_IPV4 => "ip",
            NFPROTO_ARP => "arp",
            NFPROTO_IPV6 => "ip6",
            other => return write!(f, "family {other}, table {}", self.name),
        };
        write!(f, "table {family} {}", self.name)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.name, self.table)
    }
}

impl fmt::Display for Deletion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(table) => write!(f, "{table}"),
            Self::Chain(chain) => write!(f, "chain {chain}"),
            Self::Set(set) => write!(f, "set {set}"),
            Self::Rule(Rule { chain, comment, target, .. }) => {
                write!(f, "rule of chain {chain}")?;
                match target {
                    _ if !comment.is_empty() => write!(f, ", with the comment `{comment}`"),
                    Some(target) => write!(f, ", which jumps to {target}"),
                    None => Ok(()),
                }
            }
        }
    }
}
