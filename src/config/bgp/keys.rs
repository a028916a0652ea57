//! The keys of a peer.

/// The keys of a peer that is written as a map: first those that the other form has a place for.
pub const PEER_KEYS: [&str; 27] = [
    "address",
    "as",
    "password",
    "multiHop",
    "port",
    "interface",
    "mpbgpNexthop",
    "mpbgpIPv4",
    "mpbgpIPv6",
    "bfdEnabled",
    "bfdReceiveInterval",
    "bfdTransmitInterval",
    "bfdDetectMultiplier",
    "holdTime",
    "keepaliveInterval",
    "passive",
    "ttlSecurityHops",
    "families",
    "sourceIP",
    "sourceIF",
    "communities",
    "largeCommunities",
    "localPref",
    "med",
    "prepend",
    "passwordSecret",
    "nodeSelector",
];
/// So many of them the other form has a place for.
const PLAIN: usize = 13;

/// Whether the other form has a place for a key.
pub(in crate::config) fn is_plain(key: &str) -> bool {
    PEER_KEYS.iter().take(PLAIN).any(|plain| *plain == key)
}
